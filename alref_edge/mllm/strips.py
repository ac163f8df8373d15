"""Strips: what a multimodal LLM sees of a video. Numbered frames in one picture, with numbered boxes on one of them.

Frames lie in reading order, each under a bar with its number, so that nothing of them is covered; boxes have named
colours, for prompts to speak of.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alref_edge.errors import InputError

BOX_COLOURS = {
    "green": (0, 210, 0),
    "magenta": (255, 0, 255),
    "orange": (255, 140, 0),
    "blue": (40, 90, 255),
    "red": (235, 20, 20),
    "cyan": (0, 225, 225),
    "yellow": (250, 230, 0),
    "white": (255, 255, 255),
}
"""Name to RGB; box k has the k-th, and the first again after the last: the number then tells them apart."""

PIXEL_BUDGET = 1_500_000
"""Pixels of a strip where nothing else is said: about 1,500 tokens of Qwen3-VL, 1,900 of Qwen2.5-VL."""

GRID = 32
"""Sides of a strip are multiples of it: Qwen3-VL then takes it as it is; Qwen2.5-VL (28) resizes it by a little."""

_SHORTEST_SIDE = 192
_BAR = 24
_BAR_RGB, _TEXT_RGB = (16, 16, 16), (255, 255, 255)
_MOST_FRAMES = 100


@dataclass(frozen=True, eq=False)
class BoxMarks:
    """Boxes to be drawn on one frame of a strip.

    Attributes:
        frame: its place among the strip's frames, from 0.
        boxes_n4: float32 `[N, 4]`, xyxy in pixels of the frame as it was before scaling; numbered from 1.
    """

    frame: int
    boxes_n4: np.ndarray


def box_colour(index: int) -> str:
    """Name of the colour of box `index`, from 0."""
    return tuple(BOX_COLOURS)[index % len(BOX_COLOURS)]


def draw_strip(
    images: Sequence[np.ndarray], *, columns: int = 1, marks: BoxMarks | None = None, pixel_budget: int = PIXEL_BUDGET
) -> np.ndarray:
    """Put frames into one picture, in reading order.

    Frames are scaled alike: down as far as the budget asks, up to a shorter side of 192 pixels where it allows that.

    Args:
        images: RGB uint8 `[H, W, 3]`, all of one size, at most 100.
        columns: frames in a row; 1 stacks them.
        marks: boxes to be drawn.
        pixel_budget: most pixels of the picture, give or take the last row and column of the grid.

    Returns:
        RGB uint8 `[h, w, 3]`, sides multiples of 32.

    Raises:
        InputError: frames, boxes or a budget that make no strip.
    """
    _check(images, columns, marks, pixel_budget)
    rows = math.ceil(len(images) / columns)
    columns = min(columns, len(images))
    width, height, bar = _tile(images[0].shape[1], images[0].shape[0], rows * columns, pixel_budget)
    size = columns * width, rows * (bar + height)
    canvas = Image.new("RGB", (_up(size[0]), _up(size[1])), _BAR_RGB)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(round(0.7 * _text_size(height)))
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x, y = column * width, row * (bar + height)
        draw.text((x + _BAR // 4, y + bar // 2), f"Frame {index + 1}", _TEXT_RGB, font, anchor="lm")
        picture = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BICUBIC)
        if marks is not None and marks.frame == index:
            scale_4 = np.array([width / image.shape[1], height / image.shape[0]] * 2)
            _draw_boxes(picture, np.asarray(marks.boxes_n4, np.float64) * scale_4)
        canvas.paste(picture, (x, y + bar))
    return np.asarray(canvas)


def strip_png(
    images: Sequence[np.ndarray], *, columns: int = 1, marks: BoxMarks | None = None, pixel_budget: int = PIXEL_BUDGET
) -> bytes:
    """The strip of `draw_strip` as a PNG file: without loss, so that equal frames make equal requests."""
    file = io.BytesIO()
    strip = draw_strip(images, columns=columns, marks=marks, pixel_budget=pixel_budget)
    Image.fromarray(strip).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _tile(width: int, height: int, count: int, pixel_budget: int) -> tuple[int, int, int]:
    """Width and height of a frame in a strip of so many, and the height of the bar above it, which fills the grid."""
    scale = max(1.0, _SHORTEST_SIDE / min(width, height))
    while True:
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        bar = _up(h + _text_size(h)) - h
        if count * w * (h + bar) <= pixel_budget or min(w, h) == 1:
            return w, h, bar
        scale *= min(0.999, math.sqrt(pixel_budget / (count * w * (h + bar))))


def _text_size(height: int) -> int:
    return max(_BAR, round(height / 8))


def _up(side: int) -> int:
    return math.ceil(side / GRID) * GRID


def _draw_boxes(picture: Image.Image, boxes_n4: np.ndarray) -> None:
    """Outlines first, numbers over them: a number is hidden by no box, and by no other number while there is room."""
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    line = max(2, round(min(width, height) / 120))
    font = ImageFont.load_default(max(13, round(min(width, height) / 14)))
    colours = [BOX_COLOURS[box_colour(index)] for index in range(len(boxes_n4))]
    limits = np.array([width - 1, height - 1] * 2)
    corners = np.clip(boxes_n4, 0, limits).round().astype(int).tolist()
    for (x0, y0, x1, y1), colour in zip(corners, colours, strict=True):
        draw.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=colour, width=line)
    taken: list[tuple[int, int, int, int]] = []
    for number, (box, colour) in enumerate(zip(corners, colours, strict=True), 1):
        left, top, right, bottom = draw.textbbox((0, 0), str(number), font)
        w, h = round(right - left) + 8, round(bottom - top) + 6
        x, y = _place((w, h), box, (width, height), taken)
        taken.append((x, y, x + w, y + h))
        draw.rectangle((x, y, x + w - 1, y + h - 1), fill=colour)
        dark = sum(colour) > 380
        draw.text((x + w / 2, y + h / 2), str(number), (0, 0, 0) if dark else (255, 255, 255), font, anchor="mm")


def _place(
    size: tuple[int, int], box: Sequence[int], limits: tuple[int, int], taken: Sequence[tuple[int, int, int, int]]
) -> tuple[int, int]:
    """Where a box's number goes: outside at a corner, or inside at one, wherever it covers no other number."""
    (w, h), (x0, y0, x1, y1) = size, box
    places = [(x0, y0 - h), (x1 - w + 1, y0 - h), (x0, y1 + 1), (x1 - w + 1, y1 + 1)]
    places += [(x0, y0), (x1 - w + 1, y0), (x0, y1 - h + 1), (x1 - w + 1, y1 - h + 1)]
    inside = [(x, y) for x, y in places if 0 <= x <= limits[0] - w and 0 <= y <= limits[1] - h]
    for x, y in inside:
        if not any(x < right and x + w > left and y < bottom and y + h > top for left, top, right, bottom in taken):
            return x, y
    return min(max(x0, 0), max(limits[0] - w, 0)), min(max(y0, 0), max(limits[1] - h, 0))


def _check(images: Sequence[np.ndarray], columns: int, marks: BoxMarks | None, pixel_budget: int) -> None:
    if not 1 <= len(images) <= _MOST_FRAMES or columns < 1:
        raise InputError(
            "A strip has frames.", expected=f"1 to {_MOST_FRAMES}, in rows of 1 or more", got=(len(images), columns)
        )
    first = images[0].shape
    if any(image.dtype != np.uint8 or image.ndim != 3 or image.shape != first or first[2] != 3 for image in images):
        raise InputError(
            "The frames of a strip are not alike.",
            expected="RGB uint8 [H, W, 3], all of one size",
            got=[f"{image.dtype} {list(image.shape)}" for image in images[:5]],
        )
    if pixel_budget < len(images) * GRID * GRID:
        raise InputError(
            "The pixel budget of a strip is too small.",
            expected=f"{len(images) * GRID * GRID} or more for {len(images)} frames",
            got=pixel_budget,
            mend="raise --llm-pixels.",
        )
    if marks is None:
        return
    boxes = np.asarray(marks.boxes_n4)
    if not 0 <= marks.frame < len(images) or boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise InputError(
            "The boxes of a strip make no sense.",
            expected=f"finite [N, 4] on a frame from 0 to {len(images) - 1}",
            got=f"{list(boxes.shape)} on frame {marks.frame}",
        )
