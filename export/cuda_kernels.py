"""Where ONNX Runtime's CUDA provider would run the nodes of a graph, told without a GPU.

A node whose operator has no CUDA kernel for its types runs on the host, and its inputs and outputs are copied there and
back: each is a wait for the device. The facts are those of `docs/OperatorKernels.md` of ONNX Runtime (commit
001d12d2623f, of about version 1.31), of the operators and types that our graphs hold alone: opset 18, and 1 of
`com.microsoft`. Integers that come of shapes are computed on the host by design, as kernels read shapes there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from export.fused import DOMAIN
from export.precision import element_types

FLOAT, HALF, BRAIN = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
INT32, INT64, BOOL, UINT8 = TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT8
Types = frozenset[int]

_FLOATS: Types = frozenset({FLOAT, HALF})
_NUMBERS: Types = _FLOATS | {INT32, INT64}
_ANY: Types = _NUMBERS | {BOOL, UINT8}
_WIDE: Types = frozenset({FLOAT})
_INDEX: Types = frozenset({INT32, INT64})
_LONG: Types = frozenset({INT64})
_TRUTH: Types = frozenset({BOOL})
_COUNTS: Types = _INDEX | _TRUTH

# By operator, the types that its kernel takes for each input; the last goes for all that follow.
_ONNX: Mapping[str, tuple[Types, ...]] = {
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "Sub"), (_NUMBERS | {UINT8},)),
    **dict.fromkeys(("Abs",), (_NUMBERS | {UINT8},)),
    **dict.fromkeys(("Equal",), (_NUMBERS | {BOOL},)),
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "LessOrEqual"), (_NUMBERS,)),
    **dict.fromkeys(("And", "Not", "Or"), (_TRUTH,)),
    **dict.fromkeys(("Cos", "Erf", "Exp", "Floor", "Log", "Reciprocal", "Relu", "Round"), (_FLOATS,)),
    **dict.fromkeys(("Sigmoid", "Sin", "Softmax", "Sqrt", "Sum", "Tanh", "ArgMax"), (_FLOATS,)),
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "LayerNormalization", "MatMul"), (_FLOATS,)),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "InstanceNormalization", "MaxPool"), (_FLOATS,)),
    **dict.fromkeys(("Concat", "Shape", "Transpose"), (_ANY,)),
    **dict.fromkeys(("Expand", "Reshape", "Split", "Squeeze", "Unsqueeze"), (_ANY, _LONG)),
    **dict.fromkeys(("Gather", "GatherElements", "Slice"), (_ANY, _INDEX)),
    **dict.fromkeys(("ReduceMean", "ReduceMin", "ReduceProd"), (_FLOATS | {INT32}, _LONG)),
    **dict.fromkeys(("ReduceMax", "ReduceSum"), (_NUMBERS, _LONG)),
    "Cast": (_ANY | {BRAIN},),
    "Clip": (_FLOATS | {INT64},),
    "ConstantOfShape": (_LONG,),
    "CumSum": (_NUMBERS, _INDEX),
    "GatherND": (_FLOATS | {INT64, BOOL}, _LONG),
    "GridSample": (_WIDE,),
    "Pad": (_FLOATS | {BOOL}, _LONG, _FLOATS | {BOOL}, _INDEX),
    "Pow": (_NUMBERS,),
    "Resize": (_FLOATS | {INT32, UINT8}, _FLOATS, _WIDE, _LONG),
    "Tile": (_NUMBERS, _LONG),
    "TopK": (_NUMBERS, _LONG),
    "Where": (_TRUTH, _NUMBERS | {UINT8}),
}
_FUSED: Mapping[str, tuple[Types, ...]] = {
    **dict.fromkeys(("Attention", "BiasGelu", "FusedMatMul", "Gelu", "SkipLayerNormalization"), (_FLOATS,)),
    "MultiHeadAttention": (_FLOATS,),
    "RotaryEmbedding": (_FLOATS, _LONG, _FLOATS),
}
# Inputs that a CUDA kernel reads on the host.
_HOST: Mapping[str, frozenset[int]] = {
    **dict.fromkeys(("ConstantOfShape",), frozenset({0})),
    **dict.fromkeys(("Expand", "Reshape", "Split", "Squeeze", "Tile", "TopK", "Unsqueeze", "CumSum"), frozenset({1})),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"), frozenset({1})),
    **dict.fromkeys(("Slice", "Pad"), frozenset({1, 2, 3, 4})),
    "Resize": frozenset({1, 2, 3}),
}


@dataclass(frozen=True)
class Placement:
    """Where the nodes of a graph would run.

    Attributes:
        shapes: what computes integers of shapes, on the host by design: operators, and how many of each.
        strayed: what else would run on the host or be copied there or back, as "name: why".
    """

    shapes: Mapping[str, int]
    strayed: tuple[str, ...]


def placement_of(model: onnx.ModelProto) -> Placement:
    """Where the nodes of a graph would run that compute from what it is given; constants are folded before."""
    types = element_types(model)
    constants = {each.name for each in model.graph.initializer}
    counted: set[str] = set()  # integers that come of shapes
    shapes: Counter[str] = Counter()
    strayed: list[str] = []
    for node in model.graph.node:
        read = {name for name in node.input if name}
        if read <= constants:
            constants.update(node.output)
        elif node.op_type == "Shape" or (
            read <= counted | constants and all(types[each] in _COUNTS for each in (*read, *node.output))
        ):
            counted.update(node.output)
            shapes[node.op_type] += 1
        else:
            strayed += _why(node, types, constants, counted)
    strayed += [f"{each.name}: an output that comes of shapes" for each in model.graph.output if each.name in counted]
    return Placement(shapes, tuple(strayed))


def _why(
    node: onnx.NodeProto, types: Mapping[str, int], constants: Container[str], counted: Container[str]
) -> Iterator[str]:
    """What would make a node, or one of its inputs, leave the device."""
    kernels = {"": _ONNX, DOMAIN: _FUSED}.get(node.domain, {})
    if node.op_type not in kernels:
        yield f"{node.name}: no CUDA kernel is known of {node.op_type}"
        return
    allowed = kernels[node.op_type]
    for index, name in enumerate(node.input):
        if not name:
            continue
        if types[name] not in allowed[min(index, len(allowed) - 1)]:
            yield f"{node.name}: no CUDA kernel takes {TensorProto.DataType.Name(types[name])} as input {index}"
        on_host = index in _HOST.get(node.op_type, ())
        if on_host and name not in constants and name not in counted:
            yield f"{node.name}: input {index} is copied to the host"
        if not on_host and name in counted:
            yield f"{node.name}: input {index} is copied to the device"
