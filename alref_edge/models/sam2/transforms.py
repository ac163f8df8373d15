"""What SAM 2 sees and what its masks become: resizing exactly as the official code does, in numpy and Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

from alref_edge.errors import InputError


def check_image(image_hw3_u8: np.ndarray) -> None:
    """Raise an InputError unless this is an RGB image of bytes."""
    if image_hw3_u8.dtype != np.uint8 or image_hw3_u8.ndim != 3 or image_hw3_u8.shape[2] != 3 or not image_hw3_u8.size:
        raise InputError(
            "An image is not RGB bytes.",
            expected="uint8 [height, width, 3]",
            got=f"{image_hw3_u8.dtype} {list(image_hw3_u8.shape)}",
        )


def video_pixels(image_hw3_u8: np.ndarray, size: int, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """A video frame as the tracker's input: Pillow's bicubic resize to a square, then normalised.

    As `_load_img_as_tensor` and `load_video_frames` of sam2/utils/misc.py.

    Returns:
        float32 `[1, 3, size, size]`.
    """
    check_image(image_hw3_u8)
    square = np.asarray(Image.fromarray(image_hw3_u8).resize((size, size), Image.Resampling.BICUBIC))
    levels = (np.arange(256) / 255.0).astype(np.float32)
    pixels = np.empty((1, 3, size, size), np.float32)
    for channel in range(3):
        table = (levels - np.float32(mean[channel])) / np.float32(std[channel])
        np.take(table, square[..., channel], out=pixels[0, channel])
    return pixels


def image_pixels(image_hw3_u8: np.ndarray, size: int, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """An image as the image predictor's input: antialiased bilinear resize of floats, then normalised.

    As `SAM2Transforms` of sam2/utils/transforms.py.

    Returns:
        float32 `[1, 3, size, size]`.
    """
    check_image(image_hw3_u8)
    image_3hw = image_hw3_u8.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    pixels = resize_antialiased(image_3hw, size, size)
    shift, scale = (np.asarray(values, np.float32)[:, None, None] for values in (mean, std))
    return ((pixels - shift) / scale)[None]


def mask_prompt(mask_hw: np.ndarray, size: int) -> np.ndarray:
    """A mask given by the user as the model's input: antialiased bilinear resize, then at least one half.

    As `add_new_mask` of sam2/sam2_video_predictor.py.

    Returns:
        float32 `[1, 1, size, size]` of 0 and 1.
    """
    mask = mask_hw.astype(bool).astype(np.float32)
    if mask.shape != (size, size):
        mask = (resize_antialiased(mask, size, size) >= 0.5).astype(np.float32)
    return mask[None, None]


def to_model_points(points_n2: np.ndarray, height: int, width: int, size: int) -> np.ndarray:
    """Points in pixels of the image, xy, as points of the model's square, float32 `[N, 2]`."""
    return points_n2.astype(np.float32) / np.array([width, height], np.float32) * np.float32(size)


def resize_antialiased(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize whose filter widens when it shrinks, as torch's `interpolate(antialias=True)`.

    Args:
        planes: float32 `[..., h, w]`.

    Returns:
        float32 `[..., height, width]`.
    """
    for axis, target in ((-1, width), (-2, height)):
        if planes.shape[axis] != target:
            indices, weights = _antialiased_taps(planes.shape[axis], target)
            weights = _along(weights.astype(np.float64), axis)
            total = np.take(planes, indices[0], axis) * weights[0].astype(np.float32)
            # One rounding a step, as torch's fused multiply-add: a mask's ties at one half depend on it.
            for index, weight in zip(indices[1:], weights[1:], strict=True):
                total = (np.take(planes, index, axis) * weight + total).astype(np.float32)
            planes = total
    return planes


def resize_bilinear(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize from two neighbours an axis, as torch's `interpolate(align_corners=False)`.

    Args:
        planes: float32 `[..., h, w]`.

    Returns:
        float32 `[..., height, width]`.
    """
    for axis, target in ((-1, width), (-2, height)):
        if planes.shape[axis] != target:
            (lower, upper), weights = _bilinear_taps(planes.shape[axis], target)
            weights = _along(weights, axis)
            total = np.take(planes, lower, axis)
            total *= weights[0]
            part = np.take(planes, upper, axis)
            part *= weights[1]
            total += part
            planes = total
    return planes


def _along(weights: np.ndarray, axis: int) -> np.ndarray:
    """Weights `[taps, target]` shaped to multiply planes along an axis, -1 or -2."""
    return weights[:, :, None] if axis == -2 else weights[:, None, :]


@lru_cache(maxsize=32)
def _antialiased_taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights `[taps, target]` of a triangle filter, in float32 as torch computes them."""
    scale = np.float32(source) / np.float32(target)
    support = max(scale, np.float32(1))
    centre = scale * (np.arange(target, dtype=np.float32) + np.float32(0.5))
    first = np.maximum((centre - support + np.float32(0.5)).astype(np.int64), 0)
    last = np.minimum((centre + support + np.float32(0.5)).astype(np.int64), source)
    indices = first + np.arange((last - first).max())[:, None]
    distance = np.abs((indices - centre + np.float32(0.5)).astype(np.float32) * (np.float32(1) / support))
    weights = np.where(indices < last, np.maximum(np.float32(1) - distance, np.float32(0)), np.float32(0))
    return np.minimum(indices, source - 1), weights / weights.sum(0, dtype=np.float32)


@lru_cache(maxsize=32)
def _bilinear_taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights `[2, target]` of the two neighbours of every target pixel."""
    scale = np.float32(source) / np.float32(target)
    # In float64, then rounded once: torch's multiply-add is fused here too.
    position = np.maximum(np.float64(scale) * (np.arange(target) + 0.5) - 0.5, 0).astype(np.float32)
    lower = np.minimum(position.astype(np.int64), source - 1)
    upper = np.minimum(lower + 1, source - 1)
    weight = np.minimum(position - lower.astype(np.float32), np.float32(1))
    return np.stack([lower, upper]), np.stack([np.float32(1) - weight, weight])
