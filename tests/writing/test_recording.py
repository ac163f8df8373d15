"""Decisions of runs, recorded and compared with the answers that were replayed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alref_edge.datasets.synthetic import SceneSource, make_scene
from alref_edge.datasets.synthetic.sound import make_sound
from alref_edge.errors import AlrefError, InputError
from alref_edge.evaluation.agreement import compare_folders
from alref_edge.pipeline import (
    AvsRun,
    GroundingSelector,
    Pipeline,
    PivotSelector,
    ReplaySelector,
    ReplaySoundSelector,
    RvosResult,
    Segment,
    Setting,
)
from alref_edge.pipeline.selectors.replay import Answer
from alref_edge.pipeline.selectors.sound_replay import STAGE_1, STAGE_2, RecordedAnswers
from alref_edge.types import Pivot
from alref_edge.writing.recording import TWO_STAGE, record_decisions, sentence_decisions, sound_decisions

# Three shapes, one object each, in view all the time; see tests/pipeline/test_avs.py.
SEED = 1918
# So low that grounding proposes three boxes for whatever it is asked for.
THRESHOLD = 0.0001
SENTENCES = ("the circle", "the square", "the star", "the circle")


@pytest.fixture(scope="module")
def pipeline(nano_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.from_bundle(nano_bundle, device="cpu", threads=1) as made:
        yield made


def hear(pipeline: Pipeline, folder: Path, setting: Setting, first: str, second: object) -> AvsRun:
    """A clip of five seconds run with answers that are written to a folder."""
    where = folder / setting.value
    where.mkdir(parents=True)
    (where / STAGE_1).write_text(json.dumps({"clip": first}))
    (where / STAGE_2).write_text(json.dumps({} if second is None else {"clip": second}))
    scene = make_scene(SEED)
    settings = pipeline.avs_settings(setting.settings).changed({"box_threshold": THRESHOLD})
    selector = ReplaySoundSelector.from_folder(folder, setting, "clip")
    return pipeline.avs(SceneSource(scene), make_sound(scene).wave_16khz, selector=selector, settings=settings)


def look(
    pipeline: Pipeline, selector: PivotSelector, frames: int = 115, threshold: float = THRESHOLD
) -> list[RvosResult]:
    """A clip of three segments, the last of which has two sampled frames."""
    settings = replace(pipeline.settings, box_threshold=threshold, distinct_iou=None)
    source = SceneSource(make_scene(SEED, num_frames=frames))
    return list(pipeline.rvos(source, SENTENCES, selector=selector, settings=settings))


ANSWERS = {
    "the circle": (Answer(3, 1), Answer(5, 3), Answer(2, 2)),
    "the square": (Answer(2, 2), Answer(4, -1), Answer(1, 1)),
    "the star": (Answer(-1, -1), Answer(1, 1), Answer(2, 3)),
}


@pytest.mark.parametrize(
    ("setting", "first", "second", "boxes"),
    [
        (Setting.S4, "{'circle': 4}", "2", {"circle": 2}),
        (Setting.MS3, "{'star': 1, 'circle': 5, 'square': 3}", {"star": "3", "circle": "1", "square": "2"}, None),
        (Setting.AVSS, "{'a \"wide\" \\'star\\'': 2}", {"a \"wide\" 'star'": "3"}, {"a \"wide\" 'star'": 3}),
        (Setting.MS3, "{}", None, {}),
    ],
)
def test_a_replayed_clip_agrees_with_its_own_answers(
    setting: Setting, first: str, second: object, boxes: object, pipeline: Pipeline, tmp_path: Path
) -> None:
    with hear(pipeline, tmp_path / "answers", setting, first, second) as run:
        assert all(len(each.considered) == 3 for each in run.windows[0].objects)
        assert sound_decisions(run)[1] == (boxes if boxes is not None else {"star": 3, "circle": 1, "square": 2})
        record_decisions(tmp_path / "ours", setting, "clip", run)
    given = RecordedAnswers.from_folder(tmp_path / "answers", setting)
    assert RecordedAnswers.from_folder(tmp_path / "ours", setting) == given
    assert [*given.pivots["clip"]] == [*RecordedAnswers.from_folder(tmp_path / "ours", setting).pivots["clip"]]
    (agreement,) = compare_folders(tmp_path / "answers", tmp_path / "ours")
    assert {share.mean for share in agreement.measures.values()} == {1.0}
    assert agreement.measures.keys() >= ({"box_same_frame", "pivot_exact"} if second else {"categories_exact"})


def test_where_one_box_is_proposed_none_is_recorded(pipeline: Pipeline, tmp_path: Path) -> None:
    with hear(pipeline, tmp_path, Setting.MS3, "{'circle': 1}", {"circle": "3"}) as run:
        (window,) = run.windows
    alone = replace(window.objects[0], considered=window.objects[0].considered[2:])
    lost = replace(window.objects[0], name="dog", pivot=None, considered=window.objects[0].considered[:0])
    assert sound_decisions(replace(run, windows=(replace(window, objects=(alone, lost)),))) == (
        {"circle": 1, "dog": 1},
        {},
    )


def test_a_record_keeps_the_other_clips_and_replaces_its_own(pipeline: Pipeline, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    with hear(pipeline, tmp_path / "one", Setting.MS3, "{'circle': 4}", {"circle": "2"}) as run:
        record_decisions(ours, "ms3", "one", run)
        record_decisions(ours, "ms3", "two", run)
        record_decisions(ours, "avss", "two", run)
    with hear(pipeline, tmp_path / "two", Setting.MS3, "{'star': 2, 'square': 1}", None) as run:
        record_decisions(ours, "ms3", "one", run)
    read = RecordedAnswers.from_folder(ours, "ms3")
    assert read.pivots == {"one": {"star": 2, "square": 1}, "two": {"circle": 4}}
    assert read.boxes == {"two": {"circle": 2}, "one": {"star": 1, "square": 1}}
    assert json.loads((ours / "ms3" / STAGE_2).read_text())["two"] == {"circle": "2"}
    assert RecordedAnswers.from_folder(ours, "avss").pivots == {"two": {"circle": 4}}
    assert sorted(path.name for path in ours.rglob("*.*")) == [STAGE_1, STAGE_1, STAGE_2, STAGE_2]


def test_replayed_sentences_agree_with_their_own_answers(pipeline: Pipeline, tmp_path: Path) -> None:
    """Also where a box was rejected, and where no frame was named."""
    results = look(pipeline, ReplaySelector({}, ANSWERS))
    assert {len(found) for result in results for found in result.considered.values()} == {3}
    assert {result.sentence: tuple(sentence_decisions(result)) for result in results} == ANSWERS
    record_decisions(tmp_path / "ours", None, "video", results)
    files = sorted((tmp_path / "ours").rglob("*.json"))
    assert [path.relative_to(tmp_path / "ours") for path in files] == [
        Path("video", "stage_2", str(number), TWO_STAGE) for number in range(4)
    ]
    assert [ReplaySelector.from_file(path).answers for path in files] == [
        {result.sentence: ANSWERS[result.sentence]} for result in results
    ]
    # In the layout of the official code, whose numbers of expressions are other ones.
    for number, text in enumerate(reversed(SENTENCES)):
        where = tmp_path / "reference" / "video" / "stage_2" / str(number + 9)
        where.mkdir(parents=True)
        segments = [
            {"target_frame_id": a.target_frame_id, "target_object_id": a.target_object_id} for a in ANSWERS[text]
        ]
        (where / TWO_STAGE).write_text(json.dumps({"exp_id": number, "exp": text, "res_list": segments}))
    (agreement,) = compare_folders(tmp_path / "reference", tmp_path / "ours")
    assert {name: (share.mean, share.count) for name, share in agreement.measures.items()} == {
        "kept": (1.0, 12), "pivot_exact": (1.0, 11), "pivot_within_1": (1.0, 11), "box": (1.0, 11),
        "box_same_frame": (1.0, 11),
    }  # fmt: skip


def test_a_record_of_sentences_is_replayed_in_the_boxes_that_were_shown(pipeline: Pipeline, tmp_path: Path) -> None:
    """Whatever a detector would find now."""
    results = look(pipeline, GroundingSelector(), frames=60)
    record_decisions(tmp_path, None, "video", results)
    for number, result in enumerate(results[:3]):
        selector = ReplaySelector.from_file(tmp_path / "video" / "stage_2" / str(number) / TWO_STAGE)
        assert selector.facts == {"boxes": "as recorded"}
        images = {frame: np.zeros((result.run.info.height, result.run.info.width, 3), np.uint8) for frame in range(50)}
        segment = Segment(0, tuple(range(0, 50, 10)), images)
        decision = selector.select(segment, result.sentence, lambda frame: pytest.fail("grounding was asked"))
        assert decision is not None
        assert decision.found is not None
        shown = result.considered[decision.frame]
        np.testing.assert_allclose(decision.found.boxes_n4, shown.boxes_n4, rtol=1e-5, atol=1e-3)
        np.testing.assert_array_equal(decision.found.scores_n, shown.scores_n)
        assert decision.found.phrases == shown.phrases
        assert decision == result.decisions[0]


def test_sentences_keep_their_number(pipeline: Pipeline, tmp_path: Path) -> None:
    """Those recorded before keep their files, new ones get the next free number."""
    results = look(pipeline, GroundingSelector(), frames=20)
    record_decisions(tmp_path, None, "video", results[1:2])  # its number in the run is 1
    record_decisions(tmp_path, None, "video", results)
    record_decisions(tmp_path, None, "video", results[2:])
    named = {path.parent.name: json.loads(path.read_text())["exp"] for path in tmp_path.rglob("*.json")}
    assert named == {"0": "the circle", "1": "the square", "2": "the star", "3": "the circle"}
    record_decisions(tmp_path, None, "other", results[3:])
    record_decisions(tmp_path, None, "other", [replace(results[0], index=3)])
    record_decisions(tmp_path, None, "other", [replace(results[1], index=3)])
    named = {path.parent.name: json.loads(path.read_text())["exp"] for path in (tmp_path / "other").rglob("*.json")}
    assert named == {"3": "the circle", "4": "the square"}


def test_the_fall_back_is_no_decision(pipeline: Pipeline) -> None:
    """Nobody chose the box on frame 0; what was answered before stays."""
    answers = {
        "the circle": (Answer(1, -1), Answer(2, 9)),
        "the square": (Answer(-1, -1), Answer(9, 1)),
        "the star": (),
    }
    results = look(pipeline, ReplaySelector({}, answers), frames=100)
    assert all(result.fell_back for result in results)
    assert [sentence_decisions(result) for result in results[:3]] == [
        [Answer(1, -1), Answer(2, 9)],
        [Answer(-1, -1), Answer(-1, -1)],
        [Answer(-1, -1), Answer(-1, -1)],
    ]


def test_a_selector_that_looks_at_all_frames_is_recorded_too(pipeline: Pipeline) -> None:
    """A tail with one sampled frame is no segment."""
    for result in look(pipeline, GroundingSelector(), frames=60):
        scores = [float(result.considered[frame].scores_n[0]) for frame in range(0, 50, 10)]
        assert sentence_decisions(result) == [Answer(1 + int(np.argmax(scores)), 1)]


def test_pivots_that_were_given_are_no_decisions(pipeline: Pipeline, tmp_path: Path) -> None:
    pivot = Pivot(10, np.array([60, 60, 120, 120], np.float32))
    results = look(pipeline, ReplaySelector(dict.fromkeys(SENTENCES, (pivot,)), {}), frames=20)
    with pytest.raises(InputError, match="no decision to record"):
        record_decisions(tmp_path / "ours", None, "video", results)
    assert not (tmp_path / "ours").exists()


def test_what_cannot_be_recorded_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    sentences = look(pipeline, GroundingSelector(), frames=20)
    (tmp_path / "file").write_text("")
    (tmp_path / "broken" / "ms3").mkdir(parents=True)
    (tmp_path / "broken" / "ms3" / STAGE_1).write_text("{")
    (tmp_path / "broken" / "video" / "stage_2" / "0").mkdir(parents=True)
    (tmp_path / "broken" / "video" / "stage_2" / "0" / TWO_STAGE).write_text("{")
    with hear(pipeline, tmp_path / "answers", Setting.MS3, "{'circle': 1}", None) as run:
        twice = replace(run, windows=run.windows * 2)
        bad: list[tuple[str, str | None, str, AvsRun | list[RvosResult], str]] = [
            ("ours", "ms3", " ", run, "needs a name"),
            ("ours", None, "../video", sentences, "needs a name"),
            ("ours", None, "..", sentences, "needs a name"),
            ("ours", None, "clip", run, "are of a setting.*s4, ms3"),
            ("ours", "ms3", "video", sentences, "are of a setting.*Got: ms3"),
            ("ours", "ms4", "clip", run, "no such setting"),
            ("ours", "ms3", "clip", twice, "one window of the run.*Got: 2 windows"),
            ("file", "ms3", "clip", run, "cannot be written"),
            ("file", None, "video", sentences, "cannot be written"),
            ("broken", "ms3", "clip", run, "is not JSON"),
            ("broken", None, "video", sentences, "is not JSON"),
        ]
        for folder, setting, clip, results, message in bad:
            with pytest.raises(AlrefError, match=message):
                record_decisions(tmp_path / folder, setting, clip, results)
    assert not (tmp_path / "ours").exists()
    assert (tmp_path / "broken" / "ms3" / STAGE_1).read_text() == "{"
