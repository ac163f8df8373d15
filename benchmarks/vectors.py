"""Make `tests/vectors`: what the official code answers on the shipped bundle's weights, small enough to be committed.

The official code runs in the reference environment (ALREF_REFERENCE_PYTHON); the weights are those of the seeds that
the bundle's manifest names.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from alref_edge.bundle import Bundle
from benchmarks.official_side import ROOT, official_checkpoints, run_official

FOLDER = ROOT / "tests" / "vectors"
# Captions, and whether the image is resized as the official code does or taken as it is.
CAPTIONS = (
    ("the red circle", True),
    ("a small blue square. the wall. circle on the left", True),
    ("a man's hat? the tall tree. two dogs. a cup, red. the ball. sky", False),
)
# Low: the drawn frames have little that untrained weights would be sure of.
TEXT_THRESHOLD = 0.05
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
    folder = FOLDER / "frames"
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(_frames(count=10, width=320, height=240)):
        image.save(folder / f"{number:05d}.jpg", quality=90)
    y, x = np.mgrid[:240, :320]
    ellipse = ((x - 120) / 50) ** 2 + ((y - 100) / 40) ** 2 < 1
    Image.fromarray(ellipse.astype(np.uint8) * 255).save(FOLDER / "mask.png")
    (FOLDER / "sam2_job.json").write_text(json.dumps(SAM2_JOB, indent=1) + "\n")


def _frames(count: int, width: int, height: int) -> Iterator[Image.Image]:
    """Shapes drifting over a moving texture of many scales: untrained weights say little about anything plainer."""
    rng = np.random.default_rng(4)
    wall = np.zeros((height + 40, width + 80, 3), np.float32)
    for cell, weight in ((80, 0.35), (40, 0.25), (20, 0.2), (10, 0.12), (4, 0.08)):
        noise = Image.fromarray(rng.integers(0, 256, (max(2, height // cell), max(2, width // cell), 3), np.uint8))
        wall += weight * np.asarray(noise.resize(wall.shape[1::-1], Image.Resampling.BICUBIC), np.float32)
    texture = np.clip((wall - 128) * 1.8 + 128, 0, 255).astype(np.uint8)
    shapes = [
        (
            rng.integers(0, 2),
            rng.uniform((20, 20), (width - 20, height - 20)),
            rng.uniform(14, 48),
            tuple(int(channel) for channel in rng.integers(0, 256, 3)),
            rng.uniform(-6, 6, 2),
        )
        for _ in range(9)
    ]
    for time in range(count):
        image = Image.fromarray(texture[time : time + height, 2 * time : 2 * time + width])
        draw = ImageDraw.Draw(image)
        for is_round, start, radius, colour, speed in shapes:
            (x, y), outline = start + speed * time, tuple(255 - channel for channel in colour)
            corners = (x - radius, y - 0.8 * radius, x + radius, y + 0.8 * radius)
            (draw.ellipse if is_round else draw.rectangle)(corners, fill=colour, outline=outline)
        yield image


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
            "resize": resize,
            "box_threshold": 0.0,
            "text_threshold": TEXT_THRESHOLD,
        }
        for number, (caption, resize) in enumerate(CAPTIONS)
    ]
    (folder / "request.json").write_text(json.dumps({**weights, "runs": runs}))
    for number in range(len(CAPTIONS)):
        (FOLDER / f"grounding_dino_{number}.npz").unlink(missing_ok=True)
    run_official("grounding_dino", str(folder / "request.json"), str(FOLDER))
