"""What is measured of one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from alref_edge.evaluation.boxes import RIGHT_IOU


@dataclass(frozen=True)
class TopBox:
    """Grounding DINO's best box of a sentence on a frame where the target is seen, whatever its score.

    Attributes:
        frame: the frame.
        pixels: how many pixels of the target are seen.
        iou: with the box of these pixels; 0 where no box was proposed.
        score: of the box.
    """

    frame: int
    pixels: int
    iou: float
    score: float

    @property
    def is_right(self) -> bool:
        return self.iou >= RIGHT_IOU


@dataclass(frozen=True)
class Tracked:
    """What the pipeline made of a sentence.

    Attributes:
        j, f, j_and_f: means over all frames of the clip.
        pivots: frame of each pivot, and the IoU of its box with the target's on that frame.
        fell_back: whether frame 0 had to serve.
    """

    j: float
    f: float
    j_and_f: float
    pivots: tuple[tuple[int, float], ...]
    fell_back: bool

    @property
    def pivots_right(self) -> tuple[bool, ...]:
        """Whether each pivot's box is right; without a pivot, the one that is missing is wrong."""
        return tuple(iou >= RIGHT_IOU for _, iou in self.pivots) or (False,)


@dataclass(frozen=True)
class SentenceScores:
    """All that was measured of one sentence.

    Attributes:
        clip: name of the clip.
        text, kind: the sentence.
        tracked: by way to choose the pivots: "oracle", which knows the truth, then the selectors by name.
        top_boxes: Grounding DINO alone, on every so many frames.
    """

    clip: str
    text: str
    kind: str
    tracked: Mapping[str, Tracked]
    top_boxes: tuple[TopBox, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class ExpressionScores(SentenceScores):
    """All that was measured of one expression of a synthetic scene.

    Attributes:
        seed: of the scene.
        target: number of the object.
    """

    seed: int
    target: int

    def to_json(self) -> dict[str, Any]:
        """See `SentenceScores.to_json`; the seed tells the clip."""
        return {name: asdict(self)[name] for name in ("seed", "text", "kind", "target", "tracked", "top_boxes")}
