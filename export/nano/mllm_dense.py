"""Dense supervision: what each token of a strip covers. It teaches the vision tower to see long before answers do.

Early on each patch is to tell object from background pixel by pixel: an outline, whatever its colour, makes a shape.
The heads are thrown away after the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from export.nano.attributes import ATTRIBUTES, UNKNOWN, classes_of
from export.nano.mllm_model import GRID, MERGE, PATCH
from export.nano.mllm_scenes import FRAMES, SIDE, Truth

CELLS = SIDE // GRID
"""Tokens along a side of a frame; a frame's bar is one row of tokens more."""

PLACES = 16
"""Places are told in steps of a sixteenth of a frame."""

MOST_BOXES = 3

_CLASSES = {**{name: len(values) for name, values in ATTRIBUTES.items()}, "x": PLACES, "y": PLACES}
_WEIGHTS = {"shape": 3.0, "colour": 1.0, "size": 1.0, "motion": 2.0, "x": 0.5, "y": 0.5}
_LEAST = 12


@dataclass(frozen=True, eq=False)
class Proposals:
    """Boxes as a detector may propose them for one frame.

    Attributes:
        frame: its place in the strip, from 0.
        boxes_n4: float32 xyxy in pixels of a frame of the strip.
        owners: number of the object that each holds (IoU of 0.5 or more); -1 where there is none.
    """

    frame: int
    boxes_n4: np.ndarray
    owners: tuple[int, ...]


def propose(generator: np.random.Generator, truth: Truth) -> Proposals | None:
    """Boxes of some objects on a frame at random, a little off; some on nothing, or on the same object again."""
    frame = int(generator.integers(len(FRAMES)))
    seen = np.flatnonzero(truth.pixels_tn[frame] >= 60)
    if not len(seen):
        return None
    wanted = generator.permutation(seen)[: int(generator.choice([1, 2, 3], p=[0.2, 0.4, 0.4]))].tolist()
    boxes = []
    for number in wanted:
        chance = generator.random()
        if chance < 0.04 and len(wanted) > 1:
            number = wanted[0]
        box = truth.boxes_tn4[frame, number]
        sides = np.tile(box[2:] - box[:2], 2)
        box = box + sides * generator.normal(0, 0.04, 4)
        if chance > 0.95:
            corner = generator.uniform(0, SIDE - 48, 2)
            box = np.concatenate([corner, corner + generator.uniform(16, 48, 2)])
        boxes.append(np.clip(box, 0, SIDE))
    boxes_n4 = np.array(boxes, np.float32)
    return Proposals(frame, boxes_n4, tuple(_owner(box, truth.boxes_tn4[frame]) for box in boxes_n4))


def _owner(box: np.ndarray, true_n4: np.ndarray) -> int:
    low, high = np.maximum(true_n4[:, :2], box[:2]), np.minimum(true_n4[:, 2:], box[2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(true_n4[:, 2:] - true_n4[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    ious = np.nan_to_num(shared / (areas - shared))
    return int(ious.argmax()) if ious.max() >= 0.5 else -1


def place_of(box: np.ndarray) -> tuple[int, int]:
    """Column and row, of `PLACES` each, of a box's middle; the box in pixels of a frame of the strip."""
    x, y = ((box[:2] + box[2:]) / 2 * PLACES / SIDE).clip(0, PLACES - 1).astype(int).tolist()
    return x, y


def dense_targets(truth: Truth, proposals: Proposals | None) -> dict[str, np.ndarray]:
    """What is to be said of each token of the strip, `[168]`, or `[168, 3]` of boxes; -100 where nothing is."""
    tall = CELLS + 1
    count = len(truth.objects)
    blocks = truth.labels_t.reshape(len(FRAMES), CELLS, GRID // 2, CELLS, GRID // 2)
    pixels = np.stack([(blocks == number).sum(axis=(2, 4)) for number in range(count)])
    most, covered = pixels.argmax(axis=0), pixels.max(axis=0) >= _LEAST
    numbers = np.full((len(FRAMES), tall, CELLS), -1)
    numbers[:, 1:] = np.where(covered, most, -1)
    targets: dict[str, np.ndarray] = {"present": (numbers >= 0).reshape(-1).astype(np.float32)}
    classes = np.pad(classes_of(truth.objects, ATTRIBUTES), ((0, 1), (0, 0)), constant_values=UNKNOWN)
    for index, name in enumerate(ATTRIBUTES):
        targets[name] = classes[numbers, index].reshape(-1)
    middles = np.nan_to_num((truth.boxes_tn4[..., :2] + truth.boxes_tn4[..., 2:]) / 2 * PLACES / SIDE)
    for axis, name in enumerate("xy"):
        table = np.concatenate(
            [middles[..., axis].clip(0, PLACES - 1).astype(int), np.full((len(FRAMES), 1), UNKNOWN)], 1
        )
        targets[name] = np.stack([table[t][numbers[t]] for t in range(len(FRAMES))]).reshape(-1)
    inside, centre = np.zeros((2, len(FRAMES), tall, CELLS, MOST_BOXES), np.float32)
    if proposals is not None:
        for index, box in enumerate(proposals.boxes_n4):
            edges = np.arange(CELLS) * GRID
            spans = [np.clip(np.minimum(edges + GRID, box[a + 2]) - np.maximum(edges, box[a]), 0, None) for a in (1, 0)]
            least = max(1.0, min(GRID * GRID, float(np.prod(box[2:] - box[:2]))))
            inside[proposals.frame, 1:, :, index] = spans[0][:, None] * spans[1][None] / least > 0.4
            x, y = ((box[:2] + box[2:]) / 2 / GRID).clip(0, CELLS - 1).astype(int)
            centre[proposals.frame, 1 + y, x, index] = 1
    mask = np.zeros((len(FRAMES), tall * GRID // 2, SIDE // 2), np.float32)
    mask[:, GRID // 2 :] = truth.labels_t >= 0
    half = PATCH // 2
    patches = mask.reshape(-1, MERGE, half, CELLS, MERGE, half).transpose(0, 3, 1, 4, 2, 5)
    targets["mask"] = patches.reshape(-1, half * half)
    return {**targets, "inside": inside.reshape(-1, MOST_BOXES), "centre": centre.reshape(-1, MOST_BOXES)}


class DenseHeads(nn.Module):
    """Linear layers from tokens to what they cover."""

    def __init__(self, width: int, patch_width: int) -> None:
        super().__init__()
        self.mask = nn.Linear(patch_width, (PATCH // 2) ** 2)
        sizes = {"present": 1, **_CLASSES, "inside": MOST_BOXES, "centre": MOST_BOXES}
        self.sizes = sizes
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, sum(sizes.values()))

    def losses(
        self, tokens_bnc: Tensor, patches_bnc: Tensor, targets: Sequence[dict[str, np.ndarray]]
    ) -> dict[str, Tensor]:
        """The loss, "dense", and shares of tokens that are right."""
        masks = torch.from_numpy(np.stack([each["mask"] for each in targets]))
        outline = functional.binary_cross_entropy_with_logits(self.mask(patches_bnc), masks)
        scores = self.linear(self.norm(tokens_bnc)).split(list(self.sizes.values()), dim=-1)
        found = dict(zip(self.sizes, scores, strict=True))
        wanted = {name: torch.from_numpy(np.stack([each[name] for each in targets])) for name in self.sizes}
        total = 20 * outline + 4 * functional.binary_cross_entropy_with_logits(
            found["present"][..., 0], wanted["present"]
        )
        for name in ("inside", "centre"):
            total = total + 40 * functional.binary_cross_entropy_with_logits(found[name], wanted[name])
        told: dict[str, Tensor] = {"outline": outline}
        for name, weight in _WEIGHTS.items():
            logits, classes = found[name].flatten(0, 1), wanted[name].flatten()
            total = total + weight * functional.cross_entropy(logits, classes, ignore_index=UNKNOWN)
            if name in ("shape", "colour", "size", "motion", "x"):
                known = classes != UNKNOWN
                told[f"{name}_right"] = (logits.argmax(dim=1) == classes)[known].float().mean()
        marked = wanted["centre"] > 0
        best = found["centre"].argmax(dim=1)
        right = (best == wanted["centre"].argmax(dim=1))[marked.any(dim=1)]
        told["centre_right"] = right.float().mean() if len(right) else torch.tensor(float("nan"))
        return {"dense": total, **told}
