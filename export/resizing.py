"""Graphs that take frames as bytes and give masks as bits, for devices where the host's resizing is what takes long.

Resizing is linear in rows and in columns: a product with a matrix each, made by `alref_edge.models.resizing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from export.onnx_files import write_onnx


class Preprocess(nn.Module):
    """A frame of bytes resized and normalised.

    Args:
        mean, std: of the three channels, of values from 0 to 1.
        rows_first: whether it is resized in height first, and in width then; else the other way round.
        levels: whether each pass ends in whole levels from 0 to 255, as Pillow's passes over bytes do, to the bit: its
            weights come in two parts then, whose products float32 adds up without rounding.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, levels: bool, rows_first: bool = False) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(3, 1, 1))
        self.levels, self.rows_first = levels, rows_first

    def forward(self, frame: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """frame uint8 [H, W, 3], rows [P, h, H], columns [P, w, W] → image [1, 3, h, w]; P is 2 with `levels`, or 1."""
        planes = frame.permute(2, 0, 1).to(torch.float32)
        planes = planes if self.levels else planes / 255.0
        rows, columns = rows.unsqueeze(1), columns.transpose(1, 2).unsqueeze(1)
        if self.rows_first:
            planes = self.summed(torch.matmul(self.summed(torch.matmul(rows, planes)), columns))
        else:
            planes = self.summed(torch.matmul(rows, self.summed(torch.matmul(planes, columns))))
        planes = planes / 255.0 if self.levels else planes
        return ((planes - self.mean) / self.std).unsqueeze(0)

    def summed(self, parts: Tensor) -> Tensor:
        """What the parts of a pass make together, [P, 3, ., .] → [3, ., .]: the nearest level, halves upwards."""
        if not self.levels:
            return parts[0]
        coarse = parts[0] + 0.5
        level = torch.floor(coarse)
        return torch.clamp(level + torch.floor(coarse - level + parts[1]), 0.0, 255.0)


class Postprocess(nn.Module):
    """Low-resolution logits enlarged, and where they are positive as bits, eight pixels a byte as numpy packs them."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", 2.0 ** torch.arange(7, -1, -1).reshape(8, 1))

    def forward(self, low_res: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """low_res [B, 1, s, s], rows [H, s], columns [8 W, s] → bits uint8 [B, H, W]; columns of zeros give 0."""
        logits = torch.matmul(rows, torch.matmul(low_res.squeeze(1), columns.t()))
        bits = (logits > 0).to(torch.float32).unflatten(2, (-1, 8))
        return torch.matmul(bits, self.places).squeeze(-1).to(torch.uint8)


def write_preprocess(
    path: Path,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    levels: bool,
    rows_first: bool = False,
    size: int | None = None,
) -> Path:
    """Write a `Preprocess` graph.

    Args:
        path: of the file.
        mean, std, levels, rows_first: see there.
        size: of the square that images become; None: of any height and width.
    """
    inputs = {
        "frame": torch.zeros(48, 64, 3, dtype=torch.uint8),
        "rows": torch.zeros(1 + levels, size or 32, 48),
        "columns": torch.zeros(1 + levels, size or 40, 64),
    }
    rows, columns = ({2: "H"}, {2: "W"}) if size else ({1: "h", 2: "H"}, {1: "w", 2: "W"})
    axes = {"frame": {0: "H", 1: "W"}, "rows": rows, "columns": columns}
    module = Preprocess(mean, std, levels=levels, rows_first=rows_first)
    return write_onnx(module, inputs, axes, ("image",), path, smallest=1)


def write_postprocess(path: Path, side: int) -> Path:
    """Write a `Postprocess` graph for logits of so many pixels a side."""
    inputs = {
        "low_res": torch.zeros(2, 1, side, side),
        "rows": torch.zeros(48, side),
        "columns": torch.zeros(64, side),
    }
    axes = {"low_res": {0: "B"}, "rows": {0: "H"}, "columns": {0: "W"}}
    return write_onnx(Postprocess(), inputs, axes, ("bits",), path, smallest=1)
