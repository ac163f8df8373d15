"""Layers of the export modules: weights ready for the graph, tokens as rows of a matrix (the batch is always one)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


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
    """Multi-head attention of `rows` on `keys`, from the four projections of any of the official attentions."""

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, output: nn.Linear, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, query.out_features // heads
        self.query, self.key = Affine(query, self.width**-0.5), Affine(key)
        self.value, self.output = Affine(value), Affine(output)

    def forward(
        self, rows_nc: torch.Tensor, keys_mc: torch.Tensor, values_mc: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend; `bias` is added to the scores [heads, n, m] and may broadcast."""
        query = self.query(rows_nc).view(-1, self.heads, self.width).transpose(0, 1)
        key = self.key(keys_mc).view(-1, self.heads, self.width).permute(1, 2, 0)
        value = self.value(values_mc).view(-1, self.heads, self.width).transpose(0, 1)
        scores = torch.matmul(query, key)
        if bias is not None:
            scores = scores + bias
        mixed = torch.matmul(torch.softmax(scores, dim=-1), value)
        return self.output(mixed.transpose(0, 1).reshape(-1, self.heads * self.width))


def gelu(rows: torch.Tensor) -> torch.Tensor:
    """The exact GELU, in the order of operations that ONNX Runtime fuses into one."""
    return rows * (1 + torch.erf(rows / math.sqrt(2))) * 0.5


def mask_bias(mask: torch.Tensor) -> torch.Tensor:
    """What a boolean attention mask adds to the scores: 0 where True, the lowest float32 where False."""
    return torch.where(mask, 0.0, torch.finfo(torch.float32).min)
