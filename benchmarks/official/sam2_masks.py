"""What the official SAM 2 video predictor makes of mask prompts by resizing alone. For the reference environment.

    python -m benchmarks.official.sam2_masks MASKS.npz OUT.npz

MASKS.npz holds bool masks `[h, w]` of any size; OUT.npz, under each one's name, `prompt_NAME` (the mask that a model of
input size 256 is given) and `shown_NAME` (the mask that it shows on a frame of 1280 x 720), as packed bits. The steps
are those of `add_new_mask`, `_use_mask_as_output` and `_get_orig_video_res_output`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

SIZE, HEIGHT, WIDTH = 256, 720, 1280


def main(argv: list[str]) -> int:
    """Resize every mask."""
    out: dict[str, Any] = {}
    with np.load(argv[0]) as masks:
        for name in masks.files:
            mask = torch.tensor(masks[name], dtype=torch.bool)[None, None].float()
            how: dict[str, Any] = {"mode": "bilinear", "align_corners": False}
            prompt = (interpolate(mask, size=(SIZE, SIZE), antialias=True, **how) >= 0.5).float()
            low_res = interpolate(prompt * 20.0 - 10.0, size=(SIZE // 4, SIZE // 4), antialias=True, **how)
            shown = interpolate(low_res, size=(HEIGHT, WIDTH), **how) > 0
            out[f"prompt_{name}"] = np.packbits(prompt[0, 0].numpy() > 0)
            out[f"shown_{name}"] = np.packbits(shown[0, 0].numpy())
    np.savez_compressed(Path(argv[1]), **out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
