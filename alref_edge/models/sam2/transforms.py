"""What SAM 2 sees and what its masks become: resizing exactly as the official code does, in numpy and Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

from alref_edge.errors import InputError

_ROUNDED_TAPS = 4  # torch's antialiased resize takes so many products at once


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


def mask_logits(prompt_11ss: np.ndarray) -> np.ndarray:
    """A mask prompt's own low-resolution logits, plus and minus 10, those of a pixel on the mask's edge between.

    As `_use_mask_as_output` of sam2/modeling/sam2_base.py. Not taken from the graph, which sums in another order: an
    edge that runs through the middle of a pixel is a tie.

    Args:
        prompt_11ss: of `mask_prompt`.

    Returns:
        float32 `[size / 4, size / 4]`.
    """
    side = prompt_11ss.shape[-1] // 4
    return resize_antialiased(prompt_11ss[0, 0] * np.float32(20) - np.float32(10), side, side)


def to_model_points(points_n2: np.ndarray, height: int, width: int, size: int) -> np.ndarray:
    """Points in pixels of the image, xy, as points of the model's square, float32 `[N, 2]`."""
    return points_n2.astype(np.float32) / np.array([width, height], np.float32) * np.float32(size)


def resize_antialiased(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize whose filter widens when it shrinks, to the bit what torch's `interpolate(antialias=True)` gives.

    Ties depend on the last bit: a mask is cut at one half after this. So every rounding is that of torch on a CPU with
    fused multiply-add (x86 with AVX2 or AVX-512, any number of threads): after the first tap, taps are taken in fours,
    each product rounded and then added; those left over are fused, one rounding each.

    Args:
        planes: float32 `[..., h, w]`.

    Returns:
        float32 `[..., height, width]`.
    """
    for axis, target in ((-1, width), (-2, height)):
        if planes.shape[axis] != target:
            indices, weights, fused = _antialiased_taps(planes.shape[axis], target)
            weights, fused = _along(weights, axis), _along(fused, axis)
            total = np.take(planes, indices[0], axis) * weights[0].astype(np.float32)
            for index, weight, is_fused in zip(indices[1:], weights[1:], fused[1:], strict=True):
                product = np.take(planes, index, axis) * weight
                if not is_fused.all():
                    product = np.where(is_fused, product, product.astype(np.float32))
                product += total
                total = product.astype(np.float32)
            planes = total
    return planes


def resize_bilinear(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize from two neighbours an axis, to the bit what torch's `interpolate(align_corners=False)` gives.

    Where a prompt's mask has its edge, logits are zero but for the last bit: as torch, the second product is rounded
    and the first fused to it.

    Args:
        planes: float32 `[..., h, w]`.

    Returns:
        float32 `[..., height, width]`.
    """
    for axis, target in ((-1, width), (-2, height)):
        if planes.shape[axis] != target:
            (lower, upper), weights = _bilinear_taps(planes.shape[axis], target)
            weights = _along(weights, axis)
            second = np.take(planes, upper, axis)
            second *= weights[1]
            total = np.take(planes, lower, axis) * weights[0].astype(np.float64)
            total += second
            planes = total.astype(np.float32)
    return planes


def antialiased_matrix(source: int, target: int) -> np.ndarray:
    """What `resize_antialiased` multiplies lines with, float32 `[1, target, source]`, for `resizing.Matrices`."""
    indices, weights, _ = _antialiased_taps(source, target)
    return _dense(indices, weights, source)[None]


def bilinear_matrix(source: int, target: int) -> np.ndarray:
    """What `resize_bilinear` multiplies lines with, float32 `[target, source]`, for `resizing.Matrices`."""
    return _dense(*_bilinear_taps(source, target), source)


def bilinear_matrix_of_bytes(source: int, target: int) -> np.ndarray:
    """The same, with lines of zeros up to a whole number of bytes: float32 `[8 ceil(target / 8), source]`."""
    return np.pad(bilinear_matrix(source, target), ((0, -target % 8), (0, 0)))


def _dense(indices: np.ndarray, weights: np.ndarray, source: int) -> np.ndarray:
    """Taps `[taps, target]` as a matrix."""
    matrix = np.zeros((indices.shape[1], source), np.float32)
    np.add.at(matrix, (np.arange(indices.shape[1])[None], indices), weights)
    return matrix


def _along(weights: np.ndarray, axis: int) -> np.ndarray:
    """Weights `[taps, target]` shaped to multiply planes along an axis, -1 or -2."""
    return weights[:, :, None] if axis == -2 else weights[:, None, :]


@lru_cache(maxsize=32)
def _antialiased_taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Taps `[taps, target]` of a triangle filter: indices, weights as torch rounds them, and which are fused."""
    scale = np.float32(source) / np.float32(target)
    support = max(scale, np.float32(1))
    centre = scale * (np.arange(target, dtype=np.float32) + np.float32(0.5))
    first = np.maximum((centre - support + np.float64(0.5)).astype(np.int64), 0)
    last = np.minimum((centre + support + np.float64(0.5)).astype(np.int64), source)
    taps = np.arange((last - first).max())[:, None]
    indices = first + taps
    # torch's C++ halves are doubles: they widen what they are added to.
    offset = (indices.astype(np.float32) - centre) + np.float64(0.5)
    distance = np.abs((offset * np.float64(np.float32(1) / support)).astype(np.float32))
    weights = np.where(indices < last, np.maximum(np.float32(1) - distance, np.float32(0)), np.float32(0))
    weights /= weights.sum(0, dtype=np.float32)
    rounded = (last - first - 1) // _ROUNDED_TAPS * _ROUNDED_TAPS
    return np.minimum(indices, source - 1), weights.astype(np.float64), taps > rounded


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
