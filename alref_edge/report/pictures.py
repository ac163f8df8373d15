"""Small pictures for the page: frames with masks, contours and boxes, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alref_edge.media import object_colour
from alref_edge.models.audio.log_mel import MEL_BANDS, PATCH_FRAMES, SAMPLE_RATE, SHIFT_SAMPLES, log_mel_patches
from alref_edge.report.markup import Html, element

_QUALITY = 80
_DIMMED = 0.55
_MOST_COLUMNS = 1000
# Of log-mel values, which are natural logarithms of magnitudes: 60 dB, and what is as far above no sound at all.
_RANGE = 60 * np.log(10) / 20
_FAINT = 0.0
_HEAT = ((12, 16, 38), (52, 38, 108), (150, 48, 112), (232, 106, 72), (252, 222, 150))


@dataclass
class Album:
    """Makes pictures until their room is used up.

    Attributes:
        room: characters of data URIs that may still be made.
        refused: pictures that were left out for want of room.
    """

    room: int
    refused: int = 0

    def picture(self, image_hw3_u8: np.ndarray, alt: str) -> Html | None:
        """An `img` element that holds its picture, RGB uint8 `[H, W, 3]`; None where there is no room for it."""
        options = {"quality": _QUALITY, "subsampling": 0, "optimize": True}
        return self._kept(Image.fromarray(image_hw3_u8), alt, "jpeg", options)

    def drawing(self, image: Image.Image, alt: str) -> Html | None:
        """The same of an image that is kept as it is, to the pixel."""
        return self._kept(image, alt, "png", {"optimize": True})

    def _kept(self, image: Image.Image, alt: str, form: str, options: dict[str, Any]) -> Html | None:
        file = io.BytesIO()
        image.save(file, form, **options)
        address = f"data:image/{form};base64," + base64.b64encode(file.getvalue()).decode("ascii")
        if len(address) > self.room:
            self.refused += 1
            return None
        self.room -= len(address)
        return element("img", src=address, alt=alt, width=image.width, height=image.height)


def spectrogram(wave_16khz: np.ndarray, seconds: int) -> Image.Image:
    """The log-mel spectrogram that YAMNet sees, low notes at the bottom, time from left to right.

    Args:
        wave_16khz: float `[samples]` in [-1, 1]; what is beyond `seconds` is left out, what is missing is silence.
        seconds: from the left edge to the right one.

    Returns:
        An image with a palette, 128 high and at most 1000 wide: from the loudest sound there is, or a faint one, down
        to 60 dB below it.
    """
    wave = np.zeros(seconds * SAMPLE_RATE, np.float32)
    heard = wave_16khz[: len(wave)]
    wave[: len(heard)] = heard
    patches_ptb = log_mel_patches(wave, hop_s=PATCH_FRAMES * SHIFT_SAMPLES / SAMPLE_RATE)
    mel_tb = patches_ptb.reshape(-1, MEL_BANDS)[: len(wave) // SHIFT_SAMPLES]
    columns = np.array_split(mel_tb, min(len(mel_tb), _MOST_COLUMNS))
    mel_bt = np.stack([column.mean(axis=0) for column in columns], axis=1)[::-1]
    top = max(float(mel_bt.max()), _FAINT)
    shades = 255 * np.clip(1 + (mel_bt - top) / _RANGE, 0, 1)
    image = Image.fromarray(shades.astype(np.uint8).repeat(2, axis=0), "P")
    stops = np.linspace(0, 255, len(_HEAT))
    palette = [np.interp(np.arange(256), stops, channel) for channel in np.array(_HEAT).T]
    image.putpalette(np.stack(palette, axis=1).astype(np.uint8).tobytes())
    return image


def shrunk(image_hw3_u8: np.ndarray, side: int) -> np.ndarray:
    """A frame whose longer side is at most `side` pixels, RGB uint8 `[h, w, 3]`."""
    size = _fitted(image_hw3_u8, side)
    return np.asarray(Image.fromarray(image_hw3_u8).resize(size, Image.Resampling.BOX, reducing_gap=2.0))


def with_mask(image_hw3_u8: np.ndarray, mask_hw: np.ndarray, truth_hw: np.ndarray | None, side: int) -> np.ndarray:
    """A small frame, bright inside a mask, dim and grey outside; the contour of the truth is white, edged with black.

    So the mask can be told from the picture whatever the colours of the two.

    Args:
        image_hw3_u8: RGB uint8 `[H, W, 3]`.
        mask_hw, truth_hw: bool `[H, W]`.
        side: the longer one of the picture, in pixels.
    """
    small = shrunk(image_hw3_u8, side)
    grey = small.mean(axis=2, keepdims=True)
    dim = (_DIMMED * (0.3 * small + 0.7 * grey)).astype(np.uint8)
    drawn = np.where(_shrunk_mask(mask_hw, side)[..., None], small, dim)
    if truth_hw is not None:
        truth = _shrunk_mask(truth_hw, side)
        grown = _grown(truth)
        drawn[_grown(grown) & ~grown] = 0
        drawn[grown & ~truth] = 255
    return drawn


def with_boxes(
    image_hw3_u8: np.ndarray, boxes: Sequence[Sequence[float]], pivot: Sequence[float], number: int, side: int
) -> np.ndarray:
    """A small frame with the boxes that were considered, numbered from 1, and the pivot's box in its object's colour.

    Args:
        image_hw3_u8: RGB uint8 `[H, W, 3]`.
        boxes: xyxy in pixels of the frame.
        pivot: the same, of the one that was taken.
        number: the object's, which chooses the colour.
        side: the longer one of the picture, in pixels.
    """
    small = shrunk(image_hw3_u8, side)
    scale = np.array([small.shape[1] / image_hw3_u8.shape[1], small.shape[0] / image_hw3_u8.shape[0]] * 2)
    picture = Image.fromarray(small)
    draw = ImageDraw.Draw(picture)
    corners = [_within(np.asarray(box) * scale, picture) for box in boxes]
    for each in corners:
        draw.rectangle(each, outline=(255, 255, 255))
    x0, y0, x1, y1 = _within(np.asarray(pivot) * scale, picture)
    draw.rectangle((x0, y0, x1, y1), outline=(255, 255, 255), width=4)
    draw.rectangle((x0 + 1, y0 + 1, x1 - 1, y1 - 1), outline=object_colour(number), width=2)
    font = ImageFont.load_default(12)
    for order, (left, top, _, _) in enumerate(corners, 1):
        x, y = min(left, picture.width - 14), top - 15 if top >= 15 else top
        draw.rectangle((x, y, x + 13, y + 14), fill=(0, 0, 0))
        draw.text((x + 7, y + 7), str(order), (255, 255, 255), font=font, anchor="mm")
    return np.asarray(picture)


def _within(box: np.ndarray, picture: Image.Image) -> tuple[int, int, int, int]:
    """Corners of a box's outline inside a picture, at least 4 pixels apart."""
    limits = np.array([picture.width, picture.height] * 2) - 1
    x0, y0, x1, y1 = (int(value) for value in np.clip(np.round(box), 0, limits))
    x0, y0 = max(0, min(x0, int(limits[0]) - 4)), max(0, min(y0, int(limits[1]) - 4))
    return x0, y0, max(x1, x0 + 4), max(y1, y0 + 4)


def _fitted(image: np.ndarray, side: int) -> tuple[int, int]:
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _shrunk_mask(mask_hw: np.ndarray, side: int) -> np.ndarray:
    coverage = Image.fromarray(mask_hw.astype(np.uint8) * 255).resize(_fitted(mask_hw, side), Image.Resampling.BOX)
    return np.asarray(coverage) >= 128


def _grown(mask_hw: np.ndarray) -> np.ndarray:
    """The mask and its neighbours above, below, left and right."""
    wide = np.pad(mask_hw, 1)
    grown: np.ndarray = wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    return grown
