"""Scenes: a few coloured shapes move before a textured background, with the exact mask of each in every frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from alref_edge.datasets.synthetic.objects import (
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    SceneObject,
    draw_path,
    draw_sprite,
)
from alref_edge.datasets.synthetic.words import Expression, describe
from alref_edge.errors import InputError

TRAINING_SEEDS = 1_000_000
"""Networks are trained on scenes from this seed on; those below are for tests and measurements."""

_SMALLEST = 96
_ATTEMPTS = 60
# Each object is seen, by more than a third of it, in at least this share of the frames.
_SEEN = 0.5


@dataclass(frozen=True, eq=False)
class Scene:
    """A clip that is drawn when asked for.

    Attributes:
        seed: names the scene, together with its size and length.
        width, height: of a frame, in pixels.
        fps: frames per second.
        num_frames: length.
        objects: those in the scene, the later before (over) the earlier.
        expressions: sentences, each true of exactly one object.
    """

    seed: int
    width: int
    height: int
    fps: int
    num_frames: int
    objects: tuple[SceneObject, ...]
    expressions: tuple[Expression, ...]
    _wall: np.ndarray = field(repr=False)
    _pan_t2: np.ndarray = field(repr=False)
    _grain: np.ndarray = field(repr=False)

    def frame(self, index: int) -> np.ndarray:
        """A frame, RGB uint8 [H, W, 3].

        Raises:
            InputError: there is no such frame.
        """
        self._check(index)
        x, y = self._pan_t2[index]
        image = self._wall[y : y + self.height, x : x + self.width].copy()
        for each in self.objects:
            place, part = self._overlap(each, index)
            if place is None:
                continue
            alpha = each.sprite_alpha[part].astype(np.int32)[..., None]
            under = image[place].astype(np.int32)
            image[place] = (under + (each.sprite_rgb[part] - under) * alpha // 255).astype(np.uint8)
        shift = (index * 37) % self._grain.shape[0]
        grain = np.roll(self._grain, shift, axis=0)[: self.height, : self.width, None]
        return np.asarray(np.clip(image.astype(np.int16) + grain, 0, 255), np.uint8)

    def labels(self, index: int) -> np.ndarray:
        """The object that is seen at each pixel, int8 [H, W]; -1 where there is none.

        Raises:
            InputError: there is no such frame.
        """
        self._check(index)
        labels = np.full((self.height, self.width), -1, np.int8)
        for number, each in enumerate(self.objects):
            place, part = self._overlap(each, index)
            if place is not None:
                labels[place][each.sprite_alpha[part] >= 128] = number
        return labels

    def masks(self, index: int) -> np.ndarray:
        """What is seen of each object, bool [objects, H, W]; they do not overlap. See `labels`."""
        return np.asarray(self.labels(index)[None] == np.arange(len(self.objects), dtype=np.int8)[:, None, None])

    def boxes(self, index: int) -> np.ndarray:
        """Boxes of what is seen of each object, float32 xyxy [objects, 4]; NaN where nothing is."""
        boxes = np.full((len(self.objects), 4), np.nan, np.float32)
        for number, mask in enumerate(self.masks(index)):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            if len(rows):
                boxes[number] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return boxes

    def _overlap(self, each: SceneObject, index: int) -> tuple[tuple[slice, slice] | None, tuple[slice, slice]]:
        """Where an object's picture lies in the frame, and which part of it does; no place if it is outside."""
        (x, y), radius = each.centres_t2[index], each.radius
        left, top, right, bottom = x - radius, y - radius, x + radius + 1, y + radius + 1
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, self.width), min(bottom, self.height)
        part = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        return (None if x0 >= x1 or y0 >= y1 else (slice(y0, y1), slice(x0, x1))), part

    def _check(self, index: int) -> None:
        if not 0 <= index < self.num_frames:
            raise InputError("The scene has no such frame.", expected=f"0 to {self.num_frames - 1}", got=index)


def make_scene(
    seed: int,
    width: int = 256,
    height: int = 256,
    num_frames: int = 40,
    fps: int = 8,
    objects: tuple[int, int] = (2, 5),
) -> Scene:
    """The scene of a seed: the same for the same arguments, on every machine.

    Most objects share the shape or the colour of another, so that a sentence is needed to tell them apart; some hide
    others for a while, enter or leave.

    Args:
        seed: 0 or more; see `TRAINING_SEEDS`.
        width, height: of a frame in pixels, 96 or more; objects keep their sizes in pixels.
        num_frames: 1 or more.
        fps: frames per second.
        objects: fewest and most objects.

    Raises:
        InputError: a size, length or seed that makes no scene.
    """
    fewest, most = objects
    if seed < 0 or min(width, height) < _SMALLEST or num_frames < 1 or fps < 1 or not 1 <= fewest <= most <= 100:
        raise InputError(
            "There is no such scene.",
            expected=f"seed >= 0, sides >= {_SMALLEST}, frames >= 1, fps >= 1, 1 to 100 objects",
            got=f"seed {seed}, {width}x{height}, {num_frames} frames, {fps} fps, {objects} objects",
        )
    generator = np.random.default_rng([seed, 2408])
    kinds = _kinds(generator, int(generator.integers(fewest, most + 1)))
    made = _place(generator, kinds, width, height, num_frames)
    wall, pan_t2 = _wall(generator, width, height, num_frames)
    grain = generator.integers(-4, 5, (height + 37, width), dtype=np.int16)
    return Scene(
        seed, width, height, fps, num_frames, made, describe(generator, made, width, height), wall, pan_t2, grain
    )


def _kinds(generator: np.random.Generator, count: int) -> list[tuple[str, str, str]]:
    """Shape, colour and size of each object; most share a shape or a colour with an earlier one."""
    kinds: list[tuple[str, str, str]] = []
    while len(kinds) < count:
        shape, colour, size = (str(generator.choice(list(names))) for names in (SHAPES, COLOURS, SIZES))
        if kinds and generator.random() < 0.75:
            other = kinds[int(generator.integers(len(kinds)))]
            share = generator.random()
            if share < 0.65:
                shape = other[0]
            if share > 0.4:
                colour = other[1]
        # Twins can be told apart by where they are or what they do alone.
        if (shape, colour, size) not in kinds or generator.random() < 0.1:
            kinds.append((shape, colour, size))
    return kinds


def _place(
    generator: np.random.Generator, kinds: list[tuple[str, str, str]], width: int, height: int, num_frames: int
) -> tuple[SceneObject, ...]:
    """Give each object a picture and a path; paths are drawn again while one hides another, or is out, for too long."""
    sprites = [draw_sprite(generator, *kind) for kind in kinds]
    best: tuple[float, list[str], list[np.ndarray]] | None = None
    for _ in range(_ATTEMPTS):
        motions = [str(generator.choice(MOTIONS)) for _ in kinds]
        paths = [
            draw_path(generator, motion, SIZES[kind[2]], width, height, num_frames)
            for motion, kind in zip(motions, kinds, strict=True)
        ]
        seen = _least_seen(np.stack(paths), np.array([SIZES[kind[2]] for kind in kinds]), width, height)
        if best is None or seen > best[0]:
            best = seen, motions, paths
        if seen >= _SEEN:
            break
    assert best is not None
    return tuple(
        SceneObject(*kind, motion=motion, centres_t2=path, sprite_rgb=rgb, sprite_alpha=alpha)
        for kind, motion, path, (rgb, alpha) in zip(kinds, best[1], best[2], sprites, strict=True)
    )


def _least_seen(paths_nt2: np.ndarray, radii_n: np.ndarray, width: int, height: int) -> float:
    """The least, over objects, share of the frames in which more than about a third of one is seen."""
    limits = np.array([width, height]) - 1
    inside_nt = ((paths_nt2 >= 0) & (paths_nt2 <= limits)).all(axis=-1)
    gaps_nmt = np.hypot(*np.moveaxis(paths_nt2[:, None] - paths_nt2[None], -1, 0))
    later = np.arange(len(radii_n))[None] > np.arange(len(radii_n))[:, None]
    covered_nmt = gaps_nmt < (0.25 * radii_n[:, None] + 0.75 * radii_n[None])[..., None]
    hidden_nt = (covered_nmt & later[..., None]).any(axis=1)
    return float((inside_nt & ~hidden_nt).mean(axis=1).min())


def _wall(generator: np.random.Generator, width: int, height: int, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """A muted texture larger than a frame, uint8 [h, w, 3], and where the frame's corner lies on it, int64 [t, 2]."""
    margin = 24
    full = width + 2 * margin, height + 2 * margin
    base = generator.uniform(85, 165) + generator.uniform(-18, 18, 3)
    texture = np.zeros((full[1], full[0], 3), np.float32) + base.astype(np.float32)
    for cell, strength in ((72, 22.0), (24, 12.0), (8, 7.0)):
        shape = math.ceil(full[1] / cell) + 2, math.ceil(full[0] / cell) + 2
        coarse = generator.normal(0, strength, shape).astype(np.float32)
        fine = Image.fromarray(coarse).resize((shape[1] * cell, shape[0] * cell), Image.Resampling.BICUBIC)
        texture += np.asarray(fine)[: full[1], : full[0], None]
    time = np.linspace(0, 1, num_frames)[:, None]
    start, end = generator.uniform(0, 2 * margin, (2, 1, 2))
    return np.clip(texture, 62, 205).astype(np.uint8), (start + (end - start) * time).astype(np.int64)
