"""Values that pass between the parts."""

from __future__ import annotations

import numpy as np
import pytest

from alref_edge.errors import InputError, quoted
from alref_edge.types import Detections, Pivot

BOXES = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [5, 0, 15, 10], [40, 40, 50, 50], [0, 0, 10, 10]], np.float32)
SCORES = np.array([0.5, 0.9, 0.4, 0.1, 0.9], np.float32)
FOUND = Detections(BOXES, SCORES, tuple("abcde"))


def test_the_best_come_first_and_equal_scores_keep_their_order() -> None:
    assert FOUND.top(3).phrases == ("b", "e", "a")
    assert FOUND.top(9).phrases == ("b", "e", "a", "c", "d")


def test_of_boxes_on_one_thing_the_best_is_kept() -> None:
    # Overlaps: a and e 1, a and b, b and e 9/11, b and c 6/14, a and c 5/15.
    assert FOUND.distinct(0.8).phrases == ("b", "c", "d")
    assert FOUND.distinct(0.42).phrases == ("b", "d")
    assert FOUND.distinct(0.9).phrases == ("b", "e", "c", "d")  # a is e's twin
    assert FOUND.distinct(0.01).phrases == ("b", "d")
    np.testing.assert_array_equal(FOUND.distinct(0.8).boxes_n4, BOXES[[1, 2, 3]])
    assert len(FOUND[:0].distinct(0.5)) == 0


def test_clipping_keeps_the_prompt_and_leaves_boxes_inside_alone() -> None:
    beyond = np.array([-2.9, 193.7, 270, 300], np.float32)
    pivot = Pivot(3, beyond, 0.5, "ball")
    np.testing.assert_array_equal(pivot.prompt_xyxy, beyond)
    clipped = pivot.clipped(256, 240)
    np.testing.assert_array_equal(clipped.box_xyxy, np.array([0, 193.7, 256, 240], np.float32))
    np.testing.assert_array_equal(clipped.clipped(256, 240).prompt_xyxy, beyond)
    assert (clipped.frame, clipped.score, clipped.phrase) == (3, 0.5, "ball")
    np.testing.assert_array_equal(FOUND.clipped(50, 50).boxes_n4, BOXES)
    np.testing.assert_array_equal(FOUND.clipped(12, 9).boxes_n4[3], [12, 9, 12, 9])
    assert len(FOUND[:0].clipped(12, 9)) == 0


@pytest.mark.parametrize("box", [[0, 0, 1], [0, 0, np.nan, 1], [[0, 0, 1, 1]]])
def test_neither_box_of_a_pivot_may_be_no_box(box: list[float]) -> None:
    for boxes in ((box, None), ([0, 0, 1, 1], box)):
        with pytest.raises(InputError, match="not a box"):
            Pivot(0, boxes[0], prompt_xyxy=boxes[1])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the red ball", "'the red ball'"),
        ("\x1b[31mred\nball\x07", "'\\x1b[31mred\\nball\\x07'"),
        ("x" * 500, "'" + "x" * 57 + "...'"),
        ("犬", "'犬'"),
    ],
)
def test_a_users_text_is_quoted_on_one_line(text: str, shown: str) -> None:
    assert quoted(text) == shown
