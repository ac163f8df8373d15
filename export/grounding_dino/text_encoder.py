"""The `text_encoder` graph: BERT with sub-sentence masks and the projection to the transformer's width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from export.grounding_dino.configs import bert_config
from export.grounding_dino.layers import Affine, Attention, Norm, hidden_gelu, joined, mask_bias

if TYPE_CHECKING:
    from transformers import GroundingDinoForObjectDetection


class TextEncoder(nn.Module):
    """Tokens to text features; weights from transformers' model.

    `forward(input_ids, position_ids, attention_mask)` takes int64 [1, T], int64 [1, T] and bool [1, T, T], and gives
    [1, T, d].
    """

    def __init__(self, model: GroundingDinoForObjectDetection) -> None:
        super().__init__()
        bert: Any = model.model.text_backbone
        embeddings = bert.embeddings
        self.words = nn.Buffer(embeddings.word_embeddings.weight.detach())
        self.positions = nn.Buffer(embeddings.position_embeddings.weight.detach())
        self.segment = nn.Buffer(embeddings.token_type_embeddings.weight[0].detach())
        self.norm = Norm(embeddings.LayerNorm)
        heads = bert_config(model.config).num_attention_heads
        self.layers = nn.ModuleList(_Layer(layer, heads) for layer in bert.encoder.layer)
        self.projection = Affine(model.model.text_projection)

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        # There is one segment, so its embedding goes into the positions', once.
        positions = functional.embedding(position_ids[0], self.positions + self.segment)
        rows = functional.embedding(input_ids[0], self.words) + positions
        rows = self.norm(rows)
        bias = mask_bias(attention_mask)
        for layer in self.layers:
            rows = layer(rows, bias)
        return self.projection(rows)[None]


class _Layer(nn.Module):
    def __init__(self, layer: Any, heads: int) -> None:
        super().__init__()
        attention = layer.attention.self
        output = layer.attention.output
        self.attention = Attention(attention.query, attention.key, attention.value, output.dense, heads)
        self.norm1, self.norm2 = Norm(output.LayerNorm), Norm(layer.output.LayerNorm)
        self.fc1, self.fc2 = Affine(layer.intermediate.dense), Affine(layer.output.dense)

    def forward(self, rows_tc: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        mixed = self.attention(rows_tc, rows_tc, rows_tc, bias)
        _, rows_tc = joined(rows_tc, mixed, self.attention.output, self.norm1)
        return joined(rows_tc, hidden_gelu(rows_tc, self.fc1), self.fc2, self.norm2)[1]
