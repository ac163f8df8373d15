"""Resident memory over a long generated video with pivots in its middle, both sweeps included."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.media import OverlayWriter
from alref_edge.pipeline import Pipeline, Progress, ReplaySelector
from alref_edge.types import Pivot
from benchmarks.timing import environment

WIDTH, HEIGHT = 160, 120
EARLY = 200


def main(argv: list[str]) -> int:
    """Track through the video and print JSON; 0 when memory grew by no more than allowed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--sentences", type=int, default=2)
    parser.add_argument("--bundle", type=Path, help="the shipped one if left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--allowed-mb", type=float, default=60.0, help="growth from frame 200 to the end")
    parser.add_argument("--out", type=Path, help="also write the JSON to a file")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "long.mp4"
        _write_video(video, arguments.frames)
        report = _measure(video, arguments)
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    return 0 if report["growth_mb"] <= arguments.allowed_mb else 1


def _measure(video: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    middle = arguments.frames // 2
    box = np.array([40, 30, 110, 90], np.float32)
    sentences = [f"object {number}" for number in range(arguments.sentences)]
    pivots = {
        text: (Pivot(middle - 20, box), Pivot(middle + 30, box + number)) for number, text in enumerate(sentences)
    }
    samples: list[tuple[str, int, float]] = []
    tracked = 0
    early: float | None = None

    def watch(progress: Progress) -> None:
        nonlocal tracked, early
        if progress.stage in ("forward", "backward"):
            tracked += 1
            if tracked == EARLY:
                early = resident_mb()
        if progress.done % 100 == 0 or progress.done == progress.total:
            samples.append((progress.stage, progress.done, round(resident_mb(), 1)))

    with Pipeline.from_bundle(arguments.bundle, arguments.device, threads=arguments.threads) as pipeline:
        results = list(pipeline.rvos(video, sentences, selector=ReplaySelector(pivots, {}), progress=watch))
        read = sum(int(mask_hw.any()) for result in results for _, mask_hw in result.masks())
        end = resident_mb()
        counters = dict(results[0].run.counters)
    if early is None:
        raise SystemExit(f"the video is too short: memory is compared with that at frame {EARLY} of the sweeps")
    peak = max(value for _, _, value in samples)
    return {
        "program": "memory",
        "frames": arguments.frames,
        "sentences": arguments.sentences,
        "resident_at_frame_200_mb": round(early, 1),
        "resident_at_end_mb": round(end, 1),
        "growth_mb": round(end - early, 1),
        "peak_growth_mb": round(peak - early, 1),
        "masks_not_empty": read,
        "counters": counters,
        "samples": samples,
        "environment": environment(("onnxruntime", "numpy", "av")),
    }


def resident_mb() -> float:
    """Resident memory of this process in MB (10^6 bytes)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _write_video(path: Path, frames: int) -> None:
    """A square that wanders before noise that drifts; encoded with the writer's own key frames."""
    wall = np.random.default_rng(0).integers(60, 180, (HEIGHT, 4 * WIDTH, 3), dtype=np.uint8)
    nothing = np.zeros((0, HEIGHT, WIDTH), bool)
    with OverlayWriter(path, WIDTH, HEIGHT, 25) as writer:
        for frame in range(frames):
            image = np.roll(wall, -frame, axis=1)[:, :WIDTH].copy()
            x, y = 20 + frame % 80, 20 + (frame // 3) % 60
            image[y : y + 36, x : x + 36] = (230, 60, 40)
            writer.write(image, nothing)
