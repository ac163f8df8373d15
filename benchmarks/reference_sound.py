"""Audio-visual segmentation on both sides, for `python -m benchmarks reference --audio`.

Clips are scenes in the layout of AVSBench-semantic; what an LLM is to have answered about them is written as
AL-Ref-SAM 2 publishes GPT-4's answers. Frames, sounds, answers and segments are files that both sides read. The loading
of networks is in neither side's time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.bundle import Bundle
from alref_edge.datasets.synthetic import SHAPES
from alref_edge.datasets.synthetic.layouts import write_dataset
from benchmarks.official_side import official_checkpoints, run_official
from benchmarks.our_side import box_error, iou_t, prompted_box, read_maps, run_ours


@dataclass(frozen=True)
class Clip:
    """What is recorded about a scene.

    Attributes:
        setting: of AVSBench.
        seed: of the scene. Every third lasts 10 s; of the others, one shape sounds in the even ones.
        answers: by category, the number of its pivot frame and of its box there, both counted from 1.
    """

    setting: str
    seed: int
    answers: Mapping[str, tuple[int, int]]


CLIPS = (
    Clip("s4", 22, {"square": (3, 2)}),
    Clip("ms3", 25, {"heart": (3, 2), "star": (9, 1)}),
    Clip("ms3", 37, {"square": (5, 7), "triangle": (1, 1), "circle": (1, 1)}),
    Clip("avss", 26, {"purple star": (5, 1), "cross": (10, 1), "triangle": (1, 1)}),
    Clip("avss", 7, {"cross": (2, 1), "star": (4, 1), "dog": (3, 1)}),
    Clip("v2_binary", 29, {}),
)
# What the clips have to show, so that EQUAL says something.
SITUATIONS = (
    "nothing sounds", "no box", "one box", "another box than the first", "no such box", "no such frame",
    "sounds that change", "several at once", "a class by its words",
)  # fmt: skip


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run both sides in a folder; see `benchmarks.reference` for the arguments.

    Raises:
        BundleError: the bundle has no LanguageBind.
        InputError: it was not made from these weights, or no reference environment is named.
    """
    bundle = Bundle.open(arguments.bundle)
    bundle.component("languagebind")
    clips = _write(folder)
    job = {
        "out": str(folder / "official"),
        "threads": arguments.threads,
        "box_threshold": 0.25,
        "text_threshold": 0.25,
        "top": 3,
        "categories": SHAPES,
        "clips": clips,
        **official_checkpoints(bundle, arguments.weights),
    }
    (folder / "job.json").write_text(json.dumps(job))
    run_official("avs_pipeline", str(folder / "job.json"))
    official = json.loads((folder / "official" / "result.json").read_text())
    ours = [_ours(folder, clip, arguments) for clip in clips]
    rows = [_row(folder, *sides) for sides in zip(clips, official, ours, strict=True)]
    met = set().union(*(_situations(*sides) for sides in zip(CLIPS, official, strict=True)))
    missing = [each for each in SITUATIONS if each not in met]
    return {
        "official_s": sum(result["seconds"] for result in official),
        "ours_s": sum(s for record in ours for stage, s in record["timings_s"].items() if stage != "load"),
        "equal": not missing and all(row["equal"] for row in rows),
        "missing": missing,
        "clips": rows,
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """What to print of a report."""
    for row in report["clips"]:
        margin = "" if row["margin"] is None else f" (clear by {row['margin']:.1e})"
        classes = "" if row["classes_alike"] is None else f", classes alike on {row['classes_alike']:.3%}"
        yield (
            f"{row['setting']} {row['name']}: labels {'equal' if row['labels_equal'] else 'DIFFER'}{margin}, "
            f"merged IoU min {row['iou_min']:.5f}{classes}"
        )
        for each in row["objects"]:
            yield (
                f"  {each['name']!r}: {each['boxes']} boxes, the one within {each['box_error']:.1e} of the frame, "
                f"sounds in {each['seconds']} s, mask IoU min {each['iou_min']:.5f}, covers {each['coverage']:.3f}"
            )
    if report["missing"]:
        yield f"not shown by these clips: {', '.join(report['missing'])}"


def _write(folder: Path) -> list[dict[str, str]]:
    """Frames, sounds, answers and segments; what is where, clip by clip."""
    data, answers = folder / "data", folder / "answers"
    write_dataset(data, "avsbench-avss", [clip.seed for clip in CLIPS])
    truths = json.loads((data / "synthetic.json").read_text())["videos"]
    stage_1: dict[str, dict[str, Any]] = {clip.setting: {} for clip in CLIPS}
    stage_2: dict[str, dict[str, Any]] = {clip.setting: {} for clip in CLIPS}
    segments, clips = {}, []
    for clip, truth in zip(CLIPS, truths.values(), strict=True):
        name, where = truth["uid"], data / "AVSBench-semantic" / truth["subset"] / truth["uid"]
        boxes = {category: str(box) for category, (_, box) in clip.answers.items()}
        stage_1[clip.setting][name] = str({category: frame for category, (frame, _) in clip.answers.items()})
        stage_2[clip.setting][name] = next(iter(boxes.values())) if clip.setting == "s4" else boxes
        segments[name] = _segments(truth["sound"]["seconds"])
        clips.append(
            {
                "name": name,
                "setting": clip.setting,
                "frames": str(where / "frames"),
                "sound": str(where / "audio.wav"),
                "answers": str(answers),
                "segments": str(folder / "segments.json"),
            }
        )
    for setting in stage_1:
        (answers / setting).mkdir(parents=True)
        (answers / setting / "cot_stage_1_outputs.json").write_text(json.dumps(stage_1[setting]))
        (answers / setting / "cot_stage_2_outputs.json").write_text(json.dumps(stage_2[setting]))
    (folder / "segments.json").write_text(json.dumps(segments))
    (folder / "categories.txt").write_text("\n".join(SHAPES))
    return clips


def _segments(labels: list[dict[str, Any]]) -> list[list[int]]:
    """Cuts where the truth changes."""
    cuts = [second for second in range(1, len(labels)) if labels[second] != labels[second - 1]]
    return [[start, end] for start, end in zip([0, *cuts], [*cuts, len(labels)], strict=True)]


def _ours(folder: Path, clip: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    out = folder / "ours" / clip["name"]
    options = ["--audio", clip["sound"], "--fps", "1", "--selector", "replay", "--setting", clip["setting"]]
    options += ["--answers", clip["answers"], "--clip", clip["name"], "--segments", clip["segments"]]
    if clip["setting"] == "avss":
        options += ["--semantic", "--categories", str(folder / "categories.txt")]
    record = run_ours("avs", Path(clip["frames"]), options, out, arguments.bundle, arguments.threads)
    for each in record["objects"]:
        each["masks_thw"] = read_maps(out / each["masks"]["folder"]) > 0
    record["classes_thw"] = read_maps(out / "semantic") if clip["setting"] == "avss" else None
    return record


def _row(folder: Path, clip: dict[str, str], theirs: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    with np.load(folder / "official" / f"{clip['name']}.npz") as made:
        tracked_nthw, classes_thw = made["masks_nthw"], made["classes_thw"]
    found = {each["name"]: each for each in mine["objects"]}
    objects = []
    for (name, official), tracked_thw in zip(theirs["objects"].items(), tracked_nthw, strict=True):
        sounds_t = np.array([name in names for names in theirs["labels"]])
        masks_thw = tracked_thw & sounds_t[:, None, None]
        pivots = found[name]["pivots"] or [{"frame": None, "box": None}]
        objects.append(
            {
                "name": name,
                "boxes": len(official["boxes"]),
                "box_error": _box_error(official, pivots[0], mine["input"]),
                "seconds": int(sounds_t.sum()),
                "iou_min": float(iou_t(masks_thw, found[name]["masks_thw"]).min()),
                "coverage": float(masks_thw.mean((1, 2)).max()),
            }
        )
    merged_thw = np.zeros_like(classes_thw, bool)
    for each in mine["objects"]:
        merged_thw |= each["masks_thw"]
    row = {
        "name": clip["name"],
        "setting": clip["setting"],
        "labels": theirs["labels"],
        "labels_equal": theirs["labels"] == mine["sound"]["labels"] and list(theirs["objects"]) == list(found),
        "margin": theirs["margin"],
        "iou_min": float(iou_t(classes_thw > 0, merged_thw).min()),
        "classes_alike": None if mine["classes_thw"] is None else float((mine["classes_thw"] == classes_thw).mean()),
        "objects": objects,
    }
    masks_equal = all(each["box_error"] <= 1e-4 and each["iou_min"] >= 0.999 for each in objects)
    alike = row["iou_min"] >= 0.999 and (row["classes_alike"] is None or row["classes_alike"] >= 0.999)
    return {**row, "equal": row["labels_equal"] and masks_equal and alike}


def _box_error(theirs: dict[str, Any], mine: dict[str, Any], video: dict[str, Any]) -> float:
    """How far the two pivots' boxes are apart; 0 where neither side has one."""
    box = prompted_box(mine)
    if theirs["box"] is None or box is None:
        return 0.0 if theirs["box"] is box else float("inf")
    if theirs["frame"] != mine["frame"]:
        return float("inf")
    return box_error(theirs["box"], box, video["width"], video["height"])


def _situations(clip: Clip, official: dict[str, Any]) -> Iterator[str]:
    """Which of `SITUATIONS` a clip shows, by what the official side made of it."""
    if not clip.answers:
        yield "nothing sounds"
    for category, (frame, box) in clip.answers.items():
        boxes = len(official["objects"][category]["boxes"])
        if boxes < 2:
            yield ("no box", "one box")[boxes]
        elif box > 1:
            yield "another box than the first" if box <= boxes else "no such box"
        if frame > len(official["labels"]):
            yield "no such frame"
        if clip.setting == "avss" and category not in SHAPES:
            yield "a class by its words"
    if len(set(map(tuple, official["labels"]))) > 1:
        yield "sounds that change"
    if any(len(names) > 1 for names in official["labels"]):
        yield "several at once"
