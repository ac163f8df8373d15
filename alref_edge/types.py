"""Values that pass between the parts: frozen, validated, nothing but numpy."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from alref_edge.errors import EngineError, InputError


@dataclass(frozen=True)
class Detections:
    """What grounding found in one image.

    Attributes:
        boxes_n4: float32 `[N, 4]`, xyxy in pixels of the image.
        scores_n: float32 `[N]`, 0 to 1.
        phrases: N phrases of the caption that the boxes answer to.
    """

    boxes_n4: np.ndarray
    scores_n: np.ndarray
    phrases: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.phrases)
        if self.boxes_n4.shape != (count, 4) or self.scores_n.shape != (count,):
            raise EngineError(
                "Detections do not fit together.",
                expected=f"boxes [{count}, 4] and scores [{count}] for {count} phrases",
                got=f"boxes {list(self.boxes_n4.shape)} and scores {list(self.scores_n.shape)}",
            )

    def __len__(self) -> int:
        return len(self.phrases)

    def __getitem__(self, rows: slice | np.ndarray) -> Detections:
        """A selection by slice or index array, in its order."""
        order = np.arange(len(self))[rows]
        return Detections(self.boxes_n4[order], self.scores_n[order], tuple(self.phrases[i] for i in order))

    def top(self, count: int) -> Detections:
        """The `count` best by score, best first (ties keep their order)."""
        return self[np.argsort(-self.scores_n, kind="stable")[:count]]

    def distinct(self, iou: float) -> Detections:
        """The best by score of those that overlap by an IoU of `iou` or more (greedy NMS), best first."""
        areas_n = (self.boxes_n4[:, 2:] - self.boxes_n4[:, :2]).clip(0).prod(axis=1)
        kept: list[int] = []
        for row in np.argsort(-self.scores_n, kind="stable").tolist():
            low_k2 = np.maximum(self.boxes_n4[kept, :2], self.boxes_n4[row, :2])
            high_k2 = np.minimum(self.boxes_n4[kept, 2:], self.boxes_n4[row, 2:])
            shared_k = (high_k2 - low_k2).clip(0).prod(axis=1)
            if not (shared_k >= iou * (areas_n[kept] + areas_n[row] - shared_k)).any():
                kept.append(row)
        return self[np.array(kept, int)]


@dataclass(frozen=True)
class Pivot:
    """A frame and the box on it from which an object is tracked.

    Attributes:
        frame: index of the frame in the video, from 0.
        box_xyxy: float32 `[4]`, pixels.
        score: grounding score of the box, 0 to 1 (1.0 where the user gave the box).
        phrase: the words of the sentence that the box answers to.
    """

    frame: int
    box_xyxy: np.ndarray = field(compare=False)
    score: float = 1.0
    phrase: str = ""

    def __post_init__(self) -> None:
        box = np.asarray(self.box_xyxy, np.float32)
        if box.shape != (4,) or not np.isfinite(box).all():
            raise InputError("A pivot's box is not a box.", expected="4 finite numbers, x0 y0 x1 y1", got=box.tolist())
        if self.frame < 0:
            raise InputError("A pivot lies before the video.", expected="a frame index from 0", got=self.frame)
        object.__setattr__(self, "box_xyxy", box)
