"""What Grounding DINO nano is told of its proposals and queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export.nano.grounding_forward import Captions, Found

FINEST = 3
"""Objects are found on the tokens of so many levels, the finest."""

# IoU from which on a proposal is of an object.
_COVERED = 0.5


@dataclass(frozen=True)
class Batch:
    """Frames with captions and what these mean.

    Attributes:
        images: normalised, float32 [images, 3, H, W].
        captions: see `Captions`.
        boxes: what each caption means, centre and size, 0..1: n tensors [k, 4], k from 0.
        objects: boxes of the objects that are seen clearly, of each image: tensors [m, 4].
        attributes: index of shape, colour and size of these objects: int64 tensors [m, 3].
    """

    images: Tensor
    captions: Captions
    boxes: tuple[Tensor, ...]
    objects: tuple[Tensor, ...]
    attributes: tuple[Tensor, ...]


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Overlap of boxes given by centre and size, [n, 4] and [m, 4]: [n, m]."""
    return _overlap(one[:, None], other[None])[0]


def _overlap(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of boxes (centre and size) that broadcast."""
    low, high = one[..., :2] - one[..., 2:] / 2, one[..., :2] + one[..., 2:] / 2
    lower, higher = other[..., :2] - other[..., 2:] / 2, other[..., :2] + other[..., 2:] / 2
    inner = (torch.minimum(high, higher) - torch.maximum(low, lower)).clamp(min=0).prod(-1)
    union = one[..., 2:].prod(-1) + other[..., 2:].prod(-1) - inner
    hull = (torch.maximum(high, higher) - torch.minimum(low, lower)).prod(-1)
    overlap = inner / union.clamp(min=1e-9)
    return overlap, overlap - (hull - union) / hull.clamp(min=1e-9)


def set_and_dense_losses(found: Found, batch: Batch) -> dict[str, Tensor]:
    """Of the encoder's proposals (dense) and of the decoder's queries: what they are, and where."""
    dense, dense_box = _dense(found, batch)
    queries, query_box = found.features.new_zeros(()), found.features.new_zeros(())
    pairs = [_match(boxes.detach(), truth) for boxes, truth in zip(found.chosen, batch.boxes, strict=True)]
    for logits, boxes in zip(found.logits, found.boxes, strict=True):
        one, other = _set_loss(logits, boxes, pairs, batch)
        queries, query_box = queries + one, query_box + other
    return {"dense": dense, "dense_box": dense_box, "queries": queries, "query_box": query_box}


def _dense(found: Found, batch: Batch) -> tuple[Tensor, Tensor]:
    """Every proposal: is it the target, and where does that end? Tokens of three levels near the middle are."""
    centres = _centres(found).to(found.features.device)
    logits = found.proposal_logits
    wanted, weight = (
        torch.zeros(logits.shape[:2], device=logits.device),
        torch.ones(logits.shape[:2], device=logits.device),
    )
    boxes, truths = [], []
    for row, truth in enumerate(batch.boxes):
        if not len(truth):
            continue
        gap = ((centres[:, None] - truth[None, :, :2]).abs() / (truth[None, :, 2:] / 2)).amax(dim=-1)
        near, nearest = gap.min(dim=1)
        inside = near < 0.5
        start = 0
        for height, width in found.levels[:2]:
            part = gap[start : start + height * width].argmin(dim=0)
            inside[start + part] = True
            nearest[start + part] = torch.arange(len(truth), device=part.device)
            start += height * width
        wanted[row, : len(centres)] = inside.float()
        weight[row, : len(centres)][~inside & (near < 1.0)] = 0.0
        boxes.append(found.proposal_boxes[row, : len(centres)][inside])
        truths.append(truth[nearest[inside]])
    losses = _focal(logits, wanted, batch.captions) * weight
    positive = wanted.sum().clamp(min=1)
    return losses.sum() / positive, _box_loss(boxes, truths)


def _set_loss(
    logits: Tensor, boxes: Tensor, pairs: list[tuple[list[int], list[int]]], batch: Batch
) -> tuple[Tensor, Tensor]:
    """The loss of one decoder layer: each object meant belongs to one query, the other queries are nothing."""
    wanted = torch.zeros(logits.shape[:2], device=logits.device)
    found, truths = [], []
    for row, (queries, objects) in enumerate(pairs):
        wanted[row, queries] = 1.0
        found.append(boxes[row, queries])
        truths.append(batch.boxes[row][objects])
    losses = _focal(logits, wanted, batch.captions)
    return losses.sum() / wanted.sum().clamp(min=1), _box_loss(found, truths)


def _match(proposals_q4: Tensor, truth_k4: Tensor) -> tuple[list[int], list[int]]:
    """The query of each object: the best-ranked whose proposal covers it, else the one that is nearest.

    A matching by what the decoder says, the usual one, changes hands between proposals of one object all the time.
    """
    queries: list[int] = []
    if len(truth_k4):
        overlaps, general = (part.cpu().numpy() for part in _overlap(proposals_q4[:, None], truth_k4[None]))
        for each in range(len(truth_k4)):
            free = [query for query in range(len(overlaps)) if query not in queries]
            covering = [query for query in free if overlaps[query, each] >= _COVERED]
            queries.append(covering[0] if covering else free[int(np.argmax(general[free, each]))])
    return queries, list(range(len(truth_k4)))


def _focal(logits: Tensor, wanted: Tensor, captions: Captions) -> Tensor:
    """Focal loss (alpha 0.25, gamma 2) of [n, rows, T] logits, averaged over the caption's own tokens: [n, rows]."""
    named = captions.named[:, None].float()
    target = wanted[..., None] * named
    plain = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    missed = torch.where(target > 0, 1 - probability, probability)
    weighted = torch.where(target > 0, 0.25, 0.75) * missed**2 * plain
    # Tokens that name nothing ([CLS], [SEP], the period) are to stay low everywhere.
    real = captions.real[:, None].float()
    return (weighted * real).sum(-1) / named.sum(-1).clamp(min=1)


def _box_loss(boxes: list[Tensor], truths: list[Tensor]) -> Tensor:
    if not any(map(len, boxes)):
        return torch.zeros(())
    found, truth = torch.cat(boxes), torch.cat(truths)
    _, general = _overlap(found, truth)
    return (5 * (found - truth).abs().sum(-1) + 2 * (1 - general)).mean() / 2


def _centres(found: Found) -> Tensor:
    """Middles of the tokens of the finest levels, x and y in 0..1: [L', 2]."""
    parts = []
    for height, width in found.levels[:FINEST]:
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        parts.append(torch.stack([x, y], dim=-1).flatten(0, 1))
    return torch.cat(parts)
