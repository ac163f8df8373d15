"""The plots of the page of results, as inline SVG. Only lines and bars stretch; words beside them are HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alref_edge.report.markup import Html, element

_WIDTH = 1000
PLOT_STYLE = """
td svg.mini { display: block; width: 220px; height: 18px; }
.bullet { display: block; width: 260px; height: 26px; }
.mark { stroke: var(--ink); stroke-width: 2; }
.mark.goal { stroke: var(--good); }
.mark.accepted { stroke: var(--warn); }
.was { fill: var(--shade); }
.tick { stroke: var(--j); stroke-width: 1.5; stroke-opacity: 0.45; }
.middle { stroke: var(--ink); stroke-width: 2; }
.theirs { fill: var(--f); }
.floor { stroke: var(--good); stroke-width: 2; stroke-dasharray: 3 2; }
.key { display: inline-flex; align-items: center; gap: 6px; margin-right: 18px; }
.wide td:not(:first-child), .wide th { white-space: nowrap; }
tr.due td { color: var(--soft); }
.curve svg { display: block; width: 100%; height: 110px; }
.curve { display: grid; grid-template-columns: max-content 1fr; gap: 4px 8px; font-size: 13px; color: var(--soft); }
.curve .y { display: flex; flex-direction: column; justify-content: space-between; text-align: right; }
.curve .x { grid-column: 2; display: flex; justify-content: space-between; }
"""


def bullet(*, measured: float | None, before: float | None, accepted: float, goal: float) -> Html:
    """A figure as a bar, the earlier one as a pale bar behind it, and marks where it should be."""
    top = 1.06 * max(value for value in (measured, before, accepted, goal) if value is not None)
    drawn = []
    if before is not None:
        drawn.append(element("rect", class_="was", x=0, y=2, width=_at(before, top), height=22))
    if measured is not None:
        drawn.append(element("rect", class_="bar", x=0, y=8, width=_at(measured, top), height=10))
    for name, value in (("accepted", accepted), ("goal", goal)):
        mark = element("title", f"{name}: {value:g}")
        drawn.append(element("line", mark, class_=f"mark {name}", x1=_at(value, top), x2=_at(value, top), y1=0, y2=26))
    return _svg(*drawn, height=26, class_="bullet")


def bullet_keys() -> Html:
    """What the parts of a `bullet` are."""
    box = {"x": 0, "y": 1, "width": 24, "height": 8}
    line = {"x1": 12, "x2": 12, "y1": 0, "y2": 10}
    keys = {
        "measured": element("rect", class_="bar", **box),
        "before": element("rect", class_="was", **box),
        "accepted": element("line", class_="mark accepted", **line),
        "goal": element("line", class_="mark goal", **line),
    }
    return element("p", *(_key(name, mark) for name, mark in keys.items()), class_="soft")


def strip(samples: Sequence[float], median: float) -> Html:
    """A tick for each sample, from 0 to the slowest, and one for the median."""
    top = 1.04 * max(samples)
    ticks = [element("line", class_="tick", x1=_at(each, top), x2=_at(each, top), y1=3, y2=15) for each in samples]
    middle = element("line", class_="middle", x1=_at(median, top), x2=_at(median, top), y1=0, y2=18)
    return _svg(*ticks, middle, height=18, class_="mini")


def pair(ours: float, theirs: float) -> Html:
    """Two bars, the upper one ours."""
    top = max(ours, theirs)
    return _svg(
        element("rect", class_="bar", x=0, y=1, width=_at(ours, top), height=7),
        element("rect", class_="theirs", x=0, y=10, width=_at(theirs, top), height=7),
        height=18,
        class_="mini",
    )


def pair_keys(theirs: str) -> Html:
    """What the bars of a `pair` are."""
    box = {"x": 0, "y": 1, "width": 24, "height": 8}
    keys = {"ours": element("rect", class_="bar", **box), theirs: element("rect", class_="theirs", **box)}
    return element("p", *(_key(name, mark) for name, mark in keys.items()), class_="soft")


def curve(points: Sequence[tuple[float, float]], *, unit: str, label: str, along: str) -> Html:
    """Values along something that goes from 0 to its last point."""
    right, top = points[-1][0], 1.1 * max(value for _, value in points)
    line = " ".join(f"{_WIDTH * x / right:.1f},{100 * (1 - value / top):.1f}" for x, value in points)
    picture = _svg(
        *(element("line", class_="rule", x1=0, x2=_WIDTH, y1=y, y2=y) for y in (0, 50, 100)),
        element("polyline", points=line, class_="line j"),
        height=100,
        label=label,
    )
    return element(
        "div",
        element("div", *(element("span", f"{value:.0f} {unit}") for value in (top, top / 2, 0)), class_="y"),
        element("div", picture),
        element("div", element("span", f"{along} 0"), element("span", f"{right:g}"), class_="x"),
        class_="curve",
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, classes: Mapping[int, str] | None = None) -> Html:
    """A table, wider than the page where it must be.

    Args:
        head: of the columns.
        rows: of cells.
        classes: of rows, by their number.
    """
    return element(
        "div",
        element(
            "table",
            element("thead", element("tr", *(element("th", each) for each in head))),
            element(
                "tbody",
                *(
                    element("tr", *(element("td", cell) for cell in row), class_=(classes or {}).get(number))
                    for number, row in enumerate(rows)
                ),
            ),
        ),
        class_="wide",
    )


def facts(values: Mapping[str, object]) -> Html:
    """Names and what they are."""
    pairs = [part for name, value in values.items() for part in (element("dt", name), element("dd", value))]
    return element("dl", *pairs, class_="facts")


def number(value: float) -> str:
    """Three or four digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _at(value: float, top: float) -> str:
    return f"{_WIDTH * value / top:.1f}"


def _key(name: str, mark: Html) -> Html:
    picture = element("svg", mark, viewBox="0 0 24 10", width=24, height=10, aria_hidden="true")
    return element("span", picture, name, class_="key")


def _svg(*drawn: Html, height: int, class_: str | None = None, label: str | None = None) -> Html:
    hidden = {"aria_hidden": "true"} if label is None else {"role": "img", "aria_label": label}
    box = f"0 0 {_WIDTH} {height}"
    return element("svg", *drawn, viewBox=box, preserveAspectRatio="none", class_=class_, **hidden)
