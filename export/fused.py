"""ONNX Runtime's fused operators as torch functions, for the `cuda` form of graphs.

They are for export alone: in torch they give zeros. Each holds what an unfused graph takes several kernels for, and
takes the biases of the linear layers before it, so that these are products and nothing else.

Sources: `docs/ContribOperators.md` of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic, symbolic_multi_out

DOMAIN = "com.microsoft"


def project(x: Tensor, linear: nn.Linear) -> Tensor:
    """A linear layer without its bias, which the operator that follows adds: [..., inputs] → [..., outputs]."""
    return x @ linear.weight.t()


def self_attention(
    x: Tensor, weight: Tensor, bias: Tensor, heads: int, scale: float, *, causal: bool = False
) -> Tensor:
    """Attention of tokens among themselves, their projection inside (`Attention`).

    Args:
        x: [B, L, C].
        weight: [3 C', C], rows of queries, keys and values, as official `qkv` layers have them.
        bias: [3 C'].
        heads: C' divides by it.
        scale: of the scores.
        causal: no token sees those after it.

    Returns:
        [B, L, C'], before the output's projection.
    """
    shape = (*x.shape[:2], weight.shape[0] // 3)
    attributes = {"num_heads": heads, "scale": scale} | ({"unidirectional": 1} if causal else {})
    return _one("Attention", (x, weight.t(), bias), attributes, x, shape)


def attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """softmax(scale q kᵀ + mask) v, head by head (`MultiHeadAttention`).

    Args:
        q: [B, L, C].
        k: [B, N, C].
        v: [B, N, D].
        heads: C and D divide by it.
        scale: of the scores.
        bias: [2 C + D], added to q, k and v.
        mask: what is added to the scores, [1 or B, 1 or heads, L, N].

    Returns:
        [B, L, D].
    """
    attributes = {"num_heads": heads, "scale": scale}
    inputs = (q, k, v, bias, None, mask)
    return _one("MultiHeadAttention", inputs, attributes, q, (*q.shape[:2], v.shape[2]))


def add_norm(x: Tensor, branch: Tensor, norm: Any, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A residual sum and its layer normalisation (`SkipLayerNormalization`).

    Args:
        x: [..., L, C], the residual stream; its batch may be 1.
        branch: what is added to it.
        norm: `nn.LayerNorm` over C, or what has its `weight`, `bias` and `eps`.
        bias: [C], of the linear layer that made the branch.

    Returns:
        The sum x + branch + bias, and the sum normalised.
    """
    inputs = (branch, x, norm.weight, norm.bias, bias)
    statistics = (*branch.shape[:-1], 1)
    normed, _, _, total = symbolic_multi_out(
        f"{DOMAIN}::SkipLayerNormalization",
        inputs,
        {"epsilon": norm.eps},
        dtypes=[x.dtype] * 4,
        shapes=[branch.shape, statistics, statistics, branch.shape],
        version=1,
    )
    return total, normed


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """The exact GELU of x + bias (`BiasGelu`)."""
    return _one("BiasGelu", (x, bias), {}, x, x.shape)


def gelu(x: Tensor) -> Tensor:
    """The exact GELU (`Gelu`)."""
    return _one("Gelu", (x,), {}, x, x.shape)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position encoding of one head whose channels are halves, not interleaved pairs (`RotaryEmbedding`).

    Args:
        x: [B, L, C].
        cos, sin: [L, C / 2], of each token's angles.
    """
    attributes = {"num_heads": 1, "interleaved": 0}
    start = torch.zeros(1, dtype=torch.int64)  # the first token's place in the tables
    return _one("RotaryEmbedding", (x, start, cos, sin), attributes, x, x.shape)


def relu_layers(x: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Linear layers with a ReLU between each two: [..., L, inputs] → [..., L, outputs], and the bias that is missing.

    relu(y + b) = max(y, -b) + b, where b goes on into the bias that comes next: no operator adds one.

    Args:
        x: their input.
        layers: weights [..., inputs, outputs] and biases [..., outputs].
    """
    weight, bias = layers[0]
    x = x @ weight
    for weight, following in layers[1:]:
        x = torch.maximum(x, -bias) @ weight
        bias = following + bias @ weight
    return x, bias


def total(parts: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of one shape, in one go (ONNX's own `Sum`)."""
    return symbolic("Sum", tuple(parts), dtype=parts[0].dtype, shape=parts[0].shape)


def _one(name: str, inputs: tuple[Any, ...], attributes: Mapping[str, Any], like: Tensor, shape: Any) -> Tensor:
    return symbolic(f"{DOMAIN}::{name}", inputs, dict(attributes), dtype=like.dtype, shape=shape, version=1)


@cache
def register_schemas() -> None:
    """Tell ONNX's type inference of these operators: every output has the type of the first input."""
    kinds, types = onnx.defs.OpSchema.FormalParameterOption, onnx.defs.OpSchema.AttrType
    attributes = {"epsilon": types.FLOAT, "interleaved": types.INT, "num_heads": types.INT, "scale": types.FLOAT}
    attributes["unidirectional"] = types.INT
    for name in ("Attention", "BiasGelu", "Gelu", "MultiHeadAttention", "RotaryEmbedding", "SkipLayerNormalization"):
        schema = onnx.defs.OpSchema(
            name,
            DOMAIN,
            1,
            inputs=[
                onnx.defs.OpSchema.FormalParameter("inputs", "T", param_option=kinds.Variadic, is_homogeneous=False)
            ],
            outputs=[onnx.defs.OpSchema.FormalParameter("outputs", "T", param_option=kinds.Variadic)],
            type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(int64)"], "")],
            attributes=[onnx.defs.OpSchema.Attribute(key, kind, required=False) for key, kind in attributes.items()],
        )
        schema.set_type_and_shape_inference_function(_as_first_input)
        onnx.defs.register_schema(schema)


def _as_first_input(context: Any) -> None:
    kind = onnx.TypeProto()
    kind.tensor_type.elem_type = context.get_input_type(0).tensor_type.elem_type
    for index in range(context.get_num_outputs()):
        context.set_output_type(index, kind)
