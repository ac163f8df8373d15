"""The evaluation of sounds against the same figures reached another way, and its stages against answers by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge import Pipeline, Pivot
from alref_edge.datasets.synthetic import Scene, SceneSource, make_scene
from alref_edge.datasets.synthetic.timbres import TIMBRES
from alref_edge.errors import InputError
from alref_edge.evaluation import (
    ClipScores,
    KnowingSelector,
    SoundEvaluation,
    SoundTruth,
    evaluate_clip,
    evaluate_sound,
)
from alref_edge.evaluation.sound import clip_settings
from alref_edge.evaluation.sound_stages import stages, tagged
from alref_edge.evaluation.sound_summary import STAGES, WAYS
from alref_edge.media import open_video
from alref_edge.pipeline import AvsRun, AvsSettings
from alref_edge.pipeline.audio_segments import AudioSegment
from alref_edge.pipeline.jobs import SoundingObject, WindowResult
from alref_edge.types import Detections, Tag

ROOT = Path(__file__).parent.parent.parent
SIZE, FRAMES, FPS = 112, 24, 8
# A cross, a triangle and a star; the star sounds in second 0, it and the triangle in second 1, nothing in second 2.
SEED = 8


def scene_of(seed: int) -> Scene:
    return make_scene(seed, SIZE, SIZE, FRAMES)


@pytest.fixture(scope="module")
def pipeline(nano_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.from_bundle(nano_bundle, "cpu", threads=1) as made:
        yield made


@pytest.fixture(scope="module")
def measured(pipeline: Pipeline) -> SoundEvaluation:
    """One scene, small and short, in both modes."""
    return evaluate_sound(pipeline, range(SEED, SEED + 1), size=SIZE, frames=FRAMES)


def j_and_f(mask: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """AVSBench's measures, pixel by pixel and threshold by threshold."""
    if not truth.any():
        return float((~mask).mean()), 0.0
    best = 0.0
    for taken in (mask, np.ones_like(mask)):
        precision, recall = (mask_share(taken & truth, taken), mask_share(taken & truth, truth))
        if precision + recall:
            best = max(best, 1.3 * precision * recall / (0.3 * precision + recall))
    return float((mask & truth).sum() / (mask | truth).sum()), best


def mask_share(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else 0.0


def truth_masks(truth: SoundTruth) -> list[np.ndarray]:
    """The objects that sound, drawn over each other, on frames 7, 15, 23."""
    masks = [truth.scene.masks(frame) for frame in range(FPS - 1, FRAMES, FPS)]
    return [
        np.any([mask[number] for number in label.objects], axis=0) if label.objects else np.zeros((SIZE, SIZE), bool)
        for mask, label in zip(masks, truth.sound.labels, strict=True)
    ]


@pytest.mark.parametrize("mode", ["single", "multi"])
def test_masks_are_measured_as_from_folders_of_frames(
    mode: str, measured: SoundEvaluation, pipeline: Pipeline, tmp_path: Path
) -> None:
    scene = scene_of(SEED)
    truth = SoundTruth.of(scene, mode)
    for folder, every in (("all", 1), ("seconds", FPS)):
        (tmp_path / folder).mkdir()
        for number, frame in enumerate(range(every - 1, FRAMES, every)):
            Image.fromarray(scene.frame(frame)).save(tmp_path / folder / f"{number}.png")
    settings = clip_settings(pipeline, mode)
    assert settings.categories == tuple(TIMBRES)
    assert settings.by_second == (mode == "multi")

    def run(folder: str, fps: float, selector: KnowingSelector | None = None, **changes: float) -> AvsRun:
        source = open_video(tmp_path / folder, fps=fps)
        return pipeline.avs(source, truth.sound.wave_16khz, selector=selector, settings=settings.changed(changes))

    assert len(truth.sound.labels) == 3
    gate = pipeline.avs_settings().silence_db
    assert gate is not None
    known = run("all", 8.0, KnowingSelector(truth))
    by_name = {each.name: each for each in known}
    known_labels = [
        np.any([by_name[shape].tracked(frame) for shape in label.shapes], axis=0)
        if label.shapes
        else np.zeros((SIZE, SIZE), bool)
        for frame, label in zip((7, 15, 23), truth.sound.labels, strict=True)
    ]
    own, sparse = run("all", 8.0), run("seconds", 1.0)
    gated = run("all", 8.0, silence_db=gate)
    masks = {
        "own": [own.mask(frame) for frame in (7, 15, 23)],
        "gated": [gated.mask(frame) for frame in (7, 15, 23)],
        "sparse": [sparse.mask(second) for second in range(3)],
        "known_boxes": [known.mask(frame) for frame in (7, 15, 23)],
        "known_labels": known_labels,
    }
    true = truth_masks(truth)
    (scores,) = (each for each in measured.scores if each.mode == mode)
    assert scores.sounding == tuple(bool(mask.any()) for mask in true)
    for way, made in masks.items():
        expected = [j_and_f(*pair) for pair in zip(made, true, strict=True)]
        np.testing.assert_allclose(scores.j[way], [j for j, _ in expected], atol=1e-9, err_msg=way)
        np.testing.assert_allclose(scores.f[way], [f for _, f in expected], atol=1e-9, err_msg=way)
    if mode == "multi":
        assert scores.stages["silence_empty"] == (not masks["gated"][2].any(),) == (True,)
        assert scores.stages["sound_kept"] == (True, True)


def test_the_known_pivots_are_where_most_is_seen(pipeline: Pipeline) -> None:
    truth = SoundTruth.of(scene_of(5), "multi")
    masks = {second: truth.scene.masks((second + 1) * FPS - 1) for second in range(3)}
    # Squares 0 and 1 and triangles 3 and 4 sound in seconds 0 and 1, circle 2 and the triangles in second 2.
    choices = {
        "square": [(s, n) for s in (0, 1) for n in (0, 1)],
        "triangle": [(s, n) for s in (0, 1, 2) for n in (3, 4)],
        "circle": [(2, 2)],
    }
    best = {shape: max(pairs, key=lambda pair: int(masks[pair[0]][pair[1]].sum())) for shape, pairs in choices.items()}
    assert truth.sounding == best
    assert truth.heard == {"square", "triangle", "circle", "cross"}
    for second, mask in enumerate(truth_masks(truth)):
        np.testing.assert_array_equal(truth.mask(second), mask)
    expected = masks[2][2] | masks[2][best["triangle"][1]]
    np.testing.assert_array_equal(truth.one_object(2), expected)
    settings = clip_settings(pipeline, "multi")
    source = SceneSource(truth.scene, every=FPS)
    run = pipeline.avs(source, truth.sound.wave_16khz, selector=KnowingSelector(truth), settings=settings)
    assert [each.name for each in run] == ["square", "triangle", "circle"]
    for each in run:
        second, number = best[each.name]
        assert list(each.considered) == [second]
        rows, columns = np.nonzero(masks[second][number])
        true = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        distances = np.abs(each.considered[second].boxes_n4 - true).max(axis=1)
        if each.pivots and distances.min() < 3:
            np.testing.assert_array_equal(each.pivots[0].box_xyxy, each.considered[second].boxes_n4[distances.argmin()])


def test_stages_by_hand() -> None:
    truth = SoundTruth.of(scene_of(5), "multi")
    box = truth.scene.boxes(7)[4]
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), ())
    heard = WindowResult(
        start_s=0,
        frames=range(FRAMES),
        tags=(),
        objects=(
            SoundingObject("star", nothing, 7, Pivot(7, box)),
            SoundingObject("triangle", nothing, 7, Pivot(7, box)),
            SoundingObject("square", nothing, 15, None),
        ),
        audio_segments=(AudioSegment(0, 1), AudioSegment(1, 3)),
        labels=(("triangle",), ("square", "triangle"), ("triangle",)),
        silent=(False,) * 3,
    )
    tags = [("triangle", True), ("star", True), ("triangle", True), ("square", True), ("cross", False)]
    # Heard are a square and a triangle, twice, then a circle and a triangle; a cross all the time, off screen.
    assert stages(heard, tags, truth) == {
        "tag_precision": (True, False, True),
        "tag_recall": (False, False, True, True),
        "tag_best": (True,),
        "presence_precision": (False, True, True),
        "presence_recall": (True, True, False),
        "box_right": (True, False),
        "cut_precision": (False,),
        "cut_recall": (False,),
        "labels_right": (False, True, True),
    }
    other = truth.scene.boxes(7)[0]
    moved = replace(heard, objects=(SoundingObject("triangle", nothing, 7, Pivot(7, other)),), audio_segments=())
    found = stages(moved, [], truth)
    assert found["box_right"] == found["tag_best"] == (False,)
    assert found["tag_precision"] == found["cut_recall"] == found["labels_right"] == ()


def test_what_is_off_screen_changes_the_sound_but_has_no_label() -> None:
    # A triangle off screen, then it and star 1, then the star alone.
    truth = SoundTruth.of(scene_of(15), "multi")
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), ())
    found = stages(
        WindowResult(
            start_s=0,
            frames=range(FRAMES),
            tags=(),
            objects=(SoundingObject("star", nothing, 7, None), SoundingObject("circle", nothing, 7, None)),
            audio_segments=(AudioSegment(0, 2), AudioSegment(2, 3)),
            labels=(("star",), ("circle",), ("star",)),
            silent=(False,) * 3,
        ),
        [("triangle", True)],
        truth,
    )
    assert found["cut_precision"] == (True,)
    assert found["cut_recall"] == (False, True)
    assert found["labels_right"] == (False, True)
    assert found["tag_precision"] == (True,)
    assert found["presence_recall"] == (True,)


def test_tags_become_categories(pipeline: Pipeline) -> None:
    settings = AvsSettings(categories=("circle", "star"), tag_threshold=0.5)
    tags = (Tag("a", "star", 0.5), Tag("b", "circle", 0.9), Tag("c", "Bark", 0.1))
    heard = WindowResult(0, range(8), tags, (), (), ((),), (False,))
    (nearest,) = pipeline.networks.sound_text_matcher.nearest(["Bark"], settings.categories)
    assert tagged(pipeline, heard, settings) == [("circle", True), ("star", True), (nearest, False)]


def test_the_summary_sums_up_the_clips(measured: SoundEvaluation) -> None:
    assert [each.mode for each in measured.summaries] == ["single", "multi"]
    first = measured.scores[-1]
    second: ClipScores = replace(
        first,
        seed=9,
        sounding=(True,) * 3,
        j=dict.fromkeys(WAYS, (1.0, 1.0, 1.0)),
        f=dict.fromkeys(WAYS, (0.5, 0.5, 0.5)),
        stages=dict.fromkeys(STAGES, (True, False)),
    )
    (summary,) = SoundEvaluation({}, (first, second)).summaries
    assert (summary.mode, summary.clips, summary.seconds) == ("multi", 2, 6)
    for way in WAYS:
        assert summary.mj[way].mean == pytest.approx((sum(first.j[way]) + 3) / 6)
        assert summary.mf[way].mean == pytest.approx((sum(first.f[way]) + 1.5) / 6)
        assert summary.sounding_j[way].mean == pytest.approx((sum(first.j[way][:2]) + 3) / 5)
    for name in STAGES:
        samples = [*first.stages[name], True, False]
        assert summary.stages[name].mean == pytest.approx(np.mean(samples))
        assert summary.stages[name].count == len(samples)
    assert summary.miou == pytest.approx(first.classes.miou)
    lines = SoundEvaluation({}, (first, second)).to_text().splitlines()
    assert lines[0] == "multi: 2 clips, 6 seconds"
    assert f"{summary.mj['one_object'].mean:.3f} [" in next(line for line in lines if "perfect mask" in line)


def test_the_json_holds_every_clip_and_what_it_was_measured_on(measured: SoundEvaluation) -> None:
    record = json.loads(json.dumps(measured.to_json(), allow_nan=False))
    assert [(clip["seed"], clip["mode"]) for clip in record["clips"]] == [(SEED, "single"), (SEED, "multi")]
    assert record["clips"][1]["j"]["own"] == list(measured.scores[1].j["own"])
    assert set(record["clips"][0]["stages"]) == set(STAGES)
    assert set(record["clips"][0]["j"]) == set(record["summaries"][0]["mj"]) == set(WAYS)
    assert record["seeds"] == [SEED, SEED + 1, 1]
    assert record["settings"]["multi"]["silence_db"] is None
    assert record["environment"]["packages"]["numpy"] == np.__version__
    assert len(record["bundle"]["sha256"]) == 64


def test_nothing_to_measure_is_refused(pipeline: Pipeline) -> None:
    for seeds in (range(0), range(-1, 2)):
        with pytest.raises(InputError, match="nothing to measure"):
            evaluate_sound(pipeline, seeds)
    with pytest.raises(InputError, match="whole seconds"):
        evaluate_sound(pipeline, range(1), size=SIZE, frames=9)
    with pytest.raises(InputError, match="too long"):
        evaluate_clip(pipeline, make_scene(0, 96, 96, num_frames=88), "multi")


def test_the_command_prints_the_tables(tmp_path: Path) -> None:
    def alref(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "alref_edge", "eval", "sound", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = alref("--seeds", "7", "--size", "96", "--frames", "8", "--json", "scores.json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "scores.json").read_text())
    assert {clip["seed"] for clip in record["clips"]} == {7}
    lines = done.stdout.splitlines()
    assert "1 scenes of 8 frames, 96x96" in lines[0]
    assert "multi: 1 clips, 1 seconds" in lines
    assert lines[-1] == "wrote scores.json"
    for arguments in (("--seeds", "x"), ("--json", "nowhere/scores.json"), ("--frames", "9"), ("--frames", "88")):
        wrong = alref(*arguments)
        assert wrong.returncode == 2
        assert "rror" in wrong.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]
