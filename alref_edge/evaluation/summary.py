"""Scores of many expressions, summed up by kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alref_edge.datasets.synthetic import KINDS
from alref_edge.metrics import Estimate, clustered_mean

if TYPE_CHECKING:
    from alref_edge.evaluation.synthetic import ExpressionScores

MEASURES: dict[str, Callable[[ExpressionScores], Sequence[float]]] = {
    "oracle_j": lambda scores: [scores.oracle.j],
    "oracle_f": lambda scores: [scores.oracle.f],
    "oracle_j_and_f": lambda scores: [scores.oracle.j_and_f],
    "grounding_j": lambda scores: [scores.grounding.j],
    "grounding_f": lambda scores: [scores.grounding.f],
    "grounding_j_and_f": lambda scores: [scores.grounding.j_and_f],
    "pivot_right": lambda scores: scores.grounding.pivots_right,
    "top_box_right": lambda scores: [top.is_right for top in scores.top_boxes],
}
"""The samples that an expression gives to each measure."""


@dataclass(frozen=True)
class Summary:
    """All expressions of one kind.

    Attributes:
        kind: one of the kinds of expressions, or "all".
        expressions: how many.
        clips: how many scenes they are from.
        measures: mean and interval, scenes drawn again, by the names in `MEASURES`. J, F and J&F count each expression
            once, `pivot_right` each pivot of the grounding selector, `top_box_right` each frame looked at that shows
            the target; if there is no such frame, it is missing.
    """

    kind: str
    expressions: int
    clips: int
    measures: dict[str, Estimate]


def summaries(scores: Sequence[ExpressionScores]) -> tuple[Summary, ...]:
    """A summary of each kind that occurs, in the order of `KINDS`, and one of all."""
    found = []
    for kind in (*KINDS, "all"):
        chosen = [each for each in scores if kind in (each.kind, "all")]
        if not chosen:
            continue
        clips: dict[int, list[ExpressionScores]] = {}
        for each in chosen:
            clips.setdefault(each.seed, []).append(each)
        measures = {}
        for name, samples in MEASURES.items():
            clusters = [[float(value) for each in clip for value in samples(each)] for clip in clips.values()]
            if any(clusters):
                measures[name] = clustered_mean(clusters)
        found.append(Summary(kind, len(chosen), len(clips), measures))
    return tuple(found)


def to_text(table: Sequence[Summary]) -> str:
    """Lines for a person; intervals are of 95 %."""
    ways = f"{'J':<6} {'F':<6} {'J&F':<20}"
    lines = [
        f"{'':<17}  {'oracle pivots':<34}  {'grounding pivots':<34}  right boxes, %",
        f"{'kind':<11}{'count':>6}  {ways}  {ways}  {'pivot':<8} top box, any frame",
    ]
    for each in table:
        cells = [f"{each.kind:<11}{each.expressions:>6}"]
        for way in ("oracle", "grounding"):
            j, f, both = (each.measures[f"{way}_{name}"] for name in ("j", "f", "j_and_f"))
            cells.append(f"{j.mean:<6.3f} {f.mean:<6.3f} {both.mean:.3f} [{both.low:.3f}, {both.high:.3f}]")
        cells.append(f"{100 * each.measures['pivot_right'].mean:<8.1f} {_percent(each.measures.get('top_box_right'))}")
        lines.append("  ".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def _percent(share: Estimate | None) -> str:
    return f"{100 * share.mean:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]" if share else "-"
