"""The audio networks' training: sounds keep to their plans, fifty steps lower every loss, and shipped weights hear."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from alref_edge.datasets.synthetic.timbres import RATE, TIMBRES  # noqa: E402
from alref_edge.pipeline.audio_segments import AudioSegment  # noqa: E402
from export.beats.checkpoint import load_checkpoint  # noqa: E402
from export.nano.beats import LABELS, As2mTask, As20kTask, front_end  # noqa: E402
from export.nano.languagebind import LanguageBindTask  # noqa: E402
from export.nano.sounds import (  # noqa: E402
    NAMES,
    SHAPES,
    clips,
    cutting_quality,
    draw_plan,
    mix,
    sounding_quality,
    tagging_quality,
)
from export.nano.training import Recipe, Task, train  # noqa: E402
from export.nano.yamnet import YamNetTask  # noqa: E402

WEIGHTS = Path(__file__).parents[3] / "export" / "nano" / "weights"


def loudness_db(wave: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(wave.astype(np.float64) ** 2) + 1e-12))


def test_a_sound_keeps_to_its_plan() -> None:
    """A second in which something sounds is loud, any other at most as loud as the noise."""
    generator = np.random.default_rng(0)
    loud = quiet = 0
    for _ in range(12):
        heard_st = draw_plan(generator, 4)
        wave = mix(generator, heard_st)
        assert (wave.dtype, len(wave)) == (np.float32, 4 * RATE)
        assert np.abs(wave).max() <= 0.9 + 1e-6
        for heard_s, second in zip(heard_st, wave.reshape(4, RATE), strict=True):
            assert loudness_db(second) > -36 if heard_s.any() else loudness_db(second) < -44
            loud, quiet = loud + heard_s.any(), quiet + (not heard_s.any())
    assert min(loud, quiet) > 5


def test_clips_are_heard_as_their_labels_say() -> None:
    for clip in clips(700, 6):
        for heard_s, label in zip(clip.heard_st, clip.sound.labels, strict=True):
            assert {shape for shape, yes in zip(SHAPES, heard_s, strict=True) if yes} == {
                *label.shapes,
                *label.off_screen,
            }
        segments = clip.segments
        assert (segments[0].start_s, segments[-1].end_s) == (0, 5)
        for before, after in pairwise(segments):
            assert before.end_s == after.start_s
            assert (clip.heard_st[before.start_s] != clip.heard_st[after.start_s]).any()
    assert all(clip.heard_st.sum(axis=1).tolist() == [1] * 5 for clip in clips(700, 6, "single"))
    assert len(NAMES) == len(SHAPES) == len(TIMBRES)


def test_quality_is_one_for_the_truth_and_low_for_a_guess() -> None:
    heard = clips(700, 6)
    true = {clip.sound.wave_16khz.tobytes(): clip for clip in heard}

    parts = {
        segment.of(clip.sound.wave_16khz).tobytes(): clip.heard_st[segment.start_s]
        for clip in heard
        for segment in clip.segments
    }

    def told(waves: list[np.ndarray], shapes: list[str]) -> list[tuple[str, ...]]:
        return [tuple(s for s in shapes if parts[wave.tobytes()][SHAPES.index(s)]) for wave in waves]

    assert tagging_quality(heard, lambda wave: true[wave.tobytes()].heard_st.any(axis=0).astype(float)) == {
        "precision": 1.0,
        "recall": 1.0,
        "top": 1.0,
    }
    assert cutting_quality(heard, lambda wave: true[wave.tobytes()].segments) == {"cut_precision": 1, "cut_recall": 1}
    assert sounding_quality(heard, told) == 1
    assert tagging_quality(heard, lambda wave: np.ones(6))["precision"] < 0.7
    assert cutting_quality(heard, lambda wave: [AudioSegment(0, 5)])["cut_recall"] == 0
    assert sounding_quality(heard, lambda waves, shapes: [tuple(shapes)] * len(waves)) < 0.7


class Short(As2mTask):
    """Sounds of a second."""

    turns = ((8, 1),)


MADE: dict[str, Callable[[], Task]] = {
    "beats": Short,
    "yamnet": lambda: YamNetTask(turns=((4, 3),)),
    "languagebind": lambda: LanguageBindTask(sounds=6),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_fifty_steps_lower_the_losses_and_a_stretch_goes_on(make: Callable[[], Task], tmp_path: Path) -> None:
    def run(folder: Path, steps: int, until: int) -> list[dict[str, float]]:
        train(make(), Recipe(steps, 1e-3, warmup=10), folder, log_every=5, evaluate_every=10**6, until=until)
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [line for line in lines if "loss" in line]

    whole = run(tmp_path / "whole", 51, 50)
    for name in set(whole[0]) - {"step", "lr", "s", "norm", "skipped"}:
        assert whole[-1][name] < 0.95 * whole[0][name], name
    run(tmp_path / "parts", 51, 5)
    assert run(tmp_path / "parts", 51, 10)[1]["loss"] == pytest.approx(whole[1]["loss"], rel=1e-3)


@pytest.mark.parametrize("kind", [As20kTask, As2mTask])
def test_the_shipped_taggers_hear(kind: type[As20kTask]) -> None:
    path = WEIGHTS / f"{kind.name}.pt"
    assert load_checkpoint(path).labels == LABELS
    task = kind(initial=path)
    with torch.inference_mode():
        got = tagging_quality(clips(700, 16), task.probabilities)
        alone = tagging_quality(clips(700, 16, "single"), task.probabilities)
        silence = task.model(torch.from_numpy(front_end(np.zeros(3 * RATE, np.float32)))[None])[0]
    assert min(got["precision"], got["recall"]) > 0.9
    assert alone["top"] == 1
    assert silence.argmax() == LABELS.index("Silence")


def test_the_shipped_cutter_cuts() -> None:
    task = YamNetTask(initial=WEIGHTS / "yamnet_nano.h5")
    with torch.inference_mode():
        got = cutting_quality(clips(700, 16), task.cut)
    assert min(got.values()) > 0.85


def test_the_shipped_language_of_sounds_tells_what_sounds() -> None:
    task = LanguageBindTask(initial=WEIGHTS / "languagebind_nano")
    with torch.inference_mode():
        assert sounding_quality(clips(700, 16), task.sounding) > 0.85
        names = task.embed_text([*NAMES, "round thing", "heart shape"]) @ task.embed_text(SHAPES).T
    assert names.argmax(dim=1).tolist() == [0, 1, 2, 3, 4, 5, 0, 5]
