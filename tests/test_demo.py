"""The demo: what it leaves on disk is what it prints, and both are true."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.datasets.synthetic import clips, make_scene
from alref_edge.datasets.synthetic.clips import write_clip
from alref_edge.datasets.synthetic.sound import frame_of_second, make_sound, sounding_mask
from alref_edge.demo import SEED, choose, run_demo
from alref_edge.errors import InputError, MediaError
from alref_edge.media import decode_audio, decode_rle, open_video
from alref_edge.metrics import j_and_f, region_similarity
from alref_edge.pipeline import Pipeline

ROOT = Path(__file__).parent.parent
FILES = ["clip.mp4", "masks", "overlay.mp4", "report.html", "result.json", "sound", "truth.json"]


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


def test_what_sounds_is_that_of_the_masks_on_disk(shown: tuple[Path, str]) -> None:
    out, printed = shown
    record, truth = (
        json.loads((out / "sound" / "result.json").read_text()),
        json.loads((out / "truth.json").read_text()),
    )
    assert record["input"]["path"] == "alref-demo/clip.mp4"
    assert sorted(path.name for path in (out / "sound").iterdir()) == ["masks", "overlay.mp4", "result.json"]
    scene = make_scene(SEED)
    sound = make_sound(scene)
    rows = [line.split() for line in printed.splitlines()[5:]]
    assert rows[0] == ["second", "sounds", "truth", "J"]
    scores = []
    for second, (label, entry) in enumerate(zip(sound.labels, truth["sound"]["seconds"], strict=True)):
        frame = frame_of_second(scene, second)
        ours_hw = np.zeros((scene.height, scene.width), bool)
        for found in record["objects"]:
            ours_hw |= np.asarray(Image.open(out / "sound" / found["masks"]["folder"] / f"{frame:05d}.png")) > 0
        right_hw = sounding_mask(scene, sound, second)
        np.testing.assert_array_equal(decode_rle(entry["mask"]), right_hw)
        assert entry["j"] == region_similarity(ours_hw, right_hw)
        assert (entry["names"], entry["truth"]) == (record["sound"]["labels"][second], list(label.shapes))
        assert entry["off_screen"] == list(label.off_screen)
        assert (rows[1 + second][0], rows[1 + second][-1]) == (str(second), f"{entry['j']:.3f}")
        assert set(label.shapes) <= {word.strip(",") for word in rows[1 + second]}
        scores.append(entry["j"])
    assert truth["sound"]["j"] == pytest.approx(np.mean(scores))
    assert rows[1 + len(scores)] == ["mean", f"{np.mean(scores):.3f}"]
    page = (out / "report.html").read_text(encoding="utf-8")
    of_sound = " ".join(re.sub(r"<svg.*?</svg>|<[^>]*>", " ", page[page.index("What sounds") :], flags=re.S).split())
    assert f"mean J {np.mean(scores):.3f} objects" in of_sound
    assert f"All that sounds {np.mean(scores):.3f} - -" in of_sound
    assert "mean J&amp;F" not in of_sound
    assert page.index("What is said") < page.index("What sounds") < page.index("What was heard")


def test_a_bundle_that_cannot_hear_leaves_out_the_sound(nano_bundle: Path, tmp_path: Path) -> None:
    deaf, out = tmp_path / "deaf", tmp_path / "out"
    shutil.copytree(nano_bundle, deaf)
    manifest = json.loads((deaf / "bundle.json").read_text())
    for name in sorted(manifest["components"].keys() - {"grounding_dino", "sam2"}):
        del manifest["components"][name]
        shutil.rmtree(deaf / name)
    manifest["files"] = {name: each for name, each in manifest["files"].items() if (deaf / name).is_file()}
    (deaf / "bundle.json").write_text(json.dumps(manifest))
    with Pipeline.from_bundle(deaf, "cpu") as pipeline:
        shown = run_demo(pipeline, out, 3)
    assert sorted(path.name for path in out.iterdir()) == [name for name in FILES if name != "sound"]
    assert shown.lines()[-1] == "the bundle has no networks that hear, so what sounds is left out"
    assert shown.truth["sound"] is None
    assert shown.to_json()["sound_record"] is None
    assert "What sounds" not in (out / "report.html").read_text(encoding="utf-8")


def test_the_shipped_bundle_finds_what_is_meant(shown: tuple[Path, str]) -> None:
    out, _ = shown
    if not json.loads((out / "result.json").read_text())["bundle"]["trained"]:
        pytest.skip("the shipped bundle is not trained")
    truth = json.loads((out / "truth.json").read_text())
    assert truth["mean"]["j_and_f"] >= 0.8
    assert truth["sound"]["j"] >= 0.7


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


def test_the_seed_sounds_in_several_ways() -> None:
    labels = make_sound(make_scene(SEED)).labels
    assert len({label.shapes for label in labels}) >= 3
    assert len({shape for label in labels for shape in label.shapes}) >= 2


@pytest.mark.parametrize("with_sound", [True, False])
def test_the_clip_looks_and_sounds_like_the_scene(tmp_path: Path, with_sound: bool) -> None:
    scene = make_scene(SEED, 160, 128, num_frames=8 if with_sound else 5)
    sound = make_sound(scene) if with_sound else None
    write_clip(tmp_path / "clip.mp4", scene, sound)
    source = open_video(tmp_path / "clip.mp4")
    assert (source.frame_count(), source.info.fps) == (scene.num_frames, 8)
    for frame, image in source.frames():
        drawn = scene.frame(frame)
        error = image.astype(float) - drawn
        # Brightness is all but exact; colours have half the resolution.
        assert 10 * np.log10(255**2 / np.mean((error @ [0.2126, 0.7152, 0.0722]) ** 2)) > 39
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 29
    if sound is None:
        with pytest.raises(MediaError, match="no sound"):
            decode_audio(tmp_path / "clip.mp4")
    else:
        heard = decode_audio(tmp_path / "clip.mp4", rate=sound.rate).wave[: len(sound.wave_16khz)]
        assert np.corrcoef(heard, sound.wave_16khz)[0, 1] > 0.99


def test_a_clip_takes_the_first_encoder_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scene = tmp_path / "clip.mp4", make_scene(SEED, 160, 128, num_frames=8)
    broken = [("no such encoder", {}), ("libx264", {"crf": "not a number"})]
    monkeypatch.setattr(clips, "_ENCODERS", broken)
    with pytest.raises(MediaError, match=r"No video encoder works.*no such encoder: .*libx264: "):
        write_clip(path, scene)
    assert not path.exists()
    monkeypatch.setattr(clips, "_ENCODERS", [*broken, ("mpeg4", {"qscale": "2"})])
    write_clip(path, scene, make_sound(scene))
    assert open_video(path).info.codec == "mpeg4"
    assert decode_audio(path, rate=16_000).wave.any()
