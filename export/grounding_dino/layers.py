"""Layers of the export modules: weights ready for the graph, tokens as rows of a matrix (the batch is always one).

All that the forms of the graphs differ in is here, but for windows (`backbone.py`) and fusion (`decoder.py`): in the
form `cuda`, attention is one operator, a residual sum and its norm another, and biases go into what follows a product.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from export import fused
from export.forms import fusing


class Affine(nn.Module):
    """`nn.Linear` on rows, its weight transposed once here so that the graph holds a plain Gemm.

    A scale meets the weights in the graph, where engines fold it when they load it: the file holds the checkpoint's own
    numbers, which may be those of a narrower type.

    Args:
        linear: the layer whose weights are taken.
        scale: factor of weight and bias, such as that of attention's queries; one number, or one for each output.
    """

    def __init__(self, linear: nn.Linear, scale: float | torch.Tensor = 1.0) -> None:
        super().__init__()
        weight = linear.weight.detach().t()
        bias = linear.bias.detach() if linear.bias is not None else torch.zeros(linear.out_features)
        if isinstance(scale, float) and math.frexp(scale)[0] == 0.5:  # a power of two
            weight, bias, scale = weight * scale, bias * scale, 1.0
        self.weight, self.bias = nn.Buffer(weight.clone(memory_format=torch.contiguous_format)), nn.Buffer(bias.clone())
        self.scale = None if isinstance(scale, float) and scale == 1 else nn.Buffer(torch.as_tensor(scale).clone())

    def scaled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [inputs, outputs] and bias [outputs]."""
        return (self.weight, self.bias) if self.scale is None else (self.weight * self.scale, self.bias * self.scale)

    def forward(self, rows_nc: torch.Tensor) -> torch.Tensor:
        weight, bias = self.scaled()
        if fusing():  # apart, so that float16 may end between them: see POLICIES
            return rows_nc @ weight + bias
        return torch.addmm(bias, rows_nc, weight)


class Norm(nn.Module):
    """`nn.LayerNorm` over the last axis."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias = nn.Buffer(norm.weight.detach().clone()), nn.Buffer(norm.bias.detach().clone())
        self.eps = norm.eps

    def forward(self, rows_nc: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(rows_nc, self.weight.shape, self.weight, self.bias, self.eps)


class Attention(nn.Module):
    """Multi-head attention from the four projections of any of the official attentions.

    `forward` leaves the output's projection to `joined`, which it goes to with what it is added to.
    """

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, output: nn.Linear, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, query.out_features // heads
        self.query, self.key = Affine(query, self.width**-0.5), Affine(key)
        self.value, self.output = Affine(value), Affine(output)

    def forward(
        self, rows_nc: torch.Tensor, keys_mc: torch.Tensor, values_mc: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Let `rows` attend to `keys`; `bias` [1, n, m] is added to the scores."""
        if fusing():
            mask = None if bias is None else bias[None]
            parts = ((rows_nc[None], self.query), (keys_mc[None], self.key), (values_mc[None], self.value))
            return fused_attention(*parts, self.heads, mask).squeeze(0)
        query = self.query(rows_nc).view(-1, self.heads, self.width).transpose(0, 1)
        key = self.key(keys_mc).view(-1, self.heads, self.width).permute(1, 2, 0)
        value = self.value(values_mc).view(-1, self.heads, self.width).transpose(0, 1)
        scores = torch.matmul(query, key)
        if bias is not None:
            scores = scores + bias
        mixed = torch.matmul(torch.softmax(scores, dim=-1), value)
        return mixed.transpose(0, 1).reshape(-1, self.heads * self.width)


def fused_attention(
    query: tuple[torch.Tensor, Affine],
    key: tuple[torch.Tensor, Affine],
    value: tuple[torch.Tensor, Affine],
    heads: int,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Attention by one operator, which adds the biases of the projections too.

    Args:
        query, key, value: tokens [B, n or m, c], and their projection; the queries' scale is in theirs.
        heads: of all.
        mask: what is added to the scores, [1 or B, 1 or heads, n, m].

    Returns:
        [B, n, c], before the output's projection.
    """
    weights = [layer.scaled() for _, layer in (query, key, value)]
    q, k, v = (tokens @ weight for (tokens, _), (weight, _) in zip((query, key, value), weights, strict=True))
    return fused.attention(q, k, v, heads, 1.0, bias=torch.cat([bias for _, bias in weights]), mask=mask)


def joined(
    rows_nc: torch.Tensor, branch_nh: torch.Tensor, last: Affine, norm: Norm
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of `rows` and a branch that ends in `last`, and the sum normalised."""
    if fusing():
        return fused.add_norm(rows_nc, branch_nh @ last.weight, norm, last.bias)
    total = rows_nc + last(branch_nh)
    return total, norm(total)


def fed_forward(rows_nc: torch.Tensor, fc1: Affine, fc2: Affine, norm: Norm) -> torch.Tensor:
    """The sum of `rows` and of what two layers with a ReLU between them make of it, normalised."""
    if fusing():
        branch, bias = fused.relu_layers(rows_nc, [(layer.weight, layer.bias) for layer in (fc1, fc2)])
        return fused.add_norm(rows_nc, branch, norm, bias)[1]
    return joined(rows_nc, torch.relu(fc1(rows_nc)), fc2, norm)[1]


class Mlp(nn.Module):
    """Layers with ReLUs between them."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Affine(layer) for layer in mlp.layers)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        *inner, last = cast("list[Affine]", list(self.layers))
        if fusing():
            rows, bias = fused.relu_layers(rows, [(layer.weight, layer.bias) for layer in (*inner, last)])
            return rows + bias
        for layer in inner:
            rows = torch.relu(layer(rows))
        return last(rows)


def hidden_gelu(rows_nc: torch.Tensor, layer: Affine) -> torch.Tensor:
    """The GELU of what a layer makes of `rows`."""
    return fused.bias_gelu(rows_nc @ layer.weight, layer.bias) if fusing() else gelu(layer(rows_nc))


def gelu(rows: torch.Tensor) -> torch.Tensor:
    """The exact GELU, in the order of operations that ONNX Runtime fuses into one."""
    return rows * (1 + torch.erf(rows / math.sqrt(2))) * 0.5


def mask_bias(mask: torch.Tensor) -> torch.Tensor:
    """What a boolean attention mask adds to the scores: 0 where True, the lowest float32 where False."""
    return torch.where(mask, 0.0, torch.finfo(torch.float32).min)
