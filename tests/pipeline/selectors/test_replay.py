"""Pivots read from a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alref_edge.errors import InputError
from alref_edge.pipeline.selectors.base import Segment, pivot_of
from alref_edge.pipeline.selectors.replay import ReplaySelector
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
    found = three_boxes(decision.frame) if decision.found is None else decision.found
    return pivot_of(decision.frame, found, decision.box)


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
    answers = [{"target_frame_id": 2, "target_object_id": 1}, {"target_frame_id": -1}]
    named = ReplaySelector.from_file(file_of(tmp_path, {"exp_id": 0, "exp": "a dog", "res_list": answers}))
    assert [pivot and pivot.frame for pivot in select(named)] == [10, None, None]
    with pytest.raises(InputError, match="does not have this sentence"):
        named.given("a cat")
    many = [{"text": f"the dog {number}", "pivots": []} for number in range(10, 20)]
    ten = ReplaySelector.from_file(file_of(tmp_path, {"schema": "alref-edge.pivots/1", "sentences": many}))
    with pytest.raises(InputError, match=r"'the dog 10' or .* or 'the dog 14' or one of 5 more"):
        ten.given("a cat")
    nameless = ReplaySelector.from_file(file_of(tmp_path, {"res_list": answers}))
    assert nameless.given("anything") is None
    assert [pivot and pivot.frame for pivot in select(nameless, "anything")] == [10, None, None]


# A frame of 100 x 200 pixels: its boxes as they are recorded, and the second of them in pixels.
SHOWN = {
    "boxes": [[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.1, 0.2], [0.9, 0.9, 0.4, 0.4]],
    "logits": [0.9, 0.6, 0.3],
    "phrases": ["dog", "a dog", ""],
}


def recorded(number: int, shown: Any = SHOWN) -> dict[str, Any]:
    answers = [{"target_frame_id": 2, "target_object_id": number, "boxes_info": shown}]
    return {"exp_id": 0, "exp": "a dog", "res_list": answers}


def decided(selector: ReplaySelector) -> Pivot | None:
    """The pivot in a segment of frames of 100 x 200; grounding may not be asked."""
    shown = Segment(0, (0, 10, 20), {frame: np.zeros((100, 200, 3), np.uint8) for frame in (0, 10, 20)})
    decision = selector.select(shown, "a dog", lambda frame: pytest.fail("grounding was asked"))
    assert decision is not None
    assert decision.box is not None
    assert decision.found is not None
    return pivot_of(decision.frame, decision.found, decision.box)


@pytest.mark.parametrize(
    ("number", "box", "score", "phrase"),
    [
        (1, [0, 0, 200, 100], 0.9, "dog"),
        (2, [40, 40, 60, 60], 0.6, "a dog"),
        (3, [140, 70, 220, 110], 0.3, ""),  # beyond the frame, as the detector gave it
    ],
)
def test_recorded_boxes_are_those_that_the_answer_counts_in(
    number: int, box: list[float], score: float, phrase: str, tmp_path: Path
) -> None:
    selector = ReplaySelector.from_file(file_of(tmp_path, recorded(number)))
    pivot = decided(selector)
    assert pivot is not None
    np.testing.assert_allclose(pivot.box_xyxy, box, atol=1e-4)
    assert (pivot.frame, pivot.score, pivot.phrase) == (10, pytest.approx(score), phrase)
    assert selector.facts == {"boxes": "as recorded"}


@pytest.mark.parametrize(("number", "shown"), [(4, SHOWN), (0, SHOWN), (-1, SHOWN), (1, {"boxes": []})])
def test_a_number_beyond_the_recorded_boxes_drops_the_segment(number: int, shown: Any, tmp_path: Path) -> None:
    assert decided(ReplaySelector.from_file(file_of(tmp_path, recorded(number, shown)))) is None


def test_scores_and_phrases_may_be_missing_and_our_own_form_has_boxes_too(tmp_path: Path) -> None:
    segments = [{"target_frame_id": 2, "target_object_id": 2, "boxes_info": {"boxes": SHOWN["boxes"]}}]
    own = {"schema": "alref-edge.pivots/1", "sentences": [{"text": "a dog", "segments": segments}]}
    pivot = decided(ReplaySelector.from_file(file_of(tmp_path, own)))
    assert pivot is not None
    assert (pivot.box_xyxy.tolist(), pivot.score) == (pytest.approx([40, 40, 60, 60]), 1.0)


def test_grounding_anew_leaves_recorded_boxes_aside(tmp_path: Path) -> None:
    selector = ReplaySelector.from_file(file_of(tmp_path, recorded(2)), ground_anew=True)
    assert selector.facts == {"boxes": "grounded anew"}
    pivot = pivot_in(selector, segment(0, 0, 10, 20, 30, 40), "a dog")
    assert pivot is not None
    assert pivot.box_xyxy.tolist() == [10, 1, 15, 6]
    some = recorded(2)
    some["res_list"].append({"target_frame_id": 1, "target_object_id": 1})
    assert ReplaySelector.from_file(file_of(tmp_path, some)).facts == {"boxes": "as recorded or grounded anew"}


@pytest.mark.parametrize(
    "shown",
    [
        [1],
        {},
        {"boxes": [[0, 0, 1]]},
        {"boxes": [[0, 0, 1, float("inf")]]},
        {"boxes": [[0, 0, 1, "1"]]},
        {**SHOWN, "logits": [0.5]},
        {**SHOWN, "phrases": ["dog", "dog", 3]},
    ],
    ids=str,
)
def test_recorded_boxes_that_are_none_are_refused(shown: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="boxes_info"):
        ReplaySelector.from_file(file_of(tmp_path, recorded(1, shown)))


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


def test_the_readme_shows_a_file_that_is_read(tmp_path: Path) -> None:
    readme = (Path(__file__).parent.parent.parent.parent / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```json\n(\{\"schema\": \"alref-edge.pivots/1\".*?)```", readme, re.DOTALL)
    (tmp_path / "pivots.json").write_text(shown, encoding="utf-8")
    selector = ReplaySelector.from_file(tmp_path / "pivots.json")
    assert [pivot.frame for pivot in selector.given("the dog on the left") or ()] == [20]
    assert selector.answers["the red ball"][0].target_frame_id == 3
