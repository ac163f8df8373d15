"""The official BEATs (microsoft/unilm, `beats/`) on given weights and sounds.

Run by the Python of the reference environment, from the root of the clone:

    python -m benchmarks.official.beats REQUEST.json OUT

REQUEST.json holds `checkpoint` (a fine-tuned `.pt`), `ontology` (AudioSet's `ontology.json`, or null where labels are
names), and `runs`: a list of `{"name", "wave"}`, each wave a `.npy` of float32 `[samples]` at 16 kHz. Each run becomes
`OUT/<name>.npz`; one that is there already is not run again.

The official files are no package: they lie in the folder that ALREF_BEATS names, `beats` of a clone of unilm.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.official.kaldi import stub_torchaudio

SILENCE = "/m/028v0c"
FILES = ("BEATs.py", "backbone.py", "modules.py")


def code_folder() -> Path:
    """Folder of the official files.

    Raises:
        FileNotFoundError: they are not there.
    """
    named = os.environ.get("ALREF_BEATS")
    folder = Path(named or "")
    if not named or not all((folder / name).is_file() for name in FILES):
        raise FileNotFoundError(
            f"ALREF_BEATS names no folder with {', '.join(FILES)} ({named}): clone microsoft/unilm, name its `beats`"
        )
    return folder


def build_official(content: dict[str, Any], *, front_end: bool = True) -> Any:
    """The official module on a checkpoint's content, as its README builds it.

    Args:
        content: `cfg`, `model` and `label_dict`.
        front_end: whether it computes filter banks, for which it needs torchaudio's; else `extract_features` takes
            them, float32 `[B, T, 128]`, normalised.
    """
    stub = stub_torchaudio if front_end else _no_torchaudio
    stub()
    sys.path.insert(0, str(code_folder()))
    from BEATs import BEATs, BEATsConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weight_norm is deprecated
        model = BEATs(BEATsConfig(content["cfg"]))
    model.load_state_dict(content["model"])
    if not front_end:
        model.preprocess = lambda source, **_numbers: source
    return model.eval()


def _no_torchaudio() -> None:
    from types import ModuleType

    names = ("torchaudio", "torchaudio.compliance", "torchaudio.compliance.kaldi")
    modules = [ModuleType(name) for name in names]
    modules[0].compliance, modules[1].kaldi = modules[1], modules[2]  # type: ignore[attr-defined]
    for name, module in zip(names, modules, strict=True):
        sys.modules.setdefault(name, module)


def tag(model: Any, label_dict: dict[int, str], names: dict[str, str], wave: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities `[labels]`, and the names of the five best, as `avs/*/beats.py` of AL-Ref-SAM 2 finds them."""
    import torch

    with torch.no_grad():
        source, padding_mask = torch.from_numpy(wave)[None], torch.zeros(1, 10000).bool()
        probabilities = model.extract_features(source, padding_mask=padding_mask)[0]
    network = probabilities[0].numpy().copy()
    silence = next((index for index, label in label_dict.items() if label in (SILENCE, "Silence")), None)
    probabilities[:, silence] = 0
    best = probabilities.topk(k=5)[1][0]
    tags = [label_dict[index.item()] for index in best]
    return {"probabilities": network, "tags": np.asarray([names.get(each, each) for each in tags], np.str_)}


def main(argv: list[str]) -> int:
    """Answer a request file."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("request", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(argv)
    request = json.loads(options.request.read_text())
    options.out.mkdir(parents=True, exist_ok=True)
    runs = [run for run in request["runs"] if not (options.out / f"{run['name']}.npz").exists()]
    if not runs:
        return 0
    content = torch.load(request["checkpoint"], map_location="cpu", weights_only=True)
    ontology = json.loads(Path(request["ontology"]).read_text()) if request["ontology"] else []
    names = {entry["id"]: entry["name"] for entry in ontology}
    model = build_official(content)
    for run in runs:
        found: dict[str, Any] = tag(model, content["label_dict"], names, np.load(run["wave"]))
        beside = options.out / f"{run['name']}.{os.getpid()}.part"
        with beside.open("wb") as file:
            np.savez_compressed(file, **found)
        beside.replace(options.out / f"{run['name']}.npz")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
