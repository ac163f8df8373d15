"""Values that pass between the parts."""

from __future__ import annotations

import numpy as np

from alref_edge.types import Detections

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
