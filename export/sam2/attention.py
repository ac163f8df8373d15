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

from typing import Any

import torch
from torch import Tensor, nn

from alref_edge.errors import InputError

SCORES_AT_ONCE = 1 << 20  # about 4 MiB of float32 scores a block: they stay in the last-level cache


def attend(q_blc: Tensor, k_bcn: Tensor, v_bnd: Tensor, block: int) -> Tensor:
    """softmax(q k) v with the queries in blocks; q already scaled; softmax over the last axis.

    Args:
        q_blc: queries; its batch is 1 or that of the keys.
        k_bcn: keys, channels first.
        v_bnd: values.
        block: queries at once.
    """
    blocks = [torch.matmul(torch.softmax(torch.matmul(q, k_bcn), dim=-1), v_bnd) for q in q_blc.split(block, dim=1)]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)


def block_of(queries: int, keys: int) -> int:
    """Queries at once: a power of two from 32 on, so that a block's scores are about `SCORES_AT_ONCE`."""
    block = 32
    while block < queries and block * 2 * keys <= SCORES_AT_ONCE:
        block *= 2
    return min(block, queries)


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
