"""What SAM 2 nano is trained on: short clips of generated scenes in which something happens, and prompts for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from alref_edge.datasets.synthetic import TRAINING_SEEDS, Scene, make_scene
from export.nano.attributes import LOOKS, UNKNOWN, classes_of

SIDE = 256
_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255
PROMPTED, FEW = 60, 12
"""Pixels that are seen of an object that is prompted; and below the second, whether it is there is not asked."""
_ATTEMPTS = 4


@dataclass(frozen=True)
class Clips:
    """A batch: N clips of T frames, and R rows, each an object of one clip.

    Attributes:
        images: normalised, float32 [T, N, 3, S, S].
        clip_of_row: int64 [R].
        labels: the object at each pixel, -1 for none, int8 [T, N, S, S].
        attributes: classes of shape, colour and size of each clip's objects, int64 [N, M, 3]; `UNKNOWN` where there are
            fewer than M.
        object_of_row: the row's object in its clip, int64 [R].
        times: frame numbers in the direction of tracking; the first frame is the prompted one.
    """

    images: Tensor
    clip_of_row: Tensor
    labels: Tensor
    attributes: Tensor
    object_of_row: Tensor
    times: tuple[int, ...]

    @cached_property
    def masks(self) -> Tensor:
        """What is seen of each row's object, bool [T, R, S, S]."""
        return self.labels[:, self.clip_of_row] == self.object_of_row[:, None, None]

    def attributes_of_rows(self) -> Tensor:
        """Those of each row's object, int64 [R, 3]."""
        return self.attributes[self.clip_of_row, self.object_of_row]

    def areas(self) -> Tensor:
        """Pixels seen, int64 [T, R]."""
        return self.masks.sum(dim=(-2, -1))

    def promptable(self, frame: int) -> Tensor:
        """The rows whose object can be prompted in a frame: enough is seen, and in one piece. int64 [R']."""
        masks = self.masks[frame]
        split = (masks[:, 0].any(1) & masks[:, -1].any(1)) | (masks[:, :, 0].any(1) & masks[:, :, -1].any(1))
        return torch.nonzero((masks.sum(dim=(-2, -1)) >= PROMPTED) & ~split).flatten()


def normalised(frame: np.ndarray) -> np.ndarray:
    """An RGB frame uint8 [H, W, 3] as the network takes it: float32 [3, S, S]."""
    if frame.shape[:2] != (SIDE, SIDE):
        frame = np.asarray(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(((frame - _MEAN) / _STD).transpose(2, 0, 1))


def draw_clips(seed: int, step: int, *, clips: int, frames: int, rows: int, calm: bool = False) -> Clips:
    """The batch of a step: `clips` clips of `frames` frames, with up to `rows` objects of each.

    Args:
        calm: frames mostly follow each other as they do in a video; otherwise things move faster, and jump.
    """
    generator = np.random.default_rng([seed, step, 77])
    gap = int(generator.integers(1, 24)) if frames > 2 and generator.random() < 0.5 else 1
    times = (0, *range(gap, gap + frames - 1))
    images, labels, attributes, owners, objects = [], [], [], [], []
    for number in range(clips):
        scene, chosen, kept = _choose(generator, times, rows, calm)
        moved = list(zip(chosen, _shifts(generator, frames, calm), strict=True))
        images.append([np.roll(normalised(scene.frame(index)), by, (1, 2)) for index, by in moved])
        labels.append([np.roll(_squared(scene.labels(index)), by, (0, 1)) for index, by in moved])
        attributes.append(torch.from_numpy(classes_of(scene.objects, LOOKS)))
        owners += [number] * len(kept)
        objects += kept
    return Clips(
        _by_frame(images),
        torch.tensor(owners),
        _by_frame(labels),
        pad_sequence(attributes, batch_first=True, padding_value=UNKNOWN),
        torch.tensor(objects),
        times,
    )


def _by_frame(arrays: list[list[np.ndarray]]) -> Tensor:
    """One tensor of arrays that are given for each clip and frame, frames first."""
    return torch.from_numpy(np.stack([np.stack(each) for each in zip(*arrays, strict=True)]))


def draw_prompts(generator: np.random.Generator, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes or points for masks bool [R, S, S], one kind for the batch: coordinates [R, K, 2] and labels [R, K]."""
    kind = generator.random()
    points = 0 if kind < 0.7 else 1 if kind < 0.85 else 3
    coords, labels = zip(*(_prompt(generator, each, points) for each in masks.numpy()), strict=True)
    return torch.from_numpy(np.stack(coords)), torch.from_numpy(np.stack(labels))


def _prompt(generator: np.random.Generator, mask: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    if points == 0:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32).reshape(2, 2)
        if generator.random() < 0.7:
            box += (box[1] - box[0]) * np.clip(generator.normal(0, 0.05, (2, 2)), -0.12, 0.12)
        return np.clip(box, 0, SIDE).astype(np.float32), np.array([2, 3], np.int32)
    inside = np.argwhere(mask)
    chosen = inside[generator.integers(len(inside), size=points)]
    labels = np.ones(points, np.int32)
    outside = np.argwhere(~mask)
    for index in range(1, points):
        if generator.random() < 0.4:
            chosen[index], labels[index] = outside[generator.integers(len(outside))], 0
    return chosen[:, ::-1].astype(np.float32), labels


def _choose(
    generator: np.random.Generator, times: tuple[int, ...], rows: int, calm: bool
) -> tuple[Scene, list[int], list[int]]:
    """A scene, the frames of a clip of it, the prompted one first, and the objects that are prompted in it."""
    sides = (SIDE, SIDE)
    if generator.random() < 0.15:
        sides = int(generator.integers(SIDE, 352)), int(generator.integers(SIDE, 352))
    while True:
        scene = make_scene(TRAINING_SEEDS + int(generator.integers(2**31)), *sides)
        eventful = len(times) > 1 and generator.random() < 0.6
        picks = [_window(generator, times, scene.num_frames, calm) for _ in range(_ATTEMPTS if eventful else 1)]
        areas_tn = np.zeros((scene.num_frames, len(scene.objects)), np.int64)
        for index in {each for pick in picks for each in pick}:
            labels = _squared(scene.labels(index)).ravel()
            areas_tn[index] = np.bincount(labels + 1, minlength=len(scene.objects) + 1)[1:]
        best = max(picks, key=lambda pick: _events(areas_tn[pick])) if eventful else picks[0]
        seen = areas_tn[best]
        kept = np.flatnonzero(seen[0] >= PROMPTED)
        if len(kept):
            order = list(generator.permutation(kept))
            if len(times) > 2:  # those to which something happens first
                order = sorted(order, key=lambda row: seen[:, row].min() >= 0.5 * seen[:, row].max())
            return scene, list(map(int, best)), sorted(map(int, order[:rows]))


def _window(generator: np.random.Generator, times: tuple[int, ...], num_frames: int, calm: bool) -> list[int]:
    stride = int(generator.choice((1, 1, 1, 2) if calm else (1, 1, 2, 2, 3, 4)))
    while stride > 1 and times[-1] * stride >= num_frames:
        stride -= 1
    start = int(generator.integers(num_frames - times[-1] * stride))
    window = [start + each * stride for each in times]
    return [num_frames - 1 - each for each in window] if generator.random() < 0.5 else window


def _shifts(generator: np.random.Generator, frames: int, calm: bool) -> list[tuple[int, int]]:
    """How far each frame is moved, around its edges: things must be found again by what they look like."""
    strength = float(generator.choice((0.0, 0.0, 0.0, 0.0, 6.0, 20.0) if calm else (0.0, 0.0, 6.0, 20.0, 60.0)))
    steps = generator.normal(0, strength, (frames, 2))
    steps[0] = 0
    return [(int(y), int(x)) for y, x in steps.cumsum(axis=0).round()]


def _events(areas_tn: np.ndarray) -> float:
    """How much the seen part of what is prompted shrinks or is lost."""
    prompted = areas_tn[:, areas_tn[0] >= PROMPTED]
    return float((1 - prompted.min(axis=0) / prompted.max(axis=0)).sum()) if prompted.shape[1] else -1.0


def _squared(labels: np.ndarray) -> np.ndarray:
    if labels.shape == (SIDE, SIDE):
        return labels
    return np.asarray(Image.fromarray(labels.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)).astype(
        np.int8
    )
