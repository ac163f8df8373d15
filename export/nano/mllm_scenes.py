"""What the nano MLLM is trained on: four frames of a generated scene, as they lie in a strip, and what is in them.

Scenes are rendered once and kept in a folder; a flip and a reversal in time make four of each.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alref_edge.datasets.synthetic import TRAINING_SEEDS, Expression, SceneObject, make_scene
from alref_edge.datasets.synthetic.words import describe
from alref_edge.mllm.strips import BoxMarks, draw_strip
from export.nano.attributes import ATTRIBUTES, classes_of

FRAMES = (0, 10, 20, 30)
"""The frames that the method samples of a clip of 40."""

SIDE = 192
"""Of a frame in the strip, in pixels."""

PIXEL_BUDGET = len(FRAMES) * SIDE * (SIDE + 32)
"""Of the strips that the model is made for: a frame of 192 pixels under a bar of 32."""

_FULL = 256
_OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
_NO_SPRITE = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8)


@dataclass(frozen=True, eq=False)
class Truth:
    """Four frames and what is in them.

    Attributes:
        frames_t: RGB uint8 `[4, 192, 192, 3]`.
        labels_t: the object seen at each second pixel, int8 `[4, 96, 96]`; -1 where there is none.
        boxes_tn4: boxes of what is seen of each object, float32 xyxy in pixels of `frames_t`; NaN where nothing is.
        pixels_tn: how many pixels are seen of each object, of a frame of 256 pixels.
        objects: looks, motion and path of each; their pictures are left out.
    """

    frames_t: np.ndarray
    labels_t: np.ndarray
    boxes_tn4: np.ndarray
    pixels_tn: np.ndarray
    objects: tuple[SceneObject, ...]

    def flipped(self) -> Truth:
        """The scene in a mirror: left and right change places."""
        objects = [
            replace(
                each,
                motion=_OPPOSITE[each.motion] if each.motion in ("left", "right") else each.motion,
                centres_t2=np.stack([_FULL - 1 - each.centres_t2[:, 0], each.centres_t2[:, 1]], axis=1),
            )
            for each in self.objects
        ]
        boxes = self.boxes_tn4.copy()
        boxes[..., [0, 2]] = SIDE - self.boxes_tn4[..., [2, 0]]
        return Truth(self.frames_t[:, :, ::-1], self.labels_t[:, :, ::-1], boxes, self.pixels_tn, tuple(objects))

    def reversed(self) -> Truth:
        """The scene backwards in time: what moved left moves right, what was left of another still is."""
        objects = [
            replace(each, motion=_OPPOSITE.get(each.motion, each.motion), centres_t2=each.centres_t2[::-1])
            for each in self.objects
        ]
        return Truth(
            self.frames_t[::-1], self.labels_t[::-1], self.boxes_tn4[::-1], self.pixels_tn[::-1], tuple(objects)
        )

    def sentences(self, generator: np.random.Generator) -> tuple[Expression, ...]:
        """Sentences that are true of one object each, drawn anew."""
        return describe(generator, self.objects, _FULL, _FULL)

    def strip(self, frame: int | None = None, boxes_n4: np.ndarray | None = None) -> np.ndarray:
        """The strip, RGB uint8 `[896, 192, 3]`, with boxes on one of its frames if any are given."""
        marks = None if frame is None or boxes_n4 is None else BoxMarks(frame, boxes_n4)
        return draw_strip(list(self.frames_t), marks=marks, pixel_budget=PIXEL_BUDGET)


def truth_of(seed: int, objects: tuple[int, int] = (2, 5)) -> Truth:
    """Render the scene of a seed."""
    scene = make_scene(seed, objects=objects)
    frames = [Image.fromarray(scene.frame(index)).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for index in FRAMES]
    labels = [scene.labels(index) for index in FRAMES]
    rows = ((np.arange(SIDE // 2) + 0.5) * _FULL / (SIDE // 2)).astype(int)
    return Truth(
        np.stack([np.asarray(frame) for frame in frames]),
        np.stack([label[np.ix_(rows, rows)] for label in labels]),
        np.stack([scene.boxes(index) for index in FRAMES]) * np.float32(SIDE / _FULL),
        np.stack([[np.count_nonzero(label == n) for n in range(len(scene.objects))] for label in labels]),
        tuple(replace(each, sprite_rgb=_NO_SPRITE[0], sprite_alpha=_NO_SPRITE[1]) for each in scene.objects),
    )


class SceneFolder:
    """Scenes of training seeds; each is rendered when it is first asked for, and read from then on.

    Args:
        path: of the folder; None keeps nothing.
        first: number of the first scene, from 0; its seed is that far beyond `TRAINING_SEEDS`.
        count: how many there are.
    """

    def __init__(self, path: Path | None, first: int, count: int) -> None:
        self._path, self._first, self._count = path, first, count
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Truth:
        if not 0 <= index < self._count:
            raise IndexError(index)
        seed = TRAINING_SEEDS + self._first + index
        if self._path is None:
            return _training_truth(seed)
        path = self._path / f"{seed}.npz"
        if not path.exists():
            truth = _training_truth(seed)
            partial = path.with_suffix(f".{os.getpid()}.partial")
            with partial.open("wb") as file:
                np.savez(file, **_packed(truth))
            os.replace(partial, path)
            return truth
        with np.load(path) as arrays:
            return _unpacked({name: arrays[name] for name in arrays.files})


def _training_truth(seed: int) -> Truth:
    """Two scenes of three have three objects or more: those have most to tell apart."""
    return truth_of(seed, (2, 5) if seed % 3 == 0 else (3, 5))


def _packed(truth: Truth) -> dict[str, Any]:
    return {
        "frames_t": truth.frames_t,
        "labels_t": truth.labels_t,
        "boxes_tn4": truth.boxes_tn4,
        "pixels_tn": truth.pixels_tn,
        "kinds_n4": classes_of(truth.objects, ATTRIBUTES),
        "centres_nt2": np.stack([each.centres_t2 for each in truth.objects]),
    }


def _unpacked(arrays: dict[str, np.ndarray]) -> Truth:
    objects = []
    for numbers, centres_t2 in zip(arrays["kinds_n4"].tolist(), arrays["centres_nt2"], strict=True):
        shape, colour, size, motion = (values[n] for values, n in zip(ATTRIBUTES.values(), numbers, strict=True))
        objects.append(SceneObject(shape, colour, size, motion, centres_t2, *_NO_SPRITE))
    frames_t, labels_t, boxes_tn4, pixels_tn = (
        arrays[name] for name in ("frames_t", "labels_t", "boxes_tn4", "pixels_tn")
    )
    return Truth(frames_t, labels_t, boxes_tn4, pixels_tn, tuple(objects))


def drawn(scenes: SceneFolder, generator: np.random.Generator, *, attempts: int = 1) -> Truth:
    """A scene at random, flipped or reversed at random; drawn again, so many times in all, while it has no relation."""
    for _ in range(attempts):
        truth = scenes[int(generator.integers(len(scenes)))]
        if attempts == 1 or any(each.kind == "relation" for each in truth.sentences(generator)):
            break
    if generator.random() < 0.5:
        truth = truth.flipped()
    if generator.random() < 0.5:
        truth = truth.reversed()
    return truth
