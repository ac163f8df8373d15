"""The official Grounding DINO as a worker that runs a part of it when asked. For the reference environment's Python.

    python -m benchmarks.official.grounding_dino_worker SETTINGS.json

SETTINGS.json holds `variant`, `checkpoint`, `vocab`, `image` (`.npy`, float32 `[3, H, W]`, normalised), `caption` and
`threads`. The parts, for `serving.serve`: "backbone", "text_encoder", "caption" on an image that is encoded, "whole".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.official.grounding_dino import build_official
from benchmarks.official.serving import serve


def main(argv: list[str]) -> int:
    """Serve until the input ends."""
    import torch
    from groundingdino.util.misc import nested_tensor_from_tensor_list

    settings = json.loads(Path(argv[0]).read_text())
    torch.set_num_threads(settings["threads"])
    model = build_official(settings["variant"], Path(settings["checkpoint"]), Path(settings["vocab"]))
    images = torch.from_numpy(np.load(settings["image"]))[None]
    captions = [settings["caption"]]
    tokens = model.tokenizer(captions, padding="longest", return_tensors="pt")

    backbone = model.backbone
    nested = nested_tensor_from_tensor_list(images)

    class Encoded(torch.nn.Module):
        """Gives the features of an image that is encoded already."""

        def __init__(self) -> None:
            super().__init__()
            self.answer, self.position = backbone(nested), backbone[1]

        def __getitem__(self, number: int) -> object:
            return self.position

        def forward(self, samples: object) -> object:
            return self.answer

    def run(image_encoder: torch.nn.Module) -> None:
        model.backbone = image_encoder
        model(images, captions=captions)

    with torch.inference_mode():
        encoded = Encoded()
    parts: dict[str, Callable[[], object]] = {
        "whole": lambda: run(backbone),
        "backbone": lambda: backbone(nested),
        "text_encoder": lambda: model.feat_map(model.bert(**tokens)["last_hidden_state"]),
        # With the projection of the image's features, which our backbone graph holds: a hundredth of the work.
        "caption": lambda: run(encoded),
    }
    serve(parts)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
