"""BEATs beside the official code (microsoft/unilm), on the same seeded weights and real sound, front end included.

The official code runs in the environment whose Python ALREF_REFERENCE_PYTHON names (`benchmarks/official/install.sh`
makes it). What it answers is kept in `.parity_cache`, keyed by everything that goes into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from alref_edge.bundle.verify import sha256_of
from alref_edge.media.audio import decode_audio
from alref_edge.models.beats import Beats

pytestmark = pytest.mark.parity

ROOT = Path(__file__).parent.parent.parent
RUNNER = ROOT / "benchmarks" / "official" / "beats.py"
CACHE = ROOT / ".parity_cache" / "beats"
TOLERANCE = 1e-4
SOUNDS = ("audio_0.wav", "audio_1.wav", "with_real_audio.mp4")
# A single patch; a second, five and ten; and what is left over: samples of a frame, frames of a patch.
LENGTHS_S = (0.175, 1.0, 1.234, 5.0, 10.0)
SEEDS = {"as20k_nano": 1, "as2m_nano": 0, "as2m": 0}


@dataclass(frozen=True)
class Official:
    """What the official code answers.

    Attributes:
        probabilities: float32 `[labels]`.
        tags: names of the five best, Silence apart.
    """

    probabilities: np.ndarray
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """One variant on both sides: the official answers by sound and length, and our tagger."""

    official: dict[tuple[str, float], Official]
    beats: Beats


@pytest.fixture(scope="module")
def waves(media: Path) -> dict[tuple[str, float], np.ndarray]:
    """Stretches of real sound, from a second in."""
    found = {}
    for name in SOUNDS:
        wave = decode_audio(media / name, rate=16_000).wave
        for seconds in LENGTHS_S:
            start = max(0, min(16_000, len(wave) - round(16_000 * seconds)))
            found[name, seconds] = wave[start : start + round(16_000 * seconds)].copy()
    return found


@pytest.fixture(scope="module", params=list(SEEDS))
def pair(
    request: pytest.FixtureRequest,
    waves: dict[tuple[str, float], np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    """Seeded weights as an official checkpoint: run by the official code, exported, and run by ours."""
    reference = os.environ.get("ALREF_REFERENCE_PYTHON")
    if not reference:
        pytest.fail("set ALREF_REFERENCE_PYTHON to the python that benchmarks/official/install.sh made")
    from export.beats import VARIANTS, export_beats, seeded_checkpoint
    from export.bundle import add_to_bundle

    variant = request.param
    name, config = VARIANTS[variant]
    work = tmp_path_factory.mktemp(variant)
    checkpoint, ontology = work / "official.pt", work / "ontology.json"
    ids = tuple(f"/m/{index:03}" if index != 3 else "/m/028v0c" for index in range(config.predictor_class))
    entries = [{"id": each, "name": "Silence" if each == ids[3] else f"label {each}"} for each in reversed(ids)]
    ontology.write_text(json.dumps(entries))
    seeded_checkpoint(config, SEEDS[variant], ids).save(checkpoint)
    official = _run_official(reference, checkpoint, ontology, waves, work)
    made = export_beats(variant, work / "made", checkpoint=checkpoint, ontology=ontology)
    checkpoint.unlink()
    with Beats.from_component(add_to_bundle(work / "bundle", made).component(name), "cpu") as beats:
        yield Pair(official, beats)


def _run_official(
    reference: str, checkpoint: Path, ontology: Path, waves: dict[tuple[str, float], np.ndarray], work: Path
) -> dict[tuple[str, float], Official]:
    key = sha256_of(checkpoint) + sha256_of(ontology) + sha256_of(RUNNER)
    runs, names = [], {}
    for case, wave in waves.items():
        name = hashlib.sha256(key.encode() + wave.tobytes()).hexdigest()[:24]
        np.save(work / f"{name}.npy", wave)
        runs.append({"name": name, "wave": str(work / f"{name}.npy")})
        names[case] = name
    demand = work / "request.json"
    demand.write_text(json.dumps({"checkpoint": str(checkpoint), "ontology": str(ontology), "runs": runs}))
    command = [reference, "-m", "benchmarks.official.beats", str(demand), str(CACHE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = {}
    for case, name in names.items():
        with np.load(CACHE / f"{name}.npz") as saved:
            answers[case] = Official(saved["probabilities"], tuple(map(str, saved["tags"])))
    return answers


@pytest.mark.parametrize("seconds", LENGTHS_S)
@pytest.mark.parametrize("sound", SOUNDS)
def test_probabilities_and_tags_are_the_official_ones(
    pair: Pair,
    waves: dict[tuple[str, float], np.ndarray],
    sound: str,
    seconds: float,
    record_property: pytest.RecordProperty,
) -> None:
    official, wave = pair.official[sound, seconds], waves[sound, seconds]
    ours = pair.beats.probabilities(wave)
    worst = float(np.abs(ours - official.probabilities).max())
    record_property("worst", worst)
    print(f"{sound} {seconds} s: difference {worst:.1e}, probabilities {ours.min():.2f} to {ours.max():.2f}")
    assert official.probabilities.std() > 0.1, "the answers are trivial"
    assert worst <= TOLERANCE
    assert tuple(tag.name for tag in pair.beats.tag(wave)) == official.tags


def test_the_answers_depend_on_the_sound(pair: Pair) -> None:
    for seconds in LENGTHS_S:
        first, *others = (pair.official[sound, seconds].probabilities for sound in SOUNDS)
        assert all(np.abs(first - other).max() > 0.02 for other in others)
