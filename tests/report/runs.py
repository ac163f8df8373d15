"""Runs made by hand: scenes with masks that are nearly right. Not a test module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.datasets.synthetic import make_scene
from alref_edge.demo import write_clip
from alref_edge.media import VideoSource, open_video
from alref_edge.pipeline.masks import MaskStore
from alref_edge.pipeline.output import ResultFolder
from alref_edge.pipeline.results import RunReport, RvosResult
from alref_edge.pipeline.settings import RvosSettings
from alref_edge.report import Truth
from alref_edge.types import Detections, Pivot

FRAMES = 24


@dataclass(frozen=True)
class Run:
    """What a report is made of."""

    record: dict[str, Any]
    source: VideoSource
    results: list[RvosResult]
    truth: list[Truth]


def make_run(
    folder: Path,
    *,
    name: str = "clip.mp4",
    texts: Sequence[str] | None = None,
    phrase: str = "a phrase",
    warnings: Sequence[str] = (),
    trained: bool = True,
    size: tuple[int, int] = (256, 256),
    frames: int = FRAMES,
) -> Run:
    """A run on scene 14; sentence `n` has masks that lag `2 * n` frames behind the truth.

    Args:
        texts: the sentences; those of the scene about looks by default.
    """
    scene = make_scene(14, *size, num_frames=frames)
    folder.mkdir(parents=True, exist_ok=True)
    write_clip(scene, folder / name)
    source = open_video(folder / name)
    expressions = [each for each in scene.expressions if each.kind == "appearance"]
    chosen = list(texts or [each.text for each in expressions])
    targets = [expressions[n % len(expressions)].target for n in range(len(chosen))]
    store = MaskStore(len(chosen), frames, size[1], size[0])
    report = RunReport(
        video=str(folder / name),
        info=source.info,
        frame_count=frames,
        bundle="toy",
        bundle_sha256="0123456789abcdef" * 4,
        trained=trained,
        precision="float32",
        device="cpu",
        providers={"sam2.encode": "CPUExecutionProvider"},
        selector="grounding",
        settings=RvosSettings(),
        counters={"frames": frames, "track_calls": 7},
        timings_s={"load": 0.41, "decode": 0.12, "ground": 0.83, "prompt": 0.3, "track": 2.2, "masks": 0.05},
    )
    results = []
    for n, (text, target) in enumerate(zip(chosen, targets, strict=True)):
        for frame in range(frames):
            store.put(n, frame, scene.labels(max(0, frame - 2 * (n % 3))) == target)
        considered, pivots = {}, []
        for frame in range(0, frames, 10):
            boxes = np.nan_to_num(scene.boxes(frame)[[target, (target + 1) % len(scene.objects)]], nan=3)
            considered[frame] = Detections(boxes, np.array([0.87, 0.31], np.float32), (phrase, "one"))
        pivots = [Pivot(frame, found.boxes_n4[0], 0.87, phrase) for frame, found in list(considered.items())[:2]]
        results.append(
            RvosResult(n, text, tuple(pivots), considered, pivots[-1].frame, False, tuple(warnings), report, store)
        )
    with ResultFolder(folder / "out", masks="none", overlay=False) as out:
        record = out.write(results, source)
    truth = [
        Truth.of(result, lambda frame, target=target: scene.labels(frame) == target, "appearance")  # type: ignore[misc]
        for result, target in zip(results, targets, strict=True)
    ]
    return Run(record, source, results, truth)
