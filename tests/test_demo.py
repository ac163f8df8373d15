"""The demo: what it leaves on disk is what it prints, and both are true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.datasets.synthetic import make_scene
from alref_edge.demo import SEED, choose, run_demo, write_clip
from alref_edge.errors import InputError
from alref_edge.media import decode_rle, open_video
from alref_edge.metrics import j_and_f
from alref_edge.pipeline import Pipeline

ROOT = Path(__file__).parent.parent
FILES = ["clip.mp4", "masks", "overlay.mp4", "report.html", "result.json", "truth.json"]


def demo(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "alref_edge", "demo", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of the demo that a newcomer sees, and what it prints."""
    folder = tmp_path_factory.mktemp("demo")
    done = demo("--device", "cpu", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "alref-demo", done.stdout


def test_it_leaves_everything_under_one_name(shown: tuple[Path, str]) -> None:
    out, printed = shown
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert [path.name for path in out.parent.iterdir()] == ["alref-demo"]
    record = json.loads((out / "result.json").read_text())
    assert record["input"]["path"] == "alref-demo/clip.mp4"
    assert (record["input"]["codec"], record["input"]["kind"], record["input"]["frames"]) == ("h264", "video", 40)
    assert len(record["sentences"]) == 3
    assert "alref-demo/report.html" in printed
    assert record["sentences"][0]["text"] in (out / "report.html").read_text(encoding="utf-8")


def test_the_scores_are_those_of_the_masks_on_disk(shown: tuple[Path, str]) -> None:
    out, printed = shown
    record, truth = (json.loads((out / name).read_text()) for name in ("result.json", "truth.json"))
    scene = make_scene(SEED)
    sums = np.zeros(3)
    for found, known, expression in zip(record["sentences"], truth["sentences"], choose(scene), strict=True):
        assert found["text"] == known["text"] == expression.text
        names = sorted((out / found["masks"]["folder"]).iterdir())
        ours_thw = np.stack([np.asarray(Image.open(name)) > 0 for name in names])
        right_thw = np.stack([decode_rle(rle) for rle in known["masks"]])
        np.testing.assert_array_equal(right_thw, [scene.labels(frame) == expression.target for frame in range(40)])
        scores = j_and_f(ours_thw, right_thw)
        assert [known["j"], known["f"], known["j_and_f"]] == [scores.j, scores.f, scores.j_and_f]
        line = next(line for line in printed.splitlines() if line.startswith(f"{known['text']} ({known['kind']})"))
        assert line.endswith(f"J {scores.j:.3f}  F {scores.f:.3f}  J&F {scores.j_and_f:.3f}")
        sums += (scores.j, scores.f, scores.j_and_f)
    assert "mean" in printed
    assert f"J&F {sums[2] / 3:.3f}" in printed.splitlines()[3]
    np.testing.assert_allclose(list(truth["mean"].values()), sums / 3)


def test_the_shipped_bundle_finds_what_is_meant(shown: tuple[Path, str]) -> None:
    out, _ = shown
    if not json.loads((out / "result.json").read_text())["bundle"]["trained"]:
        pytest.skip("the shipped bundle is not trained")
    assert json.loads((out / "truth.json").read_text())["mean"]["j_and_f"] >= 0.8


def test_another_seed_replaces_it_only_when_told_to(nano_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Pipeline.from_bundle(nano_bundle, "cpu") as pipeline:
        first = run_demo(pipeline, out, 3)
        with pytest.raises(InputError, match="not empty"):
            run_demo(pipeline, out, 4)
        assert json.loads((out / "truth.json").read_text()) == first.truth
        (out / "mine.txt").write_text("mine")
        with pytest.raises(InputError, match=r"something else than a result.*mine\.txt"):
            run_demo(pipeline, out, 4, overwrite=True)
        (out / "mine.txt").unlink()
        second = run_demo(pipeline, out, 4, overwrite=True)
    assert json.loads((out / "truth.json").read_text()) == second.truth
    assert (first.truth["seed"], second.truth["seed"]) == (3, 4)
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert "masks" not in json.dumps(second.to_json()["sentences"])


def test_sentences_about_looks_come_first() -> None:
    for seed in range(20):
        scene = make_scene(seed)
        if not scene.expressions:
            continue
        kinds = [expression.kind for expression in choose(scene)]
        looks = sum(expression.kind == "appearance" for expression in scene.expressions)
        assert kinds[: min(3, looks)] == ["appearance"] * min(3, looks)
        assert len(kinds) == min(3, len(scene.expressions))
    assert [expression.kind for expression in choose(make_scene(SEED))] == ["appearance"] * 3


def test_a_scene_without_sentences_is_refused() -> None:
    with pytest.raises(InputError, match="--seed"):
        choose(replace(make_scene(0), expressions=()))


def test_the_clip_looks_like_the_scene(tmp_path: Path) -> None:
    scene = make_scene(SEED, 160, 128, num_frames=5)
    write_clip(scene, tmp_path / "clip.mp4")
    source = open_video(tmp_path / "clip.mp4")
    assert (source.frame_count(), source.info.fps) == (5, 8)
    for frame, image in source.frames():
        drawn = scene.frame(frame)
        error = image.astype(float) - drawn
        # Brightness is all but exact; colours have half the resolution.
        assert 10 * np.log10(255**2 / np.mean((error @ [0.2126, 0.7152, 0.0722]) ** 2)) > 39
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 29
