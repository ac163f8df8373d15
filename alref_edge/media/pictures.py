"""What the headers of JPEG and PNG files say that Pillow does not: read by their markers, nothing is decoded."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from alref_edge.errors import MediaError

MOST_SCANS = 100
"""Scans of one JPEG picture that are decoded; encoders write about ten."""

_PNG_TEXT = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})
_MOST_CHUNKS = 200_000
_MOST_SEGMENTS = 20_000
# A marker: 0xFF and what is neither a stuffed byte, a restart, nor a fill byte.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_SOS, _EOI = 0xDA, 0xD9
_BLOCK = 1 << 18


@dataclass(frozen=True)
class PngHeader:
    """What the chunks of a PNG file say.

    Attributes:
        depth: bits of a stored sample.
        significant: those of them that hold data, by the chunk sBIT (the widest channel); `depth` without one.
        late_text: metadata follow the picture, so that they are known only once it is decoded.
    """

    depth: int
    significant: int
    late_text: bool


def png_header(file: BinaryIO) -> PngHeader:
    """Walks a PNG file's chunks. ValueError where there are absurdly many; a file that is cut off ends the walk."""
    file.seek(8)
    depth = significant = 0
    in_picture = late_text = False
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        data = file.read(length) if kind in (b"IHDR", b"sBIT") and length <= 13 else None
        file.seek((0 if data is not None else length) + 4, 1)
        if kind == b"IHDR" and data is not None and len(data) == 13:
            depth = data[8]
        elif kind == b"sBIT" and data:
            significant = max(data[:3] if len(data) > 2 else data[:1])
        elif kind == b"IEND":
            break
        in_picture |= kind == b"IDAT"
        late_text |= in_picture and kind in _PNG_TEXT
    else:
        raise ValueError(f"more than {_MOST_CHUNKS:,} chunks")
    return PngHeader(depth, significant if 0 < significant < depth else depth, late_text)


def check_scans(file: BinaryIO, what: object) -> None:
    """Raises MediaError if a JPEG has more scans than `MOST_SCANS`."""
    if jpeg_scans(file, MOST_SCANS) > MOST_SCANS:
        raise MediaError(
            f"{what} has a JPEG picture of too many scans.",
            expected=f"at most {MOST_SCANS}",
            got=f"{MOST_SCANS + 1} or more",
            mend="write it anew: ffmpeg -i IN -q:v 2 OUT",
        )


def jpeg_scans(file: BinaryIO, most: int) -> int:
    """Scans of a JPEG's picture, each of which a decoder goes through as a whole; counting ends beyond `most`.

    ValueError where there are absurdly many segments; a file that is cut off ends the walk.
    """
    file.seek(2)
    scans = 0
    for _ in range(_MOST_SEGMENTS):
        marker = _next_marker(file)
        if marker in (None, _EOI) or scans > most:
            return scans
        length = file.read(2)
        if len(length) < 2:
            return scans
        file.seek(max(0, int.from_bytes(length, "big") - 2), 1)
        scans += marker == _SOS
    raise ValueError(f"more than {_MOST_SEGMENTS:,} segments")


def _next_marker(file: BinaryIO) -> int | None:
    """Reads to the end of the next marker; None at the file's end."""
    size = 64
    while block := file.read(size):
        found = _MARKER.search(block)
        if found:
            file.seek(found.end() - len(block), 1)
            return block[found.end() - 1]
        if len(block) > 1 and block[-1] == 0xFF:
            # A marker that lies across the border of two blocks.
            file.seek(-1, 1)
        size = min(4 * size, _BLOCK)
    return None
