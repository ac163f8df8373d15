"""torch modules to ONNX files: dynamic axes, names, and the clean-up that leaves each shared weight once."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

OPSET = 18
IR_VERSION = 10


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


def write_graph(spec: GraphSpec, path: Path) -> Path:
    """Export a module to one self-contained ONNX file at `path`."""
    os.environ.setdefault("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
    names = tuple(spec.feeds)
    dimensions: dict[str, Any] = {}
    shapes = [
        {axis: dimensions.setdefault(name, torch.export.Dim(name)) for axis, name in spec.axes.get(input_, {}).items()}
        for input_ in names
    ]
    quiet = (redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings())
    with torch.no_grad(), quiet[0], quiet[1], quiet[2]:
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Flat(spec.module, names, spec.tables).eval(),
            tuple(torch.from_numpy(array) for array in spec.feeds.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(names),
            output_names=list(spec.outputs),
            dynamic_shapes=(tuple(shapes),),
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.ir_version = IR_VERSION
    _share_weights(model.graph)
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.initializer):
        value.ClearField("metadata_props")
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _share_weights(graph: onnx.GraphProto) -> None:
    """Keep one copy of initialisers that are equal."""
    first: dict[tuple[Any, ...], str] = {}
    same: dict[str, str] = {}
    kept = []
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        key = (array.shape, array.dtype.str, hashlib.sha256(array.tobytes()).digest())
        if key in first:
            same[tensor.name] = first[key]
        else:
            first[key] = tensor.name
            kept.append(tensor)
    if not same:
        return
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
    del graph.initializer[:]
    graph.initializer.extend(kept)
