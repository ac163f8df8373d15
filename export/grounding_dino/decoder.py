"""The `decoder` graph: feature enhancer, query selection and decoder, exact at every size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from export import fused
from export.forms import fusing
from export.grounding_dino.layers import Affine, Attention, Mlp, Norm, fed_forward, joined, mask_bias

if TYPE_CHECKING:
    from transformers import GroundingDinoForObjectDetection

_LEVELS = 4
# Stands for the infinity that the official code gives proposals out of range: its sigmoid is 1 too, in float16 as well.
_FAR = 1e4
# The official inverse_sigmoid has this eps; transformers has 1e-5.
_EPS = 1e-3
# The official BiMultiHeadAttention clamps its scores, so that they fit half precision.
_CLAMP = 50000.0


@dataclass(frozen=True)
class _Maps:
    """The feature levels' layout: slices of the tokens, their heights and widths."""

    sizes: list[tuple[int, int]]
    scales: torch.Tensor  # [levels, 2]: 2 / (width, height)

    def level(self, channels_dl: torch.Tensor, index: int, heads: int) -> torch.Tensor:
        """Level `index` of values [d, L] as [heads, d / heads, h, w]."""
        start = sum(rows * columns for rows, columns in self.sizes[:index])
        rows, columns = self.sizes[index]
        part = channels_dl[:, start : start + rows * columns]
        return part.reshape(heads, -1, rows, columns)


class Decoder(nn.Module):
    """Image and text features to detections; weights from transformers' model.

    `forward(features, text_features, position_ids, attention_mask, tables)` takes float32 [1, L, d] and [1, T, d],
    int64 [1, T], bool [1, T, T], and the tables of `alref_edge.models.grounding_dino.geometry.decoder_tables`; gives
    logits [1, Q, T] and boxes [1, Q, 4] (centre, width, height; 0..1).
    """

    def __init__(self, model: GroundingDinoForObjectDetection) -> None:
        super().__init__()
        config, inner = model.config, model.model
        self.num_queries = config.num_queries
        self.level_embed = nn.Buffer(inner.level_embed.detach())
        self.text_periods = nn.Buffer(10000 ** _exponents(config.d_model))
        self.enhancer = nn.ModuleList(_EnhancerLayer(layer) for layer in inner.encoder.layers)
        self.proposal_fc, self.proposal_norm = Affine(inner.enc_output), Norm(inner.enc_output_norm)
        self.proposal_box = Mlp(inner.encoder_output_bbox_embed)
        self.queries = nn.Buffer(inner.query_position_embeddings.weight.detach())
        self.reference_mlp = Mlp(inner.decoder.reference_points_head)
        self.layers = nn.ModuleList(_DecoderLayer(layer) for layer in inner.decoder.layers)
        self.norm = Norm(inner.decoder.layer_norm)
        self.box = Mlp(model.bbox_embed[0])
        self.frequencies = nn.Buffer(2 * math.pi / 10000.0 ** _exponents(config.d_model // 2))

    def forward(
        self,
        features: torch.Tensor,
        text_features: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        tables: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, text = features[0], text_features[0]
        maps, positions, centres = self._layout(tables)
        text_positions = _sine(position_ids[0][:, None], self.text_periods)
        bias = mask_bias(attention_mask)
        grid = 2 * centres - 1
        for layer in self.enhancer:
            rows, text = layer(rows, text, positions, text_positions, bias, grid, maps)
        reference = self._select(rows, text, centres, maps)
        queries = self.queries
        for index, layer in enumerate(self.layers):
            before = _inverse_sigmoid(reference)
            queries = layer(queries, self._query_positions(reference), text, rows, reference, maps)
            if index < len(self.layers) - 1:
                reference = torch.sigmoid(before + self.box(queries))
        queries = self.norm(queries)
        boxes = torch.sigmoid(before + self.box(queries))
        return torch.matmul(queries, text.transpose(0, 1))[None], boxes[None]

    def _layout(self, tables: dict[str, torch.Tensor]) -> tuple[_Maps, torch.Tensor, torch.Tensor]:
        sizes, positions, centres, scales = [], [], [], []
        for level in range(_LEVELS):
            sine_y, sine_x = tables[f"rows_{level}"], tables[f"columns_{level}"]
            y, x = tables[f"row_centres_{level}"], tables[f"column_centres_{level}"]
            height, width = sine_y.shape[0], sine_x.shape[0]
            sizes.append((height, width))
            shape = (height, width, -1)
            grid = torch.cat([sine_y[:, None].expand(shape), sine_x[None].expand(shape)], dim=-1)
            positions.append(grid.reshape(height * width, -1) + self.level_embed[level])
            x_hw, y_hw = x[None, :].expand(height, width), y[:, None].expand(height, width)
            centres.append(torch.stack([x_hw, y_hw], dim=-1).reshape(height * width, 2))
            # The first centre is 0.5 / n, so this is 2 / n.
            scales.append(4 * torch.stack([x[0], y[0]]))
        return _Maps(sizes, torch.stack(scales)), torch.cat(positions), torch.cat(centres)

    def _select(self, rows: torch.Tensor, text: torch.Tensor, centres: torch.Tensor, maps: _Maps) -> torch.Tensor:
        """The `num_queries` proposals that the text scores highest, as boxes [Q, 4]."""
        inside = (centres > 0.01) & (centres < 0.99)
        # CUDA has no `all`.
        inside = inside[:, :1] & inside[:, 1:] if fusing() else inside.all(dim=-1, keepdim=True)
        sides = [torch.full((h * w, 1), 0.05 * 2.0**level) for level, (h, w) in enumerate(maps.sizes)]
        side = torch.cat(sides)
        proposals = torch.cat([centres, side, side], dim=-1)
        proposals = torch.where(inside, torch.log(proposals / (1 - proposals)), _FAR)
        memory = self.proposal_norm(self.proposal_fc(torch.where(inside, rows, 0.0)))
        scores = torch.matmul(memory, text.transpose(0, 1)).amax(dim=-1)
        chosen = torch.topk(scores, self.num_queries)[1]
        embedding = nn.functional.embedding
        return torch.sigmoid(self.proposal_box(embedding(chosen, memory)) + embedding(chosen, proposals))

    def _query_positions(self, reference: torch.Tensor) -> torch.Tensor:
        if fusing():
            # A cosine is a sine a quarter turn on.
            phases = math.pi / 2 * (torch.arange(len(self.frequencies)) % 2)
            places = reference.index_select(1, torch.tensor([1, 0, 2, 3]))
            return self.reference_mlp(torch.sin(places[:, :, None] * self.frequencies + phases).flatten(1))
        angles = reference[:, :, None] * self.frequencies
        sine = torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(2)
        return self.reference_mlp(torch.cat([sine[:, 1], sine[:, 0], sine[:, 2], sine[:, 3]], dim=-1))


class _EnhancerLayer(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        text = layer.text_enhancer_layer
        attention = text.self_attn
        self.fusion = _Fusion(layer.fusion_layer)
        self.text_attention = Attention(
            attention.query, attention.key, attention.value, attention.out_proj, attention.num_attention_heads
        )
        self.text_norm1, self.text_norm2 = Norm(text.layer_norm_before), Norm(text.layer_norm_after)
        self.text_fc1, self.text_fc2 = Affine(text.fc1), Affine(text.fc2)
        deformable = layer.deformable_layer
        self.attention = _Deformable(deformable.self_attn)
        self.norm1, self.norm2 = Norm(deformable.self_attn_layer_norm), Norm(deformable.final_layer_norm)
        self.fc1, self.fc2 = Affine(deformable.fc1), Affine(deformable.fc2)

    def forward(
        self,
        rows: torch.Tensor,
        text: torch.Tensor,
        positions: torch.Tensor,
        text_positions: torch.Tensor,
        bias: torch.Tensor,
        grid: torch.Tensor,
        maps: _Maps,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, text = self.fusion(rows, text)
        keys = text + text_positions
        mixed = self.text_attention(keys, keys, text, bias)
        _, text = joined(text, mixed, self.text_attention.output, self.text_norm1)
        text = fed_forward(text, self.text_fc1, self.text_fc2, self.text_norm2)
        # One reference point serves all levels; an offset is in pixels of its level.
        centre, scale = grid[:, None], maps.scales[:, None, None]
        sampled = self.attention(rows + positions, rows, centre, scale, maps)
        _, rows = joined(rows, sampled, self.attention.output, self.norm1)
        return fed_forward(rows, self.fc1, self.fc2, self.norm2), text


class _Fusion(nn.Module):
    """Attention both ways between image and text (official `BiAttentionBlock`).

    There are far more image tokens than text tokens, so the image's projections are multiplied into the text's side
    first: scores are v·(WqᵀK) and not (v·Wq)·K, and likewise for the values. Only the order of sums differs.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention = layer.attn
        self.heads = attention.num_heads
        self.width = attention.head_dim
        self.vision_norm, self.text_norm = Norm(layer.layer_norm_vision), Norm(layer.layer_norm_text)
        by_head = (self.heads, self.width, -1)
        self.query_weight = nn.Buffer(attention.vision_proj.weight.detach().view(by_head))
        self.query_bias = nn.Buffer(attention.vision_proj.bias.detach().view(by_head))
        # The scale of the queries is put on the keys, which are the same for a product and smaller.
        self.key = Affine(attention.text_proj, float(attention.scale))
        self.text_value = Affine(attention.values_text_proj)
        value_weight = attention.values_vision_proj.weight.detach().view(by_head).transpose(1, 2)
        self.value_weight = nn.Buffer(value_weight.contiguous())
        self.value_bias = nn.Buffer(attention.values_vision_proj.bias.detach().view(self.heads, 1, self.width))
        self.vision_output = Affine(attention.out_vision_proj, layer.vision_param.detach())
        self.text_output = Affine(attention.out_text_proj, layer.text_param.detach())

    def forward(self, rows: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows, text = self.vision_norm(rows), self.text_norm(text)
        shape = (-1, self.heads, self.width)
        key_htc = self.key(text).view(shape).transpose(0, 1)
        asked_htd = torch.matmul(key_htc, self.query_weight)
        constant_t1 = torch.matmul(key_htc, self.query_bias).flatten(0, 1)
        asked_td = asked_htd.flatten(0, 1)
        if fusing():
            # A softmax takes off what its scores have in common: the largest, and here the constant of each text token.
            by_text = torch.softmax(torch.matmul(asked_td, rows.transpose(0, 1)), dim=-1)
            seen_td = torch.matmul(by_text, rows)
        else:
            scores = torch.addmm(constant_t1, asked_td, rows.transpose(0, 1))
            scores = torch.clamp(scores - scores.max(), min=-_CLAMP, max=_CLAMP)
            by_text = scores - scores.amax(dim=-1, keepdim=True)
            by_text = torch.softmax(torch.clamp(by_text, min=-_CLAMP, max=_CLAMP), dim=-1)
            # Transposed, the longer side of the result is split between threads, and not the shorter: a sum over all
            # image tokens is then taken in the same blocks by any number of threads, and near-equal proposals keep
            # their order.
            seen_td = torch.matmul(rows.transpose(0, 1), by_text.transpose(0, 1)).transpose(0, 1)
        seen_htd = seen_td.reshape(self.heads, -1, rows.shape[1])
        seen_htc = torch.matmul(seen_htd, self.value_weight) + self.value_bias
        seen = seen_htc.transpose(0, 1).flatten(1)

        vision_weight, vision_bias = self.vision_output.scaled()
        vision_weight = vision_weight.view(self.heads, self.width, -1)
        value_htd = torch.matmul(self.text_value(text).view(shape).transpose(0, 1), vision_weight)
        by_head = (rows.shape[0], self.heads, -1)
        if fusing():
            # Both products have the text on their short side, so that nothing is transposed; the shares of a head sum
            # to one, and what is added to its values is added to their mean.
            scores = torch.matmul(rows, asked_td.transpose(0, 1)) + constant_t1.flatten()
            by_image = torch.softmax(scores.view(by_head), dim=-1).flatten(1)
            told = torch.matmul(by_image, (value_htd + vision_bias / self.heads).flatten(0, 1))
        else:
            by_image = torch.softmax(scores.transpose(0, 1).reshape(by_head), dim=-1).flatten(1)
            told = torch.addmm(vision_bias, by_image, value_htd.flatten(0, 1))
        return rows + told, text + self.text_output(seen)


class _Deformable(nn.Module):
    """Multi-scale deformable attention; values and outputs lie transposed, [d, tokens], as GridSample wants them.

    `forward` leaves the output's projection to `joined`.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads, self.points = attention.n_heads, attention.n_points
        self.offsets, self.weights = Affine(attention.sampling_offsets), Affine(attention.attention_weights)
        self.value_weight = nn.Buffer(attention.value_proj.weight.detach())
        self.value_bias = nn.Buffer(attention.value_proj.bias.detach()[:, None].clone())
        self.output = Affine(attention.output_proj)

    def forward(
        self, queries: torch.Tensor, memory: torch.Tensor, centre: torch.Tensor, scale: torch.Tensor, maps: _Maps
    ) -> torch.Tensor:
        """Sample `memory` around `centre`, in GridSample's units of -1..1.

        Args:
            centre: [n, 1, 2].
            scale: of the offsets; [levels, 1, 1, 2], or [1, n, 1, 2] where it is the queries' own.
        """
        count = self.heads * self.points
        offsets = self.offsets(queries).view(-1, self.heads, _LEVELS, self.points, 2)
        offsets = offsets.permute(2, 1, 3, 0, 4).reshape(_LEVELS, count, -1, 2)
        grids = (centre.transpose(0, 1)[None] + offsets * scale.transpose(1, 2)).view(
            _LEVELS, self.heads, self.points, -1, 2
        )
        weights = torch.softmax(self.weights(queries).view(-1, self.heads, _LEVELS * self.points), dim=-1)
        weights = weights.permute(1, 2, 0).view(self.heads, _LEVELS, self.points, -1)
        if fusing():
            values = torch.matmul(self.value_weight, memory.transpose(0, 1)) + self.value_bias
        else:
            values = torch.addmm(self.value_bias, self.value_weight, memory.transpose(0, 1))
        sampled = (
            nn.functional.grid_sample(
                maps.level(values, level, self.heads), grids[level], padding_mode="zeros", align_corners=False
            )
            * weights[:, None, level]
            for level in range(_LEVELS)
        )
        return self._sum(sampled).transpose(0, 1)

    def _sum(self, levels: Iterator[torch.Tensor]) -> torch.Tensor:
        """What was sampled, by level [heads, d / heads, points, n], over levels and points: [d, n]."""
        if fusing():
            # Points last, by a product: CUDA has no fast sum over an axis in the middle. Ones are as many as batches,
            # for a product that is broadcast takes tables of pointers there.
            points_dpn = fused.total(list(levels)).flatten(0, 1)
            return torch.matmul(torch.ones(len(points_dpn), 1, self.points), points_dpn).squeeze(1)
        total = next(levels).sum(dim=2)
        for level in levels:
            total = total + level.sum(dim=2)
        return total.flatten(0, 1)


class _DecoderLayer(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.self_attention = _attention(layer.self_attn)
        self.text_attention = _attention(layer.encoder_attn_text)
        self.image_attention = _Deformable(layer.encoder_attn)
        self.norm1 = Norm(layer.self_attn_layer_norm)
        self.norm2 = Norm(layer.encoder_attn_text_layer_norm)
        self.norm3 = Norm(layer.encoder_attn_layer_norm)
        self.norm4 = Norm(layer.final_layer_norm)
        self.fc1, self.fc2 = Affine(layer.fc1), Affine(layer.fc2)

    def forward(
        self,
        queries: torch.Tensor,
        positions: torch.Tensor,
        text: torch.Tensor,
        memory: torch.Tensor,
        reference: torch.Tensor,
        maps: _Maps,
    ) -> torch.Tensor:
        keys = queries + positions
        mixed = self.self_attention(keys, keys, queries)
        _, queries = joined(queries, mixed, self.self_attention.output, self.norm1)
        mixed = self.text_attention(queries + positions, text, text)
        _, queries = joined(queries, mixed, self.text_attention.output, self.norm2)
        # Offsets of a box go half its size over the number of points; GridSample's units are twice as large.
        centre, scale = 2 * reference[:, None, :2] - 1, reference[None, :, None, 2:] / self.image_attention.points
        sampled = self.image_attention(queries + positions, memory, centre, scale, maps)
        _, queries = joined(queries, sampled, self.image_attention.output, self.norm3)
        return fed_forward(queries, self.fc1, self.fc2, self.norm4)


def _attention(attention: Any) -> Attention:
    return Attention(attention.query, attention.key, attention.value, attention.out_proj, attention.num_attention_heads)


def _inverse_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.log(torch.clamp(x, min=_EPS) / torch.clamp(1 - x, min=_EPS))


def _exponents(width: int) -> torch.Tensor:
    return 2 * torch.div(torch.arange(width, dtype=torch.float32), 2, rounding_mode="floor") / width


def _sine(positions: torch.Tensor, periods: torch.Tensor) -> torch.Tensor:
    """The official get_sine_pos_embed of whole positions [n, 1] for periods [width]: [n, width]."""
    angles = positions * (2 * math.pi) / periods
    return torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=-1).flatten(1)
