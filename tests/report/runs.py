"""Runs made by hand: scenes with masks and sounds that are nearly right. Not a test module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.datasets.synthetic import make_scene
from alref_edge.datasets.synthetic.clips import write_clip
from alref_edge.datasets.synthetic.sound import make_sound
from alref_edge.media import VideoSource, open_video
from alref_edge.pipeline import AvsRun, MaskResult, RunReport, RvosResult
from alref_edge.pipeline.audio_segments import AudioSegment
from alref_edge.pipeline.clock import Clock
from alref_edge.pipeline.jobs import SoundingObject, WindowResult
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.settings import AvsSettings, RvosSettings
from alref_edge.report import Truth
from alref_edge.types import Detections, Pivot, Tag
from alref_edge.writing.result_folder import ResultFolder

FRAMES = 24
LABELS = (("triangle",), ("triangle", "star"), ("star",), ("star",), ())
"""What sounds in each second of the run with sound; the last is silent, and the others go by windows of two."""


@dataclass(frozen=True)
class Run:
    """What a report is made of."""

    record: dict[str, Any]
    source: VideoSource
    results: Sequence[MaskResult]
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
    write_clip(folder / name, scene)
    source = open_video(folder / name)
    expressions = [each for each in scene.expressions if each.kind == "appearance"]
    chosen = list(texts or [each.text for each in expressions])
    targets = [expressions[n % len(expressions)].target for n in range(len(chosen))]
    store = MaskStore(len(chosen), frames, size[1], size[0])
    report = _report(source, RvosSettings(), trained)
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
            RvosResult(n, text, tuple(pivots), considered, tuple(warnings), report, store, {}, pivots[-1].frame, False)
        )
    with ResultFolder(folder / "out", masks="none", overlay=False) as out:
        record = out.write(results, source)
    truth = [
        Truth.of(result, lambda frame, target=target: scene.labels(frame) == target, "appearance")  # type: ignore[misc]
        for result, target in zip(results, targets, strict=True)
    ]
    return Run(record, source, results, truth)


def make_sound_run(
    folder: Path,
    *,
    labels: Sequence[tuple[str, ...]] = LABELS,
    tag: str = "Bell",
    warnings: Sequence[str] = (),
    source: VideoSource | None = None,
    wave_16khz: np.ndarray | None = None,
) -> Run:
    """A run on scene 14 with its sound. Shapes sound as labelled; in truth, only before the last second in which they
    do. Every window has the tag, at 0.75, and one of its own.

    Args:
        labels: names in each second; where there are none, it is silent. Shapes of the scene have masks.
        source: what is listened to; the scene's clip by default.
        wave_16khz: its sound; the scene's by default.
    """
    scene = make_scene(14)
    folder.mkdir(parents=True, exist_ok=True)
    sound = make_sound(scene)
    if source is None:
        write_clip(folder / "clip.mp4", scene, sound)
        source = open_video(folder / "clip.mp4")
    clock = Clock.of(source)
    names = list(dict.fromkeys(name for each in labels for name in each))
    shapes = [each.shape for each in scene.objects]
    targets = {name: shapes.index(name) if name in shapes else 0 for name in names}
    store = MaskStore(len(names), source.frame_count(), source.info.width, source.info.height)
    heard = []
    for start, frames, shown in clock.windows(2):
        spoken = tuple(tuple(each) for each in labels[start : start + len(shown)])
        objects = []
        for name in dict.fromkeys(name for each in spoken for name in each):
            boxes = scene.boxes(min(shown[0], scene.num_frames - 1))[[targets[name], 0]]
            found = Detections(np.nan_to_num(boxes, nan=3), np.array([0.9, 0.4], np.float32), (name, "one"))
            objects.append(SoundingObject(name, found, shown[0], Pivot(shown[0], found.boxes_n4[0], 0.9, name)))
            for frame in frames:
                store.put(names.index(name), frame, scene.labels(min(frame, scene.num_frames - 1)) == targets[name])
        tags = (Tag("a", tag, 0.75), Tag("b", f"only {start}", 0.25))
        segments = tuple(AudioSegment(second, second + 1) for second in range(len(shown)))
        silent = tuple(not each for each in spoken)
        heard.append(WindowResult(start, frames, tags, tuple(objects), segments, spoken, silent))
    results = AvsRun.of(
        heard,
        {name: n for n, name in enumerate(dict.fromkeys(o.name for each in heard for o in each.objects))},
        warnings,
        _report(source, AvsSettings(), True),
        {},
        sound.wave_16khz if wave_16khz is None else wave_16khz,
        clock.second_of_frame,
        store,
    )
    with ResultFolder(folder / "sound", masks="none", overlay=False) as out:
        record = out.write(results, source)
    truth = []
    for result in results:
        early_t = clock.second_of_frame < max(result.seconds)
        truth.append(
            Truth.of(result, lambda frame, result=result, early_t=early_t: result.mask(frame) & early_t[frame])
        )  # type: ignore[misc]
    return Run(record, source, results, truth)


def _report(source: VideoSource, settings: RvosSettings | AvsSettings, trained: bool) -> RunReport:
    return RunReport(
        video=str(source.path),
        info=source.info,
        frame_count=source.frame_count(),
        bundle="toy",
        bundle_sha256="0123456789abcdef" * 4,
        trained=trained,
        precision="float32",
        forms={"sam2": "standard"},
        device="cpu",
        providers={"sam2.encode": "CPUExecutionProvider"},
        selector="grounding",
        settings=settings,
        counters={"frames": source.frame_count(), "track_calls": 7},
        timings_s={"load": 0.41, "decode": 0.12, "ground": 0.83, "prompt": 0.3, "track": 2.2, "masks": 0.05},
    )
