"""How much work a graph is: operations and bytes of its nodes, and the time below which no machine gets.

Counted from the sizes that tensors really had in a run, as ONNX Runtime's profile lists them: so what it fuses, or
what is written with its own operators (`com.microsoft`), counts as what it computes, and no size has to be inferred.
An operation is a multiplication or an addition of a product: what is element-wise counts as bytes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

Shape = Sequence[int]
_WIDTHS = {"float": 4, "float16": 2, "bfloat16": 2, "double": 8, "int64": 8, "int32": 4, "uint8": 1, "int8": 1}


@dataclass(frozen=True)
class Ceiling:
    """What a machine can do at most.

    Attributes:
        tflops: 10^12 operations a second, by the type that products are taken in.
        gb_s: 10^9 bytes a second between its memory and its processors.
        source: where the numbers are from.
    """

    tflops: Mapping[str, float]
    gb_s: float
    source: str

    def floor_ms(self, operations: float, size: float, kind: str) -> float:
        """The least time for so many operations and bytes, either of which may be the slower."""
        return max(operations / (self.tflops[kind] * 1e9), size / (self.gb_s * 1e6))


# Dense, without sparsity, as NVIDIA's data sheets have them; longer names first.
_H100 = {"float16": 989.0, "tf32": 494.0, "float32": 67.0}
GIVEN = {
    "H200": Ceiling(_H100, 4800.0, "data sheet"),
    "H100 PCIe": Ceiling({"float16": 756.0, "tf32": 378.0, "float32": 51.0}, 2000.0, "data sheet"),
    "H100": Ceiling(_H100, 3350.0, "data sheet"),
}


def given_ceiling(gpu: str | None) -> Ceiling | None:
    """The ceiling of a GPU by its name; None for one that is not listed."""
    return next((ceiling for name, ceiling in GIVEN.items() if gpu and name in gpu), None)


def operations(operator: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Operations of a node; 0 for one that multiplies no matrices."""
    count = _COUNTS.get(operator)
    return 2 * count(inputs, outputs[0]) if count is not None and inputs and outputs else 0


def nbytes(tensors: Sequence[Mapping[str, Shape]]) -> int:
    """Bytes of tensors as the profile lists them: `[{"float": [1, 3, 8, 8]}, …]`."""
    return sum(prod(shape) * _WIDTHS.get(kind, 1) for each in tensors for kind, shape in each.items())


def shapes(tensors: Sequence[Mapping[str, Shape]]) -> list[Shape]:
    """The shapes alone."""
    return [shape for each in tensors for shape in each.values()]


def _matmul(inputs: Sequence[Shape], out: Shape) -> int:
    left = inputs[0]
    if len(left) < 2 or len(out) < 2:
        return prod(out) * left[-1]
    inner = left[-1] if left[-2] == out[-2] else left[-2]  # FusedMatMul may take it transposed
    return prod(out) * inner


def _gemm(inputs: Sequence[Shape], out: Shape) -> int:
    return prod(inputs[0]) * out[-1]


def _conv(inputs: Sequence[Shape], out: Shape) -> int:
    # A kernel [out, in / groups, h, w]; of an NHWC convolution the outputs stand last in `out`, first in the kernel.
    kernel = inputs[1] if len(inputs) > 1 else (1,)
    return prod(out) * prod(kernel[1:])


def _conv_transpose(inputs: Sequence[Shape], out: Shape) -> int:
    kernel = inputs[1] if len(inputs) > 1 else (1,)
    return prod(inputs[0]) * prod(kernel[1:])


def _multi_head_attention(inputs: Sequence[Shape], out: Shape) -> int:
    """Queries [B, L, D], keys [B, S, D] or [B, heads, S, D / heads], and the result [B, L, V]; or packed, 5 axes."""
    query = inputs[0]
    if len(query) == 5:  # [B, L, heads, 3, width]
        batch, length, heads, _, width = query
        return 2 * batch * length * length * heads * width
    key = inputs[1] if len(inputs) > 1 else query
    keys = key[2] if len(key) == 4 else key[1]
    return prod(query) * keys + prod(out) * keys


def _attention(inputs: Sequence[Shape], out: Shape) -> int:
    """`com.microsoft.Attention`: the projection [D, 3 D'] within it, then as above."""
    batch, length, _ = inputs[0]
    return prod(inputs[0]) * inputs[1][-1] + 2 * batch * length * length * out[-1]


_COUNTS: Mapping[str, Callable[[Sequence[Shape], Shape], int]] = {
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "FusedMatMulActivation": _matmul,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "Conv": _conv,
    "FusedConv": _conv,
    "NhwcConv": _conv,
    "NhwcFusedConv": _conv,
    "ConvTranspose": _conv_transpose,
    "MultiHeadAttention": _multi_head_attention,
    "Attention": _attention,
}


def node_work(event: Mapping[str, Any]) -> tuple[int, int]:
    """Operations of a node of ONNX Runtime's profile, and bytes that it reads and writes."""
    arguments = event["args"]
    taken, given = arguments.get("input_type_shape", []), arguments.get("output_type_shape", [])
    return operations(arguments["op_name"], shapes(taken), shapes(given)), nbytes(taken) + nbytes(given)
