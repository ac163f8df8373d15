"""Filling of small holes in masks."""

from __future__ import annotations

import numpy as np

FILL_LOGIT = np.float32(0.1)


def fill_holes(logits_nhw: np.ndarray, area: int) -> np.ndarray:
    """Turn small holes of the background into foreground.

    A hole is a component of background (logit at most 0, joined through 8 neighbours) of at most `area` pixels; its
    logits become 0.1. As `fill_holes_in_mask_scores` of sam2/utils/misc.py.

    Args:
        logits_nhw: float32 `[N, h, w]`, low-resolution mask logits.
        area: largest hole that is filled, in low-resolution pixels; 0 fills none.

    Returns:
        The logits, the same array where there was nothing to fill.
    """
    if area <= 0:
        return logits_nhw
    holes = small_components(logits_nhw <= 0, area)
    return np.where(holes, FILL_LOGIT, logits_nhw) if holes.any() else logits_nhw


def small_components(mask_nhw: np.ndarray, area: int) -> np.ndarray:
    """Where the 8-connected components of at most `area` pixels lie, bool `[N, h, w]`.

    A component of `area` pixels is at most `area - 1` steps long, so that many steps spread its least index over all
    of it. Larger components are not covered by then: somewhere within each of their labels a neighbour has another.
    """
    outside = mask_nhw.size
    labels = np.where(mask_nhw, np.arange(outside, dtype=np.int64).reshape(mask_nhw.shape), outside)
    for _ in range(area - 1):
        labels = np.where(mask_nhw, _around(labels, np.minimum, outside), outside)
    least = _around(labels, np.minimum, outside)
    most = _around(np.where(mask_nhw, labels, -1), np.maximum, -1)
    is_open = np.zeros(outside + 1, bool)
    is_open[labels[(least != labels) | (most != labels)]] = True
    counts = np.bincount(labels.ravel(), minlength=outside + 1)
    return mask_nhw & ~is_open[labels] & (counts[labels] <= area)


def _around(values_nhw: np.ndarray, pick: np.ufunc, edge: int) -> np.ndarray:
    """The least or greatest of each pixel's 3 by 3 neighbourhood."""
    for axis in (1, 2):
        padding = [(0, 0)] * 3
        padding[axis] = (1, 1)
        padded = np.pad(values_nhw, padding, constant_values=edge)
        size = values_nhw.shape[axis]
        first, second, third = (np.take(padded, range(i, i + size), axis) for i in range(3))
        values_nhw = pick(pick(first, second), third)
    return values_nhw
