"""Seeded random weights whose outputs are worth comparing."""

from __future__ import annotations

import re
from typing import Any

import torch

# Default initialisations make trivial networks: masks of one sign, constant scores, memory that changes nothing. Here
# weights keep the variance of their input (times two before a rectifier), and where a pattern matches, the first one's
# gain is another: attention is made selective, so that tokens follow the picture and memory counts, and heads spread.
_GAINS: tuple[tuple[str, float], ...] = (
    (r"sam_mask_decoder\.transformer\..*token_to_image\.[qk]_proj\.weight", 2.0),
    (r"memory_attention\..*cross_attn_image\.[qk]_proj\.weight", 1.2),
    (r"memory_attention\..*cross_attn_image\.out_proj\.weight", 0.3),
    (r"memory_encoder\.pix_feat_proj\.weight", 0.5),
    (r"memory_encoder\.mask_downsampler\.encoder\.\d+\.weight", 1.5),
    (r"pred_obj_score_head\.layers\.2\.weight", 8.0),
    (r"iou_prediction_head\.layers\.2\.weight", 2.0),
    (r"output_hypernetworks_mlps\.\d\.layers\.2\.weight", 4.0),
    (r"\.mlp\.layers\.0\.weight|linear1\.weight|\.layers\.[01]\.weight|pwconv1\.weight", 2.0**0.5),
    (r"gaussian_matrix", 1.0),
)
_TABLES = r"(token|tokens|_embed|point_embeddings\.\d)\.weight|^no_|^maskmem_tpos_enc|pos_embed|gaussian_matrix"
# Rectified features have a positive mean; weights that sum to zero do not see it, and outputs vary instead.
_AFTER_RECTIFIER = (
    r"\.mlp\.layers\.1\.|(head|mlps\.\d|obj_ptr_proj)\.layers\.[12]\.|linear2\.|pwconv2\.|(er|ing)\.(6|12)\."
)


def seed_weights(model: Any, seed: int) -> None:
    """Overwrite every parameter and buffer of a SAM 2 model with seeded values, the same wherever it runs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(model.state_dict().items()):
            value.copy_(torch.randn(value.shape, generator=generator) * _std(name, value))
            if value.ndim == 1 and name.endswith((".weight", ".gamma")):
                value.add_(1.0 if name.endswith(".weight") else 0.5)
            if value.ndim > 1 and re.search(_AFTER_RECTIFIER, name):
                value.sub_(value.mean(dim=1, keepdim=True))
            if "output_hypernetworks_mlps" in name and ".layers.2." in name:
                value.sub_(value.mean(dim=0))  # masks are products with rectified features


def _std(name: str, value: torch.Tensor) -> float:
    if value.ndim == 1:
        return 0.05
    gain = next((gain for pattern, gain in _GAINS if re.search(pattern, name)), None)
    if re.search(_TABLES, name):
        return gain or 0.3
    transposed = re.search(r"output_upscaling\.[03]\.weight", name)
    return (gain or 1.0) * float(value.shape[0] if transposed else value[0].numel()) ** -0.5
