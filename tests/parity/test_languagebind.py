"""LanguageBind beside the official code (languagebind 0.1.0), on the same seeded weights, real sound and real labels.

The official code runs in the environment whose Python ALREF_REFERENCE_PYTHON names (`benchmarks/official/install.sh`
makes it); `benchmarks/official/languagebind.py` says what is replaced in it. What it answers is kept in
`.parity_cache`, keyed by everything that goes into it.
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
from alref_edge.models.languagebind import LanguageBind, combine_labels
from alref_edge.models.languagebind.labels import phrase

pytestmark = pytest.mark.parity

ROOT = Path(__file__).parent.parent.parent
RUNNER = ROOT / "benchmarks" / "official" / "languagebind.py"
CACHE = ROOT / ".parity_cache" / "languagebind"
TOLERANCE = 1e-4
SEED = 0
SOUNDS = ("audio_0.wav", "audio_1.wav", "with_real_audio.mp4")
# A segment of a second, one of five, all of a V2 clip, and more than a picture holds.
LENGTHS_S = (1.0, 5.0, 10.0, 14.0)
LABELS = ("dog", "man", "emergency-car", "violin")
TEXTS = (
    *(phrase(each) for each in combine_labels(LABELS)),
    *(phrase(each, separator="; ") for each in combine_labels(LABELS)[len(LABELS) :]),
    "A child's laughing -- twice!",
    "violin, piano, guitar; " * 12,
)
# Variant and rank of the low-rank updates of its audio tower.
CASES = {"nano": ("nano", 0), "nano-lora": ("nano", 4), "vit_l14": ("vit_l14", 0)}


@dataclass(frozen=True)
class Pair:
    """One variant on both sides: the official answers, and our model."""

    official: dict[str, np.ndarray]
    image_texts: np.ndarray
    waves: list[np.ndarray]
    model: LanguageBind


@pytest.fixture(scope="module")
def waves(media: Path) -> list[np.ndarray]:
    """Stretches of real sound; what is too short for one is played again."""
    found = []
    for name in SOUNDS:
        wave = decode_audio(media / name).wave
        found += [np.resize(wave, round(16_000 * seconds)) for seconds in LENGTHS_S]
    return found


@pytest.fixture(scope="module", params=list(CASES))
def pair(
    request: pytest.FixtureRequest, waves: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Seeded weights as an official folder: run by the official code, exported, and run by ours."""
    reference = os.environ.get("ALREF_REFERENCE_PYTHON")
    if not reference:
        pytest.fail("set ALREF_REFERENCE_PYTHON to the python that benchmarks/official/install.sh made")
    from export.bundle import add_to_bundle
    from export.languagebind import export_languagebind, save_seeded_folder

    variant, rank = CASES[request.param]
    work = tmp_path_factory.mktemp(request.param)
    folder = save_seeded_folder(variant, SEED, work / "folder", lora_rank=rank)
    official = _run_official(reference, "audio", folder, waves, work)
    image_texts = official["text_embeddings"]
    if variant == "nano" and not rank:
        image_texts = _run_official(reference, "image", folder, [], work)["text_embeddings"]
    made = export_languagebind(variant, work / "made", folder=folder, image_folder=folder)
    for name in ("pytorch_model.bin", "config.json"):
        (folder / name).unlink()
    component = add_to_bundle(work / "bundle", made).component("languagebind")
    with LanguageBind.from_component(component, "cpu") as model:
        yield Pair(official, image_texts, waves, model)


def _run_official(
    reference: str, kind: str, folder: Path, waves: list[np.ndarray], work: Path
) -> dict[str, np.ndarray]:
    paths = []
    for index, wave in enumerate(waves):
        paths.append(str(work / f"{index}.npy"))
        np.save(paths[-1], wave)
    files = [RUNNER, *sorted(path for path in folder.iterdir()), *map(Path, paths)]
    key = "".join(map(sha256_of, files)) + json.dumps([kind, TEXTS])
    answer = CACHE / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    if not answer.exists():
        demand = work / f"{kind}.json"
        demand.write_text(json.dumps({"folder": str(folder), "kind": kind, "waves": paths, "texts": TEXTS}))
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [reference, "-m", "benchmarks.official.languagebind", str(demand), str(work / "answer.npz")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        part = answer.with_suffix(f".{os.getpid()}.part")
        part.write_bytes((work / "answer.npz").read_bytes())
        part.replace(answer)
    with np.load(answer) as saved:
        return dict(saved)


def test_pictures_equal_the_official_ones(pair: Pair, record_property: pytest.RecordProperty) -> None:
    ours = np.stack([pair.model.front_end.picture(wave) for wave in pair.waves])
    worst = float(np.abs(ours - pair.official["pictures"]).max()) * 2 * pair.model.front_end.std
    record_property("worst_fbank", worst)
    print(f"log-mel values differ by {worst:.1e}")
    assert worst < 1e-3
    alike = [np.array_equal(picture[0], picture[1]) for picture in pair.official["pictures"]]
    assert alike == [seconds < 10.385 for _ in SOUNDS for seconds in LENGTHS_S]


def test_audio_embeddings_equal_the_official_ones(pair: Pair, record_property: pytest.RecordProperty) -> None:
    worst = float(np.abs(pair.model.embed_audio(pair.waves) - pair.official["audio_embeddings"]).max())
    record_property("worst_audio", worst)
    print(f"audio embeddings differ by {worst:.1e}")
    assert worst < TOLERANCE
    similarity = pair.official["audio_embeddings"] @ pair.official["audio_embeddings"].T
    assert similarity.min() < 0.95, "embeddings are trivial"


def test_text_embeddings_equal_the_official_ones(pair: Pair, record_property: pytest.RecordProperty) -> None:
    worst = float(np.abs(pair.model.embed_text(TEXTS) - pair.official["text_embeddings"]).max())
    record_property("worst_text", worst)
    print(f"text embeddings differ by {worst:.1e}")
    assert worst < TOLERANCE
    assert np.abs(pair.model.embed_text(TEXTS, tower="image") - pair.image_texts).max() < TOLERANCE
    similarity = pair.official["text_embeddings"] @ pair.official["text_embeddings"].T
    assert similarity.min() < 0.95, "embeddings are trivial"


def test_sounding_labels_equal_the_official_ones(pair: Pair) -> None:
    chosen = combine_labels(LABELS)
    similarity = pair.official["text_embeddings"][: len(chosen)] @ pair.official["audio_embeddings"].T
    two_best = np.sort(similarity, axis=0)[-2:]
    clear = np.flatnonzero(two_best[1] - two_best[0] > 4 * TOLERANCE)
    assert len(clear) >= len(pair.waves) // 2, "the sounds are trivial"
    ours = pair.model.sounding([pair.waves[index] for index in clear], LABELS)
    assert ours == [chosen[best] for best in similarity[:, clear].argmax(axis=0)]
