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

from alref_edge.errors import MllmError
from alref_edge.mllm.questions import Question, Questioner
from alref_edge.mllm.strips import BoxMarks
from alref_edge.pipeline.selectors.base import Decision, Ground, GroundSound, Segment, SoundingCategory, SoundWindow
from alref_edge.pipeline.selectors.grounding import GroundingSelector, GroundingSoundSelector
from alref_edge.pipeline.settings import RvosSettings
from alref_edge.types import Detections

if TYPE_CHECKING:
    from alref_edge.mllm.client import MllmClient

Answer = TypeVar("Answer")
Otherwise = TypeVar("Otherwise", GroundingSelector, GroundingSoundSelector)

_UNUSABLE = "unusable: "


class _Asking(Generic[Otherwise]):
    """What both selectors have in common: whom they ask, and who decides otherwise."""

    def __init__(
        self, client: MllmClient, questioner: Questioner, otherwise: Otherwise | None, allow_unusable: bool
    ) -> None:
        self._client, self._questioner = client, questioner
        self._otherwise: Otherwise | None = otherwise
        self._allow_unusable = allow_unusable

    @property
    def needs_answers(self) -> bool:
        """Whether it is an error that no answer at all can be used: nobody else decides."""
        return self._otherwise is None and not self._allow_unusable

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
        """The model, the version of the templates, and the form of answers if the server knows no schemas."""
        form = self._client.form
        told = {} if form == "json_schema" else {"form": form}
        return {"model": self._client.model, "templates": self._questioner.templates.version, **told}


class MllmSelector(_Asking[GroundingSelector]):
    """Pivots by a multimodal LLM.

    Args:
        client: asks it.
        questioner: makes the questions.
        otherwise: decides where the LLM does not; None drops the segment.
        allow_unusable: go on where no answer at all can be used, and there is no `otherwise`.
    """

    def __init__(
        self,
        client: MllmClient,
        questioner: Questioner,
        otherwise: GroundingSelector | None = None,
        *,
        allow_unusable: bool = False,
    ) -> None:
        super().__init__(client, questioner, otherwise, allow_unusable)
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
        frame: int | None = 1  # of a single one, there is nothing to choose
        if count > 1:
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
        allow_unusable: as of `MllmSelector`.
    """

    def __init__(
        self,
        client: MllmClient,
        questioner: Questioner,
        categories: Sequence[str] = (),
        most: int = 8,
        otherwise: GroundingSoundSelector | None = None,
        meanings: Mapping[str, str] | None = None,
        *,
        allow_unusable: bool = False,
    ) -> None:
        super().__init__(client, questioner, otherwise, allow_unusable)
        self._categories, self._most, self._meanings = tuple(categories), most, dict(meanings or {})

    def categories(self, window: SoundWindow, ground: GroundSound) -> list[SoundingCategory]:
        """See `SoundSelector.categories`; nothing sounds where nothing was heard.

        Raises:
            MllmError: the server cannot be reached, or refuses to serve.
        """
        heard = list(dict.fromkeys(tag.name for tag in window.tag_sounds()))
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

    def audio_segments(self, window: SoundWindow) -> None:
        """Nothing is known beforehand."""


def ask(client: MllmClient, question: Question[Answer], count: Callable[[str, int], None]) -> Answer | None:
    """Ask, and count how it went; None where there is no usable answer.

    Args:
        client: asks.
        question: what.
        count: counts "questions", and of them "cached", "repaired" and "unusable", these also by reason ("unusable: no
            JSON in the answer"); "retries", "prompt_tokens" and "completion_tokens" of those that were not cached.

    Raises:
        MllmError: the server cannot be reached, or refuses to serve.
    """
    reply = client.ask(question)
    count("questions", 1)
    for event, times in {
        "cached": int(reply.cached),
        "repaired": int(reply.repaired),
        "unusable": int(not reply.usable),
        f"{_UNUSABLE}{reply.reason}": int(not reply.usable),
        "retries": reply.retries,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
    }.items():
        if times:
            count(event, times)
    return reply.answer if reply.usable else None


def asks(selector: object) -> bool:
    """Whether a selector asks an LLM."""
    return isinstance(selector, _Asking)


def not_asked(selector: object, events: Mapping[str, int], settings: RvosSettings) -> tuple[str, ...]:
    """What a user should know of a video that makes no segment, so that an LLM was not asked about it."""
    if not asks(selector) or events.get("questions", 0):
        return ()
    return (
        f"the LLM was not asked: a clip of up to {settings.sample_step} frames makes no segment, and grounding's best "
        "box on frame 0 serves, as in the official code; to ask it all the same: --ask-short (the setting ask_short)",
    )


def check_usable(selector: object, events: Mapping[str, int]) -> None:
    """Ends a run in which an LLM decides alone and has not given one usable answer.

    Args:
        selector: of the run.
        events: what was counted.

    Raises:
        MllmError: that is so; says what is wrong with most answers.
    """
    asked, unusable = events.get("questions", 0), events.get("unusable", 0)
    if isinstance(selector, _Asking) and selector.needs_answers and 0 < asked == unusable:
        raise MllmError(
            f"The LLM gave no usable answer to {unusable} of {asked} questions.",
            got=_commonest(events),
            mend="read the answers (--transcript FOLDER), take another model, let grounding decide in its place "
            "(--selector mixed), or go on without (--allow-unusable).",
        )


def unusable_warnings(events: Mapping[str, object]) -> tuple[str, ...]:
    """What a user should know of the answers of a run: how many cannot be used, and why most of them.

    Args:
        events: what was counted; what are no numbers does not matter.
    """
    counts = {name: count for name, count in events.items() if isinstance(count, int)}
    asked, unusable = counts.get("questions", 0), counts.get("unusable", 0)
    if not unusable:
        return ()
    return (f"the LLM gave no usable answer to {unusable} of {asked} questions: {_commonest(counts)}",)


def _commonest(events: Mapping[str, int]) -> str:
    """Why most of the unusable answers are so."""
    reasons = {name.removeprefix(_UNUSABLE): n for name, n in events.items() if name.startswith(_UNUSABLE)}
    most = max(sorted(reasons), key=lambda reason: reasons[reason], default="for no known reason")
    return most if len(reasons) < 2 else f"{most} ({reasons[most]} of them)"
