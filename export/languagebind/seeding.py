"""Seeded random weights whose embeddings are not trivial: sounds and texts that differ lie apart."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import nn

from alref_edge.errors import InputError
from export.languagebind.checkpoint import Weights
from export.languagebind.configs import audio_config, official_config, text_config
from export.languagebind.modules import AudioTower, TextTower
from export.languagebind.vocabulary import make_vocabulary, write_vocabulary

_LORA_TARGETS = ("k_proj", "v_proj", "q_proj", "out_proj")


def seeded_weights(variant: str, seed: int) -> Weights:
    """Random weights of both towers by their official names: the same for the same seed and size, whatever ran before.

    Every bias, norm and table is random too, so that a graph which drops one is found out.

    Raises:
        InputError: there is no such variant.
    """
    config = official_config(variant)
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        towers: tuple[nn.Module, ...] = (AudioTower(audio_config(config)), TextTower(text_config(config)))
    shapes = {name: tuple(value.shape) for tower in towers for name, value in tower.state_dict().items()}
    weights = {name: _draw(name, shape, generator) for name, shape in shapes.items()}
    weights["logit_scale"] = torch.tensor(float(config["logit_scale_init_value"]))
    return weights


def save_seeded_folder(variant: str, seed: int, folder: Path, *, lora_rank: int = 0) -> Path:
    """Write seeded weights as an official folder, which the official `LanguageBindAudio.from_pretrained` loads.

    Args:
        variant: one of the variants.
        seed: of the weights.
        folder: made if missing.
        lora_rank: with low-rank updates of this rank on the audio tower's attention, named as peft names them.

    Raises:
        InputError: there is no such variant, or a rank below 0.
    """
    if lora_rank < 0:
        raise InputError("There is no such rank.", expected="0 or more", got=lora_rank)
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = official_config(variant), seeded_weights(variant, seed)
    if lora_rank:
        config["vision_config"] |= {"lora_r": lora_rank, "lora_alpha": 2 * lora_rank}
        weights = _with_lora(weights, lora_rank, torch.Generator().manual_seed(seed + 1))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    torch.save(weights, folder / "pytorch_model.bin")
    write_vocabulary(*make_vocabulary(config["text_config"]["vocab_size"]), folder)
    return folder


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if "norm" in name and name.endswith(".weight"):
        return 1 + 0.1 * noise
    if name.endswith("position_embedding.weight"):
        return 0.3 * noise
    if name.endswith("token_embedding.weight"):
        return noise
    if len(shape) == 1:
        return 0.1 * noise
    # Attention that picks, and layers that outweigh the shortcut: the first place gathers what is to be told apart.
    gain = 2.0 if name.endswith(("q_proj.weight", "k_proj.weight", "out_proj.weight")) else 1.0
    return noise * (gain / math.sqrt(math.prod(shape[1:])))


def _with_lora(weights: Weights, rank: int, generator: torch.Generator) -> Weights:
    made: Weights = {}
    for name, tensor in weights.items():
        module, _, kind = name.rpartition(".")
        if not name.startswith("vision_model.encoder."):
            made[name] = tensor
            continue
        inner = module.replace("encoder.", "encoder.base_model.model.", 1)
        if not module.endswith(_LORA_TARGETS):
            made[f"{inner}.{kind}"] = tensor
            continue
        made[f"{inner}.base_layer.{kind}"] = tensor
        if kind == "weight":
            out, into = tensor.shape
            made[f"{inner}.lora_A.default.weight"] = torch.randn(rank, into, generator=generator) / math.sqrt(into)
            made[f"{inner}.lora_B.default.weight"] = 0.3 * torch.randn(out, rank, generator=generator)
    return made
