"""The table of targets: what was measured before, what is accepted, what is hoped for, and what a result says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from benchmarks.gpu.record import all_rows

_LARGE, _TINY, _SWIN = "sam2.1_large", "sam2.1_tiny", "swin_t"
UNITS = {"ms": " ms", "s": " s", "x": "x"}

Rows: TypeAlias = Mapping[str, Mapping[str, Any]]
Figure: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Target:
    """A line of the table.

    Attributes:
        what: for people.
        row: its name, with what it is about.
        accepted, goal: figures asked for.
        before: the figure of the first measurement on a GPU, if any.
        official: the row of the official code that does the same, if any.
        official_before: its figure then.
        beside: rows of another contender, which counts at its best: the figure is then theirs / ours, more is better.
        unit: "ms", "s" or "x".
        profile: what counts is the kernels' own time.
    """

    what: str
    row: str
    accepted: float
    goal: float
    before: float | None = None
    official: str | None = None
    official_before: float | None = None
    beside: tuple[str, ...] = ()
    unit: str = "ms"
    profile: bool = False

    def figure(self, rows: Rows) -> Figure | None:
        """The figure and its 95 % interval; None where a row is missing."""
        if not self.beside:
            return self._of(self.row, rows)
        theirs = min((rows[name] for name in self.beside if name in rows), key=lambda row: row["median"], default=None)
        if theirs is None or self.row not in rows:
            return None
        return ratio_of_medians(theirs["samples"], rows[self.row]["samples"])

    def official_figure(self, rows: Rows) -> Figure | None:
        """That of the official code."""
        return self._of(self.official, rows)

    def _of(self, name: str | None, rows: Rows) -> Figure | None:
        if name is None or name not in rows:
            return None
        if self.profile:
            ms = rows[name].get("profile", {}).get("device_ms")
            return None if ms is None else (ms, ms, ms)
        low, high = rows[name]["interval_95"]
        return rows[name]["median"], low, high

    def verdict(self, figure: float) -> str:
        """How far it got: "goal", "accepted" or "short"."""
        for name, asked in (("goal", self.goal), ("accepted", self.accepted)):
            if figure >= asked if self.beside else figure <= asked:
                return name
        return "short"


TARGETS = (
    Target("tracker, 1 object, a frame", f"{_LARGE}: tracker, 1 object, float16", 15, 10, 56.5,
           f"{_LARGE}: official tracker, 1 object, eager", 38.0),
    Target("tracker, 10 objects, a frame", f"{_LARGE}: tracker, 10 objects, float16", 32, 20, 85.0,
           f"{_LARGE}: official tracker, 10 objects, eager", 159.8),
    Target("tracker, 16 objects, a frame", f"{_LARGE}: tracker, 16 objects, float16", 45, 30, None,
           f"{_LARGE}: official tracker, 16 objects, eager"),
    Target("image_encoder, kernels", f"{_LARGE}: image_encoder, float16", 7, 4, 20.3,
           f"{_LARGE}: official image_encoder, eager", profile=True),
    Target("track, 1 object", f"{_LARGE}: track, 1 object, float16", 3.5, 2.5, 8.9),
    Target("track, 10 objects", f"{_LARGE}: track, 10 objects, float16", 16, 10, 35.8),
    Target("Grounding DINO Swin-T 750x1333, image", f"{_SWIN}: grounding_dino image, float16", 12, 7, 42.7,
           f"{_SWIN}: official grounding_dino image, bfloat16 autocast"),
    Target("Grounding DINO Swin-T 750x1333, decoder", f"{_SWIN}: grounding_dino decoder, float16", 8, 5, 32.9),
    Target("SAM 2.1 tiny beside `vos_optimized` of the official code", f"{_TINY}: tracker, 1 object, float16",
           1.2, 1.5, beside=(f"{_TINY}: official tracker, 1 object, vos_optimized",), unit="x"),
    Target("image_encoder beside ONNX Runtime's own optimiser", f"{_LARGE}: image_encoder, float16", 1.3, 2.0,
           beside=tuple(f"{_LARGE}: ONNX Runtime's optimiser: image_encoder, float16{more}"
                        for more in ("", ", CUDA graph")), unit="x"),
    Target("nano demo, process to process", "nano: nano demo, process to process, cuda", 6, 4, 13, unit="s"),
    Target("large, process start to first mask", f"{_LARGE}: process start to first mask, float16", 5, 3, 6, unit="s"),
)  # fmt: skip


def markdown(result: Mapping[str, Any]) -> Iterator[str]:
    """The table of a result, as it stands in benchmarks/README.md."""
    rows = all_rows(result)
    yield "| | before | official code | accepted | goal | measured | |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for target in TARGETS:
        figure, official, unit = target.figure(rows), target.official_figure(rows), UNITS[target.unit]
        theirs = target.official_before if official is None else official[0]
        measured, verdict = ("", "due") if figure is None else (with_interval(figure, unit), target.verdict(figure[0]))
        cells = (
            target.what,
            told(target.before, unit),
            told(theirs, unit),
            f"{target.accepted:g}{unit}",
            f"{target.goal:g}{unit}",
            measured,
            verdict,
        )
        yield f"| {' | '.join(cells)} |"


def told(value: float | None, unit: str) -> str:
    """A figure with its unit, or that there is none."""
    return "-" if value is None else f"{value:.4g}{unit}"


def with_interval(figure: Figure, unit: str) -> str:
    """A figure with its unit and its interval, where it has one."""
    value, low, high = figure
    return f"{value:.3g}{unit}" + (f" [{low:.3g}, {high:.3g}]" if low < high else "")


def beside_official(rows: Rows) -> Iterator[tuple[str, str]]:
    """Names of rows of ours and the official code's that do the same, by pairs."""
    for theirs in rows:
        about, _, name = theirs.partition(": official ")
        if name:
            what = name.rsplit(", ", 1)[0]
            ours = (f"{about}: {what}, {precision}" for precision in ("float16", "float32"))
            found = next((each for each in ours if each in rows), None)
            if found is not None:
                yield found, theirs


def ratio_of_medians(over: Any, under: Any, *, draws: int = 2000) -> Figure:
    """The ratio of the medians of two sets of samples, and its 95 % interval when both are drawn again."""
    one, other = np.asarray(over, np.float64), np.asarray(under, np.float64)
    rng = np.random.default_rng(0)
    medians = [np.median(values[rng.integers(0, len(values), (draws, len(values)))], axis=1) for values in (one, other)]
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return float(np.median(one) / np.median(other)), float(low), float(high)
