"""Selectors: who decides about pivots (GPT-PS in AL-Ref-SAM 2) and about what sounds (LBRU there).

The decisions are an LLM's in the paper. Here they stand behind `PivotSelector` and `SoundSelector`, with what either is
shown, and what it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np

from alref_edge.errors import InputError
from alref_edge.pipeline.audio_segments import AudioSegment
from alref_edge.types import Detections, Pivot, Tag

Ground: TypeAlias = Callable[[int], Detections]
"""Boxes of a sentence on a frame of the segment, best first; asking again for the same frame costs nothing."""


GroundSound: TypeAlias = Callable[[int, str], Detections]
"""Boxes of a category on the frame of a second of the window; asking again for the same costs nothing."""


def count_nothing(event: str, times: int = 1) -> None:
    """What a selector counts into where nobody asks."""


def tell_nobody(stage: str, done: int, total: int) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class Span:
    """Frames in a row, as many as a segment has, or what is left of them at the end of the video.

    Attributes:
        index: number of the span, from 0.
        frames: its frames.
        sampled: the frames that a selector may look at.
        is_segment: whether a selector is asked about it; officially, a single sampled frame makes no segment.
    """

    index: int
    frames: range
    sampled: tuple[int, ...]
    is_segment: bool


@dataclass(frozen=True, eq=False)
class Segment:
    """A segment as a selector sees it; the same one for all sentences.

    Attributes:
        index: number of the segment in the video, from 0.
        sampled: indices of its sampled frames in the video, ascending.
        images: the frames held for this segment, RGB uint8 `[H, W, 3]`, the sampled ones among them.
        count: counts an event by name, for the result.
    """

    index: int
    sampled: tuple[int, ...]
    images: Mapping[int, np.ndarray] = field(repr=False)
    count: Callable[[str, int], None] = field(default=count_nothing, repr=False)

    def image(self, frame: int) -> np.ndarray:
        """A sampled frame, RGB uint8 `[H, W, 3]`, to be read only.

        Raises:
            InputError: it is not one of this segment's.
        """
        if frame not in self.sampled:
            raise InputError(
                f"A selector asked segment {self.index} for a frame that is not sampled there.",
                expected=self.sampled,
                got=frame,
            )
        return self.images[frame]


@dataclass(frozen=True)
class Decision:
    """What a selector decided about a segment for a sentence.

    Attributes:
        frame: index in the video of the frame chosen; one of the segment's.
        box: which of the boxes on it, best first, from 0; None, or one that is not there, rejects them.
        found: the boxes on it where they were known before; None: those that grounding gives.
    """

    frame: int
    box: int | None
    found: Detections | None = field(default=None, compare=False, repr=False)


class PivotSelector(Protocol):
    """How pivots are chosen. A selector keeps no state of a video: it may serve several at once."""

    @property
    def name(self) -> str:
        """What the selector is called in results."""
        ...

    @property
    def in_flight(self) -> int:
        """How many calls of `select` may wait at once, each in a thread of its own; 0: it waits for nothing."""
        ...

    @property
    def facts(self) -> Mapping[str, str]:
        """What else is to stand in results, such as the model that was asked."""
        ...

    def given(self, sentence: str) -> Sequence[Pivot] | None:
        """Pivots of a sentence that are known without looking, of which there may be none: then its masks are empty.
        None if `select` is to be asked.

        Called once a sentence, before any work.

        Raises:
            InputError: the selector cannot serve this sentence.
        """
        ...

    def select(self, segment: Segment, sentence: str, ground: Ground) -> Decision | None:
        """The frame and the box of one segment; without them the segment is dropped.

        Args:
            segment: its frames.
            sentence: what is looked for.
            ground: frame to Detections of the sentence, at most `boxes_per_frame`, best first.
        """
        ...


@dataclass(frozen=True)
class SoundingCategory:
    """An object that may sound, as the first decision has it.

    Attributes:
        name: of the category, which is the caption for grounding; one of the dataset's, or not.
        pivot: number of the frame on which it is to be found, counted from 1 (`second` counts from 0).
        in_range: whether that frame was named; where one was named that the window does not have, it is the first.
        found: the boxes on that frame where they were known before; None: those that grounding gives.
    """

    name: str
    pivot: int
    in_range: bool = True
    found: Detections | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.name.strip() or self.pivot < 1:
            raise InputError(
                "A sounding category is malformed.",
                expected="a name and a pivot from 1",
                got=f"{self.name!r}: {self.pivot}",
            )

    @property
    def second(self) -> int:
        """The second of the window whose frame is the pivot, from 0."""
        return self.pivot - 1


@dataclass(frozen=True, eq=False)
class SoundWindow:
    """Some seconds of a video, as a selector sees them.

    Attributes:
        index: number of the window in the video, from 0.
        start_s: its first second.
        frames: index in the video of the frame that stands for each second.
        images: those frames, RGB uint8 `[H, W, 3]`, to be read only.
        tag_sounds: names what is heard in the window, the tags of all taggers together; asking again costs nothing.
        count: counts an event by name, for the result.
        report: tells whoever watches of a stage, how much of it is done, and of how much.
    """

    index: int
    start_s: int
    frames: tuple[int, ...]
    images: Mapping[int, np.ndarray] = field(repr=False)
    tag_sounds: Callable[[], tuple[Tag, ...]] = field(repr=False)
    count: Callable[[str, int], None] = field(default=count_nothing, repr=False)
    report: Callable[[str, int, int], None] = field(default=tell_nobody, repr=False)

    @property
    def seconds(self) -> int:
        """Its length."""
        return len(self.frames)


class SoundSelector(Protocol):
    """How the decisions about sounds are made. A selector keeps no state of a video."""

    @property
    def name(self) -> str:
        """What the selector is called in results."""
        ...

    @property
    def in_flight(self) -> int:
        """How many windows it may be asked about at once, each in a thread of its own; 0: it waits for nothing."""
        ...

    @property
    def facts(self) -> Mapping[str, str]:
        """What else is to stand in results, such as the model that was asked."""
        ...

    def categories(self, window: SoundWindow, ground: GroundSound) -> Sequence[SoundingCategory]:
        """What may sound in a window, each with the second on whose frame it is to be found; no name twice."""
        ...

    def box(self, window: SoundWindow, category: SoundingCategory, found: Detections) -> int:
        """Which of two or more boxes on the pivot frame is the one that sounds, from 0."""
        ...

    def audio_segments(self, window: SoundWindow) -> Sequence[AudioSegment] | None:
        """The segments of the window's sound where they are known; None if they are to be found."""
        ...


def pivot_of(frame: int, found: Detections, box: int = 0) -> Pivot | None:
    """One box of a frame's detections as a pivot; None if there is no such box."""
    if not 0 <= box < len(found):
        return None
    return Pivot(frame, found.boxes_n4[box], float(found.scores_n[box]), found.phrases[box])
