"""Masks drawn over a frame: colours, outlines, labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from alref_edge.errors import InputError
from alref_edge.media.lettering import drawable, label_font
from alref_edge.media.palette import object_colour

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

_MOST_NAMED = 8


def draw_overlay(
    image_hw3_u8: np.ndarray,
    masks_nhw: np.ndarray,
    labels: Sequence[str] = (),
    *,
    objects: Sequence[int] | None = None,
    alpha: float = 0.5,
) -> np.ndarray:
    """Blends each mask in its object's colour, outlines it and writes its label at its top; a new array.

    Args:
        image_hw3_u8: RGB uint8 `[H, W, 3]`.
        masks_nhw: bool `[N, H, W]`; later ones lie on top.
        labels: N texts, or none; see `drawable` for characters that the font lacks.
        objects: N object numbers, which choose the colours; 0 to N - 1 by default.
        alpha: share of the colour inside the outline, 0 to 1.

    Returns:
        RGB uint8 `[H, W, 3]`.

    Raises:
        InputError: shapes, dtypes or counts that do not fit.
    """
    from PIL import Image

    _check(image_hw3_u8, masks_nhw, labels, objects, alpha)
    height, width = image_hw3_u8.shape[:2]
    picture = Image.fromarray(np.ascontiguousarray(image_hw3_u8))
    thickness = max(1, round(min(height, width) / 360))
    inside = np.uint8(round(255 * alpha))
    places: list[tuple[int, int, int]] = []
    for n, mask in enumerate(masks_nhw):
        rows = np.flatnonzero(mask.any(axis=1))
        if not rows.size:
            continue
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        columns = np.flatnonzero(mask[top:bottom].any(axis=0))
        left, right = int(columns[0]), int(columns[-1]) + 1
        part = mask[top:bottom, left:right]
        weight = part.view(np.uint8) * np.uint8(255)
        weight[_eroded(part, thickness)] = inside
        colour = object_colour(objects[n] if objects is not None else n)
        picture.paste(colour, (left, top, right, bottom), Image.fromarray(weight))
        places.append((n, left, top))
    taken: list[tuple[int, int, int, int]] = []
    for n, left, top in places:
        if labels and drawable(labels[n])[0]:
            colour = object_colour(objects[n] if objects is not None else n)
            patch = _label(labels[n], colour, _text_size(height), width)
            picture.paste(patch, _place(patch.size, left, top, width, height, taken))
    return np.asarray(picture)


def _eroded(mask: np.ndarray, times: int) -> np.ndarray:
    """The mask less its border (the edge of the array counts as outside), bool `[h, w]`."""
    inner = mask
    for _ in range(times):
        shrunk = np.zeros_like(inner)
        shrunk[1:-1, 1:-1] = inner[1:-1, 1:-1] & inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        inner = shrunk
    return inner


def _text_size(height: int) -> int:
    return int(np.clip(height // 34, 10, 40))


def _place(
    size: tuple[int, int], left: int, top: int, width: int, height: int, taken: list[tuple[int, int, int, int]]
) -> tuple[int, int]:
    """Top left corner for a label: over its mask, inside the frame, below the labels that are there already."""
    w, h = size
    x = max(0, min(left, width - w))
    y = max(0, min(top - h, height - h))
    for x0, y0, x1, y1 in sorted(taken, key=lambda box: box[1]):
        if x < x1 and x + w > x0 and y < y1 and y + h > y0 and y1 + h <= height:
            y = y1
    taken.append((x, y, x + w, y + h))
    return x, y


@lru_cache(maxsize=256)
def _label(text: str, colour: tuple[int, int, int], size: int, width: int) -> PilImage:
    from PIL import Image, ImageDraw

    text, _ = drawable(text)
    font = label_font(size)
    ascent, descent = font.getmetrics()
    pad = max(2, size // 4)
    room = width - 2 * pad
    if font.getlength(text) > room:
        while text and font.getlength(text + "...") > room:
            text = text[: max(0, min(len(text) - 1, int(len(text) * room / font.getlength(text + "..."))))]
        text += "..."
    patch = Image.new("RGB", (max(1, int(font.getlength(text)) + 2 * pad), ascent + descent), colour)
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    ink = (0, 0, 0) if luma > 140 else (255, 255, 255)
    ImageDraw.Draw(patch).text((pad, 0), text, ink, font=font)
    return patch.crop((0, 0, min(patch.width, width), patch.height))


def lacking_note(labels: Sequence[str]) -> list[str]:
    """A note about the characters of some labels that cannot be drawn, if there are any."""
    lacking = list(dict.fromkeys(char for label in labels for char in drawable(label)[1]))
    if not lacking:
        return []
    named = ", ".join(repr(char) for char in lacking[:_MOST_NAMED])
    more = f" and {len(lacking) - _MOST_NAMED} more" if len(lacking) > _MOST_NAMED else ""
    return [
        f"the overlay's font (Latin, Greek, Cyrillic) lacks {named}{more}: code points stand in the labels, "
        "the full texts in result.json and the report"
    ]


def _check(
    image: np.ndarray, masks: np.ndarray, labels: Sequence[str], objects: Sequence[int] | None, alpha: float
) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        got = f"{image.dtype} {list(image.shape)}"
        raise InputError("A frame has another form.", expected="uint8 [H, W, 3]", got=got)
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2] or masks.dtype != np.bool_:
        raise InputError(
            "Masks do not fit their frame.",
            expected=f"bool [N, {image.shape[0]}, {image.shape[1]}]",
            got=f"{masks.dtype} {list(masks.shape)}",
        )
    for name, values in (("labels", labels), ("objects", objects)):
        if values and len(values) != len(masks):
            raise InputError(f"{name} and masks differ in number.", expected=f"{len(masks)} {name}", got=len(values))
    if not 0 <= alpha <= 1:
        raise InputError("The blend is out of range.", expected="alpha 0 to 1", got=alpha)
