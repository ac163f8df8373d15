"""Selectors that ask a multimodal LLM, as AL-Ref-SAM 2 asks GPT-4: for pivots (GPT-PS) and for what sounds (LBRU).

Each decision is taken in two steps, the second of which shows what came of the first: a frame, then one of the boxes on
it; what sounds in view, then which of several boxes of it.

Where the LLM gives no usable answer, or rejects every box, the pure selectors do as the official code does: the segment
is dropped, nothing sounds, the first box serves. The mixed ones, made with `otherwise`, let grounding decide there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

from alref_edge.mllm.questions import Question, Questioner
from alref_edge.mllm.strips import BoxMarks
from alref_edge.pipeline.lbru import Ground as GroundSound
from alref_edge.pipeline.lbru import GroundingSoundSelector, SoundingCategory, SoundWindow
from alref_edge.pipeline.pivots import Decision, Ground, GroundingSelector, Segment
from alref_edge.types import Detections

if TYPE_CHECKING:
    from alref_edge.mllm.client import MllmClient

Answer = TypeVar("Answer")
Otherwise = TypeVar("Otherwise", GroundingSelector, GroundingSoundSelector)


class _Asking(Generic[Otherwise]):
    """What both selectors have in common: whom they ask, and who decides otherwise."""

    def __init__(self, client: MllmClient, questioner: Questioner, otherwise: Otherwise | None) -> None:
        self._client, self._questioner = client, questioner
        self._otherwise: Otherwise | None = otherwise

    @property
    def name(self) -> str:
        """What it is called in results: "mllm", or "mixed" with another that decides where the LLM does not."""
        return "mllm" if self._otherwise is None else "mixed"

    @property
    def in_flight(self) -> int:
        """How many questions it may have under way: as many as the client."""
        return self._client.in_flight

    @property
    def facts(self) -> Mapping[str, str]:
        """The model and the version of the templates."""
        return {"model": self._client.model, "templates": self._questioner.templates.version}


class MllmSelector(_Asking[GroundingSelector]):
    """Pivots by a multimodal LLM.

    Args:
        client: asks it.
        questioner: makes the questions.
        otherwise: decides where the LLM does not; None drops the segment.
    """

    def __init__(self, client: MllmClient, questioner: Questioner, otherwise: GroundingSelector | None = None) -> None:
        super().__init__(client, questioner, otherwise)
        self._strips: WeakKeyDictionary[Segment, bytes] = WeakKeyDictionary()
        self._drawing = threading.Lock()

    def given(self, sentence: str) -> None:
        """Nothing is known beforehand."""

    def select(self, segment: Segment, sentence: str, ground: Ground) -> Decision | None:
        """See `PivotSelector.select`.

        Raises:
            MllmError: the server cannot be reached, or refuses to serve.
        """
        count = len(segment.sampled)
        frame = self._ask(segment, self._questioner.pivot_frame(self._strip(segment), count, sentence))
        if frame is None:
            return self._decide_otherwise(segment, sentence, ground, None)
        pivot = segment.sampled[frame - 1]
        found = ground(pivot)
        if not len(found):
            segment.count("no_boxes", 1)
            return self._decide_otherwise(segment, sentence, ground, pivot)
        marks = BoxMarks(frame - 1, found.boxes_n4)
        strip = self._questioner.stacked([segment.image(each) for each in segment.sampled], marks)
        question = self._questioner.pivot_box(strip, count, frame, found.phrases, sentence)
        number = self._ask(segment, question)
        if number == 0:
            segment.count("rejected", 1)
        if not number:
            return self._decide_otherwise(segment, sentence, ground, pivot)
        return Decision(pivot, number - 1)

    def _strip(self, segment: Segment) -> bytes:
        """The strip without boxes; the sentences of a segment share it."""
        with self._drawing:
            strip = self._strips.get(segment)
            if strip is None:
                strip = self._questioner.stacked([segment.image(frame) for frame in segment.sampled])
                self._strips[segment] = strip
            return strip

    def _ask(self, segment: Segment, question: Question[int]) -> int | None:
        return ask(self._client, question, segment.count)

    def _decide_otherwise(self, segment: Segment, sentence: str, ground: Ground, frame: int | None) -> Decision | None:
        if self._otherwise is None:
            return None if frame is None else Decision(frame, None)
        segment.count("by_grounding", 1)
        return self._otherwise.select(segment, sentence, ground)


class MllmSoundSelector(_Asking[GroundingSoundSelector]):
    """What sounds, by a multimodal LLM that is told what was heard.

    Args:
        client: asks it.
        questioner: makes the questions.
        categories: what objects may be called; none: anything.
        most: objects of a window at most.
        otherwise: decides where the LLM does not; None: nothing sounds, or the first box.
        meanings: what it is told of a category whose name has other meanings.
    """

    def __init__(
        self,
        client: MllmClient,
        questioner: Questioner,
        categories: Sequence[str] = (),
        most: int = 8,
        otherwise: GroundingSoundSelector | None = None,
        meanings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(client, questioner, otherwise)
        self._categories, self._most, self._meanings = tuple(categories), most, dict(meanings or {})

    def categories(self, window: SoundWindow, ground: GroundSound) -> list[SoundingCategory]:
        """See `SoundSelector.categories`; nothing sounds where nothing was heard.

        Raises:
            MllmError: the server cannot be reached, or refuses to serve.
        """
        heard = list(dict.fromkeys(tag.name for tag in window.listen()))
        if not heard:
            return []
        strip = self._questioner.in_rows([window.images[frame] for frame in window.frames])
        question = self._questioner.sounding_objects(
            strip, window.seconds, heard, self._categories, self._most, self._meanings
        )
        named = ask(self._client, question, window.count)
        if named is not None:
            return [SoundingCategory(each.category, each.frame) for each in named]
        if self._otherwise is None:
            return []
        window.count("by_grounding", 1)
        return self._otherwise.categories(window, ground)

    def box(self, window: SoundWindow, category: SoundingCategory, found: Detections) -> int:
        """See `SoundSelector.box`. Errors as of `categories`."""
        marks = BoxMarks(category.second, found.boxes_n4)
        strip = self._questioner.in_rows([window.images[frame] for frame in window.frames], marks)
        question = self._questioner.sounding_box(strip, window.seconds, category.pivot, len(found), category.name)
        number = ask(self._client, question, window.count)
        if number is not None:
            return number - 1
        if self._otherwise is None:
            return 0
        window.count("by_grounding", 1)
        return self._otherwise.box(window, category, found)

    def segments(self, window: SoundWindow) -> None:
        """Nothing is known beforehand."""


def ask(client: MllmClient, question: Question[Answer], count: Callable[[str, int], None]) -> Answer | None:
    """Ask, and count how it went; None where there is no usable answer.

    Args:
        client: asks.
        question: what.
        count: counts "questions", and of them "cached", "repaired" and "unusable"; "retries", "prompt_tokens" and
            "completion_tokens" of those that were not cached.

    Raises:
        MllmError: the server cannot be reached, or refuses to serve.
    """
    reply = client.ask(question)
    count("questions", 1)
    for event, times in {
        "cached": int(reply.cached),
        "repaired": int(reply.repaired),
        "unusable": int(not reply.usable),
        "retries": reply.retries,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
    }.items():
        if times:
            count(event, times)
    return reply.answer if reply.usable else None
