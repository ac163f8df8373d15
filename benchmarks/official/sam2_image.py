"""Runs the official SAM 2 image predictor (sam2 1.1.0) on a JPEG. For the reference environment's Python.

    PYTHONPATH=<clone> python -m benchmarks.official.sam2_image --variant sam2.1_tiny --checkpoint FILE.pt \
        --image IMAGE.jpg --job JOB.json --out RESULT.npz

The job: a list of prompts, each with any of `"box"`, `"points"` and `"labels"`, `"mask_from"` (the number of an earlier
prompt whose low-resolution logits guide this one), and `"multimask"`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.official.sam2_video import build_official


def image_predictor(model: Any) -> Any:
    """SAM2ImagePredictor over an official SAM2Base of any input size (the official class assumes 1024)."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(model)
    predictor._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    return predictor


def run_job(predictor: Any, image: Path, job: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Prompt an image.

    Returns:
        For prompt k: `masks_k` bool `[N, H, W]`, `logits_k` float32 `[N, H, W]`, `ious_k` `[N]`, `low_res_k`.
    """
    with Image.open(image) as opened:
        predictor.set_image(np.array(opened.convert("RGB")))
    out: dict[str, np.ndarray] = {}
    for number, prompt in enumerate(job):
        earlier = prompt.get("mask_from")
        logits, out[f"ious_{number}"], out[f"low_res_{number}"] = predictor.predict(
            point_coords=_array(prompt.get("points")),
            point_labels=_array(prompt.get("labels")),
            box=_array(prompt.get("box")),
            mask_input=None if earlier is None else out[f"low_res_{earlier}"][:1],
            multimask_output=prompt.get("multimask", False),
            return_logits=True,
        )
        out[f"logits_{number}"], out[f"masks_{number}"] = logits, logits > 0
    return out


def _array(values: list[Any] | None) -> np.ndarray | None:
    return None if values is None else np.array(values, np.float32)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Run the official SAM 2 image predictor.")
    parser.add_argument("--variant", required=True)
    for name in ("--checkpoint", "--image", "--job", "--out"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    with torch.inference_mode():
        predictor = image_predictor(build_official(options.variant, options.checkpoint, video=False))
        result: dict[str, Any] = run_job(predictor, options.image, json.loads(options.job.read_text()))
    np.savez(options.out, **result)


if __name__ == "__main__":
    main()
