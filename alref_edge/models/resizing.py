"""Resizing as products with matrices, which a graph on a device does: what an image library's filters weigh.

A matrix `[target, source]` says what each line (a row or a column) of the target is made of. Matrices are made once a
size and stay on the device. Pillow's come in two parts that add up to it, `[2, target, source]`: Pillow computes with
whole numbers, in units of 2⁻²², and so do products of bytes with either part in float32, whatever their order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from alref_edge.runtime import Buffer, Session, Signature

Weights = Callable[[int, int], np.ndarray]
"""A matrix, or its parts, of a source and a target size."""

_KEPT = 16  # matrices on the device: those of some sizes of video
# Pillow's weights of bytes are multiples of the inverse of the first (`PRECISION_BITS` of Resample.c); the larger of
# their two parts is one of the inverse of the second.
_PRECISION, _COARSE = 1 << 22, 1 << 10


def pillow_rows_first(source_hw: tuple[int, int], target_hw: tuple[int, int]) -> bool:
    """Whether Pillow resizes in height first: its later releases do where that shrinks more than twice as much."""
    higher, wider = (source - target for source, target in zip(source_hw, target_hw, strict=True))
    return higher > 0 and higher > 2 * wider and _pillow_orders()


@cache
def _pillow_orders() -> bool:
    """Whether this Pillow is one of them, by what it makes of a small image."""
    image = np.arange(40 * 9, dtype=np.uint8).reshape(40, 9) * np.uint8(37)
    made = np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BICUBIC))
    rows, columns = (pillow_bicubic(size, 8).astype(np.float64).sum(0) for size in image.shape)
    narrow = np.clip(np.floor(image @ columns.T + 0.5), 0, 255)
    return not np.array_equal(made, np.clip(np.floor(rows @ narrow + 0.5), 0, 255))


def pillow_bicubic(source: int, target: int) -> np.ndarray:
    """Weights of `PIL.Image.Resampling.BICUBIC` for images of bytes, float32 `[2, target, source]`."""
    return _pillow(source, target, 2.0, _cubic)


def pillow_bilinear(source: int, target: int) -> np.ndarray:
    """Weights of `PIL.Image.Resampling.BILINEAR` for images of bytes, float32 `[2, target, source]`."""
    return _pillow(source, target, 1.0, lambda x: np.maximum(1 - np.abs(x), 0))


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.5."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _pillow(source: int, target: int, support: float, kernel: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow's Resample.c: the kernel widens when it shrinks."""
    scale = source / target
    widened = max(scale, 1.0)
    centre = (np.arange(target)[:, None] + 0.5) * scale
    first = np.maximum((centre - support * widened + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support * widened + 0.5).astype(np.int64), source)
    place = np.arange(source)[None]
    weights = kernel((place - centre + 0.5) / widened) * ((place >= first) & (place < last))
    weights /= weights.sum(1, keepdims=True)
    weights = np.trunc(weights * _PRECISION + np.copysign(0.5, weights)) / _PRECISION
    if source == target:  # that pass is left out
        weights = np.eye(target)
    coarse = np.rint(weights * _COARSE) / _COARSE
    return np.stack([coarse, weights - coarse]).astype(np.float32)


class Matrices:
    """Matrices of some filters on a session's device, made when first asked for; the last few are kept.

    Args:
        session: whose device they lie on.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._kept: OrderedDict[tuple[Weights, int, int], Buffer] = OrderedDict()

    def of(self, weights: Weights, source: int, target: int) -> Buffer:
        """The matrix `[target, source]` of a filter."""
        key = weights, source, target
        if key not in self._kept:
            matrix = weights(source, target)
            self._kept[key] = self._session.buffer(matrix.shape)
            self._kept[key].write(matrix)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


class Preprocessor:
    """Frames of bytes resized and normalised on a device, by graphs of `export/resizing.py`.

    Args:
        columns_first: session of the graph that resizes in width first.
        rows_first: of one that resizes in height first, for `pillow_rows_first`; None: the other does for all.
        weights: of the filter.
    """

    def __init__(self, columns_first: Session, rows_first: Session | None, weights: Weights) -> None:
        self._sessions, self._weights = (columns_first, rows_first), weights
        self._matrices = Matrices(columns_first)
        self._frame: Buffer | None = None
        self._image: Buffer | None = None

    def __call__(self, image_hw3_u8: np.ndarray, height: int, width: int) -> Buffer:
        """The image, float32 `[1, 3, height, width]`; the next call writes over it.

        Args:
            image_hw3_u8: uint8 `[H, W, 3]`.
            height, width: that it is resized to.
        """
        session, (source_height, source_width) = self._sessions[0], image_hw3_u8.shape[:2]
        if self._sessions[1] and pillow_rows_first((source_height, source_width), (height, width)):
            session = self._sessions[1]
        if self._frame is None or self._frame.shape != image_hw3_u8.shape:
            self._frame = session.buffer(image_hw3_u8.shape, np.uint8)
        if self._image is None or self._image.shape[2:] != (height, width):
            self._image = session.buffer((1, 3, height, width))
        self._frame.write(image_hw3_u8)
        rows = self._matrices.of(self._weights, source_height, height)
        columns = self._matrices.of(self._weights, source_width, width)
        session.run({"frame": self._frame, "rows": rows, "columns": columns}, into={"image": self._image})
        return self._image

    def close(self) -> None:
        """Give back what the sessions hold."""
        for session in self._sessions:
            if session is not None:
                session.close()


def signature(parts: int, height: int | str, width: int | str) -> Signature:
    """Inputs and outputs of a graph for `Preprocessor`: weights in so many parts, and the size of the image."""
    return Signature(
        {
            "frame": ("uint8", ("H", "W", 3)),
            "rows": ("float32", (parts, height, "H")),
            "columns": ("float32", (parts, width, "W")),
        },
        {"image": ("float32", (1, 3, height, width))},
    )
