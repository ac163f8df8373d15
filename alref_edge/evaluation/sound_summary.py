"""Scores of many clips with sound, summed up by mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alref_edge.metrics import ClassScores, Estimate, clustered_mean

if TYPE_CHECKING:
    from alref_edge.evaluation.sound_scores import ClipScores

WAYS = {
    "own": "the pipeline, all frames",
    "gated": "the same, silence gate on",
    "sparse": "the pipeline, 1 frame/s",
    "known_boxes": "categories and boxes known",
    "known_labels": "what sounds when known too",
    "one_object": "a perfect mask of one object a category",
}
"""The masks that are compared with the truth. Known boxes are the best of those proposed, tracked over all frames."""

STAGES = {
    "tag_precision": "tagging: tagged categories that are heard",
    "tag_recall": "tagging: heard categories that are tagged",
    "tag_best": "tagging: the best tag is heard",
    "presence_precision": "presence: categories kept that sound in view",
    "presence_recall": "presence: sounding ones in view that are kept",
    "box_right": "box: of a right category, IoU 0.5 or more",
    "cut_precision": "segments: cuts where the sound changes",
    "cut_recall": "segments: changes of the sound that are cut",
    "labels_right": "labels: seconds with exactly the right ones",
    "silence_empty": "silence gate: silent seconds without a mask",
    "sound_kept": "silence gate: other seconds left open",
}
"""Shares of what each stage got right, given what the stages before it gave it."""


@dataclass(frozen=True)
class SoundSummary:
    """All clips of one mode.

    Attributes:
        mode: "single" or "multi".
        clips: how many.
        seconds: of all clips, each of which has one frame that counts.
        mj, mf: of AVSBench over all these frames, by the names in `WAYS`.
        sounding_j: mean J over those frames in which something sounds, by the same names.
        stages: share that is right, by the names in `STAGES`; one that was never asked is missing.
        miou, f: of AVSS, over the background and all shapes, of the class maps.
    """

    mode: str
    clips: int
    seconds: int
    mj: Mapping[str, Estimate]
    mf: Mapping[str, Estimate]
    sounding_j: Mapping[str, Estimate]
    stages: Mapping[str, Estimate]
    miou: float
    f: float


def summaries(scores: Sequence[ClipScores]) -> tuple[SoundSummary, ...]:
    """A summary of each mode that occurs; intervals by drawing clips again."""
    return tuple(
        _summary(mode, [each for each in scores if each.mode == mode])
        for mode in dict.fromkeys(each.mode for each in scores)
    )


def _summary(mode: str, clips: Sequence[ClipScores]) -> SoundSummary:
    classes = ClassScores.total(clip.classes for clip in clips)
    right = {name: [clip.stages[name] for clip in clips] for name in STAGES}
    heard = {
        way: [[j for j, sounds in zip(clip.j[way], clip.sounding, strict=True) if sounds] for clip in clips]
        for way in WAYS
    }
    return SoundSummary(
        mode=mode,
        clips=len(clips),
        seconds=sum(len(clip.sounding) for clip in clips),
        mj={way: clustered_mean([clip.j[way] for clip in clips]) for way in WAYS},
        mf={way: clustered_mean([clip.f[way] for clip in clips]) for way in WAYS},
        sounding_j={way: clustered_mean(samples) for way, samples in heard.items() if any(samples)},
        stages={name: clustered_mean(samples) for name, samples in right.items() if any(samples)},
        miou=classes.miou,
        f=classes.f,
    )


def to_text(table: Sequence[SoundSummary]) -> str:
    """Lines for a person; intervals are of 95 %."""
    lines = []
    for each in table:
        lines += [
            f"{each.mode}: {each.clips} clips, {each.seconds} seconds",
            f"  {'':<46}{'MJ':<22}{'MF':<22}J where something sounds",
        ]
        for way, text in WAYS.items():
            cells = [each.mj[way], each.mf[way], each.sounding_j.get(way)]
            lines.append(f"  {text:<46}" + "".join(f"{_cell(cell):<22}" for cell in cells))
        lines.append(f"  AVSS, of the pipeline's class maps: mIoU {each.miou:.3f}, F {each.f:.3f}")
        lines.append(f"  {'':<46}right, %             of")
        for name, text in STAGES.items():
            if name in each.stages:
                share = each.stages[name]
                cell = f"{100 * share.mean:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"
                lines.append(f"  {text:<46}{cell:<21}{share.count}")
    return "\n".join(line.rstrip() for line in lines)


def _cell(share: Estimate | None) -> str:
    return f"{share.mean:.3f} [{share.low:.3f}, {share.high:.3f}]" if share else "-"
