"""Seeded random weights whose detections are not trivial: some boxes score high, most low, all differ, text matters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from alref_edge.models.grounding_dino.geometry import backbone_tables, decoder_tables
from alref_edge.models.grounding_dino.text import sub_sentences
from export.grounding_dino.checkpoint import Weights, build_model, empty_model, to_official
from export.grounding_dino.configs import bert_config, component_config, transformers_config

if TYPE_CHECKING:
    from transformers import GroundingDinoConfig

# Mean and spread of the detection logits over queries.
_MEAN = -2.4
_SPREAD = 1.5
# Size of the direction that all text tokens share, beside about 1 of what tells them apart.
_SHARED = 4.0


def seeded_weights(config: GroundingDinoConfig, seed: int) -> Weights:
    """Random weights by transformers' names: the same for the same seed and size, whatever ran before.

    Every bias, norm and table is random too, so that a graph which drops one is found out. Box heads move their
    boxes a little at each layer; the fusion's scales are 0.3, not the 1e-4 that training starts from.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in empty_model(config).state_dict().items()}
    copies = tuple(f"bbox_embed.{layer}." for layer in range(1, config.decoder_layers))
    weights = {
        name: _draw(name, shape, generator, config)
        for name, shape in shapes.items()
        if not name.startswith(("model.decoder.bbox_embed.", *copies)) and ".swin.layernorm." not in name
    }
    _spread_scores(weights, config, generator)
    return weights


def save_seeded_checkpoint(variant: str, seed: int, path: Path) -> Path:
    """Write seeded weights as an official checkpoint, `{"model": state_dict}`, that the official code loads strictly.

    Raises:
        InputError: there is no such variant.
    """
    config = transformers_config(variant)
    torch.save({"model": to_official(seeded_weights(config, seed), config)}, path)
    return path


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator, config: GroundingDinoConfig) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    is_norm = len(shape) == 1 and name.endswith(".weight")
    if name.endswith(("vision_param", "text_param")):
        return 0.3 + 0.05 * noise
    if is_norm:
        return 1 + 0.1 * noise
    if name.endswith("sampling_offsets.bias"):
        return _rays(config, shape[0]) + 0.3 * noise
    if name.endswith("sampling_offsets.weight"):
        return noise * (0.7 / math.sqrt(shape[1]))
    if name.endswith("relative_position_bias_table"):
        return 0.5 * noise
    if name.endswith("query_position_embeddings.weight"):
        # Ranks of near-equal proposals may swap by rounding; queries that hardly differ by rank make that harmless.
        # The more queries, the nearer their ties.
        return 0.3 * torch.randn(shape[1], generator=generator)[None] + 0.04 / config.num_queries * noise
    if name.endswith(("embeddings.weight", "level_embed")):
        return 0.5 * noise
    if "bbox_embed" in name and ".layers.2." in name:
        return noise * (0.25 / math.sqrt(config.d_model) if len(shape) == 2 else 0.1)
    if len(shape) == 1:
        return 0.05 * noise
    return noise * (_gain(name) / math.sqrt(math.prod(shape[1:])))


def _gain(name: str) -> float:
    """What differs between queries must outweigh what is the same for all: the place sampled, not the text."""
    if ".decoder.layers." not in name:
        return 1.0
    if name.endswith(("encoder_attn.output_proj.weight", "encoder_attn.value_proj.weight")):
        return 2.0
    return 0.5 if name.endswith(("self_attn.out_proj.weight", "encoder_attn_text.out_proj.weight")) else 1.0


def _rays(config: GroundingDinoConfig, length: int) -> torch.Tensor:
    """Sampling offsets that point outwards, one direction a head, further at each point, as the official start."""
    heads, levels = config.encoder_attention_heads, config.num_feature_levels
    points = length // (heads * levels * 2)
    angles = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
    rays = torch.stack([angles.cos(), angles.sin()], dim=-1)
    rays = (rays / rays.abs().amax(dim=-1, keepdim=True))[:, None, None, :].expand(heads, levels, points, 2)
    return (rays * torch.arange(1, points + 1, dtype=torch.float32)[None, None, :, None]).reshape(-1)


def _spread_scores(weights: Weights, config: GroundingDinoConfig, generator: torch.Generator) -> None:
    """Centre and scale the queries by the decoder's last norm, so that logits have `_MEAN` and `_SPREAD`.

    Random layers make queries nearly alike, by how much differs with the depth: it is measured on made-up images. The
    mean comes from one direction that all text tokens get and the queries have with the opposite sign.
    """
    direction = torch.randn(config.d_model, generator=generator)
    direction /= direction.norm()
    text = f"model.encoder.layers.{config.encoder_layers - 1}.text_enhancer_layer.layer_norm_after"
    weights[f"{text}.bias"] += _SHARED * direction
    # Tokens outside the proposals' range have this norm's bias alone, a score below that of any real one.
    weights["model.enc_output.bias"].zero_()
    weights["model.enc_output_norm.weight"] *= 2 / math.sqrt(config.d_model)
    weights["model.enc_output_norm.bias"] = -direction
    norm = "model.decoder.layer_norm"
    queries_nd, logits_nt = _measure(weights, config, generator)
    scale = _SPREAD / float(logits_nt.std(dim=0).mean())
    weights[f"{norm}.weight"] *= scale
    centre = weights[f"{norm}.bias"] - queries_nd.mean(dim=0)
    weights[f"{norm}.bias"] = scale * centre + _MEAN / _SHARED * direction
    for part in ("weight", "bias"):
        # Coarse steps: rounding of the measurement, which differs between machines, is gone from the weights.
        weights[f"{norm}.{part}"] = torch.round(weights[f"{norm}.{part}"] * 4096) / 4096


def _measure(
    weights: Weights, config: GroundingDinoConfig, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries [n, d] as the decoder's last norm gives them on made-up images, and their logits [n, T] for a caption."""
    from export.grounding_dino.backbone import Backbone
    from export.grounding_dino.decoder import Decoder
    from export.grounding_dino.text_encoder import TextEncoder

    model = build_model(config, weights)
    backbone, text_encoder, decoder = Backbone(model).eval(), TextEncoder(model).eval(), Decoder(model).eval()
    seen: list[torch.Tensor] = []
    decoder.norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    numbers = component_config(config, (0, 0))
    ids = torch.randint(110, bert_config(config).vocab_size, (1, 9), generator=generator)
    mask, positions = (
        torch.from_numpy(part) for part in sub_sentences(ids.numpy(), tuple(ids[0, [0, 4, 7, 8]].tolist()))
    )
    logits = []
    with torch.inference_mode():
        text = text_encoder(ids, positions, mask)
        for height, width in ((240, 320), (272, 240)):
            coarse = torch.randn(1, 3, 7, 9, generator=generator)
            image = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
            tables = [
                {name: torch.from_numpy(table) for name, table in make(height, width, numbers).items()}
                for make in (backbone_tables, decoder_tables)
            ]
            features = backbone(image, tables[0])
            logits.append(decoder(features, text, positions, mask, tables[1])[0][0])
    return torch.cat(seen).clone(), torch.cat(logits).clone()


def parameters(weights: Mapping[str, torch.Tensor]) -> int:
    """How many numbers the weights are."""
    return sum(tensor.numel() for tensor in weights.values())
