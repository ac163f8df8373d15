"""torchaudio's `compliance/kaldi.py`, which the official BEATs and LanguageBind call, without torchaudio itself.

That file is plain Python on torch; the package around it has libraries that fit one torch only. Run by the Python of
the reference environment, from the root of the clone, this prints the filter banks of given sounds:

    python -m benchmarks.official.kaldi WAVES.npz OUT.npz

WAVES.npz holds float32 `[samples]` arrays at 16 kHz; OUT.npz gets for each `NAME` the arrays `NAME.beats` and
`NAME.languagebind`, float32 `[frames, 128]` and `[frames, 112]`, before any normalisation, and `NAME.energy`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np


def stub_torchaudio() -> ModuleType:
    """Puts a `torchaudio` into `sys.modules` that holds the true `compliance.kaldi` and nothing else; returns that.

    The file is looked for in the folder that ALREF_TORCHAUDIO names (an unpacked wheel), else where `install.sh` puts
    it.
    """
    folder = Path(os.environ.get("ALREF_TORCHAUDIO", Path(sys.prefix) / "src"))
    file = folder / "torchaudio" / "compliance" / "kaldi.py"
    if not file.is_file():
        raise SystemExit(f"no {file}: run benchmarks/official/install.sh, or set ALREF_TORCHAUDIO to an unpacked wheel")
    package, functional = ModuleType("torchaudio"), ModuleType("torchaudio.functional")
    compliance = ModuleType("torchaudio.compliance")
    name = "torchaudio.compliance.kaldi"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    kaldi = importlib.util.module_from_spec(spec)
    package.functional, package.compliance, compliance.kaldi = functional, compliance, kaldi  # type: ignore[attr-defined]
    sys.modules |= {
        "torchaudio": package,
        "torchaudio.functional": functional,
        "torchaudio.compliance": compliance,
        name: kaldi,
    }
    spec.loader.exec_module(kaldi)
    return kaldi


def main(waves: Path, out: Path) -> None:
    kaldi = stub_torchaudio()
    import torch

    fbanks = {}
    with np.load(waves) as given:
        for name in given.files:
            wave = torch.from_numpy(given[name])[None]
            # As the official code calls it: BEATs.preprocess, and AudioTransform.get_mel of LanguageBind.
            beats = kaldi.fbank(wave * 2**15, num_mel_bins=128, sample_frequency=16000, frame_length=25, frame_shift=10)
            settings = {
                "htk_compat": True,
                "sample_frequency": 16000,
                "window_type": "hanning",
                "num_mel_bins": 112,
                "dither": 0.0,
                "frame_length": 25,
                "frame_shift": 10,
            }
            centred = wave - wave.mean()
            fbanks[f"{name}.beats"] = beats.numpy()
            fbanks[f"{name}.languagebind"] = kaldi.fbank(centred, use_energy=False, **settings).numpy()
            fbanks[f"{name}.energy"] = kaldi.fbank(wave * 2**15, use_energy=True, **settings)[:, -1].numpy()
    np.savez(out, **fbanks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
