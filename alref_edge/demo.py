"""A first look: a clip that is drawn on the spot, sentences about it, what sounds in it, and how good the masks are.

The clip is written as a video and read back, so what runs is what runs on a user's file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.datasets.synthetic import Expression, Scene, make_scene
from alref_edge.datasets.synthetic.clips import write_clip
from alref_edge.datasets.synthetic.sound import SoundTrack, frame_of_second, make_sound, sounding_mask
from alref_edge.errors import InputError
from alref_edge.files import written_beside
from alref_edge.media import encode_rle, open_video
from alref_edge.metrics import region_similarity
from alref_edge.pipeline import AvsResult, AvsRun, Pipeline, ProgressCallback, RvosResult
from alref_edge.report import Shown, Truth, write_report
from alref_edge.writing.result_folder import ResultFolder

SEED = 49
"""Of the scene that is shown where none is asked for: a cross and a heart sound in turn, with silence between; a circle
does not sound."""

CLIP, REPORT, SOUND, TRUTH = "clip.mp4", "report.html", "sound", "truth.json"
TRUTH_SCHEMA = "alref-edge.truth/1"
_SENTENCES = 3


@dataclass(frozen=True)
class Demo:
    """What a demo came to.

    Attributes:
        folder: holds the clip, the masks, the overlay, the report, `result.json` and `truth.json`, and in `sound/` the
            result of what sounds.
        record: what `result.json` holds.
        sound: what `sound/result.json` holds; None where the bundle has no networks that hear.
        truth: what `truth.json` holds: the scores of each sentence, their means, and the right masks; what sounds in
            each second, and how well the masks of that fit.
    """

    folder: Path
    record: Mapping[str, Any]
    sound: Mapping[str, Any] | None
    truth: dict[str, Any]

    def lines(self) -> list[str]:
        """Lines for a person: the scores of each sentence, their means, and what sounds in each second."""
        rows = [(f"{entry['text']} ({entry['kind']})", entry) for entry in self.truth["sentences"]]
        rows.append(("mean", self.truth["mean"]))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  J {row['j']:.3f}  F {row['f']:.3f}  J&F {row['j_and_f']:.3f}" for name, row in rows]
        return [*lines, "", *self._heard()]

    def _heard(self) -> list[str]:
        heard = self.truth["sound"]
        if heard is None:
            return ["the bundle has no networks that hear, so what sounds is left out"]
        rows = [("second", "sounds", "truth", "J")]
        for entry in heard["seconds"]:
            truth = [*entry["truth"], *(f"{name} (off screen)" for name in entry["off_screen"])]
            names = (", ".join(entry["names"]) or "-", ", ".join(truth) or "-")
            rows.append((str(entry["second"]), *names, f"{entry['j']:.3f}"))
        rows.append(("mean", "", "", f"{heard['j']:.3f}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]

    def to_json(self) -> dict[str, Any]:
        """The scores as plain values, without masks."""
        sentences = [{name: entry[name] for name in entry if name != "masks"} for entry in self.truth["sentences"]]
        records = {"record": self.record, "sound_record": self.sound}
        return {"folder": str(self.folder), **self.truth, "sentences": sentences, **records}


def run_demo(
    pipeline: Pipeline,
    out: str | os.PathLike[str],
    seed: int = SEED,
    *,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Demo:
    """Draw a clip, segment up to three sentences in it and what sounds, and compare the masks with the truth.

    Sentences about how things look come first: they need no LLM. A bundle without networks that hear leaves out the
    sound.

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
    chosen, sound = choose(scene), make_sound(scene)
    extras = (CLIP, REPORT, *([SOUND] if pipeline.hears else []), TRUTH)
    with ResultFolder(out, overwrite=overwrite, extras=extras) as folder:
        write_clip(folder.partial / CLIP, scene, sound)
        source = open_video(folder.partial / CLIP)
        video = str(Path(out) / CLIP)
        texts = [expression.text for expression in chosen]
        results = pipeline.rvos(source, texts, progress=progress, spill_dir=folder.partial, sink=folder).named(video)
        record = folder.write(results, source, progress)
        truths = [_truth(scene, *pair) for pair in zip(chosen, results, strict=True)]
        truth = _as_json(seed, chosen, truths)
        also: list[Shown] = []
        if pipeline.hears:
            with ResultFolder(folder.partial / SOUND) as inner:
                run = pipeline.avs(source, progress=progress, spill_dir=folder.partial, sink=inner).named(video)
                written = inner.write(run, source, progress)
                truth["sound"] = _sound_as_json(scene, sound, run)
                also.append(_shown(scene, sound, run, written, truth["sound"]["j"]))
        title = f"{len(chosen)} sentence{'s' if len(chosen) > 1 else ''} on generated scene {seed}"
        write_report(folder.partial / REPORT, record, source, results, truths, title=title, also=also)
        with written_beside(folder.partial / TRUTH) as file:
            file.write((json.dumps(truth, indent=1) + "\n").encode("ascii"))
    return Demo(Path(out), record, also[0].record if also else None, truth)


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


def _truth(scene: Scene, expression: Expression, result: RvosResult) -> Truth:
    return Truth.of(result, lambda frame: scene.labels(frame) == expression.target, expression.kind)


def _shown(scene: Scene, sound: SoundTrack, run: AvsRun, record: Mapping[str, Any], j: float) -> Shown:
    """What sounds, each category with its truth: the objects of its shape, in the seconds in which they sound.

    `j` is that of all that sounds, as it is printed.
    """

    def truth(result: AvsResult) -> Truth:
        mine = {number for number, each in enumerate(scene.objects) if each.shape == result.label}

        def mask(frame: int) -> np.ndarray:
            return np.isin(scene.labels(frame), sorted(mine.intersection(sound.labels[frame // scene.fps].objects)))

        return Truth.of(result, mask)

    return Shown(record, run, [truth(result) for result in run], j)


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
    return {"schema": TRUTH_SCHEMA, "seed": seed, "mean": mean, "sentences": entries, "sound": None}


def _sound_as_json(scene: Scene, sound: SoundTrack, run: AvsRun) -> dict[str, Any]:
    """What sounds in each second, the truth, and J of all that sounds, on the frame that stands for the second."""
    entries: list[dict[str, Any]] = []
    for second, (names, label) in enumerate(zip(run.labels, sound.labels, strict=True)):
        right_hw, ours_hw = sounding_mask(scene, sound, second), run.mask(frame_of_second(scene, second))
        entries.append(
            {
                "second": second,
                "names": list(names),
                "truth": list(label.shapes),
                "off_screen": list(label.off_screen),
                "j": region_similarity(ours_hw, right_hw),
                "mask": encode_rle(right_hw),
            }
        )
    return {"j": sum(entry["j"] for entry in entries) / len(entries), "seconds": entries}
