"""Pivots read from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alref_edge.errors import InputError
from alref_edge.pipeline.pivots import Segment, pivot_of
from alref_edge.pipeline.replay import ReplaySelector
from alref_edge.types import Detections, Pivot


def three_boxes(frame: int) -> Detections:
    """A scripted grounder: three boxes on frames below 60, one on 60, none later."""
    count = 3 if frame < 60 else int(frame == 60)
    boxes = np.array([[frame, n, frame + 5, n + 5] for n in range(count)], np.float32).reshape(-1, 4)
    return Detections(boxes, np.linspace(0.9, 0.5, count, dtype=np.float32), ("it",) * count)


def segment(index: int, *sampled: int) -> Segment:
    return Segment(index, sampled, {frame: np.zeros((2, 2, 3), np.uint8) for frame in sampled})


def file_of(folder: Path, value: Any) -> Path:
    path = folder / "pivots.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def of_segments(*answers: tuple[int, int], text: str = "a dog") -> dict[str, Any]:
    segments = [{"target_frame_id": frame, "target_object_id": box} for frame, box in answers]
    return {"schema": "alref-edge.pivots/1", "sentences": [{"text": text, "segments": segments}]}


def pivot_in(selector: ReplaySelector, shown: Segment, text: str) -> Pivot | None:
    """The pivot of what is decided about a segment."""
    decision = selector.select(shown, text, three_boxes)
    if decision is None or decision.box is None:
        return None
    return pivot_of(decision.frame, three_boxes(decision.frame), decision.box)


def select(selector: ReplaySelector, text: str = "a dog") -> list[Pivot | None]:
    """Three segments: two full ones and a tail of two sampled frames."""
    return [
        pivot_in(selector, each, text)
        for each in (segment(0, 0, 10, 20, 30, 40), segment(1, 50, 60, 70, 80, 90), segment(2, 100, 110))
    ]


def test_answers_are_numbers_of_frame_and_box(tmp_path: Path) -> None:
    selector = ReplaySelector.from_file(file_of(tmp_path, of_segments((3, 2), (1, 3))))
    first, second, third = select(selector)
    assert selector.given("a dog") is None
    assert first is not None
    assert second is not None
    assert (first.frame, first.box_xyxy[1]) == (20, 1)
    assert (second.frame, second.box_xyxy[1]) == (50, 2)
    assert third is None


@pytest.mark.parametrize("answer", [(0, 1), (6, 1), (-1, 1), (3, 1), (1, 0), (1, 4), (1, -1)])
def test_a_number_that_names_nothing_drops_the_segment(tmp_path: Path, answer: tuple[int, int]) -> None:
    selector = ReplaySelector.from_file(file_of(tmp_path, of_segments(answer)))
    whole = pivot_in(selector, segment(0, 0, 10, 20, 30, 40), "a dog")
    tail = pivot_in(selector, segment(0, 0, 10), "a dog")
    assert tail is None
    assert (whole is None) == (answer != (3, 1))


def test_a_frame_without_boxes_drops_the_segment(tmp_path: Path) -> None:
    selector = ReplaySelector.from_file(file_of(tmp_path, of_segments((1, 1), (3, 1))))
    first, second, _ = select(selector)
    assert first is not None
    assert second is None


def test_whole_pivots_need_no_look_and_come_in_order(tmp_path: Path) -> None:
    pivots = [{"frame": 30, "box": [1, 2, 3, 4], "score": 0.5, "phrase": "dog"}, {"frame": 7, "box": [0, 0, 9, 9]}]
    raw = {"schema": "alref-edge.pivots/1", "sentences": [{"text": "a dog", "pivots": pivots}]}
    given = ReplaySelector.from_file(file_of(tmp_path, raw)).given(" a dog ")
    assert given is not None
    assert [(pivot.frame, pivot.score, pivot.phrase) for pivot in given] == [(7, 1.0, ""), (30, 0.5, "dog")]
    np.testing.assert_array_equal(given[1].box_xyxy, np.array([1, 2, 3, 4], np.float32))


def test_the_official_file_is_read_with_and_without_its_sentence(tmp_path: Path) -> None:
    answers = [{"target_frame_id": 2, "target_object_id": 1, "boxes_info": {"boxes": []}}, {"target_frame_id": -1}]
    named = ReplaySelector.from_file(file_of(tmp_path, {"exp_id": 0, "exp": "a dog", "res_list": answers}))
    assert [pivot and pivot.frame for pivot in select(named)] == [10, None, None]
    with pytest.raises(InputError, match="does not have this sentence"):
        named.given("a cat")
    nameless = ReplaySelector.from_file(file_of(tmp_path, {"res_list": answers}))
    assert nameless.given("anything") is None
    assert [pivot and pivot.frame for pivot in select(nameless, "anything")] == [10, None, None]


def test_an_unknown_sentence_names_the_known_ones(tmp_path: Path) -> None:
    selector = ReplaySelector.from_file(file_of(tmp_path, of_segments((1, 1))))
    with pytest.raises(InputError, match="a dog"):
        selector.given("a cat")


def pivot_file(**pivot: Any) -> dict[str, Any]:
    return {"schema": "alref-edge.pivots/1", "sentences": [{"text": "a dog", "pivots": [pivot]}]}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([1], "an object"),
        ({"schema": "alref-edge.pivots/9", "sentences": []}, "pivots/1"),
        ({"schema": "alref-edge.pivots/1"}, "sentences"),
        ({"schema": "alref-edge.pivots/1", "sentences": [{"text": "a"}]}, "either pivots or segments"),
        ({"schema": "alref-edge.pivots/1", "sentences": [{"text": " ", "pivots": []}]}, "a sentence"),
        ({"schema": "alref-edge.pivots/1", "sentences": [{"text": "a", "pivots": [], "segments": []}]}, "either"),
        ({"schema": "alref-edge.pivots/1", "sentences": 2 * [{"text": "a", "pivots": []}]}, "every sentence once"),
        (of_segments(("1", 1)), "a whole number"),  # type: ignore[arg-type]
        (of_segments((True, 1)), "a whole number"),
        (pivot_file(frame=-1, box=[0, 0, 1, 1]), "a frame from 0"),
        (pivot_file(frame=1, box=[0, 0, 1]), "x0 y0 x1 y1"),
        (pivot_file(frame=1, box=[5, 0, 1, 1]), "x0 < x1"),
        (pivot_file(frame=1, box="0 0 1 1"), "a list"),
        (pivot_file(frame=1, box=[0, 0, "1", 1]), "a number"),
        (pivot_file(frame=1, box=[0, 0, float("inf"), 1]), "finite"),
        (pivot_file(frame=1, box=[0, 0, 1, 1], phrase=3), "text"),
    ],
)
def test_malformed_files_say_where(tmp_path: Path, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ReplaySelector.from_file(file_of(tmp_path, value))


def test_two_pivots_on_one_frame_are_refused(tmp_path: Path) -> None:
    raw = pivot_file(frame=1, box=[0, 0, 1, 1])
    raw["sentences"][0]["pivots"] *= 2
    with pytest.raises(InputError, match="one pivot a frame"):
        ReplaySelector.from_file(file_of(tmp_path, raw))
