"""The official pipeline's structure beside ours: the shipped weights, frames, sentences and recorded answers.

The official side runs in the reference environment (ALREF_REFERENCE_PYTHON), sentence by sentence as the official code
does; ours runs all sentences of a video together. Compared are the boxes of pivots and every mask; both are timed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alref_edge.bundle import Bundle
from benchmarks.official_side import official_checkpoints, run_official
from benchmarks.timing import environment

# The scene that is shown where no video is given, and what is asked of it.
SCENE, WIDTH, HEIGHT = 14, 320, 240
SENTENCES = ("the large yellow triangle", "the red triangle", "the star")


def main(argv: list[str]) -> int:
    """Run both sides; 0 when boxes and masks agree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks reference", description=__doc__)
    parser.add_argument("video", nargs="?", type=Path, help="a generated scene, if left out")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        report = _compare(Path(folder), arguments)
    for row in report["sentences"]:
        print(
            f"{row['text']!r}: pivots {row['pivots']}, boxes within {row['box_error']:.1e} of the frame, "
            f"mask IoU min {row['iou_min']:.5f}, coverage {row['coverage_min']:.3f} to {row['coverage_max']:.3f}"
        )
    print(f"official {report['official_s']:.1f} s, ours {report['ours_s']:.1f} s: {report['ratio']:.1f} times as fast")
    print("EQUAL" if report["equal"] else "NOT EQUAL")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["equal"] else 1


def _compare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    frames = _frames(arguments.video, arguments.frames, folder / "frames")
    answers = _answers(len(frames))
    official, official_s = _official(folder, answers, arguments.threads)
    ours, ours_s = _ours(folder, answers, arguments.threads)
    rows = [_row(theirs, mine, frames[0]) for theirs, mine in zip(official, ours, strict=True)]
    return {
        "program": "reference",
        "frames": len(frames),
        "official_s": official_s,
        "ours_s": ours_s,
        "ratio": official_s / ours_s,
        "equal": all(
            row["box_error"] <= 1e-4 and row["iou_min"] >= 0.999 and row["pivots"] and row["nontrivial"] for row in rows
        ),
        "sentences": rows,
        "environment": environment(("onnxruntime", "numpy", "av", "pillow")),
    }


def _frames(video: Path | None, count: int, folder: Path) -> list[Path]:
    """The first frames of a video, or of the scene, as JPEGs: both sides read these files."""
    from alref_edge.datasets.synthetic import make_scene
    from alref_edge.media import open_video

    folder.mkdir()
    scene = make_scene(SCENE, WIDTH, HEIGHT, count)
    drawn = ((index, scene.frame(index)) for index in range(count))
    for index, image in drawn if video is None else open_video(video).frames(stop=count):
        Image.fromarray(image).save(folder / f"{index:05d}.jpg", quality=95)
    return sorted(folder.iterdir())


def _answers(frames: int) -> list[dict[str, Any]]:
    """Recorded answers for every segment: each sentence has its own frames, and their best boxes."""
    segments = (frames - 11) // 50 + 1
    sampled = [min(5, -(-(frames - 50 * index) // 10)) for index in range(segments)]
    return [
        {
            "text": sentence,
            "segments": [
                {"target_frame_id": 1 + (number + index + 1) % count, "target_object_id": 1}
                for index, count in enumerate(sampled)
            ],
        }
        for number, sentence in enumerate(SENTENCES)
    ]


def _official(folder: Path, answers: list[dict[str, Any]], threads: int) -> tuple[list[dict[str, Any]], float]:
    out = folder / "official"
    job = {
        "frames": str(folder / "frames"),
        "out": str(out),
        "threads": threads,
        "sentences": answers,
        "box_threshold": 0.25,
        "text_threshold": 0.2,
        "top": 3,
        **official_checkpoints(Bundle.open()),
    }
    (folder / "job.json").write_text(json.dumps(job))
    run_official("rvos_pipeline", str(folder / "job.json"))
    results = json.loads((out / "result.json").read_text())
    for number, result in enumerate(results):
        result["masks_thw"] = np.load(out / f"{number:02d}.npz")["masks_thw"]
    return results, sum(result["seconds"] for result in results)


def _ours(folder: Path, answers: list[dict[str, Any]], threads: int) -> tuple[list[dict[str, Any]], float]:
    pivots = folder / "pivots.json"
    pivots.write_text(json.dumps({"schema": "alref-edge.pivots/1", "sentences": answers}))
    out = folder / "ours"
    command = [sys.executable, "-m", "alref_edge", "run", str(folder / "frames")]
    for answer in answers:
        command += ["--text", answer["text"]]
    command += ["--selector", "replay", "--pivots", str(pivots), "--out", str(out), "--no-overlay"]
    command += ["--device", "cpu", "--threads", str(threads)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    results = json.loads((out / "result.json").read_text())["sentences"]
    for result in results:
        masks = sorted((out / result["masks"]["folder"]).glob("*.png"))
        result["masks_thw"] = np.stack([np.asarray(Image.open(path)) > 0 for path in masks])
    return results, seconds


def _row(theirs: dict[str, Any], mine: dict[str, Any], frame: Path) -> dict[str, Any]:
    width, height = Image.open(frame).size
    size = np.array([width, height, width, height])
    pairs = list(zip(theirs["pivots"], mine["pivots"], strict=True))
    errors = [np.abs(np.array(a["box"]) - np.array(b["box"])) / size for a, b in pairs if a["frame"] == b["frame"]]
    a, b = theirs["masks_thw"], mine["masks_thw"]
    union = (a | b).sum((1, 2))
    iou = np.where(union == 0, 1.0, (a & b).sum((1, 2)) / np.maximum(union, 1))
    coverage = a.mean((1, 2))
    return {
        "text": theirs["text"],
        "pivots": [pivot["frame"] for pivot in mine["pivots"]],
        "box_error": float(np.max(errors)) if len(errors) == len(pairs) and errors else float("inf"),
        "iou_min": float(iou.min()),
        "coverage_min": float(coverage.min()),
        "coverage_max": float(coverage.max()),
        "nontrivial": bool(((coverage > 0.001) & (coverage < 0.999)).mean() > 0.5),
    }
