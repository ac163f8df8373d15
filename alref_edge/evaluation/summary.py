"""Scores of many sentences, summed up by kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alref_edge.datasets.synthetic import KINDS
from alref_edge.metrics import Estimate, clustered_mean

if TYPE_CHECKING:
    from alref_edge.evaluation.scores import SentenceScores


@dataclass(frozen=True)
class Summary:
    """All expressions of one kind.

    Attributes:
        kind: one of the kinds of sentences, or "all".
        expressions: how many.
        clips: how many clips they are from.
        measures: mean and interval, clips drawn again, by name. For each way to choose the pivots, `WAY_j`, `WAY_f`
            and `WAY_j_and_f` count each expression once, `WAY_pivot_right` each of its pivots; `top_box_right` counts
            each frame looked at that shows the target; if there is no such frame, it is missing.
    """

    kind: str
    expressions: int
    clips: int
    measures: dict[str, Estimate]


def summaries(scores: Sequence[SentenceScores]) -> tuple[Summary, ...]:
    """A summary of each kind that occurs, those of synthetic scenes in the order of `KINDS`, and one of all."""
    found = []
    for kind in dict.fromkeys((*KINDS, *(each.kind for each in scores), "all")):
        chosen = [each for each in scores if kind in (each.kind, "all")]
        if not chosen:
            continue
        clips: dict[str, list[dict[str, list[float]]]] = {}
        for each in chosen:
            clips.setdefault(each.clip, []).append(_samples(each))
        measures = {}
        for name in _samples(chosen[0]):
            clusters = [[value for each in clip for value in each[name]] for clip in clips.values()]
            if any(clusters):
                measures[name] = clustered_mean(clusters)
        found.append(Summary(kind, len(chosen), len(clips), measures))
    return tuple(found)


def _samples(scores: SentenceScores) -> dict[str, list[float]]:
    """What an expression adds to each measure."""
    samples: dict[str, list[float]] = {}
    for way, tracked in scores.tracked.items():
        samples |= {f"{way}_j": [tracked.j], f"{way}_f": [tracked.f], f"{way}_j_and_f": [tracked.j_and_f]}
        if way != "oracle":
            samples[f"{way}_pivot_right"] = [float(right) for right in tracked.pivots_right]
    return {**samples, "top_box_right": [float(top.is_right) for top in scores.top_boxes]}


def to_text(table: Sequence[Summary]) -> str:
    """Lines for a person; intervals are of 95 %."""
    ways = [name.removesuffix("_j_and_f") for name in table[0].measures if name.endswith("_j_and_f")] if table else []
    head, names = f"{'':<17}", f"{'kind':<11}{'count':>6}"
    for way in ways:
        box = "" if way == "oracle" else "  box"
        head += f"  {f'{way} pivots':<{34 + len(box)}}"
        names += f"  {'J':<6} {'F':<6} {'J&F':<20}{box}"
    lines = [f"{head}  right boxes, %", f"{names}  top box, any frame"]
    for each in table:
        cells = [f"{each.kind:<11}{each.expressions:>6}"]
        for way in ways:
            j, f, both = (each.measures[f"{way}_{name}"] for name in ("j", "f", "j_and_f"))
            right = each.measures.get(f"{way}_pivot_right")
            cells.append(f"{j.mean:<6.3f} {f.mean:<6.3f} {both.mean:.3f} [{both.low:.3f}, {both.high:.3f}]")
            cells += [f"{100 * right.mean:>3.0f}"] if right else []
        lines.append("  ".join([*cells, _percent(each.measures.get("top_box_right"))]))
    return "\n".join(line.rstrip() for line in lines)


def _percent(share: Estimate | None) -> str:
    return f"{100 * share.mean:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]" if share else "-"
