"""The jobs, and what they carry from one step of the method to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from alref_edge.media import VideoSource
from alref_edge.pipeline.audio_segments import AudioSegment
from alref_edge.pipeline.measure import RunStats
from alref_edge.pipeline.saving import MaskSink
from alref_edge.pipeline.selectors.base import Decision
from alref_edge.types import Detections, Pivot, Tag


@dataclass
class Query:
    """A sentence on its way through the method.

    Attributes:
        text: the sentence.
        given: pivots known beforehand, of which there may be none; None where the selector is asked segment by segment.
        pivots: the pivots chosen so far, ascending by frame.
        decisions: what the selector decided, by segment.
        considered: the boxes that were looked at, by frame.
        fell_back: whether frame 0 had to serve.
        warnings: what the user should know.
    """

    text: str
    given: tuple[Pivot, ...] | None
    pivots: list[Pivot] = field(default_factory=list)
    decisions: dict[int, Decision] = field(default_factory=dict)
    considered: dict[int, Detections] = field(default_factory=dict)
    fell_back: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def start(self) -> int:
        """The frame from which the object is tracked: its middle pivot."""
        return self.pivots[len(self.pivots) // 2].frame


@dataclass(eq=False)
class Job:
    """A video on its way through the method.

    Attributes:
        source: it.
        queries: its sentences; their pivots, boxes and warnings are filled in.
        stats: counts, times, reports.
        spill_dir: where its masks wait; see `MaskStore`.
        sink: takes its masks too, if there is one.
    """

    source: VideoSource
    queries: Sequence[Query]
    stats: RunStats
    spill_dir: str | None = None
    sink: MaskSink | None = None


@dataclass(frozen=True, eq=False)
class Prompts:
    """Pivots of a span of a job's video, as they go to the tracker.

    Attributes:
        job: whose.
        pivots: number of the sentence, and a pivot of it.
        images: the frames that have pivots, RGB uint8 `[H, W, 3]` by index.
        last: whether the job has no more.
    """

    job: Job
    pivots: Sequence[tuple[int, Pivot]]
    images: Mapping[int, np.ndarray]
    last: bool = False

    @property
    def nbytes(self) -> int:
        return sum(image.nbytes for image in self.images.values())


@dataclass(frozen=True)
class SoundingObject:
    """An object that sounds in a window.

    Attributes:
        name: its category.
        considered: the boxes on its pivot frame, clipped to it.
        frame: index of that frame in the video.
        pivot: the box from which it is tracked; None if there was none, and its masks are empty.
        warnings: what the user should know.
        box: which of `considered` the pivot is, from 0.
    """

    name: str
    considered: Detections
    frame: int
    pivot: Pivot | None
    warnings: tuple[str, ...] = ()
    box: int = 0


@dataclass(frozen=True)
class WindowResult:
    """What was found out about one window.

    Attributes:
        start_s: its first second.
        frames: its frames in the video.
        tags: what the taggers heard; none where nobody asked them.
        objects: in the order of the selector's answer.
        audio_segments: of its sound, in seconds from its start; none where nobody asked.
        labels: the names of the objects that sound in each of its seconds, in the order of `objects`.
        silent: for each of its seconds, whether the silence gate closed it.
    """

    start_s: int
    frames: range
    tags: tuple[Tag, ...]
    objects: tuple[SoundingObject, ...]
    audio_segments: tuple[AudioSegment, ...]
    labels: tuple[tuple[str, ...], ...]
    silent: tuple[bool, ...]


def sounding_seconds(name: str, found: Sequence[WindowResult]) -> list[int]:
    """The seconds of a video in which a category is heard."""
    return [window.start_s + second for window in found for second, names in enumerate(window.labels) if name in names]
