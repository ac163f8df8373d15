"""Filter banks beside torchaudio's own `compliance/kaldi.py`, as the official BEATs and LanguageBind call it.

That file runs in the environment whose Python ALREF_REFERENCE_PYTHON names (`benchmarks/official/install.sh` makes it).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from alref_edge.media.audio import decode_audio
from alref_edge.models.audio import kaldi_fbank

pytestmark = pytest.mark.parity

ROOT = Path(__file__).parent.parent.parent
SOUNDS = ("audio_0.wav", "audio_1.wav", "with_real_audio.mp4")
LANGUAGEBIND = {"window": "hanning", "mel_bins": 112, "htk_compat": True}


@pytest.fixture(scope="module")
def waves(media: Path) -> dict[str, np.ndarray]:
    return {Path(name).stem: decode_audio(media / name).wave for name in SOUNDS}


@pytest.fixture(scope="module")
def official(waves: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The official filter banks of each sound, in float32 as they are used and in float64."""
    reference = os.environ.get("ALREF_REFERENCE_PYTHON")
    if not reference:
        pytest.fail("set ALREF_REFERENCE_PYTHON to the python that benchmarks/official/install.sh made")
    folder = tmp_path_factory.mktemp("kaldi")
    np.savez(
        folder / "waves.npz", **waves, **{f"{name}_exact": wave.astype(np.float64) for name, wave in waves.items()}
    )
    command = [reference, "-m", "benchmarks.official.kaldi", str(folder / "waves.npz"), str(folder / "fbanks.npz")]
    subprocess.run(command, cwd=ROOT, check=True)
    with np.load(folder / "fbanks.npz") as fbanks:
        return dict(fbanks)


@pytest.mark.parametrize("name", [Path(name).stem for name in SOUNDS])
def test_fbanks_are_those_of_torchaudio(
    name: str, waves: dict[str, np.ndarray], official: dict[str, np.ndarray]
) -> None:
    wave = waves[name]
    ours = {
        "beats": kaldi_fbank(wave * 2**15),
        "languagebind": kaldi_fbank(wave - wave.mean(), **LANGUAGEBIND),  # type: ignore[arg-type]
        "energy": kaldi_fbank(wave * 2**15, use_energy=True, **LANGUAGEBIND)[:, -1],  # type: ignore[arg-type]
    }
    for kind, fbank in ours.items():
        formula, used = official[f"{name}_exact.{kind}"], official[f"{name}.{kind}"]
        assert fbank.shape == used.shape
        difference, rounding = np.abs(fbank - formula), np.abs(used - formula)
        beside = np.abs(fbank - used)
        print(
            f"{name} {kind}: to the formula {difference.max():.1e}; to its float32 {beside.max():.1e}"
            f" ({(beside > 1e-3).sum()} of {beside.size} above 1e-3); its own rounding {rounding.max():.1e}"
        )
        assert difference.max() < 2e-4
        # A bin far below the rest of its frame holds the rounding of float32 itself.
        assert (beside > 1e-3).mean() < 1e-4
        assert beside.mean() < 1e-5
