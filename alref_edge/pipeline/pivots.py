"""Choosing pivots: in each segment of a video, the frame and the box from which the object is tracked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np

from alref_edge.errors import InputError
from alref_edge.pipeline.settings import RvosSettings
from alref_edge.types import Detections, Pivot

Ground: TypeAlias = Callable[[int], Detections]
"""Boxes of a sentence on a frame of the segment, best first; asking again for the same frame costs nothing."""


@dataclass(frozen=True)
class Window:
    """A stretch of the video as long as a segment.

    Attributes:
        index: number of the stretch, from 0.
        frames: its frames.
        sampled: the frames that a selector may look at.
        is_segment: whether a selector is asked about it; officially, a single sampled frame makes no segment.
    """

    index: int
    frames: range
    sampled: tuple[int, ...]
    is_segment: bool


def count_nothing(event: str, times: int = 1) -> None:
    """What a selector counts into where nobody asks."""


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
        box: which of the boxes on it, best first, from 0; None rejects them all. A box that is not there is none.
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
class GroundingSelector:
    """No LLM: of a segment's sampled frames, the box that grounding scores best (the earlier frame if equal)."""

    name: str = "grounding"
    in_flight: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)

    def given(self, sentence: str) -> None:
        """Nothing is known beforehand."""

    def select(self, segment: Segment, sentence: str, ground: Ground) -> Decision | None:
        """See `PivotSelector.select`."""
        scores_t = [float(ground(frame).scores_n[:1].max(initial=0)) for frame in segment.sampled]
        best = scores_t.index(max(scores_t))
        return Decision(segment.sampled[best], 0) if scores_t[best] > 0 else None


def pivot_of(frame: int, found: Detections, box: int = 0) -> Pivot | None:
    """One box of a frame's detections as a pivot; None if there is no such box."""
    if not 0 <= box < len(found):
        return None
    return Pivot(frame, found.boxes_n4[box], float(found.scores_n[box]), found.phrases[box])


def windows(frame_count: int, settings: RvosSettings) -> Iterator[Window]:
    """Cut a video into stretches of `frames_per_segment * sample_step` frames, each sampled from its first frame on.

    From the official `concat_stage_1.py`: all but the last are full; a tail with a single sampled frame is yielded
    too, but makes no segment. A video that is no longer than that makes one where the settings say so, of frames at
    even distances.
    """
    if settings.ask_short and 0 < frame_count <= settings.sample_step:
        step = -(-frame_count // settings.frames_per_segment)
        yield Window(0, range(frame_count), tuple(range(0, frame_count, step)), is_segment=True)
        return
    length = settings.frames_per_segment * settings.sample_step
    for index, start in enumerate(range(0, frame_count, length)):
        frames = range(start, min(start + length, frame_count))
        sampled = tuple(frames[:: settings.sample_step])
        yield Window(index, frames, sampled, is_segment=len(sampled) > 1)
