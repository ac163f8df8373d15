"""Labels on pictures: what is drawn of any text."""

from __future__ import annotations

import numpy as np
import pytest

from alref_edge.media.lettering import drawable, label_font


def pixels(text: str) -> bytes:
    return bytes(label_font(24).getmask(text))


@pytest.mark.parametrize(
    "text",
    [
        "cross – große ñandú “…”",  # noqa: RUF001
        "Łódź, İstanbul, Øre, šťastný kůň, œuvre",
        "ễ ộ ữ ặ Ằ",
        "το κόκκινο σκυλί, Ὀδυσσεύς",
        "большая собака, їжак, ђурђевак, Ґ",
        "5 € × 2 ½ ± 3 °",  # noqa: RUF001
    ],
)
def test_latin_greek_and_cyrillic_are_drawn_as_they_are(text: str) -> None:
    line, lacking = drawable(text)
    assert (line, lacking) == (text, ())
    boxes = [char for char in text if not char.isspace() and pixels(char) == pixels("\U0010ffff")]
    assert boxes == []
    assert len({pixels(char) for char in text}) > len(set(text)) / 2


@pytest.mark.parametrize(
    ("text", "line", "lacking"),
    [
        ("cross 红色", "cross U+7EA2 U+8272", ("红", "色")),
        ("红红 x", "U+7EA2 U+7EA2 x", ("红",)),
        ("a\nb\t c ", "a b c", ()),
        ("the \x1b[31mred\x07", "the U+001B [31mred U+0007", ("\x1b", "\x07")),
        ("e\u0301 u\u0308", "é ü", ()),
        ("👩‍👧\ufe0f", "U+1F469 U+1F467", ("👩", "👧")),
        ("\u202edog\u202c \u200bcat", "dog cat", ()),
        ("כלב", "U+05DB U+05DC U+05D1", ("כ", "ל", "ב")),
        ("\udcff\ue000", "U+DCFF U+E000", ("\udcff", "\ue000")),
        ("\u2028 \u200b", "", ()),
        ("", "", ()),
    ],
)
def test_what_the_font_lacks_is_told_by_its_code_point(text: str, line: str, lacking: tuple[str, ...]) -> None:
    assert drawable(text) == (line, lacking)


def test_every_character_is_drawn_or_told() -> None:
    """Of the first plane: whatever line there is, the font has all of it."""
    empty = pixels("\U0010ffff")
    for code in range(0x20, 0x10000, 7):
        line, lacking = drawable(chr(code))
        assert all(char == " " or pixels(char) != empty for char in line)
        assert not lacking or line.startswith("U+")
    np.testing.assert_array_equal(drawable("\x7f")[1], ["\x7f"])
