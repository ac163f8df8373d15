"""What a container's own headers say about its length, read without any decoder: finds files that were cut short."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

_MP4_BOXES = frozenset(b"ftyp styp moov mdat moof free skip wide sidx mfra uuid meta pdin emsg prft".split())
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
# Of a file with the most frames that are read, each in a fragment of its own.
_MOST_BOXES = 16_000_000
# 24 bytes each in FFmpeg; a video of the most frames that are read has 500,000.
_MOST_ENTRIES = 16_000_000
_USUAL_EDITS = 8
_PARENTS = frozenset({b"edts", b"mdia", b"minf", b"stbl"})
_TABLES = frozenset({b"elst", b"stsz", b"stz2", b"stts", b"stco", b"co64"})
_NO_SAMPLES = 0x010000
# Flags of a run (`trun`): fields of 4 bytes that it has once, and that each of its samples has.
_RUN_FIELDS = (0x000005, 0x000F00)


def declared_bytes(file: BinaryIO, size: int) -> int | None:
    """Bytes that the file should have at least by its outermost structure, or None where that says nothing.

    Knows ISO base media (MP4, MOV), Matroska and WebM, AVI, and GIF (by its last byte). `size` is the file's real size.
    """
    file.seek(0)
    head = file.read(16)
    if head[4:8] in _MP4_BOXES:
        return _mp4(file, size)
    if head[:4] == _EBML:
        return _matroska(file)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        length = struct.unpack("<I", head[4:8])[0]
        # Writers that cannot seek back leave these.
        return None if length in (0, 0xFFFFFFFF) else 8 + length
    if head[:4] == b"GIF8":
        file.seek(max(0, size - 64))
        return None if file.read().rstrip(b"\x00\r\n ").endswith(b";") else size + 1
    return None


def _mp4(file: BinaryIO, size: int) -> int | None:
    offset = 0
    seen: set[bytes] = set()
    for _ in range(_MOST_BOXES):
        if offset + 8 > size:
            break
        file.seek(offset)
        head = file.read(16)
        length, name = struct.unpack(">I4s", head[:8])
        if name not in _MP4_BOXES:
            return offset if {b"moov", b"mdat"} <= seen or b"moof" in seen else None
        seen.add(name)
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:16])[0]
        elif length == 0:
            return size
        if length < 8:
            return None
        offset += length
    return offset if offset > size or b"moov" in seen else None


def _matroska(file: BinaryIO) -> int | None:
    offset = 0
    for _ in range(2):
        file.seek(offset)
        head = file.read(12)
        if len(head) < 12 or not head[0]:
            return None
        id_bytes = 9 - head[0].bit_length()
        name, rest = head[:id_bytes], head[id_bytes:]
        if not rest[0]:
            return None
        size_bytes = 9 - rest[0].bit_length()
        length = int.from_bytes(rest[:size_bytes], "big") & ((1 << (7 * size_bytes)) - 1)
        unknown = length == (1 << (7 * size_bytes)) - 1
        if unknown:
            return None
        offset += id_bytes + size_bytes + length
        if name == _SEGMENT:
            return offset
    return None


def check_tables(file: BinaryIO, size: int) -> None:
    """ValueError where a track of an ISO base media file lists absurdly many samples, or repeats them so by its edits.

    A reader makes an entry in memory of each, before anybody can look at it. `size` is the file's real size.
    """
    left = iter(range(_MOST_BOXES))
    file.seek(4)
    if file.read(4) not in _MP4_BOXES:
        return
    for name, start, end in _boxes(file, 0, size, left):
        for inner, inner_start, inner_end in _boxes(file, start, end, left) if name == b"moov" else ():
            if inner == b"trak":
                entries = _entries(file, inner_start, inner_end, left)
                if entries > _MOST_ENTRIES:
                    raise ValueError(f"tables of {entries:,} entries, of which {_MOST_ENTRIES:,} are read")


def _entries(file: BinaryIO, start: int, end: int, left: Iterator[int]) -> int:
    """Entries of a reader's index for a track: its samples, of PCM its chunks, as often as edits may show them."""
    numbers = dict.fromkeys(_TABLES, (0, 0, 0))

    def walk(start: int, end: int) -> None:
        for name, inside, after in _boxes(file, start, end, left):
            if name in _PARENTS:
                walk(inside, after)
            elif name in _TABLES:
                file.seek(inside + 4)
                numbers[name] = struct.unpack(">3I", file.read(12).ljust(12, b"\0"))

    walk(start, end)
    samples = max(numbers[b"stsz"][1], numbers[b"stz2"][1])
    # One time for all samples, and that one tick each: uncompressed sound, which is read by chunks.
    if numbers[b"stts"][0] == 1 and numbers[b"stts"][2] == 1:
        samples = max(numbers[b"stco"][0], numbers[b"co64"][0])
    edits = numbers[b"elst"][0]
    return samples * (edits if edits > _USUAL_EDITS else 1)


def fragment_samples(file: BinaryIO, size: int) -> dict[int, int]:
    """Samples that the fragments (`moof`) of an ISO base media file list, by track; empty without fragments.

    `size` is the file's real size. ValueError where boxes of a fragment do not fit together or have lost their names,
    or where they are absurdly many.
    """
    samples: dict[int, int] = {}
    left = iter(range(_MOST_BOXES))
    before = b""
    for name, start, end in _boxes(file, 0, size, left):
        if name == b"mdat" and samples and before not in _MP4_BOXES:
            raise ValueError(f"a fragment that is called {before!r}")
        before = name
        if name == b"moof":
            tracks = [box for box in _boxes(file, start, end, left, exact=True) if box[0] == b"traf"]
            if not tracks:
                raise ValueError("a fragment of no track")
            for _, inner_start, inner_end in tracks:
                _count_samples(file, inner_start, inner_end, left, samples)
    return samples


def _count_samples(file: BinaryIO, start: int, end: int, left: Iterator[int], samples: dict[int, int]) -> None:
    """Adds what the runs (`trun`) of a track's fragment list."""
    track = runs = 0
    for name, inside, after in _boxes(file, start, end, left, exact=True):
        file.seek(inside)
        flags, number = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
        if name == b"tfhd":
            track = number
            runs += bool(flags & _NO_SAMPLES)
        elif name == b"trun":
            once, each = (4 * (flags & mask).bit_count() for mask in _RUN_FIELDS)
            if after - inside != 8 + once + number * each:
                raise ValueError("a fragment whose samples do not fit their table")
            samples[track] = samples.get(track, 0) + number
            runs += 1
    if not track or not runs:
        raise ValueError("a fragment of no track or without samples")


def _boxes(
    file: BinaryIO, start: int, end: int, left: Iterator[int], *, exact: bool = False
) -> Iterator[tuple[bytes, int, int]]:
    """`(name, begin of the content, end)` of each box between two offsets.

    A box that does not fit ends the walk, or is a ValueError where they must fill the range exactly; so is one more
    than `left` allows.
    """
    while start + 8 <= end:
        if next(left, None) is None:
            raise ValueError(f"more than {_MOST_BOXES:,} boxes")
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            break
        length, name = struct.unpack(">I4s", head[:8])
        inside = start + 8
        if length == 1 and len(head) == 16:
            length, inside = struct.unpack(">Q", head[8:16])[0], start + 16
        elif length == 0:
            length = end - start
        if length < inside - start or start + length > end:
            break
        yield name, inside, start + length
        start += length
    if exact and start != end:
        raise ValueError("fragments that do not fit together")
