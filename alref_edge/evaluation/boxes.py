"""Boxes against the truth."""

from __future__ import annotations

import numpy as np

RIGHT_IOU = 0.5
"""A box is right from this intersection over union with the true one on."""


def box_iou(one_xyxy: np.ndarray, other_xyxy: np.ndarray) -> float:
    """Intersection over union of two boxes, `[4]` each; 0 where one is NaN or without area."""
    low, high = np.maximum(one_xyxy[:2], other_xyxy[:2]), np.minimum(one_xyxy[2:], other_xyxy[2:])
    shared = float(np.prod(np.clip(high - low, 0, None)))
    both = float(np.prod(one_xyxy[2:] - one_xyxy[:2]) + np.prod(other_xyxy[2:] - other_xyxy[:2]))
    return shared / (both - shared) if shared > 0 else 0.0


def box_of(mask_hw: np.ndarray) -> np.ndarray:
    """The box of what is set in a mask, float32 xyxy `[4]`; NaN where nothing is."""
    rows, columns = np.flatnonzero(mask_hw.any(axis=1)), np.flatnonzero(mask_hw.any(axis=0))
    if not len(rows):
        return np.full(4, np.nan, np.float32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
