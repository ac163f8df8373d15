"""The official LanguageBind as a worker that runs a tower of it when asked. For the reference environment's Python.

    python -m benchmarks.official.languagebind_worker SETTINGS.json

SETTINGS.json holds `folder` (of an official audio model), `picture` (`.npy`, float32 `[1, 3, mel_bins, frames]`),
`texts` and `threads`. The parts, for `serving.serve`: "audio" and "text", the latter with texts padded to 77 tokens, as
AL-Ref-SAM 2 does. `languagebind.py` says what is replaced in the official code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.official.languagebind import load
from benchmarks.official.serving import serve


def main(argv: list[str]) -> int:
    """Serve until the input ends."""
    import torch

    settings = json.loads(Path(argv[0]).read_text())
    torch.set_num_threads(settings["threads"])
    model, tokenizer, _ = load("audio", Path(settings["folder"]))
    picture = torch.from_numpy(np.load(settings["picture"]))
    tokens = tokenizer(settings["texts"], max_length=77, padding="max_length", truncation=True, return_tensors="pt")

    def unit(features: torch.Tensor) -> torch.Tensor:
        return features / features.norm(p=2, dim=-1, keepdim=True)

    serve(
        {
            "audio": lambda: unit(model.get_image_features(pixel_values=picture)),
            "text": lambda: unit(model.get_text_features(**tokens)),
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
