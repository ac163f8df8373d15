"""Make `tests/vectors`: what the official code answers on the shipped bundle's weights, small enough to be committed.

The official code runs in the reference environment (ALREF_REFERENCE_PYTHON); the weights are those of the seeds that
the bundle's manifest names.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alref_edge.bundle import Bundle
from alref_edge.media import open_video
from alref_edge.media.sample import write_sample_clip
from benchmarks.official_side import ROOT, official_checkpoints, run_official

FOLDER = ROOT / "tests" / "vectors"
CAPTIONS = ("the red circle", "a small blue square. the wall. circle on the left")
# Prompts of three kinds on three frames; forward from the latest of them to the end, then backward to the start.
SAM2_JOB = {
    "prompts": [
        {"frame": 3, "object": 1, "mask": "mask.png"},
        {"frame": 1, "object": 2, "box": [60, 50, 150, 170]},
        {"frame": 5, "object": 3, "points": [[200, 120], [40, 40]], "labels": [1, 0]},
    ],
    "sweeps": [{"reverse": False, "start": 5}, {"reverse": True, "start": 5}],
}


def main(argv: list[str]) -> int:
    """Write the frames, the job and the answers."""
    argparse.ArgumentParser(prog="python -m benchmarks vectors", description=__doc__).parse_args(argv)
    _write_frames()
    with tempfile.TemporaryDirectory() as folder:
        weights = official_checkpoints(Bundle.open(), Path(folder))
        _sam2(weights["sam2"], Path(folder))
        _grounding_dino(weights["grounding_dino"], Path(folder))
    for path in sorted(FOLDER.rglob("*.*")):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")
    return 0


def _write_frames() -> None:
    frames = FOLDER / "frames"
    frames.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write_sample_clip(Path(folder) / "clip.mp4")
        for number, (_, image) in enumerate(open_video(Path(folder) / "clip.mp4").frames(step=4)):
            Image.fromarray(image).save(frames / f"{number:05d}.jpg", quality=92)
    y, x = np.mgrid[:240, :320]
    Image.fromarray((((x - 120) / 50) ** 2 + ((y - 100) / 40) ** 2 < 1).astype(np.uint8) * 255).save(
        FOLDER / "mask.png"
    )
    (FOLDER / "sam2_job.json").write_text(json.dumps(SAM2_JOB, indent=1) + "\n")


def _sam2(weights: dict[str, Any], folder: Path) -> None:
    out = folder / "sam2.npz"
    options = {**weights, "frames": FOLDER / "frames", "job": FOLDER / "sam2_job.json", "out": out}
    run_official("sam2_video", *(str(each) for key, value in options.items() for each in (f"--{key}", value)))
    with np.load(out) as answers:
        np.savez_compressed(FOLDER / "sam2.npz", **answers)


def _grounding_dino(weights: dict[str, Any], folder: Path) -> None:
    runs = [
        {
            "name": f"grounding_dino_{number}",
            "image": str(FOLDER / "frames" / "00004.jpg"),
            "caption": caption,
            "resize": True,
            "box_threshold": 0.0,
            "text_threshold": 0.0,
        }
        for number, caption in enumerate(CAPTIONS)
    ]
    (folder / "request.json").write_text(json.dumps({**weights, "runs": runs}))
    for number in range(len(CAPTIONS)):
        (FOLDER / f"grounding_dino_{number}.npz").unlink(missing_ok=True)
    run_official("grounding_dino", str(folder / "request.json"), str(FOLDER))
