"""Windows, segments and the grounding selector: pure functions, a scripted grounder."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from alref_edge.errors import InputError
from alref_edge.pipeline.rvos import cut_into_segments
from alref_edge.pipeline.selectors.base import Decision, Segment
from alref_edge.pipeline.selectors.grounding import GroundingSelector
from alref_edge.pipeline.settings import REF_DAVIS17, RvosSettings
from alref_edge.types import Detections


class ScriptedGrounder:
    """Answers from a table of scores by frame; notes what it was asked."""

    def __init__(self, scores: Mapping[int, list[float]]) -> None:
        self.scores = scores
        self.asked: list[int] = []

    def __call__(self, frame: int) -> Detections:
        self.asked.append(frame)
        scores = np.array(self.scores.get(frame, []), np.float32)
        boxes = np.array([[frame, n, frame + 10, n + 10] for n in range(len(scores))], np.float32).reshape(-1, 4)
        return Detections(boxes, scores, tuple(f"phrase {n}" for n in range(len(scores))))


def segment(*sampled: int, index: int = 0) -> Segment:
    return Segment(index, sampled, {frame: np.full((2, 2, 3), frame, np.uint8) for frame in sampled})


@pytest.mark.parametrize(
    ("frames", "sampled"),
    [
        (1, [(0,)]),
        (10, [(0,)]),
        (11, [(0, 10)]),
        (50, [(0, 10, 20, 30, 40)]),
        (51, [(0, 10, 20, 30, 40), (50,)]),
        (60, [(0, 10, 20, 30, 40), (50,)]),
        (61, [(0, 10, 20, 30, 40), (50, 60)]),
        (120, [(0, 10, 20, 30, 40), (50, 60, 70, 80, 90), (100, 110)]),
    ],
)
def test_windows_are_those_of_the_official_code(frames: int, sampled: list[tuple[int, ...]]) -> None:
    found = list(cut_into_segments(frames, RvosSettings()))
    assert [span.sampled for span in found] == sampled
    assert [span.is_segment for span in found] == [len(each) > 1 for each in sampled]
    assert [frame for span in found for frame in span.frames] == list(range(frames))


@pytest.mark.parametrize("frames", range(1, 11))
def test_a_short_clip_is_one_window_of_what_there_is(frames: int) -> None:
    (span,) = cut_into_segments(frames, RvosSettings(ask_short=True))
    assert span.is_segment
    assert span.frames == range(frames)
    assert min(frames, 3) <= len(span.sampled) <= 5
    assert span.sampled[0] == 0


@pytest.mark.parametrize("frames", [0, 11, 51, 60, 120])
def test_longer_clips_are_cut_as_ever(frames: int) -> None:
    assert list(cut_into_segments(frames, RvosSettings(ask_short=True))) == list(
        cut_into_segments(frames, RvosSettings())
    )


def test_the_best_box_of_all_sampled_frames_is_the_pivot() -> None:
    ground = ScriptedGrounder({0: [0.3], 10: [0.9, 0.8], 20: [0.5], 30: [], 40: [0.6]})
    assert GroundingSelector().select(segment(0, 10, 20, 30, 40), "a dog", ground) == Decision(10, 0)
    assert ground.asked == [0, 10, 20, 30, 40]


def test_of_equal_scores_the_earlier_frame_wins_and_without_a_box_there_is_no_pivot() -> None:
    selector = GroundingSelector()
    assert selector.select(segment(50, 60), "a dog", ScriptedGrounder({50: [0.5], 60: [0.5]})) == Decision(50, 0)
    assert selector.select(segment(50, 60), "a dog", ScriptedGrounder({})) is None


def test_a_segment_shows_its_own_frames_only() -> None:
    shown = segment(50, 60)
    assert shown.image(60)[0, 0, 0] == 60
    with pytest.raises(InputError, match="not sampled there"):
        shown.image(55)


def test_settings_know_their_presets_and_their_key() -> None:
    settings = RvosSettings()
    assert (settings.fallback_box_threshold, REF_DAVIS17.fallback_box_threshold) == (0.001, 0.1)
    assert settings.cache_key() == RvosSettings().cache_key() != REF_DAVIS17.cache_key()
    assert RvosSettings.from_mapping({"sample_step": 4}).sample_step == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample_step": 0},
        {"frames_per_segment": 2.5},
        {"box_threshold": 1.1},
        {"text_threshold": "0.2"},
        {"boxes_per_frame": True},
        {"fill_hole_area": -1},
        {"max_pivots_in_attention": 1},
        {"colour": "red"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong)) if "colour" not in wrong else "no such setting"):
        RvosSettings.from_mapping(wrong)
