"""J and F against the official figures on real sequences, against a slow reading of the definition, and by hand."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.errors import InputError
from alref_edge.metrics import JAndF, Statistics, boundary_measure, j_and_f, region_similarity

ROOT = Path(__file__).parent.parent.parent


def box_mask(shape: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def dot(shape: tuple[int, int], y: int, x: int) -> np.ndarray:
    return box_mask(shape, x, y, x + 1, y + 1)


@pytest.fixture(scope="module")
def official() -> Path:
    """Folder of masks of DAVIS 2017 sequences, with the official figures."""
    folder = Path(os.environ.get("ALREF_REFERENCE", ROOT.parent / "shared" / "reference")) / "davis_masks"
    if not (folder / "expected_j_f.json").is_file():
        pytest.skip(f"no reference masks at {folder}; set ALREF_REFERENCE")
    return folder


@pytest.mark.parametrize("sequence", ["car-shadow", "kite-surf"])
def test_real_sequences_give_the_official_figures(official: Path, sequence: str) -> None:
    expected = json.loads((official / "expected_j_f.json").read_text())[sequence]
    truth, result = (
        np.stack([np.asarray(Image.open(path)) for path in sorted((official / sequence / kind).iterdir())])
        for kind in ("truth", "result")
    )
    assert list(truth.shape) == expected["shape"]
    assert expected["objects"]
    for name, figures in expected["objects"].items():
        gt, pred = name.removeprefix("gt").split("_pred")
        measured = j_and_f(result == int(pred), truth == int(gt))
        assert measured.j == pytest.approx(figures["J_mean"], abs=1e-6)
        assert measured.f == pytest.approx(figures["F_mean"], abs=1e-6)
        np.testing.assert_allclose(measured.region_t[:5], figures["J_first5"], atol=1e-6)
        np.testing.assert_allclose(measured.boundary_t[:5], figures["F_first5"], atol=1e-6)


def slow_boundary(mask: np.ndarray) -> list[tuple[int, int]]:
    """Pixels unlike their right, lower or lower right neighbour; beyond its edge the mask goes on."""
    wide = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    height, width = mask.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    return [(y, x) for y, x in pixels if 0 < wide[y : y + 2, x : x + 2].sum() < 4]


def slow_f(one: np.ndarray, other: np.ndarray, radius: int) -> float:
    ours, theirs = slow_boundary(one), slow_boundary(other)
    if not ours or not theirs:
        return float(not ours and not theirs)
    near = np.array([[(y - b) ** 2 + (x - a) ** 2 <= radius**2 for b, a in theirs] for y, x in ours])
    precision, recall = near.any(axis=1).mean(), near.any(axis=0).mean()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("bound", [1, 2, 5, 0.008, 0.06])
def test_f_is_what_its_definition_says(bound: float) -> None:
    generator = np.random.default_rng(int(1000 * bound))
    radius = int(bound) if bound >= 1 else math.ceil(bound * math.hypot(23, 31))
    seen = []
    for number in range(24):
        masks = []
        for _ in range(2):
            (y0, y1), (x0, x1) = np.sort(generator.integers(0, 24, 2)), np.sort(generator.integers(0, 32, 2))
            mask = box_mask((23, 31), x0, y0, x1, y1)
            if number % 3 == 0:
                mask ^= generator.random((23, 31)) < 0.03
            masks.append(mask)
        expected = slow_f(masks[0], masks[1], radius)
        assert boundary_measure(masks[0], masks[1], bound) == pytest.approx(expected, abs=1e-12)
        seen.append(expected)
    assert len(set(seen)) > 10


def test_j_by_hand() -> None:
    shape = 20, 30
    square = box_mask(shape, 4, 5, 6, 7)
    assert region_similarity(square, box_mask(shape, 5, 5, 7, 7)) == pytest.approx(2 / 6)
    assert region_similarity(square, square) == 1
    assert region_similarity(square, box_mask(shape, 10, 10, 12, 12)) == 0


def test_f_by_hand() -> None:
    # A dot at (10, 10) has the boundary {9, 10} x {9, 10}, one two pixels to the right {9, 10} x {11, 12}: of either,
    # the half that faces the other lies within a pixel.
    shape = 20, 30
    assert boundary_measure(dot(shape, 10, 10), dot(shape, 10, 12), 1) == 0.5
    assert boundary_measure(dot(shape, 10, 10), dot(shape, 10, 11), 1) == 1
    assert boundary_measure(dot(shape, 10, 10), dot(shape, 10, 14), 1) == 0
    # In the corner the dot's boundary is the dot, and the square's is (0, 1), (1, 0), (1, 1): the last is too far.
    assert boundary_measure(dot(shape, 0, 0), box_mask(shape, 0, 0, 2, 2), 1) == pytest.approx(0.8)


@pytest.mark.parametrize(("shape", "expected"), [((256, 256), 0.5), ((480, 854), 1.0)])
def test_the_distance_grows_with_the_frame(shape: tuple[int, int], expected: float) -> None:
    # ceil(0.008 * diagonal) is 3 and 8 pixels; the dots' boundaries are 3 to 5 apart.
    assert boundary_measure(dot(shape, 50, 50), dot(shape, 50, 54)) == expected


def test_masks_without_a_boundary() -> None:
    nothing, everything = np.zeros((20, 30), bool), np.ones((20, 30), bool)
    something = box_mask((20, 30), 3, 3, 9, 9)
    cases = [
        (nothing, nothing, 1, 1), (everything, everything, 1, 1),
        (nothing, something, 0, 0), (something, nothing, 0, 0),
        # Neither has a boundary, so officially the boundaries agree.
        (everything, nothing, 0, 1),
    ]  # fmt: skip
    for one, other, j, f in cases:
        assert (region_similarity(one, other), boundary_measure(one, other)) == (j, f)


def test_all_frames_count_unless_the_ends_are_left_out() -> None:
    square, other = box_mask((20, 30), 4, 5, 9, 9), box_mask((20, 30), 20, 5, 25, 9)
    predicted, truth = [other, square, square, other], [square] * 4
    measured = j_and_f(predicted, np.stack(truth))
    np.testing.assert_array_equal(measured.region_t, [0, 1, 1, 0])
    np.testing.assert_array_equal(measured.boundary_t, [0, 1, 1, 0])
    assert measured.j == measured.f == measured.j_and_f == 0.5
    inner = j_and_f(iter(predicted), iter(truth), skip_ends=True)
    assert len(inner.region_t) == 2
    assert inner.j_and_f == 1


def test_mean_recall_and_decay_by_hand() -> None:
    # Of eight frames the official quarters are frames 0-2, 2-4, 4-5, 5-7: each shares its ends.
    values = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    statistics = Statistics.of(values)
    assert statistics.mean == pytest.approx(0.55)
    assert statistics.recall == 0.5
    assert statistics.decay == pytest.approx(0.8 - 0.3)
    assert JAndF(values, values[::-1]).boundary.decay == pytest.approx(-0.5)
    assert Statistics.of(np.array([0.7])) == Statistics(0.7, 1.0, 0.0)
    assert Statistics.of(np.repeat([1.0, 0.0], 500)).decay == 1


def test_what_cannot_be_compared_is_refused() -> None:
    mask = box_mask((20, 30), 4, 5, 9, 9)
    with pytest.raises(InputError, match=r"bool\[20, 30\].*uint8\[20, 30\]"):
        region_similarity(mask.astype(np.uint8), mask)
    with pytest.raises(InputError, match=r"bool\[20, 30\].*bool\[20, 29\]"):
        boundary_measure(mask[:, 1:], mask)
    with pytest.raises(InputError, match="cannot be compared"):
        region_similarity(mask[None], mask[None])
    for bound in (0, -1, 1.5, math.nan):
        with pytest.raises(InputError, match="distance"):
            boundary_measure(mask, mask, bound)
    for predicted, truth in (([mask], [mask] * 2), ([mask] * 3, [mask] * 2)):
        with pytest.raises(InputError, match="differ in length"):
            j_and_f(predicted, truth)
    with pytest.raises(InputError, match="no frame that counts"):
        j_and_f([], [])
    with pytest.raises(InputError, match="3 or more"):
        j_and_f([mask] * 2, [mask] * 2, skip_ends=True)
