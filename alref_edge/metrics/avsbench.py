"""Measures of AVSBench (arXiv 2207.05042): MJ and MF of what sounds, and mIoU and F over classes for AVSS.

The definitions are those of the evaluation that AL-Ref-SAM 2 publishes (`avs/*/eval_miou_and_fscore.py` and what they
use), which looks at one frame at a time. MJ and MF are the means of `sounding_j` and `sounding_f` over all frames of
all clips.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np

from alref_edge.errors import InputError
from alref_edge.metrics.davis import check_masks

BETA_SQUARED = 0.3
"""The weight of recall in F against that of precision."""


def sounding_j(predicted_hw: np.ndarray, truth_hw: np.ndarray) -> float:
    """Intersection over union, 0 to 1; where nothing sounds, the share of the frame that is left out.

    Args:
        predicted_hw, truth_hw: bool `[H, W]`.

    Raises:
        InputError: they are not two masks of one size.
    """
    check_masks(predicted_hw, truth_hw)
    if not truth_hw.any():
        return 1 - np.count_nonzero(predicted_hw) / predicted_hw.size
    return np.count_nonzero(predicted_hw & truth_hw) / np.count_nonzero(predicted_hw | truth_hw)


def sounding_f(predicted_hw: np.ndarray, truth_hw: np.ndarray) -> float:
    """F of precision and recall, 0 to 1; 0 where nothing sounds, whatever was predicted.

    Officially the largest over thresholds from 0 to 1, so the whole frame is never worse than a mask.

    Args:
        predicted_hw, truth_hw: bool `[H, W]`.

    Raises:
        InputError: they are not two masks of one size.
    """
    check_masks(predicted_hw, truth_hw)
    shared, taken, true = (int(np.count_nonzero(each)) for each in (predicted_hw & truth_hw, predicted_hw, truth_hw))
    return max(_f(shared, taken, true), _f(true, truth_hw.size, true))


@dataclass(frozen=True, eq=False)
class ClassScores:
    """IoU and F of each class, summed over frames.

    Attributes:
        iou_c, f_c: sums, float64 `[classes]`; class 0 is the background, a class like the others.
        frames_c: frames in which a class is, or was predicted, int64 `[classes]`.
    """

    iou_c: np.ndarray
    f_c: np.ndarray
    frames_c: np.ndarray

    @classmethod
    def of(cls, predicted_hw: np.ndarray, truth_hw: np.ndarray, classes: int) -> ClassScores:
        """The scores of one frame.

        Args:
            predicted_hw, truth_hw: the class of each pixel, uint8 `[H, W]`.
            classes: how many there are, with the background.

        Raises:
            InputError: they are not two maps of one size, or hold a class that there is not.
        """
        for map_hw in (predicted_hw, truth_hw):
            if map_hw.ndim != 2 or map_hw.dtype != np.uint8 or map_hw.shape != truth_hw.shape or not map_hw.size:
                raise InputError(
                    "Two class maps cannot be compared.",
                    expected=f"uint8{list(truth_hw.shape)}" if truth_hw.ndim == 2 else "uint8[H, W]",
                    got=f"{map_hw.dtype}{list(map_hw.shape)}",
                )
            if map_hw.max() >= classes:
                raise InputError("A class map has too high a class.", expected=f"0 to {classes - 1}", got=map_hw.max())
        shared, taken, true = (
            np.bincount(each.ravel(), minlength=classes)
            for each in (predicted_hw[predicted_hw == truth_hw], predicted_hw, truth_hw)
        )
        union = taken + true - shared
        f_c = np.array([_f(*each) for each in zip(shared.tolist(), taken.tolist(), true.tolist(), strict=True)])
        return cls(shared / np.maximum(union, 1), f_c, (union > 0).astype(np.int64))

    @classmethod
    def total(cls, scores: Iterable[ClassScores]) -> ClassScores:
        """The scores of many frames together, at least one."""
        return reduce(lambda a, b: cls(a.iou_c + b.iou_c, a.f_c + b.f_c, a.frames_c + b.frames_c), scores)

    @property
    def miou(self) -> float:
        """The mean over classes of each one's mean IoU; a class that is nowhere counts 0, as officially."""
        return float(np.mean(self.iou_c / np.maximum(self.frames_c, 1)))

    @property
    def f(self) -> float:
        """The same of F."""
        return float(np.mean(self.f_c / np.maximum(self.frames_c, 1)))


def _f(shared: int, taken: int, true: int) -> float:
    """F of so many pixels taken, of which so many are shared with the true ones."""
    return (1 + BETA_SQUARED) * shared / (BETA_SQUARED * true + taken) if shared else 0.0
