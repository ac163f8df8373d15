"""Region similarity J and boundary measure F of the DAVIS 2017 benchmark (arXiv 1704.00675).

The definitions are those of the official `davis2017/metrics.py` and `utils.py`. Ref-YouTube-VOS, MeViS and Ref-DAVIS17
use the same J and F.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

import numpy as np

from alref_edge.errors import InputError

BOUND = 0.008
"""How far two boundaries may lie apart and still match: a share of the frame's diagonal."""

_BINS = 4


@dataclass(frozen=True)
class Statistics:
    """What the benchmark reports of one measure of one object over a sequence.

    Attributes:
        mean: over the frames.
        recall: share of the frames with a value above 0.5.
        decay: mean of the first quarter minus mean of the last.
    """

    mean: float
    recall: float
    decay: float

    @classmethod
    def of(cls, values_t: np.ndarray) -> Statistics:
        """Of one value a frame (official `db_statistics`, whose indices wrap beyond 256 frames; these do not).

        Raises:
            InputError: there are no values.
        """
        if values_t.ndim != 1 or not len(values_t):
            raise InputError("A measure needs frames.", expected="one value a frame", got=list(values_t.shape))
        edges = np.round(np.linspace(1, len(values_t), _BINS + 1) + 1e-10).astype(int) - 1
        first, last = values_t[: edges[1] + 1], values_t[edges[-2] : edges[-1] + 1]
        return cls(float(values_t.mean()), float((values_t > 0.5).mean()), float(first.mean() - last.mean()))


@dataclass(frozen=True)
class JAndF:
    """Both measures of one object in every frame that counts.

    Attributes:
        region_t: J, float64 `[T]`, 0 to 1.
        boundary_t: F, float64 `[T]`, 0 to 1.
    """

    region_t: np.ndarray
    boundary_t: np.ndarray

    @property
    def j(self) -> float:
        """Mean J."""
        return float(self.region_t.mean())

    @property
    def f(self) -> float:
        """Mean F."""
        return float(self.boundary_t.mean())

    @property
    def j_and_f(self) -> float:
        """J&F: the mean of the two means."""
        return (self.j + self.f) / 2

    @property
    def region(self) -> Statistics:
        """Mean, recall and decay of J."""
        return Statistics.of(self.region_t)

    @property
    def boundary(self) -> Statistics:
        """Mean, recall and decay of F."""
        return Statistics.of(self.boundary_t)


def j_and_f(
    predicted: Iterable[np.ndarray], truth: Iterable[np.ndarray], *, skip_ends: bool = False, bound: float = BOUND
) -> JAndF:
    """J and F of one object over a sequence.

    Args:
        predicted: one mask a frame, bool `[H, W]`: an array `[T, H, W]`, or whatever yields masks.
        truth: as many.
        skip_ends: leave out the first and the last frame. Referring segmentation counts all frames, the default; the
            semi-supervised benchmark of DAVIS, where the first mask is given, leaves the two out.
        bound: see `boundary_measure`.

    Raises:
        InputError: no frames, sequences of different lengths, or masks that are not two alike.
    """
    region, boundary = [], []
    for one, other in zip_longest(predicted, truth):
        if one is None or other is None:
            raise InputError(
                "Two sequences of masks differ in length.",
                expected="as many masks as the truth has",
                got=f"{'fewer' if one is None else 'more'} than that",
            )
        region.append(region_similarity(one, other))
        boundary.append(boundary_measure(one, other, bound))
    part = slice(1, -1) if skip_ends else slice(None)
    if not region[part]:
        raise InputError(
            "A sequence of masks has no frame that counts.",
            expected="3 or more frames" if skip_ends else "1 or more frames",
            got=len(region),
        )
    return JAndF(np.array(region[part]), np.array(boundary[part]))


def region_similarity(predicted_hw: np.ndarray, truth_hw: np.ndarray) -> float:
    """J: the two masks' intersection over union, 0 to 1; 1 where both are empty.

    Args:
        predicted_hw, truth_hw: bool `[H, W]`.

    Raises:
        InputError: they are not two masks of one size.
    """
    check_masks(predicted_hw, truth_hw)
    union = np.count_nonzero(predicted_hw | truth_hw)
    return np.count_nonzero(predicted_hw & truth_hw) / union if union else 1.0


def boundary_measure(predicted_hw: np.ndarray, truth_hw: np.ndarray, bound: float = BOUND) -> float:
    """F: the harmonic mean of the shares of each mask's boundary that lie near the other's, 0 to 1.

    Boundaries match within a disk of `bound` pixels if that is 1 or more, else of `ceil(bound * diagonal)`. Where both
    masks are without a boundary (empty, or the whole frame) F is 1; where one alone is, 0.

    Args:
        predicted_hw, truth_hw: bool `[H, W]`.
        bound: a radius.

    Raises:
        InputError: they are not two masks of one size, or there is no such radius.
    """
    check_masks(predicted_hw, truth_hw)
    if not bound > 0 or (bound >= 1 and bound != int(bound)):
        raise InputError("The boundaries' distance is out of range.", expected="0 to 1, or whole pixels", got=bound)
    radius = int(bound) if bound >= 1 else math.ceil(bound * math.hypot(*predicted_hw.shape))
    crop = _surroundings(predicted_hw | truth_hw)
    if crop is None:
        return 1.0
    ours_hw, theirs_hw = _boundary(predicted_hw[crop]), _boundary(truth_hw[crop])
    ours, theirs = np.count_nonzero(ours_hw), np.count_nonzero(theirs_hw)
    if not ours or not theirs:
        return float(ours == theirs)
    precision = _matched(ours_hw, theirs_hw, radius) / ours
    recall = _matched(theirs_hw, ours_hw, radius) / theirs
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def check_masks(predicted_hw: np.ndarray, truth_hw: np.ndarray) -> None:
    """Raises InputError if they are not two masks of one size, bool `[H, W]`."""
    for mask_hw in (predicted_hw, truth_hw):
        if mask_hw.ndim != 2 or mask_hw.dtype != np.bool_ or mask_hw.shape != truth_hw.shape:
            raise InputError(
                "Two masks cannot be compared.",
                expected=f"bool{list(truth_hw.shape)}" if truth_hw.ndim == 2 else "bool[H, W]",
                got=f"{mask_hw.dtype}{list(mask_hw.shape)}",
            )


def _surroundings(mask_hw: np.ndarray) -> tuple[slice, slice] | None:
    """The part of the frame that holds all of a mask's boundary: its box, and a pixel more on each side."""
    rows = np.flatnonzero(mask_hw.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask_hw[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)


def _boundary(mask_hw: np.ndarray) -> np.ndarray:
    """Pixels that differ from the one right, below, or right below (official `_seg2bmap`), bool `[H, W]`.

    Beyond the frame, or the crop, a mask goes on as it ends.
    """
    right_hw, below_hw, both_hw = mask_hw.copy(), mask_hw.copy(), mask_hw.copy()
    right_hw[:, :-1] = mask_hw[:, 1:]
    below_hw[:-1] = mask_hw[1:]
    both_hw[:-1] = right_hw[1:]
    both_hw[-1] = right_hw[-1]
    return np.asarray((mask_hw ^ right_hw) | (mask_hw ^ below_hw) | (mask_hw ^ both_hw))


def _matched(points_hw: np.ndarray, others_hw: np.ndarray, radius: int) -> int:
    """How many points have one of the others within a radius.

    Each row of the disk around a point is looked up in running sums of the others' rows.
    """
    height, width = others_hw.shape
    sums = np.zeros((height, width + 1), np.int32)
    np.cumsum(others_hw, axis=1, out=sums[:, 1:])
    rises, reaches = _disk(radius)
    rows, columns = np.nonzero(points_hw)
    y = rows[:, None] + rises
    inside = (y >= 0) & (y < height)
    line = np.clip(y, 0, height - 1) * (width + 1)
    first = line + np.maximum(columns[:, None] - reaches, 0)
    last = line + np.minimum(columns[:, None] + reaches + 1, width)
    flat = sums.reshape(-1)
    return int(np.count_nonzero(((flat[last] > flat[first]) & inside).any(axis=1)))


@lru_cache
def _disk(radius: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `skimage.morphology.disk`: how far below the centre each is, and how far it reaches to each side."""
    rises = np.arange(-radius, radius + 1)
    return rises, np.array([math.isqrt(radius * radius - rise * rise) for rise in rises.tolist()])
