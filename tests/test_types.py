"""Values that pass between the parts."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

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


@dataclass
class Theirs:
    """What `supervision.Detections` has, where supervision is not installed."""

    xyxy: np.ndarray
    confidence: np.ndarray | None = None
    class_id: np.ndarray | None = None
    data: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(params=["real", "stand-in"])
def theirs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class that detections become."""
    if request.param == "real":
        return pytest.importorskip("supervision").Detections
    module = ModuleType("supervision")
    module.Detections = Theirs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", module)
    return Theirs


def test_detections_go_to_supervision_and_come_back(theirs: Any) -> None:
    named = Detections(BOXES, SCORES, ("dog", "cat", "dog", "a red ball", "cat"))
    for found in (named, named[1:2], named[:0]):
        given = found.to_supervision()
        assert isinstance(given, theirs)
        np.testing.assert_array_equal(given.xyxy, found.boxes_n4)
        np.testing.assert_array_equal(given.confidence, found.scores_n)
        back = Detections.from_supervision(given)
        assert back.phrases == found.phrases
        np.testing.assert_array_equal(back.boxes_n4, found.boxes_n4)
        np.testing.assert_array_equal(back.scores_n, found.scores_n)
        assert back.boxes_n4.dtype == back.scores_n.dtype == np.float32
    assert named.to_supervision().class_id.tolist() == [0, 1, 0, 2, 1]


def test_what_supervision_does_not_know_is_filled_in(theirs: Any) -> None:
    bare = Detections.from_supervision(theirs(xyxy=BOXES[:2].astype(np.float64)))
    assert (bare.phrases, bare.scores_n.tolist(), bare.boxes_n4.dtype) == (("", ""), [1, 1], np.float32)
    numbered = Detections.from_supervision(theirs(xyxy=BOXES[:2], class_id=np.array([7, 3])))
    assert numbered.phrases == ("7", "3")


def test_without_supervision_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        FOUND.to_supervision()


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
