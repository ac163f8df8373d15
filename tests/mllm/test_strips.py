"""Strips: what is in them, at sizes from 160 pixels to 4K."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from alref_edge.errors import InputError
from alref_edge.mllm.strips import BOX_COLOURS, GRID, PIXEL_BUDGET, BoxMarks, box_colour, draw_strip, strip_png

COLOURS = ((90, 30, 30), (30, 90, 30), (30, 30, 90), (90, 90, 30), (30, 90, 90))
NO_BOXES = np.zeros((0, 4), np.float32)


def frames(width: int, height: int, count: int = 5) -> list[np.ndarray]:
    return [np.full((height, width, 3), COLOURS[n % 5], np.uint8) for n in range(count)]


def colour_share(part: np.ndarray, name: str) -> float:
    return float((np.abs(part.astype(int) - BOX_COLOURS[name]).max(axis=-1) < 8).mean())


def rows_of(strip: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The rows of the strip whose left edge shows a frame of that colour."""
    return np.flatnonzero((np.abs(strip[:, 2].astype(int) - colour) < 3).all(axis=-1))


@pytest.mark.parametrize("size", [(160, 90), (160, 120), (90, 160), (256, 256), (960, 540), (3840, 2160), (2160, 3840)])
@pytest.mark.parametrize("columns", [1, 5])
def test_every_frame_is_whole_in_order_and_within_the_budget(size: tuple[int, int], columns: int) -> None:
    width, height = size
    strip = draw_strip(frames(width, height), columns=columns)
    assert strip.shape[0] % GRID == strip.shape[1] % GRID == 0
    assert strip.shape[0] * strip.shape[1] <= PIXEL_BUDGET + GRID * sum(strip.shape[:2])
    sizes = set()
    for number, colour in enumerate(COLOURS):
        rows, columns_there = np.nonzero((np.abs(strip.astype(int) - colour) < 3).all(axis=-1))
        top, left = rows.min(), columns_there.min()
        w, h = columns_there.max() + 1 - left, rows.max() + 1 - top
        # Whole: one rectangle of one colour, as many pixels as its sides say, but for the letters in the bars above.
        assert (np.abs(strip[top : top + h, left : left + w].astype(int) - colour) < 3).mean() > 0.98
        assert w / h == pytest.approx(width / height, rel=0.02)
        assert (left == 0) if columns == 1 else (left // w == number)
        sizes.add((int(w), int(h)))
    assert len(sizes) == 1
    shortest = min(next(iter(sizes)))
    assert shortest >= min(192, min(size)) or size[0] > 900


def test_small_frames_are_enlarged_and_large_ones_scaled_down() -> None:
    small, large = draw_strip(frames(160, 120)), draw_strip(frames(3840, 2160))
    assert small.shape[1] == 256
    assert rows_of(small, COLOURS[0]).size == 192
    assert 600 < large.shape[1] < 800


def test_bars_carry_different_numbers_and_leave_frames_uncovered() -> None:
    strip = draw_strip(frames(256, 256, 3))
    first, second, third = (rows_of(strip, colour) for colour in COLOURS[:3])
    assert first.size == second.size == third.size == 256
    bar = first[0]
    bars = [strip[rows[0] - bar : rows[0]] for rows in (first, second, third)]
    assert all((each > 200).any() for each in bars)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (bars[one] != bars[other]).any()
    for rows, colour in zip((first, second, third), COLOURS, strict=False):
        assert (np.abs(strip[rows].astype(int) - colour) < 3).all()


def test_boxes_lie_where_they_are_on_their_frame_alone() -> None:
    boxes = np.array([[64, 32, 128, 96], [160, 160, 240, 250]], np.float32)
    strip = draw_strip(frames(256, 256), marks=BoxMarks(2, boxes))
    tops = [rows_of(draw_strip(frames(256, 256)), colour)[0] for colour in COLOURS]
    for number, top in enumerate(tops):
        part = strip[top : top + 256]
        for row, (x0, y0, x1, y1) in enumerate(boxes.astype(int)):
            name = box_colour(row)
            if number == 2:
                edges = [part[y0, x0:x1], part[y1 - 1, x0:x1], part[y0:y1, x0], part[y0:y1, x1 - 1]]
                assert min(colour_share(edge, name) for edge in edges) > 0.8
                assert colour_share(part[y0 + 6 : y1 - 6, x0 + 6 : x1 - 6], name) == 0
            else:
                assert colour_share(part, name) == 0


def test_numbers_are_told_apart_and_cover_one_another_nowhere() -> None:
    same = np.tile(np.array([[60, 60, 200, 200]], np.float32), (3, 1))
    strip = draw_strip(frames(256, 256), marks=BoxMarks(0, same))
    shares = [colour_share(strip, box_colour(row)) * strip[..., 0].size for row in range(3)]
    assert min(shares) > 80  # each number's field is there although the outlines lie on one another
    assert [box_colour(row) for row in (0, 1, 2, 8)] == ["green", "magenta", "orange", "green"]


@pytest.mark.parametrize("size", [(160, 90), (3840, 2160)])
def test_boxes_at_the_edges_and_beyond_stay_in_the_frame(size: tuple[int, int]) -> None:
    width, height = size
    boxes = np.array(
        [[-50, -50, width + 50, height + 50], [0, 0, 1, 1], [width - 1, height - 1, width, height]], np.float32
    )
    strip, plain = (draw_strip(frames(width, height), marks=each) for each in (BoxMarks(4, boxes), None))
    rows = rows_of(plain, COLOURS[4])
    changed = np.flatnonzero((strip != plain).any(axis=(1, 2)))
    assert changed.min() >= rows[0]
    assert changed.max() <= rows[-1]


def test_the_png_is_the_strip_and_equal_frames_give_equal_files() -> None:
    pictures = [np.random.default_rng(n).integers(0, 255, (120, 160, 3), dtype=np.uint8) for n in range(3)]
    marks = BoxMarks(1, np.array([[5, 5, 60, 60]], np.float32))
    png = strip_png(pictures, marks=marks)
    with Image.open(io.BytesIO(png)) as image:
        np.testing.assert_array_equal(np.asarray(image), draw_strip(pictures, marks=marks))
    assert png == strip_png([each.copy() for each in pictures], marks=marks)


def test_the_budget_is_the_models() -> None:
    for budget in (40_000, 172_032, 700_000):
        strip = draw_strip(frames(256, 256, 4), pixel_budget=budget)
        assert strip.shape[0] * strip.shape[1] <= budget + GRID * sum(strip.shape[:2])
    assert draw_strip(frames(256, 256, 4), pixel_budget=172_032).shape == (896, 192, 3)


@pytest.mark.parametrize(
    ("images", "changes", "words"),
    [
        ([], {}, "has frames"),
        (frames(8, 8, 101), {}, "has frames"),
        (frames(8, 8), {"columns": 0}, "has frames"),
        ([*frames(8, 8), *frames(9, 8, 1)], {}, "not alike"),
        ([np.zeros((8, 8, 3), np.float32)], {}, "not alike"),
        ([np.zeros((8, 8), np.uint8)], {}, "not alike"),
        (frames(8, 8), {"pixel_budget": 5000}, "too small"),
        (frames(8, 8), {"marks": BoxMarks(5, NO_BOXES)}, "boxes of a strip"),
        (frames(8, 8), {"marks": BoxMarks(0, np.zeros((2, 3)))}, "boxes of a strip"),
        (frames(8, 8), {"marks": BoxMarks(0, np.full((1, 4), np.nan))}, "boxes of a strip"),
    ],
)
def test_what_makes_no_strip_is_refused(images: list[np.ndarray], changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        draw_strip(images, **changes)  # type: ignore[arg-type]
