"""transformers' model run as the official code runs: what every export is compared with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import torch

from alref_edge.models.grounding_dino.text import sub_sentences

if TYPE_CHECKING:
    from transformers import GroundingDinoForObjectDetection

_EPS = 1e-3


def run_reference(
    model: GroundingDinoForObjectDetection,
    image: np.ndarray,
    input_ids: np.ndarray,
    delimiter_ids: tuple[int, ...],
) -> dict[str, np.ndarray]:
    """Detect with transformers' own forward, corrected where it differs from the official code.

    Args:
        model: transformers' model.
        image: float32 [1, 3, H, W], normalised.
        input_ids: int64 [1, T].
        delimiter_ids: of [CLS], [SEP], the period and the question mark.

    Returns:
        `logits` [1, Q, T] and `boxes` [1, Q, 4], centre and size, 0..1.
    """
    with torch.inference_mode(), _as_official(delimiter_ids):
        output = model(pixel_values=torch.from_numpy(image), input_ids=torch.from_numpy(input_ids))
    return {"logits": output.logits[..., : input_ids.shape[1]].numpy(), "boxes": output.pred_boxes.numpy()}


@contextmanager
def _as_official(delimiter_ids: tuple[int, ...]) -> Iterator[None]:
    """Undo what transformers 5 does otherwise: the eps of the inverse sigmoid, the text positions' sines rounded to the
    positions' own integer type, position 0 for the delimiter that ends a sub-sentence, fixed token ids."""
    from transformers.models.grounding_dino import modeling_grounding_dino as modeling

    def blocks(input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(part) for part in sub_sentences(input_ids.numpy(), delimiter_ids))

    with (
        mock.patch.object(torch.special, "logit", _inverse_sigmoid),
        mock.patch.object(modeling, "encode_sinusoidal_position_embedding", _sine_positions),
        mock.patch.object(modeling, "generate_masks_with_special_tokens_and_transfer_map", blocks),
    ):
        yield


def _inverse_sigmoid(x: torch.Tensor, eps: float | None = None) -> torch.Tensor:
    return torch.log(x.clamp(min=_EPS) / (1 - x).clamp(min=_EPS))


def _sine_positions(pos_tensor: torch.Tensor, num_pos_feats: int = 128, temperature: int = 10000) -> torch.Tensor:
    exponents = 2 * torch.div(torch.arange(num_pos_feats, dtype=torch.float32), 2, rounding_mode="floor")
    periods = temperature ** (exponents / num_pos_feats)
    parts = [coordinate[..., None] * (2 * math.pi) / periods for coordinate in pos_tensor.unbind(-1)]
    sines = [torch.stack((part[..., 0::2].sin(), part[..., 1::2].cos()), dim=-1).flatten(-2) for part in parts]
    if len(sines) > 1:
        sines[0], sines[1] = sines[1], sines[0]
    return torch.cat(sines, dim=-1)
