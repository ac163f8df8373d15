"""Charts as inline SVG. Only lines and bars stretch with the page; words beside them are HTML and stay legible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alref_edge.report.markup import Html, element

_WIDTH, _HEIGHT = 1000, 100
_MOST_POINTS = 240


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: what it shows.
        values_t: one value a frame, float `[T]`.
        style: its class in the style sheet.
    """

    name: str
    values_t: np.ndarray
    style: str


def time_chart(
    lines: Sequence[Line],
    *,
    label: str,
    top: float,
    unit: str,
    seconds: float,
    pivots: Sequence[int] = (),
    absent_t: np.ndarray | None = None,
    absence: str = "out of sight",
) -> Html:
    """Values over a video's frames.

    Args:
        lines: the first lies on top; over a few hundred frames, each point is the mean of several.
        label: what a reader who sees no picture is told.
        top: the value at the top of the chart; the bottom is 0.
        unit: what stands after a value at the edge.
        seconds: the video's length.
        pivots: frames that are marked.
        absent_t: bool `[T]`: frames whose background is shaded, where there is nothing to be found.
        absence: what such a frame is called.
    """
    frames = len(lines[0].values_t)
    step = _WIDTH / frames
    drawn = [
        *(
            element("rect", class_="absent", x=_number(start * step), y=0, width=_number(count * step), height=_HEIGHT)
            for start, count in ([] if absent_t is None else true_runs(absent_t))
        ),
        *(element("line", class_="rule", x1=0, x2=_WIDTH, y1=y, y2=y) for y in (0, _HEIGHT / 2, _HEIGHT)),
        *(
            element(
                "line",
                element("title", f"pivot, frame {pivot}"),
                class_="pivot",
                x1=_number((pivot + 0.5) * step),
                x2=_number((pivot + 0.5) * step),
                y1=0,
                y2=_HEIGHT,
            )
            for pivot in pivots
        ),
        *(element("polyline", points=_points(line.values_t, top), class_=f"line {line.style}") for line in lines[::-1]),
    ]
    picture = element(
        "svg", *drawn, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", preserveAspectRatio="none", role="img", aria_label=label
    )
    keys = [(line.name, line.style) for line in lines]
    keys += [("pivot", "pivot")] if len(pivots) else []
    keys += [(absence, "absent")] if absent_t is not None and absent_t.any() else []
    return element(
        "div",
        element("div", *(element("span", f"{value:.3g}{unit}") for value in (top, top / 2, 0)), class_="y"),
        element("div", picture, class_="plot"),
        element("div", element("span", "0 s"), element("span", f"{seconds:.1f} s"), class_="x"),
        element("p", *(element("span", _key(style), name) for name, style in keys), class_="legend"),
        class_="chart",
    )


def bars(values: Mapping[str, float], unit: str, names: Mapping[str, str]) -> Html:
    """One bar for each value, as long as its share of the greatest.

    Args:
        values: by name, 0 or more.
        unit: what stands after a number.
        names: what a name means, in a few words.
    """
    total, greatest = sum(values.values()) or 1.0, max(values.values(), default=0.0) or 1.0
    rows = []
    for name, value in values.items():
        bar = element("rect", class_="bar", x=0, y=0, width=_number(_WIDTH * value / greatest), height=10)
        rows += [
            element("dt", name, element("small", names.get(name))),
            element(
                "dd",
                element("svg", bar, viewBox=f"0 0 {_WIDTH} 10", preserveAspectRatio="none", aria_hidden="true"),
                element("span", f"{value:.2f} {unit}", element("small", f"{value / total:.0%}")),
            ),
        ]
    return element("dl", *rows, class_="bars")


def _key(style: str) -> Html:
    mark = (
        element("rect", class_="absent", x=0, y=0, width=24, height=10)
        if style == "absent"
        else element("line", class_=f"line {style}", x1=0, x2=24, y1=5, y2=5)
    )
    return element("svg", mark, viewBox="0 0 24 10", width=24, height=10, aria_hidden="true")


def _points(values_t: np.ndarray, top: float) -> str:
    """Points at the middles of the frames, and at both edges."""
    parts = np.array_split(np.asarray(values_t, np.float64), min(len(values_t), _MOST_POINTS))
    heights = _HEIGHT * (1 - np.array([part.mean() for part in parts]) / top)
    ends = np.cumsum([len(part) for part in parts])
    middles = _WIDTH * (ends - np.array([len(part) for part in parts]) / 2) / len(values_t)
    x = [0.0, *middles.tolist(), float(_WIDTH)]
    y = [heights[0], *heights.tolist(), heights[-1]]
    return " ".join(f"{_number(one)},{_number(other)}" for one, other in zip(x, y, strict=True))


def true_runs(flags_t: np.ndarray) -> list[tuple[int, int]]:
    """First frame and length of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags_t, [False]]).astype(np.int8)))
    return [(int(start), int(end - start)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
