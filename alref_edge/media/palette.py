"""The colour map of PASCAL VOC and DAVIS: the bits of an index spread over red, green and blue."""

from __future__ import annotations

import numpy as np


def _colour_map() -> np.ndarray:
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


DAVIS_PALETTE: np.ndarray = _colour_map()
"""uint8 `[256, 3]`, RGB; row 0 (black) is the background, object k has row k + 1."""
DAVIS_PALETTE.setflags(write=False)


def object_colour(index: int) -> tuple[int, int, int]:
    """RGB of object `index` (from 0), the same in every frame, overlay and PNG; never black."""
    red, green, blue = DAVIS_PALETTE[1 + index % 255]
    return int(red), int(green), int(blue)
