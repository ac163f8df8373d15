"""Text on pictures: the same font on every machine, and what stands for the characters that it lacks."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

# Controls, surrogates, private and unassigned code points: there is nothing to draw, whatever a font says.
_NEVER = frozenset({"Cc", "Cs", "Co", "Cn"})
_NO_CHARACTER = "\U0010ffff"


@lru_cache(maxsize=8)
def label_font(size: int) -> FreeTypeFont:
    """Noto Sans Regular, of `size` pixels: Latin with all its accents, Greek, Cyrillic. One glyph follows another."""
    from PIL import ImageFont
    from pymupdf_fonts import fontbuffers

    return ImageFont.truetype(BytesIO(fontbuffers["notos"]()), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=1024)
def drawable(text: str) -> tuple[str, tuple[str, ...]]:
    """A text as `label_font` can draw it, on one line, and the characters that it cannot draw.

    A code point stands for each of these (`U+7EA2`), so that no label has empty boxes in it, and none pretends to a
    script that runs from right to left or joins its letters. Marks that are never seen, such as joiners, are left out.

    Returns:
        The line, and each character once, in the order of the text.
    """
    line, lacking = "", []
    for char in " ".join(unicodedata.normalize("NFC", text).split()):
        if unicodedata.category(char) == "Cf" or "\ufe00" <= char <= "\ufe0f":
            continue
        if _has(char):
            line += char
        else:
            lacking.append(char)
            line += f" U+{ord(char):04X} "
    return " ".join(line.split()), tuple(dict.fromkeys(lacking))


def _has(char: str) -> bool:
    if unicodedata.category(char) in _NEVER:
        return False
    font = label_font(16)
    return bytes(font.getmask(char)) != bytes(font.getmask(_NO_CHARACTER))
