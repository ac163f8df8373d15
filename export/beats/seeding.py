"""Seeded random weights whose answers vary with the sound: labels high and low, and no part without effect."""

from __future__ import annotations

import re

import torch

from export.beats.checkpoint import Checkpoint
from export.beats.configs import BeatsConfig
from export.beats.labels import made_up_labels
from export.beats.model import BeatsModel

# Weights keep the variance of their input, but for the first pattern that matches. Attention is selective and follows
# distances, and labels spread, as means over many tokens would otherwise be alike.
_GAINS: tuple[tuple[str, float], ...] = (
    (r"[qk]_proj\.weight", 1.6),
    (r"grep_linear\.weight", 1.0),
    (r"fc1\.weight", 1.4),
    (r"predictor\.weight", 3.0),
)
_TABLE = 1.5


def seeded_checkpoint(config: BeatsConfig, seed: int, labels: tuple[str, ...] | None = None) -> Checkpoint:
    """Random weights: the same for the same seed and size, whatever ran before.

    Every bias, norm, gate and table is random too, so that a graph which drops one is found out.

    Args:
        config: the size.
        seed: of the weights.
        labels: one for each output; made up if None.
    """
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in BeatsModel(config).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    shared = "relative_attention_bias.weight"
    table = _TABLE * torch.randn((config.num_buckets, config.encoder_attention_heads), generator=generator)
    weights = {
        name: table.clone() if name.endswith(shared) else _draw(name, shape, generator)
        for name, shape in sorted(shapes.items())
    }
    # What all tokens have alike says nothing of the sound: labels do not see it on an average.
    weights["predictor.weight"] -= weights["predictor.weight"].mean(dim=1, keepdim=True)
    return Checkpoint(config, weights, labels or made_up_labels(config.predictor_class))


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith("grep_a"):
        return 1 + 0.5 * noise
    if name.endswith(("norm.weight", "weight_g")):
        return 1 + 0.1 * noise
    if len(shape) == 1:
        return 0.1 * noise
    gain = next((gain for pattern, gain in _GAINS if re.search(pattern, name)), 1.0)
    return noise * (gain / torch.Size(shape[1:]).numel() ** 0.5)
