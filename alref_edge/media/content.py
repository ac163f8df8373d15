"""What a file is that no demuxer takes, told to its user by name: most often another file than was meant."""

from __future__ import annotations

from codecs import getincrementaldecoder
from typing import BinaryIO

_BEGINNINGS = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG\r\n": "a PNG image",
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"#EXTM3U": "a playlist",
}
_HEAD = 512
_IMAGE_BRANDS = (b"avif", b"heic", b"mif1")


def kind_of(file: BinaryIO) -> str | None:
    """Such as "a JPEG image", "text"; None where the file's first bytes are of nothing known."""
    file.seek(0)
    head = file.read(_HEAD)
    for begin, kind in _BEGINNINGS.items():
        if head.startswith(begin):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP image"
    if head[4:8] == b"ftyp" and head[8:12] in _IMAGE_BRANDS:
        return "an AVIF or HEIF image"
    try:
        text = getincrementaldecoder("utf-8")().decode(head, final=len(head) < _HEAD)
    except UnicodeDecodeError:
        return None
    if not text.translate(dict.fromkeys(map(ord, "\t\r\n\f"), " ")).isprintable():
        return None
    return "a web page" if "<html" in text.lower() else "text"
