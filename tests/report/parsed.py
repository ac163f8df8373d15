"""Pages taken apart. Not a test module."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br"}


@dataclass
class Parsed(HTMLParser):
    """A page taken apart; unbalanced tags raise."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, page: str) -> Parsed:
        parsed = cls()
        HTMLParser.__init__(parsed, convert_charrefs=True)
        parsed._open: list[str] = []
        parsed.feed(page)
        parsed.close()
        assert not parsed._open
        return parsed

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def outward(parsed: Parsed) -> list[str]:
    """Everything on a page that could reach out of it, or run."""
    found = []
    for tag, attributes in parsed.elements:
        if tag in (
            "script",
            "iframe",
            "object",
            "embed",
            "video",
            "audio",
            "source",
            "form",
            "base",
            "use",
            "image",
            "a",
        ):
            found.append(tag)
        for name, value in attributes.items():
            if name.startswith("on") or name in ("srcset", "style", "action", "background", "poster"):
                found.append(f"{tag} {name}")
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("data:"):
                found.append(f"{tag} {name}={value}")
    return found
