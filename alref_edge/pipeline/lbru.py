"""Language-bridged reasoning about sounds: which objects in view sound in a window, and which box is each one's.

The two decisions are an LLM's in AL-Ref-SAM 2. They stand behind `SoundSelector`, as pivots stand behind
`PivotSelector`; `GroundingSoundSelector` makes them without an LLM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np

from alref_edge.errors import InputError
from alref_edge.models.beats import Tag
from alref_edge.pipeline.audio_segments import AudioSegment
from alref_edge.pipeline.pivots import count_nothing
from alref_edge.types import Detections

Ground: TypeAlias = Callable[[int, str], Detections]
"""Boxes of a category on the frame of a second of the window; asking again for the same costs nothing."""


def tell_nobody(stage: str, done: int, total: int) -> None:
    """Reports nothing."""


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
                "A sounding category is none.", expected="a name and a pivot from 1", got=f"{self.name!r}: {self.pivot}"
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
        listen: names what is heard in the window, the tags of all taggers together; asking again costs nothing.
        count: counts an event by name, for the result.
        report: tells whoever watches of a stage, how much of it is done, and of how much.
    """

    index: int
    start_s: int
    frames: tuple[int, ...]
    images: Mapping[int, np.ndarray] = field(repr=False)
    listen: Callable[[], tuple[Tag, ...]] = field(repr=False)
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

    def categories(self, window: SoundWindow, ground: Ground) -> Sequence[SoundingCategory]:
        """What may sound in a window, each with the second on whose frame it is to be found; no name twice."""
        ...

    def box(self, window: SoundWindow, category: SoundingCategory, found: Detections) -> int:
        """Which of two or more boxes on the pivot frame is the one that sounds, from 0."""
        ...

    def segments(self, window: SoundWindow) -> Sequence[AudioSegment] | None:
        """The segments of the window's sound where they are known; None if they are to be found."""
        ...


@dataclass(frozen=True)
class GroundingSoundSelector:
    """No LLM: tags become the categories nearest to them in words; those that grounding sees are there.

    A category's pivot is the frame on which grounding scores it best (the earlier one if equal), and its box there the
    best.

    Attributes:
        nearest: the choice that each word is nearest to, as `LanguageBind.nearest`.
        choices: what objects may be called; tags serve as they are where there are none.
        tag_threshold: smallest probability of a tag.
    """

    nearest: Callable[[Sequence[str], Sequence[str]], list[str]] = field(repr=False)
    choices: tuple[str, ...] = ()
    tag_threshold: float = 0.0
    name: str = "grounding"
    in_flight: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)

    def categories(self, window: SoundWindow, ground: Ground) -> list[SoundingCategory]:
        """See `SoundSelector.categories`; the most probable come first."""
        tags = [tag for tag in window.listen() if tag.probability >= self.tag_threshold]
        heard = [tag.name for tag in sorted(tags, key=lambda tag: -tag.probability)]
        names = self.nearest(heard, self.choices) if self.choices else [name.lower() for name in heard]
        found = []
        names = list(dict.fromkeys(names))
        for number, name in enumerate(names):
            best_t = []
            for second in range(window.seconds):
                best_t.append(float(ground(second, name).scores_n.max(initial=0)))
                window.report("ground", number * window.seconds + second + 1, len(names) * window.seconds)
            if max(best_t) > 0:
                found.append(SoundingCategory(name, 1 + best_t.index(max(best_t))))
        return found

    def box(self, window: SoundWindow, category: SoundingCategory, found: Detections) -> int:
        """See `SoundSelector.box`."""
        return int(found.scores_n.argmax())

    def segments(self, window: SoundWindow) -> None:
        """Nothing is known beforehand."""


def keep_boxes(found: Detections, most: int) -> Detections:
    """The boxes that are shown to a selector: `most` or more by score, the best first; fewer in the queries' order.

    From the official `avs/*/gdino.py`; recorded answers count boxes in this order.
    """
    return found.top(most) if len(found) >= most else found
