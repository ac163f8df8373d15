"""Values that pass between the parts: frozen, validated, nothing but numpy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

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

    def clipped(self, width: int, height: int) -> Detections:
        """The same with boxes clipped to the image."""
        return replace(self, boxes_n4=clip_boxes(self.boxes_n4, width, height))

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

    def to_supervision(self) -> Any:
        """As `supervision.Detections`: phrases are `data["class_name"]`, and their number among the different ones
        `class_id`.

        Raises:
            InputError: supervision is not installed.
        """
        try:
            from supervision import Detections as Theirs
        except ImportError as error:
            raise InputError(
                "supervision is not installed.", got=str(error), mend="pip install supervision."
            ) from error
        names = list(dict.fromkeys(self.phrases))
        return Theirs(
            xyxy=self.boxes_n4.astype(np.float32),
            confidence=self.scores_n.astype(np.float32),
            class_id=np.array([names.index(phrase) for phrase in self.phrases], int),
            data={"class_name": np.array(self.phrases, dtype=str)},
        )

    @classmethod
    def from_supervision(cls, found: Any) -> Detections:
        """Those of `supervision.Detections`: without confidences all scores are 1, without names the phrases are the
        class numbers, and without those empty."""
        count = len(found.xyxy)
        scores = np.ones(count) if found.confidence is None else found.confidence
        names = found.data.get("class_name", [""] * count if found.class_id is None else found.class_id)
        boxes_n4 = np.asarray(found.xyxy, np.float32).reshape(count, 4)
        return cls(boxes_n4, np.asarray(scores, np.float32), tuple(str(name) for name in names))


@dataclass(frozen=True)
class Pivot:
    """A frame and the box on it from which an object is tracked.

    Attributes:
        frame: index of the frame in the video, from 0.
        box_xyxy: float32 `[4]`, pixels; in results clipped to the frame.
        score: grounding score of the box, 0 to 1 (1.0 where the user gave the box).
        phrase: the words of the sentence that the box answers to.
        prompt_xyxy: float32 `[4]`, the box that the tracker is prompted with, as the official code prompts it: the one
            that was found or given, which may reach beyond the frame. `box_xyxy` if left out.
    """

    frame: int
    box_xyxy: np.ndarray = field(compare=False)
    score: float = 1.0
    phrase: str = ""
    prompt_xyxy: np.ndarray = field(default=None, compare=False)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        for name in ("box_xyxy", "prompt_xyxy"):
            given = getattr(self, name)
            box = self.box_xyxy if given is None else np.asarray(given, np.float32)
            if box.shape != (4,) or not np.isfinite(box).all():
                raise InputError(
                    "A pivot's box is not a box.", expected="4 finite numbers, x0 y0 x1 y1", got=box.tolist()
                )
            object.__setattr__(self, name, box)
        if self.frame < 0:
            raise InputError("A pivot lies before the video.", expected="a frame index from 0", got=self.frame)

    def clipped(self, width: int, height: int) -> Pivot:
        """The same pivot with its box clipped to the frame; the prompt stays as it is."""
        return replace(self, box_xyxy=clip_boxes(self.box_xyxy, width, height))


@dataclass(frozen=True)
class Tag:
    """A label that is heard.

    Attributes:
        id: of the label, in AudioSet's ontology such as "/m/0bt9lr".
        name: for people, such as "Dog".
        probability: 0 to 1; labels do not exclude each other.
    """

    id: str
    name: str
    probability: float


def clip_boxes(boxes_n4: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes `[..., 4]`, xyxy in pixels, without what lies beyond a frame."""
    return boxes_n4.clip(0, np.array([width, height, width, height], boxes_n4.dtype))
