"""A good start for the vision tower: patches by their principal components, places as waves."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from export.nano.mllm_model import MERGE, PATCH, VisionTower
from export.nano.mllm_scenes import SceneFolder

_PLACE_STRENGTH = 1.0
_FLOOR = 0.003


@torch.no_grad()
def start_well(tower: VisionTower, scenes: SceneFolder, count: int = 100) -> None:
    """Set the patch embedding and the learned positions; random ones take a long time to become of use.

    Args:
        tower: its weights are set in place.
        scenes: whose strips the components are taken from.
        count: of them.
    """
    strips = np.stack([scenes[index].strip() for index in range(min(count, len(scenes)))])
    batch, height, width, _ = strips.shape
    patches = strips.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, 3).transpose(0, 1, 3, 5, 2, 4)
    flat = torch.from_numpy(np.ascontiguousarray(patches)).reshape(-1, 3 * PATCH**2).double() / 127.5 - 1
    middle = flat.mean(dim=0)
    variances, components = torch.linalg.eigh((flat - middle).T @ (flat - middle) / len(flat))
    chosen = components[:, -tower.config.vision_hidden :].flip(1)
    scale = 1 / (variances[-tower.config.vision_hidden :].flip(0) + _FLOOR * variances[-1]).sqrt()
    turn = torch.linalg.qr(torch.randn(len(scale), len(scale), dtype=torch.float64))[0]
    weight = turn @ (chosen * scale).T
    projection = tower.patch_embed["proj"]
    assert isinstance(projection, nn.Linear)
    projection.weight.copy_(weight.float())
    projection.bias.copy_(-(weight @ middle).float())
    tower.pos_embed.weight.copy_(_PLACE_STRENGTH * _waves(tower.config.grid_side, tower.config.vision_hidden))


def _waves(side: int, width: int) -> Tensor:
    """Sines and cosines of rows and columns, from long waves to short ones, `[side², width]`."""
    place = torch.arange(side) / (side - 1)
    quarter = width // 4
    speeds = 2 * math.pi * 0.5 * (side / MERGE) ** (torch.arange(quarter) / (quarter - 1))
    one = torch.cat([(place[:, None] * speeds).sin(), (place[:, None] * speeds).cos()], dim=1)
    rows, columns = one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, -1)
