"""Pictures that Matroska, WebM and GIF files hold, counted by their blocks: readers skip damaged ones in silence."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

# IDs of Matroska (RFC 9559).
_EBML, _SEGMENT, _CLUSTER, _TRACKS = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B
_TOP = frozenset({_CLUSTER, _TRACKS, 0x114D9B74, 0x1549A966, 0x1C53BB6B, 0x1254C367, 0x1043A770, 0x1941A469})
_TRACK, _NUMBER, _TYPE = 0xAE, 0xD7, 0x83
_GROUP, _BLOCK, _SIMPLE_BLOCK = 0xA0, 0xA1, 0xA3
_FILLER = frozenset({0xEC, 0xBF})
_IN_CLUSTER = frozenset({0xE7, 0xAB, 0xA7, 0xAF, 0x5854, _GROUP, _SIMPLE_BLOCK}) | _FILLER
_MOST = 16_000_000


def matroska_pictures(file: BinaryIO, size: int, video: int) -> int:
    """Blocks of a Matroska or WebM file's picture track, the `video`-th of its kind.

    `size` is the file's real size. ValueError where elements do not fit together or have lost their names, or where
    they are absurdly many.
    """
    left = iter(range(_MOST))
    tracks: list[int] = []
    blocks: dict[int, int] = {}
    for name, start, end in _elements(file, 0, size, left, {_EBML, _SEGMENT}):
        if name != _SEGMENT:
            continue
        for inner, inner_start, inner_end in _elements(file, start, end, left, _TOP | _FILLER):
            if inner == _TRACKS:
                tracks += _picture_tracks(file, inner_start, inner_end, left)
            elif inner == _CLUSTER:
                for each, at, after in _elements(file, inner_start, inner_end, left, _IN_CLUSTER):
                    if each in (_SIMPLE_BLOCK, _GROUP):
                        track = _track_of(file, each, at, after, left)
                        blocks[track] = blocks.get(track, 0) + 1
        break
    return blocks.get(tracks[video], 0) if video < len(tracks) else 0


def _picture_tracks(file: BinaryIO, start: int, end: int, left: Iterator[int]) -> Iterator[int]:
    """Numbers of the tracks of pictures, in order."""
    for name, inside, after in _elements(file, start, end, left):
        if name == _TRACK:
            values = {}
            for each, at, stop in _elements(file, inside, after, left):
                if each in (_NUMBER, _TYPE):
                    file.seek(at)
                    values[each] = int.from_bytes(file.read(min(8, stop - at)), "big")
            if values.get(_TYPE) == 1:
                yield values.get(_NUMBER, 0)


def _track_of(file: BinaryIO, name: int, start: int, end: int, left: Iterator[int]) -> int:
    """The track that a block, or the block of a group, belongs to."""
    if name == _GROUP:
        inside = [at for each, at, _ in _elements(file, start, end, left) if each == _BLOCK]
        if len(inside) != 1:
            raise ValueError("a group of blocks without its block")
        start = inside[0]
    file.seek(start)
    return _number(file.read(8))[0]


def _elements(
    file: BinaryIO, start: int, end: int, left: Iterator[int], known: frozenset[int] | set[int] | None = None
) -> Iterator[tuple[int, int, int]]:
    """`(name, begin of the content, end)` of each element between two offsets, which they must fill.

    An element of unknown size reaches to the next one that is no child of its own.
    """
    while start < end:
        if next(left, None) is None:
            raise ValueError(f"more than {_MOST:,} elements")
        file.seek(start)
        head = file.read(12)
        name_bytes = 9 - head[0].bit_length()
        name = int.from_bytes(head[:name_bytes], "big")
        length, length_bytes = _number(head[name_bytes:])
        inside = start + name_bytes + length_bytes
        if known is not None and name not in known:
            raise ValueError(f"an element {name:#x} in a place where there is none")
        if length == (1 << 7 * length_bytes) - 1:
            length = (_unknown_end(file, inside, end, left) if name == _CLUSTER else end) - inside
        if inside + length > end:
            raise ValueError("elements that do not fit together")
        yield name, inside, inside + length
        start = inside + length


def _unknown_end(file: BinaryIO, start: int, end: int, left: Iterator[int]) -> int:
    """Where a cluster of unknown size ends: at the next element of the segment."""
    while start < end:
        if next(left, None) is None:
            raise ValueError(f"more than {_MOST:,} elements")
        file.seek(start)
        head = file.read(12)
        name_bytes = 9 - head[0].bit_length()
        if int.from_bytes(head[:name_bytes], "big") in _TOP:
            return start
        length, length_bytes = _number(head[name_bytes:])
        start += name_bytes + length_bytes + length
    return end


def _number(head: bytes) -> tuple[int, int]:
    """A number of variable length and its bytes."""
    count = 9 - head[0].bit_length()
    if count > 8 or count > len(head):
        raise ValueError("a number that is none")
    return int.from_bytes(head[:count], "big") & ((1 << 7 * count) - 1), count


def gif_pictures(file: BinaryIO) -> int:
    """Pictures of a GIF file. ValueError where its blocks do not follow each other, or are absurdly many."""
    file.seek(0)
    head = file.read(13)
    _skip_colours(file, head[10])
    pictures = 0
    for _ in range(_MOST):
        kind = file.read(1)
        if kind == b";":
            return pictures
        if kind == b",":
            pictures += 1
            _skip_colours(file, struct.unpack("<4HB", file.read(9))[4])
        elif kind != b"!":
            raise ValueError("blocks that do not follow each other")
        # The code size of a picture, or the name of an extension.
        file.seek(1, 1)
        while length := file.read(1)[0]:
            file.seek(length, 1)
    raise ValueError(f"more than {_MOST:,} blocks")


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, 1)
