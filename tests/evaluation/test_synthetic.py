"""The evaluation against the same figures reached another way: frames from disk, masks compared pixel by pixel."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from alref_edge import Bundle, GroundingDino, Pipeline, Pivot
from alref_edge.cli import app
from alref_edge.datasets.base import Sentence
from alref_edge.datasets.synthetic import Scene, clip_of, make_scene
from alref_edge.errors import InputError
from alref_edge.evaluation import Evaluation, box_iou, evaluate_synthetic, oracle
from alref_edge.metrics import boundary_measure, j_and_f
from alref_edge.mllm.endpoint import KEY_VARIABLE
from alref_edge.pipeline import GroundingSelector, ReplaySelector, RvosSettings
from tests.mllm.fake_server import KEY, FakeServer, Request, least, says

ROOT = Path(__file__).parent.parent.parent
SIZE, FRAMES, EVERY = 112, 12, 5


@pytest.fixture(scope="module")
def measured(nano_bundle: Path) -> Evaluation:
    """Scenes 0 and 1, small and short."""
    with Pipeline.from_bundle(nano_bundle, "cpu", threads=1) as pipeline:
        return evaluate_synthetic(pipeline, range(2), every=EVERY, size=SIZE, frames=FRAMES)


def scene_of(seed: int) -> Scene:
    return make_scene(seed, SIZE, SIZE, FRAMES)


def true_box(scene: Scene, frame: int, target: int) -> list[int]:
    rows, columns = np.nonzero(scene.masks(frame)[target])
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def pixels_iou(box: np.ndarray, other: list[int], fine: int = 8) -> float:
    """IoU of two boxes, counted on a grid of `fine` points a pixel, which reaches beyond the frame."""
    at = (np.arange(-SIZE * fine, 2 * SIZE * fine) + 0.5) / fine
    spans = [((at > each[side]) & (at < each[side + 2])) for each in (box, other) for side in (0, 1)]
    shared = float((spans[0] & spans[2]).sum() * (spans[1] & spans[3]).sum())
    return shared / float(spans[0].sum() * spans[1].sum() + spans[2].sum() * spans[3].sum() - shared)


def test_masks_are_measured_as_from_a_folder_of_frames(measured: Evaluation, nano_bundle: Path, tmp_path: Path) -> None:
    scene = scene_of(1)
    for frame in range(FRAMES):
        Image.fromarray(scene.frame(frame)).save(tmp_path / f"{frame}.png")
    pivots = {}
    for expression in scene.expressions:
        sampled = [0, 10]
        best = max(sampled, key=lambda frame: scene.masks(frame)[expression.target].sum())
        pivots[expression.text] = (Pivot(best, np.array(true_box(scene, best, expression.target))),)
    texts = [expression.text for expression in scene.expressions]
    ours = [each for each in measured.scores if each.seed == 1]
    assert [(each.text, each.kind, each.target) for each in ours] == [
        (expression.text, expression.kind, expression.target) for expression in scene.expressions
    ]
    with Pipeline.from_bundle(nano_bundle, "cpu", threads=1) as pipeline:
        for way, selector in (("oracle", ReplaySelector(pivots, {})), ("grounding", None)):
            for each, result in zip(ours, pipeline.rvos(tmp_path, texts, selector=selector), strict=True):
                tracked = each.tracked[way]
                j, f = [], []
                for frame, mask in result.masks():
                    truth = scene.masks(frame)[each.target]
                    union = (mask | truth).sum()
                    j.append((mask & truth).sum() / union if union else 1.0)
                    f.append(boundary_measure(mask, truth))
                assert tracked.j == pytest.approx(np.mean(j), abs=1e-9)
                assert tracked.f == pytest.approx(np.mean(f), abs=1e-9)
                assert tracked.j_and_f == pytest.approx((np.mean(j) + np.mean(f)) / 2, abs=1e-9)
                assert [frame for frame, _ in tracked.pivots] == [pivot.frame for pivot in result.pivots]
                for (frame, iou), pivot in zip(tracked.pivots, result.pivots, strict=True):
                    seen = scene.masks(frame)[each.target].any()
                    expected = pixels_iou(pivot.box_xyxy, true_box(scene, frame, each.target)) if seen else 0
                    assert iou == pytest.approx(expected, abs=0.03)
                assert tracked.fell_back == result.fell_back
            assert way == "grounding" or all(each.tracked["oracle"].pivots_right == (True,) for each in ours)


def test_the_top_box_is_the_best_of_all_queries(measured: Evaluation, nano_bundle: Path) -> None:
    scene = scene_of(0)
    component = Bundle.open(nano_bundle).component("grounding_dino")
    with GroundingDino.from_component(component, "cpu") as detector:
        for each in (each for each in measured.scores if each.seed == 0):
            frames = [frame for frame in (0, 5, 10) if scene.masks(frame)[each.target].any()]
            assert [top.frame for top in each.top_boxes] == frames
            words = detector.encode_text(each.text)
            for top in each.top_boxes:
                logits, boxes = detector.predict_raw(detector.encode_image(scene.frame(top.frame)), words)
                best = int(logits.max(axis=1).argmax())
                x, y, width, height = (boxes[best] * SIZE).tolist()
                box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
                assert top.pixels == scene.masks(top.frame)[each.target].sum()
                assert top.score == pytest.approx(1 / (1 + np.exp(-logits[best].max())), abs=1e-5)
                assert top.iou == pytest.approx(pixels_iou(box, true_box(scene, top.frame, each.target)), abs=0.03)


def test_the_table_sums_up_the_rows(measured: Evaluation) -> None:
    kinds = [each.kind for each in measured.summaries]
    assert kinds[-1] == "all"
    assert set(kinds[:-1]) == {each.kind for each in measured.scores}
    for summary in measured.summaries:
        rows = [each for each in measured.scores if summary.kind in (each.kind, "all")]
        assert summary.expressions == len(rows)
        assert summary.clips == len({each.seed for each in rows})
        tops = [top.iou >= 0.5 for each in rows for top in each.top_boxes]
        pivots = [iou >= 0.5 for each in rows for _, iou in each.tracked["grounding"].pivots or ((0, 0.0),)]
        expected = {
            "oracle_j": [each.tracked["oracle"].j for each in rows],
            "oracle_f": [each.tracked["oracle"].f for each in rows],
            "oracle_j_and_f": [each.tracked["oracle"].j_and_f for each in rows],
            "grounding_j": [each.tracked["grounding"].j for each in rows],
            "grounding_f": [each.tracked["grounding"].f for each in rows],
            "grounding_j_and_f": [each.tracked["grounding"].j_and_f for each in rows],
            "grounding_pivot_right": pivots,
            "top_box_right": tops,
        }
        assert set(summary.measures) == set(expected)
        for name, values in expected.items():
            assert summary.measures[name].mean == pytest.approx(np.mean(values))
            assert summary.measures[name].count == len(values)
            assert summary.measures[name].low <= summary.measures[name].mean <= summary.measures[name].high
    lines = measured.to_text().splitlines()
    assert [line.split()[0] for line in lines[2:]] == kinds
    assert f"{measured.summaries[-1].measures['oracle_j_and_f'].mean:.3f} [" in lines[-1]


def test_the_json_holds_every_row_and_what_it_was_measured_on(measured: Evaluation) -> None:
    record = json.loads(json.dumps(measured.to_json(), allow_nan=False))
    assert len(record["expressions"]) == len(measured.scores)
    assert record["expressions"][0]["tracked"]["oracle"]["j"] == measured.scores[0].tracked["oracle"].j
    assert record["seeds"] == [0, 2, 1]
    assert record["scenes"] == {"width": SIZE, "height": SIZE, "frames": FRAMES}
    assert record["environment"]["packages"]["numpy"] == np.__version__
    assert len(record["bundle"]["sha256"]) == 64


def test_the_oracle_takes_the_sampled_frame_that_shows_most() -> None:
    settings = RvosSettings(frames_per_segment=2, sample_step=3)
    for seed in range(8):
        scene = make_scene(seed, 128, 128, num_frames=17)
        labels = np.stack([scene.labels(frame) for frame in range(17)])
        boxes = np.stack([scene.boxes(frame) for frame in range(17)])
        selector = oracle(clip_of(scene).sentences, settings)
        for expression in scene.expressions:
            seen = [int((labels[frame] == expression.target).sum()) for frame in range(17)]
            found = {pivot.frame: pivot for pivot in selector.given(expression.text) or ()}
            for one, other in ((0, 3), (6, 9), (12, 15)):
                best = one if seen[one] >= seen[other] else other
                assert (best in found) == (seen[best] > 0)
                assert (one + other - best) not in found
            for frame, pivot in found.items():
                assert pivot.box_xyxy.tolist() == [int(side) for side in (boxes[frame, expression.target])]


def test_an_oracle_whose_target_no_sampled_frame_shows_takes_its_best_frame() -> None:
    labels = np.full((12, 96, 96), -1, np.int8)
    labels[4, 10:12, 20:25] = labels[7, 10:20, 20:25] = 0
    sentence = Sentence("it", lambda: labels == 0)
    (pivot,) = oracle([sentence], RvosSettings()).given("it") or ()
    assert (pivot.frame, pivot.box_xyxy.tolist()) == (7, [20, 10, 25, 20])
    labels[:] = -1
    assert oracle([sentence], RvosSettings()).given("it") == ()


def test_the_truth_against_itself_is_perfect() -> None:
    scene = make_scene(4, 128, 128, num_frames=10)
    truth = np.stack([scene.masks(frame) for frame in range(10)])
    for target in range(len(scene.objects)):
        assert j_and_f(truth[:, target], truth[:, target]).j_and_f == 1
        other = (target + 1) % len(scene.objects)
        assert j_and_f(truth[:, target], truth[:, other]).j < 0.5


def test_the_iou_of_boxes() -> None:
    box = np.array([10, 10, 20, 30], np.float32)
    assert box_iou(box, box) == 1
    assert box_iou(box, np.array([15, 10, 25, 30], np.float32)) == pytest.approx(1 / 3)
    assert box_iou(box, np.array([20, 10, 25, 30], np.float32)) == 0
    assert box_iou(box, np.full(4, np.nan, np.float32)) == 0
    assert box_iou(box, np.array([12, 12, 12, 12], np.float32)) == 0


def test_nothing_to_measure_is_refused(nano_bundle: Path) -> None:
    with Pipeline.from_bundle(nano_bundle, "cpu") as pipeline:
        for seeds, every in ((range(0), 5), (range(-1, 2), 5), (range(2), 0)):
            with pytest.raises(InputError, match="nothing to measure"):
                evaluate_synthetic(pipeline, seeds, every=every)


def test_every_selector_has_its_columns(nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose answers are frame 1 and box 1, or no box at all, which "mixed" leaves to grounding."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await says({**least(request.schema), "choice" if "boxes" in request.schema["properties"] else "frame": 1})(
            request, writer
        )

    def measure(server: FakeServer, name: str) -> dict[str, Any]:
        options = ["--seeds", "0:2", "--size", str(SIZE), "--frames", str(FRAMES), "--device", "cpu", "--threads", "1"]
        options += ["--selector", "grounding", "--selector", "mllm", "--selector", "mixed", "--endpoint", server.url]
        done = CliRunner().invoke(app, ["eval", "synthetic", *options, "--json", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        assert all(f"{way} pivots" in done.output for way in ("oracle", "grounding", "mllm", "mixed"))
        record: dict[str, Any] = json.loads((tmp_path / name).read_text())
        return record

    with FakeServer(then=behave) as server:
        first = measure(server, "first.json")
    with FakeServer(models=["another"]) as server:  # the least answer: all boxes rejected
        rejecting = measure(server, "rejecting.json")
    assert first["selectors"]["mllm"].items() >= {"model": "fake", "templates": "1"}.items()
    assert first["selectors"]["mixed"]["cached"] == first["selectors"]["mixed"]["questions"]
    assert first["selectors"]["grounding"] == {}
    for record in (first, rejecting):
        assert set(record["expressions"][0]["tracked"]) == {"oracle", "grounding", "mllm", "mixed"}
        assert "mllm_pivot_right" in record["summaries"][-1]["measures"]
    for one, other in zip(first["expressions"], rejecting["expressions"], strict=True):
        assert one["tracked"]["grounding"] == other["tracked"]["grounding"] == other["tracked"]["mixed"]
        assert all(frame == 0 for frame, _ in one["tracked"]["mllm"]["pivots"])
        assert other["tracked"]["mllm"]["fell_back"]
    assert rejecting["selectors"]["mllm"]["rejected"] > 0


def test_selectors_of_one_name_are_refused(nano_bundle: Path) -> None:
    with Pipeline.from_bundle(nano_bundle, "cpu") as pipeline:
        for names in (("grounding", "grounding"), ("oracle",)):
            chosen = [GroundingSelector(name) for name in names]
            with pytest.raises(InputError, match="told apart"):
                evaluate_synthetic(pipeline, range(1), chosen)


def test_the_command_prints_the_table(tmp_path: Path) -> None:
    def alref(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "alref_edge", "eval", "synthetic", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = alref("--seeds", "7:8", "--size", "96", "--frames", "11", "--json", "scores.json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "scores.json").read_text())
    assert {row["seed"] for row in record["expressions"]} == {7}
    lines = done.stdout.splitlines()
    assert "1 scenes of 11 frames, 96x96" in lines[0]
    assert lines[-2].split()[:2] == ["all", str(len(record["expressions"]))]
    assert lines[-1] == "wrote scores.json"
    for arguments in (("--seeds", "x"), ("--seeds", "5:5"), ("--json", "nowhere/scores.json"), ("--size", "40")):
        wrong = alref(*arguments)
        assert wrong.returncode == 2
        assert wrong.stderr.splitlines()[-1].startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_the_shipped_bundle_reaches_its_published_figures(nano_bundle: Path) -> None:
    """Whole scenes, object by object, against the file that the figures of its model card come from."""
    with gzip.open(ROOT / "benchmarks" / "results" / "synthetic-float32.json.gz") as file:
        published = {(row["seed"], row["text"]): row for row in json.load(file)["expressions"]}
    with Pipeline.from_bundle(nano_bundle, "cpu") as pipeline:
        measured = evaluate_synthetic(pipeline, range(2), every=20)
    for each in measured.scores:
        row = published[each.seed, each.text]
        for way in ("oracle", "grounding"):
            assert each.tracked[way].j_and_f == pytest.approx(row["tracked"][way]["j_and_f"], abs=0.01), each.text
        assert each.tracked["oracle"].j_and_f > 0.9
