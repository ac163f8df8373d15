"""HTML that cannot be broken by what stands in it: text is escaped wherever it meets markup."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

_VOID = frozenset({"img", "link", "meta"})
# What HTML forbids in a document: controls, halves of surrogate pairs, and U+FFFE and U+FFFF.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Markup. Whatever else is put into an element is text."""

    __slots__ = ()


def element(tag: str, /, *children: object, **attributes: object) -> Html:
    """An element of HTML or SVG.

    Args:
        tag: its name.
        children: `Html` as it is; lists and tuples of children; None, which is nothing; anything else as text.
        attributes: by name, `_` for `-`, and one at the end dropped (`class_`, `stroke_width`). None: left out.
    """
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_clean(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = "".join(_markup(children))
    return Html(f"<{tag}{named}>" if tag in _VOID else f"<{tag}{named}>{inner}</{tag}>")


def given(text: object, most: int = 300) -> Html:
    """Words of a user or a file, cut to `most` characters; their direction of writing stays their own."""
    words = " ".join(str(text).split())
    return element("bdi", words if len(words) <= most else words[: most - 1] + "…")


def _markup(children: Iterable[object]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            yield child
        elif isinstance(child, (list, tuple)):
            yield from _markup(child)
        else:
            yield escape(_clean(child), quote=False)


def _clean(value: object) -> str:
    return _FORBIDDEN.sub("\ufffd", str(value))
