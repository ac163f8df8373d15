"""Means with their confidence interval, where samples come in clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alref_edge.errors import InputError

_DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean and the bootstrap interval that holds it with 95 %.

    Attributes:
        mean: of all samples.
        low, high: ends of the interval.
        count: number of samples.
    """

    mean: float
    low: float
    high: float
    count: int


def clustered_mean(clusters: Sequence[Sequence[float]], *, draws: int = _DRAWS, seed: int = 0) -> Estimate:
    """The mean of all samples, and its interval when whole clusters are drawn again, with replacement.

    Samples of one clip are no independent witnesses, so clips are drawn, not samples.

    Args:
        clusters: samples of each clip; a clip without any counts for nothing.
        draws: how often clips are drawn.
        seed: of the draws; equal seeds give equal intervals.

    Raises:
        InputError: there is no sample.
    """
    filled = [np.asarray(cluster, np.float64) for cluster in clusters if len(cluster)]
    if not filled:
        raise InputError("A mean needs samples.", expected="at least one", got=f"{len(clusters)} empty clusters")
    sums, counts = np.array([cluster.sum() for cluster in filled]), np.array([len(cluster) for cluster in filled])
    picks = np.random.default_rng(seed).integers(0, len(filled), (draws, len(filled)))
    low, high = np.percentile(sums[picks].sum(axis=1) / counts[picks].sum(axis=1), [2.5, 97.5])
    return Estimate(float(sums.sum() / counts.sum()), float(low), float(high), int(counts.sum()))
