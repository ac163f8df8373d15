"""Means and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from alref_edge.errors import InputError
from alref_edge.metrics import clustered_mean


def test_the_mean_counts_every_sample_once() -> None:
    estimate = clustered_mean([[1.0], [], [0.0, 0.0, 0.0]])
    assert estimate.mean == 0.25
    assert estimate.count == 4
    assert (estimate.low, estimate.high) == (0, 1)


def test_the_interval_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    estimate = clustered_mean([[value] for value in values])
    assert estimate.mean == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert estimate.mean - estimate.low == pytest.approx(half, rel=0.15)
    assert estimate.high - estimate.mean == pytest.approx(half, rel=0.15)
    assert estimate == clustered_mean([[value] for value in values])
    assert estimate != clustered_mean([[value] for value in values], seed=1)


def test_copies_within_a_clip_add_no_certainty() -> None:
    values = np.random.default_rng(1).random(30)
    once, often = clustered_mean([[value] for value in values]), clustered_mean([[value] * 50 for value in values])
    assert often.low == pytest.approx(once.low)
    assert often.high == pytest.approx(once.high)
    assert often.count == 1500


def test_no_sample_is_no_mean() -> None:
    with pytest.raises(InputError, match="needs samples"):
        clustered_mean([[], []])
