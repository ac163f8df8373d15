"""The graphs' modules with their inputs by name, to be run or written as ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export.forms import writing
from export.onnx_files import write_onnx


@dataclass(frozen=True)
class GraphSpec:
    """One graph: its module, example feeds in the order of its inputs, and which axes vary.

    Attributes:
        module: takes the tensors that are not tables as arguments, then the tables as one dict where there are any.
        feeds: input name to an example array.
        tables: which of the inputs are tables.
        axes: input name to axis to the axis's name; equal names are equal sizes.
        outputs: names of the outputs.
    """

    module: nn.Module
    feeds: Mapping[str, np.ndarray]
    tables: tuple[str, ...]
    axes: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...]


class _Flat(nn.Module):
    """A module whose inputs are all positional, for the exporter."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], tables: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names, self.tables = module, names, tables

    def forward(self, *inputs: torch.Tensor) -> Any:
        given = dict(zip(self.names, inputs, strict=True))
        plain = [value for name, value in given.items() if name not in self.tables]
        if not self.tables:
            return self.module(*plain)
        return self.module(*plain, {name: given[name] for name in self.tables})


def run_module(spec: GraphSpec, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run the module itself on feeds like the graph's."""
    flat = _Flat(spec.module, tuple(spec.feeds), spec.tables)
    with torch.inference_mode():
        outputs = flat(*(torch.from_numpy(feeds[name]) for name in spec.feeds))
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    return {name: output.numpy() for name, output in zip(spec.outputs, outputs, strict=True)}


def write_graph(spec: GraphSpec, path: Path, form: str = "standard") -> Path:
    """Export a graph's module in a form to one self-contained ONNX file at `path`."""
    module = _Flat(spec.module, tuple(spec.feeds), spec.tables)
    inputs = {name: torch.from_numpy(array) for name, array in spec.feeds.items()}
    with writing(form):
        return write_onnx(module, inputs, spec.axes, spec.outputs, path)
