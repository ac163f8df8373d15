"""The measures of AVSBench on frames small enough to be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from alref_edge.errors import InputError
from alref_edge.metrics import ClassScores, sounding_f, sounding_j


def mask(text: str) -> np.ndarray:
    """Rows of `#` and `.`, parted by spaces, as bool `[H, W]`."""
    return np.array([[letter == "#" for letter in row] for row in text.split()])


NOTHING = mask(".... ....")
LEFT = mask("##.. ##..")


@pytest.mark.parametrize(
    ("predicted", "truth", "j", "f"),
    [
        (LEFT, LEFT, 1, 1),
        # 2 of 4 taken are right, 2 of 4 true are taken: 2 / 6, and 1.3 * 2 / (0.3 * 4 + 4); the frame has 5.2 / 9.2.
        (mask("##.. ..##"), LEFT, 2 / 6, 5.2 / 9.2),
        # 1 taken is right: 1 / 4, and precision 1, recall 1 / 4: 1.3 / 2.2.
        (mask("#... ...."), LEFT, 1 / 4, 1.3 / 2.2),
        # 4 of 5 taken are right, recall is 1: 1.3 * 0.8 / (0.24 + 1).
        (mask("##.. ###."), LEFT, 4 / 5, 1.04 / 1.24),
        # Nothing, or all wrong: the whole frame has precision 1 / 2 and recall 1.
        (NOTHING, LEFT, 0, 0.65 / 1.15),
        (~LEFT, LEFT, 0, 0.65 / 1.15),
        # Nothing sounds: the share that is left out, and no F.
        (NOTHING, NOTHING, 1, 0),
        (mask("#... ...."), NOTHING, 7 / 8, 0),
        (~NOTHING, NOTHING, 0, 0),
    ],
)
def test_a_frame(predicted: np.ndarray, truth: np.ndarray, j: float, f: float) -> None:
    assert sounding_j(predicted, truth) == pytest.approx(j)
    assert sounding_f(predicted, truth) == pytest.approx(f)


def classes(text: str) -> np.ndarray:
    return np.array([[int(letter) for letter in row] for row in text.split()], np.uint8)


def test_classes_are_summed_over_frames() -> None:
    # Class 0: 5 true, 6 taken, 5 shared; class 1: 3 true, 1 taken, 1 shared; class 2: 1 taken, none true.
    first = ClassScores.of(classes("1200 0000"), classes("1100 0001"), 4)
    assert first.frames_c.tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(first.iou_c, [5 / 6, 1 / 3, 0, 0])
    np.testing.assert_allclose(first.f_c, [1.3 * 5 / (1.5 + 6), 1.3 / (0.9 + 1), 0, 0])
    # Class 0: 4 of 4; class 2: 4 of 4.
    both = ClassScores.total([first, ClassScores.of(classes("2200 2200"), classes("2200 2200"), 4)])
    assert both.frames_c.tolist() == [2, 1, 2, 0]
    assert both.miou == pytest.approx(((5 / 6 + 1) / 2 + 1 / 3 + 1 / 2 + 0) / 4)
    assert both.f == pytest.approx(((6.5 / 7.5 + 1) / 2 + 1.3 / 1.9 + 1 / 2 + 0) / 4)


@pytest.mark.parametrize("other", [LEFT[:1], LEFT.astype(np.uint8), LEFT[None]])
def test_two_masks_that_are_not_alike_are_refused(other: np.ndarray) -> None:
    for measure in (sounding_j, sounding_f):
        with pytest.raises(InputError, match="cannot be compared"):
            measure(other, LEFT)


@pytest.mark.parametrize("other", ["00", "0003 0000", None])
def test_two_class_maps_that_are_not_alike_are_refused(other: str | None) -> None:
    predicted = LEFT if other is None else classes(other)
    with pytest.raises(InputError, match="class map"):
        ClassScores.of(predicted, classes("1100 0000"), 3)
