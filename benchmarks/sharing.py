"""Ten sentences on one clip in one run, beside ten runs of one sentence: what sharing saves.

Both sides use one loaded pipeline each, so that start-up is counted on neither; pairs are run in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.datasets.synthetic import make_scene
from alref_edge.datasets.synthetic.clips import write_clip
from alref_edge.demo import SEED
from alref_edge.media import open_video
from alref_edge.pipeline import Pipeline, RvosResult
from benchmarks.timing import compare, environment

SENTENCES = (
    "the red circle", "the blue square", "a wall", "the shape on the left", "the shape on the right",
    "a circle that moves up", "the largest object", "a dog", "a person in red", "the thing in front",
)  # fmt: skip


def main(argv: list[str]) -> int:
    """Time both sides and print JSON; 0 when the ratio is at most the one asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks sharing", description=__doc__)
    parser.add_argument("video", nargs="?", type=Path, help="a clip; a generated one of 40 frames if left out")
    parser.add_argument("--bundle", type=Path, help="the shipped one if left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--at-most", type=float, default=0.6, help="the ratio together / apart that is asked for")
    parser.add_argument("--out", type=Path, help="also write the JSON to a file")
    arguments = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        video = arguments.video
        if video is None:
            video = Path(folder) / "clip.mp4"
            write_clip(video, make_scene(SEED, 320, 240))
        report = _measure(video, arguments)
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    return 0 if report["together_over_apart"] <= arguments.at_most and report["iou_min"] >= 0.99 else 1


def _measure(video: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    with Pipeline.from_bundle(arguments.bundle, arguments.device, threads=arguments.threads) as pipeline:
        last: dict[str, list[RvosResult]] = {}
        settings = pipeline.settings
        if not pipeline.bundle.manifest.trained:
            # Random weights score low: without this, every sentence would fall back on frame 0, and sweep one way only.
            settings = replace(settings, box_threshold=0.0)

        def together() -> None:
            last["together"] = list(pipeline.rvos(video, SENTENCES, settings=settings))

        def apart() -> None:
            last["apart"] = [
                result for sentence in SENTENCES for result in pipeline.rvos(video, sentence, settings=settings)
            ]

        timing = compare(together, apart, runs=arguments.runs)
        ious = [_iou_min(one, two) for one, two in zip(last["together"], last["apart"], strict=True)]
        return {
            "program": "sharing",
            "frames": open_video(video).frame_count(),
            "sentences": len(SENTENCES),
            "bundle": pipeline.bundle.manifest.name,
            "settings": asdict(settings),
            "together_s": timing.ours_s,
            "apart_s": timing.theirs_s,
            "together_over_apart": 1 / timing.ratio,
            "interval_95": [1 / timing.ratio_high, 1 / timing.ratio_low],
            "iou_min": min(ious),
            "pivots": [[pivot.frame for pivot in result.pivots] for result in last["together"]],
            "counters_together": dict(last["together"][0].run.counters),
            "counters_apart": _sum(last["apart"]),
            "timings_together_s": dict(last["together"][0].run.timings_s),
            "environment": environment(("onnxruntime", "numpy", "av")),
        }


def _iou_min(one: RvosResult, two: RvosResult) -> float:
    worst = 1.0
    for (_, a), (_, b) in zip(one.masks(), two.masks(), strict=True):
        union = np.count_nonzero(a | b)
        worst = min(worst, np.count_nonzero(a & b) / union if union else 1.0)
    return float(worst)


def _sum(results: list[RvosResult]) -> dict[str, int]:
    return {name: sum(result.run.counters[name] for result in results) for name in results[0].run.counters}
