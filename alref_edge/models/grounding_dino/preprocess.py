"""Images as Grounding DINO sees them (official `datasets/transforms.py` and `util/inference.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from alref_edge.errors import InputError


def network_size(height: int, width: int, *, short: int = 800, long: int = 1333) -> tuple[int, int]:
    """Size that an image is resized to, as `RandomResize([short], max_size=long)` has it.

    Returns:
        Height and width: the shorter side is `short`, or less where the longer would be above `long`.

    Raises:
        InputError: the image has no pixels, or is so narrow that its shorter side would vanish.
    """
    least, most = float(min(height, width)), float(max(height, width))
    if least < 1:
        raise InputError("The image has no pixels.", expected="at least 1 x 1", got=f"{width} x {height}")
    if most / least * short > long:
        short = round(long * least / most)
    if short < 1:
        raise InputError(
            "The image is too narrow.",
            expected=f"sides whose ratio is below {2 * long}",
            got=f"{width} x {height}",
            mend="crop it.",
        )
    if min(height, width) == short:
        return height, width
    if width < height:
        return int(short * height / width), short
    return short, int(short * width / height)


def resize(image_hw3_u8: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image at `size` (height, width), by Pillow's bilinear filter as torchvision applies it to a PIL image."""
    if image_hw3_u8.shape[:2] == size:
        return image_hw3_u8
    resized = Image.fromarray(image_hw3_u8).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized)


def normalise(image_hw3_u8: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """The image as the backbone takes it: float32 `[1, 3, H, W]`, scaled to 0..1, minus the mean, by the deviation."""
    image_hw3 = image_hw3_u8.astype(np.float32)
    image_hw3 /= np.float32(255)
    image_hw3 -= np.asarray(mean, np.float32)
    image_hw3 /= np.asarray(std, np.float32)
    return np.ascontiguousarray(image_hw3.transpose(2, 0, 1)[None])
