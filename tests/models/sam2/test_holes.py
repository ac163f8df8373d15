"""Hole filling against a plain flood fill."""

from __future__ import annotations

import numpy as np
import pytest

from alref_edge.models.sam2.holes import FILL_LOGIT, fill_holes, small_components


def flood(mask: np.ndarray, area: int) -> np.ndarray:
    """Small 8-connected components by a stack, pixel by pixel."""
    small, seen = np.zeros_like(mask), np.zeros_like(mask)
    for start in zip(*np.nonzero(mask), strict=True):
        if seen[start]:
            continue
        seen[start], stack, members = True, [start], []
        while stack:
            y, x = stack.pop()
            members.append((y, x))
            for other in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                inside = 0 <= other[0] < mask.shape[0] and 0 <= other[1] < mask.shape[1]
                if inside and mask[other] and not seen[other]:
                    seen[other] = True
                    stack.append(other)
        if len(members) <= area:
            small[tuple(np.array(members).T)] = True
    return small


@pytest.mark.parametrize("area", [1, 2, 8, 20])
@pytest.mark.parametrize("density", [0.1, 0.3, 0.4, 0.6])
def test_small_components_equal_a_flood_fill(area: int, density: float) -> None:
    masks = np.random.default_rng(area).random((4, 48, 40)) < density
    expected = np.stack([flood(mask, area) for mask in masks])
    np.testing.assert_array_equal(small_components(masks, area), expected)


def test_winding_components_of_the_largest_area_and_one_more() -> None:
    masks = np.zeros((2, 12, 12), bool)
    snake = [(1, 1), (2, 2), (1, 3), (2, 4), (1, 5), (2, 6), (1, 7), (2, 8)]
    masks[:, [y for y, _ in snake], [x for _, x in snake]] = True
    masks[1, 3, 9] = True
    found = small_components(masks, 8)
    np.testing.assert_array_equal(found[0], masks[0])
    assert not found[1].any()


def test_holes_become_foreground_and_nothing_else_changes() -> None:
    logits = np.full((1, 16, 16), 3.0, np.float32)
    logits[0, 4:6, 4:8] = -2.0
    logits[0, 10:13, 4:7] = 0.0
    logits[0, 14, 10:12] = 0.0  # a logit of 0 is background
    filled = fill_holes(logits, 8)
    assert (filled[0, 4:6, 4:8] == FILL_LOGIT).all()
    assert (filled[0, 10:13, 4:7] == 0).all()
    assert (filled[0, 14, 10:12] == FILL_LOGIT).all()
    assert (filled != logits).sum() == 10
    assert filled.dtype == np.float32
    assert fill_holes(logits, 0) is logits
