"""The official Grounding DINO as a worker that runs a part of it when asked. For the reference environment's Python.

    python -m benchmarks.official.grounding_dino_worker SETTINGS.json

SETTINGS.json holds `variant`, `checkpoint`, `vocab`, `image` (`.npy`, float32 `[3, H, W]`, normalised), `caption` and
`threads`. After `ready`, each line of the input names a part; it is run once and answered by `done`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.official.grounding_dino import build_official


def main(argv: list[str]) -> int:
    """Serve until the input ends."""
    import torch

    settings = json.loads(Path(argv[0]).read_text())
    torch.set_num_threads(settings["threads"])
    model = build_official(settings["variant"], Path(settings["checkpoint"]), Path(settings["vocab"]))
    images = torch.from_numpy(np.load(settings["image"]))[None]
    captions = [settings["caption"]]
    tokens = model.tokenizer(captions, padding="longest", return_tensors="pt")

    def whole() -> None:
        model.unset_image_tensor()
        model(images, captions=captions)

    def backbone() -> None:
        model.unset_image_tensor()
        model.set_image_tensor(images)

    parts: dict[str, Callable[[], object]] = {
        "whole": whole,
        "backbone": backbone,
        "text_encoder": lambda: model.feat_map(model.bert(**tokens)["last_hidden_state"]),
        # The official forward pass reuses the features of the image that was set last.
        "caption": lambda: model(images, captions=captions),
    }
    print("ready", flush=True)
    with torch.inference_mode():
        for line in sys.stdin:
            parts[line.strip()]()
            print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
