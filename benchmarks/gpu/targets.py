"""The table of targets: what was measured before, what is accepted, what is hoped for, and what a result says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu.record import all_rows

_LARGE, _TINY, _SWIN = "sam2.1_large", "sam2.1_tiny", "swin_t"
_UNITS = {"ms": " ms", "s": " s", "x": "x"}


@dataclass(frozen=True)
class Target:
    """A line of the table.

    Attributes:
        what: for people.
        rows: names of rows, with what they are about; the least counts of several.
        beside: rows of another contender: the figure is then theirs / ours, and more is better.
        before: the figure of the first measurement on a GPU, if any; `before_theirs`: the official code's.
        accepted, goal: figures asked for.
        unit: "ms", "s" or "x".
        profile: what counts is the kernels' own time.
    """

    what: str
    rows: tuple[str, ...]
    accepted: float
    goal: float
    before: float | None = None
    beside: tuple[str, ...] = ()
    unit: str = "ms"
    profile: bool = False

    def figure(self, rows: Mapping[str, Mapping[str, Any]]) -> tuple[float, float, float] | None:
        """The figure and its 95 % interval; None where a row is missing."""
        ours = _least(self.rows, rows)
        if ours is None:
            return None
        if self.profile:
            ms = rows[ours].get("profile", {}).get("device_ms")
            return None if ms is None else (ms, ms, ms)
        if not self.beside:
            return float(rows[ours]["median"]), *map(float, rows[ours]["interval_95"])  # type: ignore[return-value]
        theirs = _least(self.beside, rows)
        return None if theirs is None else ratio_of_medians(rows[theirs]["samples"], rows[ours]["samples"])

    def verdict(self, figure: float) -> str:
        """How far it got: "goal", "accepted" or "short"."""
        for name, asked in (("goal", self.goal), ("accepted", self.accepted)):
            if figure >= asked if self.beside else figure <= asked:
                return name
        return "short"


TARGETS = (
    Target("tracker, 1 object, a frame", (f"{_LARGE}: tracker, 1 object, float16",), 15, 10, 56.5),
    Target("tracker, 10 objects, a frame", (f"{_LARGE}: tracker, 10 objects, float16",), 32, 20, 85.0),
    Target("tracker, 16 objects, a frame", (f"{_LARGE}: tracker, 16 objects, float16",), 45, 30),
    Target("image_encoder, kernels", (f"{_LARGE}: image_encoder, float16",), 7, 4, 20.3, profile=True),
    Target("track, 1 object", tuple(f"{_LARGE}: track, 1 object, float16{more}" for more in ("", ", CUDA graph")),
           3.5, 2.5, 8.9),
    Target("track, 10 objects", tuple(f"{_LARGE}: track, 10 objects, float16{more}" for more in ("", ", CUDA graph")),
           16, 10, 35.8),
    Target("Grounding DINO Swin-T 750x1333, image", (f"{_SWIN}: grounding_dino image, float16",), 12, 7, 42.7),
    Target("Grounding DINO Swin-T 750x1333, decoder", (f"{_SWIN}: grounding_dino decoder, float16",), 8, 5, 32.9),
    Target("SAM 2.1 tiny beside `vos_optimized` of the official code", (f"{_TINY}: tracker, 1 object, float16",),
           1.2, 1.5, beside=(f"{_TINY}: official tracker, 1 object, vos_optimized",), unit="x"),
    Target("image_encoder beside ONNX Runtime's own optimiser",
           tuple(f"{_LARGE}: image_encoder, float16{more}" for more in ("", ", CUDA graph")), 1.3, 2.0,
           beside=tuple(f"{_LARGE}: ONNX Runtime's optimiser: image_encoder, float16{more}"
                        for more in ("", ", CUDA graph")), unit="x"),
    Target("nano demo, process to process", ("nano: nano demo, process to process, cuda",), 6, 4, 13, unit="s"),
    Target("large, process start to first mask", (f"{_LARGE}: process start to first mask, float16",), 5, 3, 6,
           unit="s"),
)  # fmt: skip


def markdown(result: Mapping[str, Any]) -> Iterator[str]:
    """The table of a result, as it stands in benchmarks/README.md."""
    rows = all_rows(result)
    yield "| | before | accepted | goal | measured | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for target in TARGETS:
        figure, unit = target.figure(rows), _UNITS[target.unit]
        before = "-" if target.before is None else f"{target.before:g}{unit}"
        measured, verdict = "", "due"
        if figure is not None:
            measured, verdict = f"{figure[0]:.3g}{unit} [{figure[1]:.3g}, {figure[2]:.3g}]", target.verdict(figure[0])
        asked = f"{target.accepted:g}{unit} | {target.goal:g}{unit}"
        yield f"| {target.what} | {before} | {asked} | {measured} | {verdict} |"


def beside_official(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Names of rows of ours and the official code's that do the same, by pairs."""
    for theirs in rows:
        about, _, name = theirs.partition(": official ")
        if name:
            what = name.rsplit(", ", 1)[0]
            ours = [f"{about}: {what}, {kind}" for kind in ("float16", "float16, CUDA graph", "float32")]
            best = _least(tuple(ours[:2]), rows) or _least(tuple(ours[2:]), rows)
            if best is not None:
                yield best, theirs


def ratio_of_medians(over: Any, under: Any, *, draws: int = 2000) -> tuple[float, float, float]:
    """The ratio of the medians of two sets of samples, and its 95 % interval when both are drawn again."""
    one, other = np.asarray(over, np.float64), np.asarray(under, np.float64)
    rng = np.random.default_rng(0)
    medians = [np.median(values[rng.integers(0, len(values), (draws, len(values)))], axis=1) for values in (one, other)]
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return float(np.median(one) / np.median(other)), float(low), float(high)


def _least(names: tuple[str, ...], rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    found = [name for name in names if name in rows]
    return min(found, key=lambda name: float(rows[name]["median"]), default=None)
