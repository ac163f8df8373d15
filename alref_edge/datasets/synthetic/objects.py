"""The things in a scene: outlines, colours, sizes, and how one moves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLOURS = {
    "red": (215, 40, 38),
    "green": (42, 160, 55),
    "blue": (40, 80, 215),
    "yellow": (236, 218, 48),
    "orange": (243, 135, 25),
    "purple": (140, 55, 185),
    "white": (242, 242, 242),
    "black": (24, 24, 28),
}
SIZES = {"small": 14.5, "medium": 22.5, "large": 34.0}
"""Half the width of an object in pixels, give or take 7 %."""

MOTIONS = ("still", "left", "right", "up", "down", "swing")

_SUPERSAMPLING = 4
_RIM_PX = 2.0


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One object of a scene.

    Attributes:
        shape: one of `SHAPES`.
        colour: a key of `COLOURS`.
        size: a key of `SIZES`.
        motion: one of `MOTIONS`: what it does on the whole.
        centres_t2: x and y of its middle in each frame, whole pixels, int64 [frames, 2]; it may lie outside.
        sprite_rgb: its picture, uint8 [s, s, 3], s odd.
        sprite_alpha: its coverage, uint8 [s, s]; from 128 on a pixel is the object's.
    """

    shape: str
    colour: str
    size: str
    motion: str
    centres_t2: np.ndarray = field(repr=False)
    sprite_rgb: np.ndarray = field(repr=False)
    sprite_alpha: np.ndarray = field(repr=False)

    @property
    def radius(self) -> int:
        """Half the side of its picture, in pixels."""
        return int(self.sprite_alpha.shape[0]) // 2


def draw_sprite(generator: np.random.Generator, shape: str, colour: str, size: str) -> tuple[np.ndarray, np.ndarray]:
    """A picture of an object: tilted, shaded, a little off its colour, with a dark rim.

    Returns:
        uint8 [s, s, 3] and its coverage, uint8 [s, s].
    """
    radius = SIZES[size] * generator.uniform(0.93, 1.07)
    side = 2 * math.ceil(radius * 1.15) + 1
    outline_n2 = _outline(shape) * radius
    tilt = math.radians(generator.uniform(-12, 12))
    turn = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]])
    outer = _cover(outline_n2 @ turn.T, side)
    inner = _cover(outline_n2 @ turn.T * (1 - _RIM_PX / radius), side)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    angle = generator.uniform(0, 2 * math.pi)
    light = 1 + 0.1 * (x * math.cos(angle) + y * math.sin(angle))
    light = light * (0.72 + 0.28 * inner / 255.0)
    base = np.asarray(COLOURS[colour], np.float64) + generator.uniform(-12, 12, 3)
    grain = generator.normal(0, 3, (side, side, 1))
    rgb = np.clip(base * light[..., None] + grain, 0, 255).astype(np.uint8)
    return rgb, outer


def draw_path(
    generator: np.random.Generator, motion: str, radius: float, width: int, height: int, num_frames: int
) -> np.ndarray:
    """Where an object's middle is in each frame, int64 [frames, 2]; some paths begin or end outside the picture."""
    across = motion in ("left", "right", "swing")
    span, other = (width, height) if across else (height, width)
    time = np.linspace(0, 1, num_frames)
    margin = min(radius * 1.1, other / 2)
    steady = np.full(num_frames, generator.uniform(margin, other - margin))
    if motion == "still":
        along = np.full(num_frames, generator.uniform(min(radius * 1.1, span / 2), max(span - radius * 1.1, span / 2)))
        return np.stack([steady, along], axis=1).round().astype(np.int64)
    if motion == "swing":
        reach = generator.uniform(0.16, 0.3) * span
        middle = generator.uniform(reach + 4, span - reach - 4)
        turns = generator.uniform(1.0, 2.0)
        along = middle + reach * np.sin(2 * math.pi * (turns * time + generator.uniform()))
    else:
        start = generator.uniform(-1.2 * radius, 0.55 * span)
        length = generator.uniform(0.3, 0.85) * span
        ease = time + 0.12 * np.sin(2 * math.pi * time) * generator.uniform(-1, 1)
        along = start + length * ease
        if motion in ("left", "up"):
            along = span - along
    steady = steady + generator.uniform(-0.06, 0.06) * other * (time - 0.5)
    path = np.stack([along, steady] if across else [steady, along], axis=1)
    return path.round().astype(np.int64)


def _cover(outline_n2: np.ndarray, side: int) -> np.ndarray:
    """Coverage of the pixels by a polygon around the middle, uint8 [side, side]."""
    large = Image.new("L", (side * _SUPERSAMPLING, side * _SUPERSAMPLING))
    points = (outline_n2 + side / 2) * _SUPERSAMPLING
    ImageDraw.Draw(large).polygon([(float(x), float(y)) for x, y in points], fill=255)
    return np.asarray(large.resize((side, side), Image.Resampling.BOX))


def _outline(shape: str) -> np.ndarray:
    """The polygon of a shape of about unit half width, y downwards, [n, 2]."""
    if shape == "square":
        return 0.86 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    if shape == "triangle":
        return np.array([(0, -0.98), (1.02, 0.82), (-1.02, 0.82)], float)
    if shape == "cross":
        a = 0.36
        quarter = [(a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]
        return np.array([*quarter, (-a, -1)], float)
    if shape == "star":
        angles = np.arange(10) * math.pi / 5 - math.pi / 2
        lengths = np.array([1.1, 0.5] * 5)[:, None]
        return np.asarray(lengths * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    angles = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    if shape == "heart":
        x = 16 * np.sin(angles) ** 3
        y = 13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)
        return np.stack([x / 16.5, -(y + 2.5) / 15.0], axis=1)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)
