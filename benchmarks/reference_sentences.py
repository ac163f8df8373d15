"""Referring segmentation on both sides, for `python -m benchmarks reference`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alref_edge.bundle import Bundle
from benchmarks.official_side import official_checkpoints, run_official
from benchmarks.our_side import box_error, iou_t, prompted_box, read_maps, run_ours

# The scene that is shown where no video is given, and what is asked of it.
SCENE, WIDTH, HEIGHT = 14, 320, 240
SENTENCES = ("the large yellow triangle", "the red triangle", "the star")


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run both sides in a folder; see `benchmarks.reference` for the arguments."""
    frames = _frames(arguments.video, arguments.frames, folder / "frames")
    answers = _answers(len(frames))
    official, again = (_official(folder, answers, arguments, onednn=onednn) for onednn in (True, False))
    ours = _ours(folder, answers, arguments)
    sides = zip(official, again, ours["sentences"], strict=True)
    rows = [_row(theirs, other, mine, ours["input"]) for theirs, other, mine in sides]
    return {
        "frames": len(frames),
        "official_s": sum(result["seconds"] for result in official),
        "ours_s": ours["wall_s"],
        "equal": all(
            row["box_error"] <= 1e-4 and row["masks_equal"] and row["pivots"] and row["nontrivial"] for row in rows
        ),
        "sentences": rows,
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """What to print of a report."""
    for row in report["sentences"]:
        yield (
            f"{row['text']!r}: pivots {row['pivots']}, boxes within {row['box_error']:.1e} of the frame, "
            f"mask IoU min {row['iou_min']:.5f} ({row['pixels']} pixels; "
            f"official from itself {row['own_iou_min']:.5f}), "
            f"coverage {row['coverage_min']:.3f} to {row['coverage_max']:.3f}"
        )


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


def _official(
    folder: Path, answers: list[dict[str, Any]], arguments: argparse.Namespace, *, onednn: bool
) -> list[dict[str, Any]]:
    """The official side; without oneDNN it rounds otherwise, which tells how far it is from itself."""
    out, bundle = folder / ("official" if onednn else "again"), Bundle.open(arguments.bundle)
    job = {
        "frames": str(folder / "frames"),
        "out": str(out),
        "threads": arguments.threads,
        "onednn": onednn,
        "sentences": answers,
        "box_threshold": bundle.manifest.defaults.get("rvos", {}).get("box_threshold", 0.25),
        "text_threshold": 0.2,
        "top": 3,
        **official_checkpoints(bundle, arguments.weights),
    }
    (folder / "job.json").write_text(json.dumps(job))
    run_official("rvos_pipeline", str(folder / "job.json"))
    results: list[dict[str, Any]] = json.loads((out / "result.json").read_text())
    for number, result in enumerate(results):
        result["masks_thw"] = np.load(out / f"{number:02d}.npz")["masks_thw"]
    return results


def _ours(folder: Path, answers: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    pivots, out = folder / "pivots.json", folder / "ours"
    pivots.write_text(json.dumps({"schema": "alref-edge.pivots/1", "sentences": answers}))
    options = [option for answer in answers for option in ("--text", answer["text"])]
    options += ["--selector", "replay", "--pivots", str(pivots)]
    record = run_ours("rvos", folder / "frames", options, out, arguments.bundle, arguments.threads)
    for result in record["sentences"]:
        result["masks_thw"] = read_maps(out / result["masks"]["folder"]) > 0
    return record


def masks_alike(theirs_thw: np.ndarray, mine_thw: np.ndarray, own_iou_min: float) -> bool:
    """Whether every mask meets the bar: an IoU of 0.999; below 2,000 pixels two of them, or the official code's own."""
    iou, pixels = iou_t(theirs_thw, mine_thw), theirs_thw.sum((1, 2))
    bar = np.where(pixels < 2000, np.minimum(np.minimum(0.999, own_iou_min), 1 - 2 / np.maximum(pixels, 1)), 0.999)
    return bool((iou >= bar).all())


def _row(theirs: dict[str, Any], again: dict[str, Any], mine: dict[str, Any], video: dict[str, Any]) -> dict[str, Any]:
    pairs = list(zip(theirs["pivots"], mine["pivots"], strict=True))
    errors = [
        box_error(a["box"], box, video["width"], video["height"])
        for a, b in pairs
        if a["frame"] == b["frame"] and (box := prompted_box(b)) is not None
    ]
    coverage = theirs["masks_thw"].mean((1, 2))
    own = float(iou_t(theirs["masks_thw"], again["masks_thw"]).min())
    return {
        "text": theirs["text"],
        "pivots": [pivot["frame"] for pivot in mine["pivots"]],
        "box_error": max(errors) if len(errors) == len(pairs) and errors else float("inf"),
        "iou_min": float(iou_t(theirs["masks_thw"], mine["masks_thw"]).min()),
        "own_iou_min": own,
        "masks_equal": masks_alike(theirs["masks_thw"], mine["masks_thw"], own),
        "pixels": int((theirs["masks_thw"] ^ mine["masks_thw"]).sum((1, 2)).max()),
        "coverage_min": float(coverage.min()),
        "coverage_max": float(coverage.max()),
        "nontrivial": bool(((coverage > 0.001) & (coverage < 0.999)).mean() > 0.5),
    }
