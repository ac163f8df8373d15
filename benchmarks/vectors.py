"""Make `tests/vectors`: what the official code answers on the shipped bundle's weights, small enough to be committed.

The official code runs in the reference environment (ALREF_REFERENCE_PYTHON), on every fourth frame of a scene.
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
from alref_edge.datasets.synthetic import make_scene
from benchmarks.official_side import ROOT, official_checkpoints, run_official

FOLDER = ROOT / "tests" / "vectors"
# The scene, every fourth frame of which is shown; an object of it, and the frame shown that its mask prompts.
SCENE, WIDTH, HEIGHT, FRAMES = 5, 320, 240, 10
MASK_OF, MASKED = 3, 3
# Captions, and whether the image is resized as the official code does or taken as it is.
CAPTIONS = (
    ("the red square. the small black triangle", True),
    ("black. the large square. triangle left of the square", True),
    ("circle. a square? the man's triangles, two cups", False),
)
TEXT_THRESHOLD = 0.05
# Prompts of three kinds on three frames; forward from the latest of them to the end, then backward to the start.
SAM2_JOB = {
    "prompts": [
        {"frame": MASKED, "object": 1, "mask": "mask.png"},
        {"frame": 1, "object": 2, "box": [179, 102, 226, 149]},
        {"frame": 5, "object": 3, "points": [[174, 151], [225, 165]], "labels": [1, 0]},
    ],
    "sweeps": [{"reverse": False, "start": 5}, {"reverse": True, "start": 5}],
}


def main(argv: list[str]) -> int:
    """Write the frames, the job and the answers."""
    argparse.ArgumentParser(prog="python -m benchmarks vectors", description=__doc__).parse_args(argv)
    _write_frames()
    with tempfile.TemporaryDirectory() as folder:
        weights = official_checkpoints(Bundle.open())
        _sam2(weights["sam2"], Path(folder))
        masks: dict[str, Any] = drawn_masks()
        np.savez(Path(folder) / "masks.npz", **masks)
        run_official("sam2_masks", str(Path(folder) / "masks.npz"), str(FOLDER / "mask_prompts.npz"))
        _grounding_dino(weights["grounding_dino"], Path(folder))
    for path in sorted(FOLDER.rglob("*.*")):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")
    return 0


def drawn_masks() -> dict[str, np.ndarray]:
    """Masks with edges that tie after a resize: at one half in the prompt, at zero in what is shown of it."""
    masks = {}
    for height, width in ((211, 333), (333, 211), (720, 1280), (1080, 1920), (3, 5)):
        y, x = np.mgrid[:height, :width]
        for side in (1, 8):
            masks[f"checks_{side}_{height}x{width}"] = (x // side + y // side) % 2 == 0
        masks[f"stripes_{height}x{width}"] = (x % 2 == 0) & (y < height / 2)
        masks[f"random_{height}x{width}"] = np.random.default_rng(0).random((height, width)) < 0.5
        masks[f"point_{height}x{width}"] = (x == width // 2) & (y == height // 2)
    return masks


def _write_frames() -> None:
    scene = make_scene(SCENE, WIDTH, HEIGHT)
    folder = FOLDER / "frames"
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(range(0, 4 * FRAMES, 4)):
        Image.fromarray(scene.frame(frame)).save(folder / f"{number:05d}.jpg", quality=90)
    Image.fromarray(scene.masks(4 * MASKED)[MASK_OF].astype(np.uint8) * 255).save(FOLDER / "mask.png")
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
