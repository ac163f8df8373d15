"""A torch module becomes one self-contained ONNX file, at the opset and with the axes that the whole project uses."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

OPSET = 18
IR_VERSION = 10
# What is computed from constants of more numbers than this stays in the graph, and engines fold it when they load it:
# a table made of its rows and columns, or a scaled weight, would be larger or rounder on disk than what it is made of.
_FOLDED_NUMBERS = 256
_MOVES = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_SCOPES = "pkg.torch.onnx.name_scopes"  # of a node: a list of modules, outermost first, then the call


class _Positional(nn.Module):
    """A module whose inputs are all positional, for the exporter."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(*inputs)


def write_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    axes: Mapping[str, Mapping[int, str]],
    outputs: Sequence[str],
    path: Path,
    *,
    smallest: int | None = None,
) -> Path:
    """Export a module, weights inside the file and equal ones once; nodes bear the names of their modules.

    Args:
        module: takes the inputs in their order.
        inputs: input name to an example tensor.
        axes: input name to axis to the axis's name; equal names are equal sizes.
        outputs: names of the outputs.
        path: of the file; its folder is made.
        smallest: least size of a dynamic axis; None leaves it to torch.export.
    """
    os.environ.setdefault("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
    from onnxscript.optimizer import optimize_ir

    named = sorted({name for each in axes.values() for name in each.values()})
    bounds = {} if smallest is None else {"min": smallest, "max": 1 << 20}
    dims = {name: torch.export.Dim(name, **bounds) for name in named}
    shapes = tuple({axis: dims[name] for axis, name in axes.get(key, {}).items()} for key in inputs)
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Positional(module).eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=(shapes,),
            external_data=False,
            optimize=False,
            verbose=False,
        )
        if program is None:
            raise RuntimeError(f"torch.onnx.export returned nothing for {path.name}")
        weights = _weights_behind(program.model.graph)
        optimize_ir(program.model, input_size_limit=_FOLDED_NUMBERS, output_size_limit=_FOLDED_NUMBERS)
    model = program.model_proto
    model.ir_version = IR_VERSION
    _keep_one_of_equal(model.graph)
    _name_weights(model.graph, weights)
    _drop_unread_outputs(model.graph)
    _name_nodes(model.graph)
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.initializer,
        *model.graph.input,
        *model.graph.output,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    del model.graph.value_info[:]
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def _weights_behind(graph: Any) -> dict[str, str]:
    """By value that is a weight in another order or shape, the weight's name."""
    behind = {name: name for name in graph.initializers}
    for node in graph:
        moves = node.op_type in _MOVES or (node.op_type == "Concat" and len(node.inputs) == 1)
        if moves and node.inputs[0].name in behind:
            behind[node.outputs[0].name] = behind[node.inputs[0].name]
    return behind


def _name_weights(graph: onnx.GraphProto, behind: Mapping[str, str]) -> None:
    """Calls what was folded of a weight as the weight, by which `export/precision.py` knows it."""
    taken, names = {each.name for each in graph.initializer}, {}
    for tensor in graph.initializer:
        weight = behind.get(tensor.name, tensor.name)
        if weight != tensor.name:
            names[tensor.name] = weight if weight not in taken else f"{weight}/{tensor.name}"
            tensor.name = names[tensor.name]
            taken.add(tensor.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _drop_unread_outputs(graph: onnx.GraphProto) -> None:
    """Outputs of fused operators that nobody reads are left out: there are kernels that do not make them."""
    read = {name for node in graph.node for name in node.input} | {each.name for each in graph.output}
    for node in graph.node:
        if node.domain:
            node.output[:] = [name if name in read else "" for name in node.output]


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Calls each node after the module that it comes from, such as `blocks.0.qkv/MatMul`, so that profiles tell."""
    module_of: dict[str, str] = {}
    count: Counter[str] = Counter()
    for node in graph.node:
        scopes = next((each.value for each in node.metadata_props if each.key == _SCOPES), None)
        if scopes is None:  # made in the optimisation of others: it goes on where its input was made
            module = module_of.get(node.input[0], "") if node.input else ""
        else:
            module = re.sub(r"^(module(\.|$))+|^_empty_.*", "", ["", *ast.literal_eval(scopes)][-2])
        module_of.update(dict.fromkeys(node.output, module))
        name = f"{module}/{node.op_type}" if module else node.op_type
        count[name] += 1
        node.name = name if count[name] == 1 else f"{name}_{count[name]}"


def _keep_one_of_equal(graph: onnx.GraphProto) -> None:
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
    if same:
        for node in graph.node:
            for index, name in enumerate(node.input):
                node.input[index] = same.get(name, name)
        del graph.initializer[:]
        graph.initializer.extend(kept)
