"""A first look: a clip that is drawn on the spot, sentences about it, their masks, and how good these are.

The clip is written as a video and read back, so what runs is what runs on a user's file.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.datasets.synthetic import Expression, Scene, make_scene
from alref_edge.errors import InputError
from alref_edge.media import OverlayWriter, encode_rle, open_video
from alref_edge.media.partial import written_beside
from alref_edge.pipeline import Pipeline, RvosResult
from alref_edge.pipeline.measure import ProgressCallback, Watch
from alref_edge.pipeline.output import ResultFolder
from alref_edge.report import Truth, write_report

SEED = 14
"""Of the scene that is shown where none is asked for: a triangle twice, a yellow thing twice, a large one twice."""

CLIP, REPORT, TRUTH = "clip.mp4", "report.html", "truth.json"
TRUTH_SCHEMA = "alref-edge.truth/1"
_SENTENCES = 3
_CRF = 10


@dataclass(frozen=True)
class Demo:
    """What a demo came to.

    Attributes:
        folder: holds the clip, the masks, the overlay, the report, `result.json` and `truth.json`.
        record: what `result.json` holds.
        truth: what `truth.json` holds: the scores of each sentence, their means, and the right masks.
    """

    folder: Path
    record: dict[str, Any]
    truth: dict[str, Any]

    def to_text(self) -> str:
        """Lines for a person: the scores of each sentence, and their means."""
        rows = [(f"{entry['text']} ({entry['kind']})", entry) for entry in self.truth["sentences"]]
        rows.append(("mean", self.truth["mean"]))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  J {row['j']:.3f}  F {row['f']:.3f}  J&F {row['j_and_f']:.3f}" for name, row in rows]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The scores as plain values, without masks."""
        sentences = [{name: entry[name] for name in entry if name != "masks"} for entry in self.truth["sentences"]]
        return {"folder": str(self.folder), **self.truth, "sentences": sentences, "record": self.record}


def run_demo(
    pipeline: Pipeline,
    out: str | os.PathLike[str],
    seed: int = SEED,
    *,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Demo:
    """Draw a clip, segment up to three sentences in it, and compare the masks with the truth.

    Sentences about how things look come first: they need no LLM.

    Args:
        pipeline: of the bundle that is shown.
        out: folder for the result; see `ResultFolder`.
        seed: of the scene.
        overwrite: replace a result that is there.
        progress: called after every frame of every stage.

    Raises:
        InputError: the folder is taken or cannot be made, or the scene of the seed has no sentences.
        BundleError, EngineError, ProviderError, CapacityError, MediaError: see `Pipeline`.
    """
    scene = make_scene(seed)
    chosen = choose(scene)
    with ResultFolder(out, overwrite=overwrite, extras=(CLIP, REPORT, TRUTH)) as folder:
        write_clip(scene, folder.partial / CLIP)
        source = open_video(folder.partial / CLIP)
        texts = [expression.text for expression in chosen]
        found = pipeline.rvos(source, texts, progress=progress, spill_dir=folder.partial)
        results = [_said_to_be_of(Path(out) / CLIP, result) for result in found]
        record = folder.write(results, source, Watch(progress=progress))
        truths = [_truth(scene, *pair) for pair in zip(chosen, results, strict=True)]
        title = f"{len(chosen)} sentence{'s' if len(chosen) > 1 else ''} on generated scene {seed}"
        write_report(folder.partial / REPORT, record, source, results, truths, title=title)
        truth = _as_json(seed, chosen, truths)
        with written_beside(folder.partial / TRUTH) as file:
            file.write((json.dumps(truth, indent=1) + "\n").encode("ascii"))
    return Demo(Path(out), record, truth)


def choose(scene: Scene) -> list[Expression]:
    """Up to three expressions of a scene, those about looks first.

    Raises:
        InputError: it has none.
    """
    chosen = sorted(scene.expressions, key=lambda expression: expression.kind != "appearance")[:_SENTENCES]
    if not chosen:
        raise InputError(
            f"Nothing in scene {scene.seed} can be told from the rest in words.",
            expected="a scene with expressions",
            got="none",
            mend=f"give another --seed, such as {SEED}.",
        )
    return chosen


def write_clip(scene: Scene, path: str | os.PathLike[str]) -> None:
    """Write a scene as an H.264 video that looks like its frames.

    Raises:
        InputError: the path cannot be written.
        CapacityError: the disk is full.
        MediaError: PyAV has no encoder that works.
    """
    nothing = np.zeros((0, scene.height, scene.width), bool)
    with OverlayWriter(path, scene.width, scene.height, scene.fps, crf=_CRF) as writer:
        for index in range(scene.num_frames):
            writer.write(scene.frame(index), nothing)


def _said_to_be_of(video: Path, result: RvosResult) -> RvosResult:
    """The result with the name that its video will have once the folder is whole."""
    return replace(result, run=replace(result.run, video=str(video)))


def _truth(scene: Scene, expression: Expression, result: RvosResult) -> Truth:
    return Truth.of(result, lambda frame: scene.labels(frame) == expression.target, expression.kind)


def _as_json(seed: int, chosen: list[Expression], truths: list[Truth]) -> dict[str, Any]:
    names = ("j", "f", "j_and_f")
    entries = [
        {
            "text": expression.text,
            "kind": expression.kind,
            **{name: getattr(truth.scores, name) for name in names},
            "j_by_frame": truth.scores.region_t.tolist(),
            "f_by_frame": truth.scores.boundary_t.tolist(),
            "masks": [encode_rle(truth.mask(frame)) for frame in range(len(truth.visible_t))],
        }
        for expression, truth in zip(chosen, truths, strict=True)
    ]
    mean = {name: sum(entry[name] for entry in entries) / len(entries) for name in names}
    return {"schema": TRUTH_SCHEMA, "seed": seed, "mean": mean, "sentences": entries}
