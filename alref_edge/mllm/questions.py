"""The four decisions of the method as they are put to a multimodal LLM: a picture, a prompt, the form of the answer.

Every answer has its reasoning before its choice, so that the choice follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from alref_edge.mllm.strips import PIXEL_BUDGET, BoxMarks, box_colour, strip_png
from alref_edge.mllm.templates import Templates

Answer = TypeVar("Answer")

FRAMES_IN_A_ROW = 5
_SHORT, _LONG = 300, 700


@dataclass(frozen=True, eq=False)
class Question(Generic[Answer]):
    """One decision as it is put to the LLM.

    Attributes:
        template: name of its template.
        version: of the templates.
        image_png: the strip, a PNG file. It comes before the prompt.
        prompt: the text.
        schema: JSON schema of the answer.
        parse: the answer's value to what is made of it; ValueError, with what is wrong, where the schema cannot tell.
    """

    template: str
    version: str
    image_png: bytes = field(repr=False)
    prompt: str = field(repr=False)
    schema: Mapping[str, Any] = field(repr=False)
    parse: Callable[[Mapping[str, Any]], Answer] = field(repr=False)


@dataclass(frozen=True)
class NamedObject:
    """An object that may sound, as the LLM names it.

    Attributes:
        category: its name.
        frame: number of the frame in which it is seen most clearly, from 1.
    """

    category: str
    frame: int


@dataclass(frozen=True)
class Questioner:
    """Makes questions.

    Attributes:
        templates: the texts.
        pixel_budget: most pixels of a strip.
    """

    templates: Templates
    pixel_budget: int = PIXEL_BUDGET

    def stacked(self, images: Sequence[np.ndarray], marks: BoxMarks | None = None) -> bytes:
        """The strip of a segment, a PNG file; `images` are RGB uint8 `[H, W, 3]`."""
        return strip_png(images, marks=marks, pixel_budget=self.pixel_budget)

    def in_rows(self, images: Sequence[np.ndarray], marks: BoxMarks | None = None) -> bytes:
        """The strip of a window with one frame a second, a PNG file, in rows of five."""
        return strip_png(images, columns=FRAMES_IN_A_ROW, marks=marks, pixel_budget=self.pixel_budget)

    def pivot_frame(self, strip: bytes, count: int, sentence: str) -> Question[int]:
        """Which frame of a stacked strip is the pivot: its number, from 1.

        Args:
            strip: of `stacked`.
            count: its frames.
            sentence: what is looked for.
        """
        schema = _object(video=_text(_LONG), object=_text(_SHORT), frame=_number(1, count))
        prompt = self.templates.fill("pivot_frame", count=count, sentence=_line(sentence))
        return self._question("pivot_frame", strip, prompt, schema, lambda answer: int(answer["frame"]))

    def pivot_box(self, strip: bytes, count: int, pivot: int, phrases: Sequence[str], sentence: str) -> Question[int]:
        """Which box is the sentence's object: its number, from 1; 0 if none of them is.

        Args:
            strip: of `stacked`, with the boxes.
            count: its frames.
            pivot: number of the frame with the boxes, from 1.
            phrases: the words for which each box was proposed.
            sentence: what is looked for.
        """
        boxes = len(phrases)
        schema = _object(
            scene=_text(_LONG), boxes=_texts(boxes), subject=_text(_SHORT), match=_text(_LONG), choice=_number(0, boxes)
        )
        prompt = self.templates.fill(
            "pivot_box", count=count, pivot=pivot, boxes=_named(phrases), sentence=_line(sentence)
        )
        return self._question("pivot_box", strip, prompt, schema, lambda answer: int(answer["choice"]))

    def sounding_objects(
        self,
        strip: bytes,
        count: int,
        labels: Sequence[str],
        categories: Sequence[str],
        most: int,
        meanings: Mapping[str, str] | None = None,
    ) -> Question[tuple[NamedObject, ...]]:
        """Which objects in view may sound; a category that is named twice counts as first named.

        Args:
            strip: of `in_rows`.
            count: its frames.
            labels: what was heard.
            categories: what objects may be called; none: anything.
            most: objects at most.
            meanings: what is said of a category whose name has other meanings.
        """
        one = _object(category=_text(80, 1), frame=_number(1, count))
        schema = _object(
            scene=_text(_LONG), sounds=_text(_LONG), objects={"type": "array", "items": one, "maxItems": most}
        )
        known = [f"{_line(name)} means {_line(told)}" for name, told in (meanings or {}).items() if name in categories]
        prompt = self.templates.fill(
            "sounding_objects",
            count=count,
            labels=", ".join(map(_line, labels)) or "nothing",
            categories="; ".join([", ".join(map(_line, categories)) or "any noun", *known]),
            most=most,
        )

        def parse(answer: Mapping[str, Any]) -> tuple[NamedObject, ...]:
            named: dict[str, NamedObject] = {}
            for each in answer["objects"]:
                name = _line(each["category"])
                if not name:
                    raise ValueError("an object has no category")
                named.setdefault(name.casefold(), NamedObject(name, int(each["frame"])))
            return tuple(named.values())

        return self._question("sounding_objects", strip, prompt, schema, parse)

    def sounding_box(self, strip: bytes, count: int, pivot: int, boxes: int, category: str) -> Question[int]:
        """Which box is the one that sounds: its number, from 1.

        Args:
            strip: of `in_rows`, with the boxes.
            count: its frames.
            pivot: number of the frame with the boxes, from 1.
            boxes: how many.
            category: what they were proposed for.
        """
        schema = _object(scene=_text(_LONG), boxes=_texts(boxes), match=_text(_LONG), choice=_number(1, boxes))
        prompt = self.templates.fill(
            "sounding_box", count=count, pivot=pivot, boxes=_named([""] * boxes), category=_line(category)
        )
        return self._question("sounding_box", strip, prompt, schema, lambda answer: int(answer["choice"]))

    def _question(
        self,
        template: str,
        strip: bytes,
        prompt: str,
        schema: Mapping[str, Any],
        parse: Callable[[Mapping[str, Any]], Answer],
    ) -> Question[Answer]:
        return Question(template, self.templates.version, strip, prompt, schema, parse)


def _line(text: str) -> str:
    """A text on one line."""
    return " ".join(text.split())


def _named(phrases: Sequence[str]) -> str:
    """ "1 (green, proposed for circle), 2 (magenta)": how a prompt speaks of boxes."""
    named = []
    for index, phrase in enumerate(phrases):
        proposed = f", proposed for {_line(phrase)}" if phrase.strip() else ""
        named.append(f"{index + 1} ({box_colour(index)}{proposed})")
    return ", ".join(named)


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _text(longest: int, shortest: int = 0) -> dict[str, Any]:
    return {"type": "string", "minLength": shortest, "maxLength": longest}


def _texts(count: int) -> dict[str, Any]:
    return {"type": "array", "items": _text(_SHORT), "minItems": count, "maxItems": count}


def _number(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}
