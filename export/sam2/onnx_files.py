"""A graph module becomes one self-contained ONNX file."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import torch

from export.sam2.graphs import Graph

OPSET = 18
IR_VERSION = 10
EXAMPLE = {"B": 2, "M": 3, "P": 4, "N": 5, "K": 6}


def example_inputs(graph: Graph, sizes: dict[str, int] | None = None) -> dict[str, torch.Tensor]:
    """Zeros of the graph's input shapes; dynamic axes take `sizes`."""
    sizes = {**EXAMPLE, **(sizes or {})}
    return {
        name: torch.zeros(
            [sizes[axis] if isinstance(axis, str) else axis for axis in shape],
            dtype=graph.dtypes.get(name, torch.float32),
        )
        for name, shape in graph.inputs.items()
    }


def write_onnx(graph: Graph, path: Path) -> None:
    """Export a graph at opset 18 with its dynamic axes, weights inside the file."""
    dims = {
        axis: torch.export.Dim(axis, min=1, max=1 << 20)
        for shape in graph.inputs.values()
        for axis in shape
        if isinstance(axis, str)
    }
    dynamic = {
        name: {index: dims[axis] for index, axis in enumerate(shape) if isinstance(axis, str)}
        for name, shape in graph.inputs.items()
    }
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.module.eval(),
                tuple(example_inputs(graph).values()),
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=dynamic,
                external_data=False,
                optimize=True,
                verbose=False,
            )
    finally:
        quiet.setLevel(level)
    if program is None:
        raise RuntimeError(f"torch.onnx.export returned nothing for {graph.name}")
    model = program.model_proto
    model.ir_version = min(model.ir_version, IR_VERSION)
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
