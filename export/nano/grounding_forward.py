"""Grounding DINO forward for training: batches of images, several captions an image, every intermediate result.

The modules are transformers'; the flow and its constants are the official code's, as in `export/grounding_dino`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from alref_edge.models.grounding_dino.geometry import Geometry, decoder_tables
from export.grounding_dino.configs import component_config

_EPS = 1e-3
_FAR = 1e4


@dataclass(frozen=True)
class Captions:
    """Captions of a batch, padded to one length.

    Attributes:
        image: the image that each belongs to, int64 [n].
        input_ids, position_ids: int64 [n, T].
        sees: bool [n, T, T], True where a token sees another; a padded one sees itself.
        real: bool [n, T], False where padded.
        named: bool [n, T], True for the tokens that the objects meant should answer to.
    """

    image: Tensor
    input_ids: Tensor
    position_ids: Tensor
    sees: Tensor
    real: Tensor
    named: Tensor


@dataclass(frozen=True)
class Found:
    """What a forward pass found, n captions, L tokens of the feature levels, Q queries.

    Attributes:
        levels: height and width of each level.
        features: the image's features before text met them, [images, L, d].
        proposal_logits: [n, L, T]; proposal_boxes: centre and size, 0..1, [n, L, 4].
        chosen: boxes of the proposals that the queries start from, best first, [n, Q, 4].
        logits: of each decoder layer, [n, Q, T]; boxes: of each decoder layer, [n, Q, 4].
    """

    levels: tuple[tuple[int, int], ...]
    features: Tensor
    proposal_logits: Tensor
    proposal_boxes: Tensor
    chosen: Tensor
    logits: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]


def forward(model: Any, images: Tensor, captions: Captions) -> Found:
    """Detect.

    Args:
        model: transformers' `GroundingDinoForObjectDetection`.
        images: normalised, float32 [images, 3, H, W].
        captions: of these images.
    """
    inner = model.model
    features, levels = image_features(model, images)
    geometry = Geometry.from_config(component_config(model.config, (0, 0)))
    layout = {name: table.to(images.device) for name, table in _layout(geometry, *images.shape[2:]).items()}
    positions = torch.cat([layout[f"sine_{level}"] + inner.level_embed[level] for level in range(len(levels))])[None]
    centres = layout["centres"]
    text = inner.text_projection(_text(inner.text_backbone, captions))
    rows = features[captions.image]
    count, tokens = rows.shape[:2]
    nowhere = torch.zeros(count, tokens, dtype=torch.bool, device=rows.device)
    shapes = torch.tensor(levels, device=rows.device)
    starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
    text_sine = _sine(captions.position_ids[..., None].float(), model.config.d_model)
    reference = centres[None, :, None].expand(count, -1, len(levels), -1)
    for layer in inner.encoder.layers:
        (rows, text), _ = layer(
            vision_features=rows,
            vision_position_embedding=positions,
            spatial_shapes=shapes,
            spatial_shapes_list=list(levels),
            level_start_index=starts,
            key_padding_mask=nowhere,
            reference_points=reference,
            text_features=text,
            text_attention_mask=~captions.real,
            text_position_embedding=text_sine,
            text_self_attention_masks=~captions.sees,
        )
    inside = ((centres > 0.01) & (centres < 0.99)).all(dim=-1, keepdim=True)
    memory = inner.enc_output_norm(inner.enc_output(torch.where(inside, rows, 0.0)))
    proposals = torch.where(inside, torch.log(layout["proposals"] / (1 - layout["proposals"])), _FAR)
    proposal_logits = memory @ text.transpose(1, 2)
    proposal_places = inner.encoder_output_bbox_embed(memory) + proposals
    scores = proposal_logits.detach().masked_fill(~captions.real[:, None], -_FAR).amax(dim=-1)
    chosen = torch.topk(scores, model.config.num_queries, dim=1)[1]
    boxes = torch.gather(proposal_places.detach(), 1, chosen[..., None].expand(-1, -1, 4)).sigmoid()
    first = boxes
    queries = inner.query_position_embeddings.weight[None].expand(count, -1, -1)
    bias = torch.where(captions.real, 0.0, torch.finfo(rows.dtype).min)[:, None, None]
    decoder = inner.decoder
    all_logits, all_boxes = [], []
    for index, layer in enumerate(decoder.layers):
        sine = _sine(boxes, model.config.d_model // 2)
        y_first = torch.cat([sine[..., part, :] for part in (1, 0, 2, 3)], dim=-1)
        queries = layer(
            hidden_states=queries,
            position_embeddings=decoder.reference_points_head(y_first),
            reference_points=boxes[:, :, None].expand(-1, -1, len(levels), -1),
            spatial_shapes=shapes,
            spatial_shapes_list=list(levels),
            level_start_index=starts,
            vision_encoder_hidden_states=rows,
            text_encoder_hidden_states=text,
            text_encoder_attention_mask=bias,
        )[0]
        before = torch.log(boxes.clamp(min=_EPS) / (1 - boxes).clamp(min=_EPS))
        normed = decoder.layer_norm(queries)
        all_logits.append(normed @ text.transpose(1, 2))
        all_boxes.append((before + model.bbox_embed[index](normed)).sigmoid())
        boxes = (before + model.bbox_embed[index](queries)).sigmoid().detach()
    places = proposal_places.sigmoid()
    return Found(levels, features, proposal_logits, places, first, tuple(all_logits), tuple(all_boxes))


def image_features(model: Any, images: Tensor) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
    """The backbone's features of images, [images, L, d], and height and width of each level."""
    inner = model.model
    maps = list(inner.backbone.conv_encoder.model(images).feature_maps)
    maps = [project(each) for project, each in zip(inner.input_proj_vision, [*maps, maps[-1]], strict=True)]
    levels = tuple((each.shape[2], each.shape[3]) for each in maps)
    return torch.cat([each.flatten(2).transpose(1, 2) for each in maps], dim=1), levels


def _text(bert: Any, captions: Captions) -> Tensor:
    embeddings = bert.embeddings
    rows = embeddings.word_embeddings(captions.input_ids) + embeddings.position_embeddings(captions.position_ids)
    rows = embeddings.LayerNorm(rows + embeddings.token_type_embeddings.weight[0])
    for layer in bert.encoder.layer:
        attention, output = layer.attention.self, layer.attention.output
        shape = (*rows.shape[:2], attention.num_attention_heads, -1)
        query, key, value = (
            part(rows).view(shape).transpose(1, 2) for part in (attention.query, attention.key, attention.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=captions.sees[:, None])
        rows = output.LayerNorm(rows + output.dense(mixed.transpose(1, 2).flatten(2)))
        wide = functional.gelu(layer.intermediate.dense(rows))
        rows = layer.output.LayerNorm(rows + layer.output.dense(wide))
    return rows


def _sine(values: Tensor, width: int) -> Tensor:
    """Sines and cosines of each value: [..., k] to [..., k, width], or [..., width] where k is 1."""
    exponents = 2 * torch.div(torch.arange(width, device=values.device), 2, rounding_mode="floor") / width
    angles = values[..., None] * (2 * math.pi) / 10000.0**exponents
    sines = torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)
    return sines[..., 0, :] if values.shape[-1] == 1 else sines


@lru_cache(maxsize=16)
def _layout(geometry: Geometry, height: int, width: int) -> dict[str, Tensor]:
    """What depends on the image's size alone: sines of positions by level, centres [L, 2] and proposals [L, 4]."""
    tables = {name: torch.from_numpy(table) for name, table in decoder_tables(height, width, geometry).items()}
    parts: dict[str, Tensor] = {}
    centres, sides = [], []
    for level in range(4):
        rows, columns = tables[f"rows_{level}"], tables[f"columns_{level}"]
        y, x = tables[f"row_centres_{level}"], tables[f"column_centres_{level}"]
        shape = (len(y), len(x), -1)
        sines = torch.cat([rows[:, None].expand(shape), columns[None].expand(shape)], dim=-1)
        parts[f"sine_{level}"] = sines.flatten(0, 1)
        centres.append(torch.stack([x[None].expand(shape[:2]), y[:, None].expand(shape[:2])], dim=-1).flatten(0, 1))
        sides.append(torch.full((len(y) * len(x), 2), 0.05 * 2.0**level))
    parts["centres"] = torch.cat(centres)
    parts["proposals"] = torch.cat([parts["centres"], torch.cat(sides)], dim=-1)
    return parts
