"""The reference's report of a sentence: what the two sides found, beside each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.reference_sentences import _row

BOX = [8.0, 8.0, 24.0, 24.0]
VIDEO = {"width": 32, "height": 32}


def _side(*pivots: tuple[int, list[float] | None]) -> dict[str, Any]:
    masks_thw = np.zeros((2, 32, 32), bool)
    masks_thw[:, 8:24, 8:24] = True
    return {
        "text": "a star",
        "pivots": [{"frame": frame, "box": box} for frame, box in pivots],
        "masks_thw": masks_thw,
    }


@pytest.mark.parametrize(
    ("mine", "error"),
    [
        ([(0, BOX), (1, BOX)], 0.0),
        ([(0, BOX), (1, [8.0, 8.0, 24.0, 28.0])], 0.125),
        ([(0, BOX), (0, BOX)], float("inf")),  # another frame
        ([(0, BOX), (1, None)], float("inf")),  # no box
        ([(0, None), (1, None)], float("inf")),
    ],
)
def test_boxes_are_as_far_apart_as_the_furthest(mine: list[tuple[int, list[float] | None]], error: float) -> None:
    theirs = _side((0, BOX), (1, BOX))
    assert _row(theirs, theirs, _side(*mine), VIDEO)["box_error"] == error
