"""Exact attention in standard ONNX operators.

Scores of SAM 2's memory attention (4096 queries against 4096 keys a memory frame) do not fit any cache; queries are
therefore taken in blocks, unrolled into the graph. Three identities save work and leave the function as it is:

- rotating pairs of channels commutes with reordering them, so q and k projections are reordered to make the rotation
  act on halves instead of interleaved pairs;
- rows of a softmax sum to one, so softmax(S) (X Wv + b) = (softmax(S) X) Wv + b: values of a memory stay `mem_dim` wide
  and are shared by every layer;
- consecutive linear maps are one linear map.

Tables over the image's grid are made in the graph, of a row's and a column's, and attention's scale meets the weights
there: engines fold both when they load a graph, and the file holds little more than the checkpoint's own numbers.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
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


class GridTable(nn.Module):
    """A table over a square grid: half of its channels tell the row and half the column, by the same numbers.

    Args:
        table: [side * side, channels].
        rows_first: whether the channels of the row come first.

    Raises:
        InputError: the table is no such one.
    """

    line: Tensor

    def __init__(self, table: Tensor, *, rows_first: bool) -> None:
        super().__init__()
        self.side, half = math.isqrt(len(table)), table.shape[1] // 2
        self.rows_first = rows_first
        first = table[: self.side, :half]
        self.register_buffer("line", (table[: self.side, half:] if rows_first else first).detach().clone())
        if len(table) != self.side**2 or not torch.allclose(self(), table, rtol=0, atol=1e-6):
            raise InputError("A table of this model is not that of a square grid.", mend="use an official config.")

    def forward(self) -> Tensor:
        """The table."""
        shape = (self.side, self.side, -1)
        row, column = self.line.unsqueeze(1).expand(shape), self.line.unsqueeze(0).expand(shape)
        both = (row, column) if self.rows_first else (column, row)
        return torch.cat(both, dim=-1).flatten(0, 1)


class RopeTables(nn.Module):
    """Cosine and sine of the official `freqs_cis`, float32 [tokens, channels / 2].

    Args:
        attention: an official RoPEAttention.
        tokens: of the image.
    """

    def __init__(self, attention: Any, tokens: int) -> None:
        super().__init__()
        freqs = attention.freqs_cis
        if attention.num_heads != 1 or freqs.shape != (tokens, attention.internal_dim // 2):
            raise InputError(
                "This memory attention cannot be exported.",
                expected=f"one head and rotations [{tokens}, {attention.internal_dim // 2}]",
                got=f"{attention.num_heads} heads and {list(freqs.shape)}",
                mend="make the attention's feat_sizes equal image_size / 16.",
            )
        self.cos = GridTable(freqs.real.float(), rows_first=False)
        self.sin = GridTable(freqs.imag.float(), rows_first=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Cosine and sine."""
        return self.cos(), self.sin()


def rotate_tokens(x_blc: Tensor, cos_lc: Tensor, sin_lc: Tensor) -> Tensor:
    """Rotary encoding of tokens whose channels are halves, not interleaved pairs."""
    first, second = x_blc.chunk(2, dim=-1)
    return torch.cat((first * cos_lc - second * sin_lc, first * sin_lc + second * cos_lc), dim=-1)


def in_halves(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of a projection whose even channels come first, then the odd ones."""
    weight, bias = linear.weight.detach(), linear.bias.detach()
    return torch.cat((weight[0::2], weight[1::2])), torch.cat((bias[0::2], bias[1::2]))


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


class ScaledLinear(nn.Module):
    """A linear layer, times a number for each of equal parts of its outputs.

    Args:
        weight: [outputs, inputs].
        bias: [outputs].
        scales: one for each part.

    Attributes:
        pending: what is left of the first part's scale: the weights hold powers of two.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, *scales: float) -> None:
        super().__init__()
        scale = torch.tensor(scales).unsqueeze(1)
        parts = weight.detach().reshape(len(scales), -1), bias.detach().reshape(len(scales), -1)
        self.shape, self.exact = weight.shape, all(math.frexp(each)[0] == 0.5 for each in scales)
        self.pending = 1.0 if self.exact else scales[0]
        if self.exact:  # powers of two
            parts = parts[0] * scale, parts[1] * scale
        self.register_buffer("weight", parts[0].clone())
        self.register_buffer("bias", parts[1].clone())
        self.register_buffer("scale", scale)

    def matrix(self) -> Tensor:
        """The weights, where `pending` goes elsewhere: [outputs, inputs]."""
        return self.weight.reshape(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., inputs] → [..., outputs]."""
        weight, bias = self.weight, self.bias
        if not self.exact:
            weight, bias = weight * self.scale, bias * self.scale
        return F.linear(x, weight.reshape(self.shape), bias.reshape(-1))


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
