"""A clip to try the commands on, drawn on the spot: a red circle and a blue square cross before a textured wall."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np

from alref_edge.media.overlay import OverlayWriter

WIDTH, HEIGHT, FRAMES, FPS = 320, 240, 40, 8
_SUPERSAMPLING = 4


def write_sample_clip(path: str | os.PathLike[str]) -> None:
    """Write the clip as an H.264 MP4: 320x240, 40 frames, 8 frames/s; the same every time.

    Raises:
        InputError: the path cannot be written.
        CapacityError: the disk is full.
        MediaError: PyAV has no encoder that works.
    """
    nothing = np.zeros((0, HEIGHT, WIDTH), bool)
    with OverlayWriter(path, WIDTH, HEIGHT, FPS) as writer:
        for image in _frames():
            writer.write(image, nothing)


def _frames() -> Iterator[np.ndarray]:
    from PIL import Image, ImageDraw

    size = (WIDTH * _SUPERSAMPLING, HEIGHT * _SUPERSAMPLING)
    coarse = np.random.default_rng(0).integers(90, 150, (12, 16, 3), dtype=np.uint8)
    wall = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    for index in range(FRAMES):
        share = index / (FRAMES - 1)
        image = wall.copy()
        draw = ImageDraw.Draw(image)
        _shape(draw.ellipse, 60 + 200 * share, 130 - 60 * share, 28, (205, 40, 40))
        _shape(draw.rectangle, 250 - 180 * share, 110 + 50 * share, 26, (45, 75, 205))
        yield np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def _shape(draw: Callable[..., None], x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    corners = [round(_SUPERSAMPLING * value) for value in (x - radius, y - radius, x + radius, y + radius)]
    draw(corners, fill=colour)
