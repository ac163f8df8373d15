"""Exact attention in standard ONNX operators.

Scores of SAM 2's memory attention (4096 queries against 4096 keys a memory frame) do not fit any cache; queries are
therefore taken in blocks, unrolled into the graph. Three identities save work and leave the function as it is:

- rotating pairs of channels commutes with reordering them, so q and k projections are reordered to make the rotation
  act on halves instead of interleaved pairs;
- rows of a softmax sum to one, so softmax(S) (X Wv + b) = (softmax(S) X) Wv + b: values of a memory stay `mem_dim` wide
  and are shared by every layer;
- consecutive linear maps are one linear map.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from alref_edge.errors import InputError

QUERIES = 512  # at once: fewer pack the keys too often, more fall out of the cache (both measured on CPU)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k) v with the queries in blocks.

    Args:
        q: [..., queries, C], already scaled; its batch is 1 or that of the keys.
        k: [..., C, keys].
        v: [..., keys, D].
    """
    blocks = [torch.matmul(torch.softmax(torch.matmul(each, k), dim=-1), v) for each in q.split(QUERIES, dim=-2)]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-2)


def rope_tables(attention: Any, tokens: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the official `freqs_cis`, float32 [tokens, channels / 2]."""
    freqs = attention.freqs_cis
    if attention.num_heads != 1 or freqs.shape != (tokens, attention.internal_dim // 2):
        raise InputError(
            "This memory attention cannot be exported.",
            expected=f"one head and rotations [{tokens}, {attention.internal_dim // 2}]",
            got=f"{attention.num_heads} heads and {list(freqs.shape)}",
            mend="make the attention's feat_sizes equal image_size / 16.",
        )
    return freqs.real.float().contiguous(), freqs.imag.float().contiguous()


def rotate_tokens(x_blc: Tensor, cos_lc: Tensor, sin_lc: Tensor) -> Tensor:
    """Rotary encoding of tokens whose channels are halves, not interleaved pairs."""
    first, second = x_blc.chunk(2, dim=-1)
    return torch.cat((first * cos_lc - second * sin_lc, first * sin_lc + second * cos_lc), dim=-1)


def in_halves(linear: nn.Linear, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weight and bias of a projection whose even channels come first, then the odd ones; scaled."""
    weight, bias = linear.weight.detach().double() * scale, linear.bias.detach().double() * scale
    return torch.cat((weight[0::2], weight[1::2])).float(), torch.cat((bias[0::2], bias[1::2])).float()


def fused(outer: nn.Linear, inner: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of outer(inner(x)), multiplied in float64."""
    weight = outer.weight.detach().double() @ inner.weight.detach().double()
    bias = outer.weight.detach().double() @ inner.bias.detach().double() + outer.bias.detach().double()
    return weight.float(), bias.float()


def linear_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer that holds the given weight and bias."""
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return linear


class Gelu(nn.Module):
    """The exact GELU, written in the order that ONNX Runtime fuses."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape."""
        return x * (torch.erf(x / 2.0**0.5) + 1.0) * 0.5


def with_fusable_gelu(module: nn.Module) -> nn.Module:
    """A copy of a module whose `nn.GELU` are `Gelu`."""
    module = deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GELU):
                setattr(parent, name, Gelu())
    return module
