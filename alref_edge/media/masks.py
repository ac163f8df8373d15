"""Masks on disk: PNG files and COCO run-length encodings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.errors import InputError, MediaError
from alref_edge.files import written_beside
from alref_edge.media.limits import Limits
from alref_edge.media.palette import DAVIS_PALETTE


def write_indexed_png(path: str | os.PathLike[str], labels_hw: np.ndarray) -> None:
    """Writes a palette PNG with the DAVIS colours, whole or not at all.

    Args:
        path: of the file; an existing one is replaced.
        labels_hw: integers 0 to 255, `[H, W]`; 0 is the background.

    Raises:
        InputError: another shape, dtype or range, or a path that cannot be written.
        CapacityError: the disk is full.
    """
    labels = np.asarray(labels_hw)
    if labels.ndim != 2 or not labels.size or labels.dtype.kind not in "uib":
        raise _shape_error("A label map", "integers [H, W]", labels)
    if labels.dtype != np.uint8 and (labels.min() < 0 or labels.max() > 255):
        raise InputError(
            "A label map does not fit a palette PNG.", expected="0 to 255", got=f"{labels.min()} to {labels.max()}"
        )
    _write_png(path, labels.astype(np.uint8), DAVIS_PALETTE)


def write_mask_png(path: str | os.PathLike[str], mask_hw: np.ndarray) -> None:
    """Writes a grey PNG, 255 on the object and 0 elsewhere, whole or not at all.

    Args:
        path: of the file; an existing one is replaced.
        mask_hw: bool `[H, W]`.

    Raises:
        InputError: another shape or dtype, or a path that cannot be written.
        CapacityError: the disk is full.
    """
    mask = np.asarray(mask_hw)
    if mask.ndim != 2 or not mask.size or mask.dtype != np.bool_:
        raise _shape_error("A mask", "bool [H, W]", mask)
    _write_png(path, mask.astype(np.uint8) * np.uint8(255), None)


def _write_png(path: str | os.PathLike[str], values_hw: np.ndarray, palette: np.ndarray | None) -> None:
    from PIL import Image

    image = Image.fromarray(values_hw)
    if palette is not None:
        image.putpalette(palette.tobytes())
    with written_beside(Path(path)) as file:
        image.save(file, format="PNG", compress_level=3)


def encode_rle(mask_hw: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length encoding of a bool mask `[H, W]`: `{"size": [H, W], "counts": str}`, ready for JSON.

    Raises:
        InputError: another shape or dtype.
    """
    from pycocotools import mask as coco

    mask = np.asarray(mask_hw)
    if mask.ndim != 2 or not mask.size or mask.dtype != np.bool_:
        raise _shape_error("A mask", "bool [H, W]", mask)
    rle = coco.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def coco_annotation(mask_hw: np.ndarray) -> dict[str, Any]:
    """The fields of a COCO annotation that a bool mask `[H, W]` tells, ready for JSON. InputError as of `encode_rle`.

    Returns:
        `segmentation` (compressed RLE), `area` in pixels, `bbox` (x, y, width, height; zeros where the mask is empty),
        and `iscrowd`, 0: it is of one thing.
    """
    from pycocotools import mask as coco

    rle = encode_rle(mask_hw)
    return {"segmentation": rle, "area": int(coco.area(rle)), "bbox": coco.toBbox(rle).tolist(), "iscrowd": 0}


def decode_rle(rle: Mapping[str, Any], limits: Limits | None = None) -> np.ndarray:
    """The bool mask `[H, W]` of a compressed run-length encoding. The runs are checked before pycocotools sees them.

    Raises:
        MediaError: no encoding, runs that do not fill the mask exactly, or a size over `limits.pixels`.
    """
    from pycocotools import mask as coco

    size = rle.get("size") if isinstance(rle, Mapping) else None
    counts = rle.get("counts") if isinstance(rle, Mapping) else None
    if isinstance(counts, str):
        counts = counts.encode("ascii", "replace")
    if (
        not isinstance(counts, bytes)
        or not isinstance(size, (list, tuple))
        or len(size) != 2
        or not all(isinstance(side, int) and side > 0 for side in size)
    ):
        raise MediaError(
            "This is not a run-length encoding.", expected='{"size": [H, W], "counts": "..."}', got=repr(rle)[:80]
        )
    (limits or Limits()).check_pixels(size[1], size[0], "A run-length encoding")
    filled = _run_total(counts)
    if filled != size[0] * size[1]:
        raise MediaError(
            "The runs of a run-length encoding do not fill its mask.",
            expected=f"{size[0] * size[1]} pixels in runs of 0 or more",
            got="runs that cannot be read" if filled is None else f"{filled} pixels",
        )
    mask: np.ndarray = coco.decode({"size": list(size), "counts": counts}).astype(np.bool_)
    return mask


def _run_total(counts: bytes) -> int | None:
    """Sum of the runs of a compressed string, or None where it is malformed (`rleFrString` in COCO's maskApi.c)."""
    runs: list[int] = []
    value = shift = 0
    for byte in counts:
        code = byte - 48
        if not 0 <= code < 64 or shift > 30:
            return None
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            return None
        runs.append(value)
        value = shift = 0
    return None if shift else sum(runs)


def _shape_error(what: str, expected: str, got: np.ndarray) -> InputError:
    return InputError(f"{what} has another form.", expected=expected, got=f"{got.dtype} {list(got.shape)}")
