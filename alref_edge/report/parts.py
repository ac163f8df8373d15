"""The parts of the page that need no pictures: what was run, scores, boxes, times, counters, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alref_edge.media import object_colour
from alref_edge.report.charts import bars, true_runs
from alref_edge.report.markup import Html, element, given
from alref_edge.report.shown import Shown, name_of

_STAGES = {
    "load": "graphs made ready",
    "decode": "frames out of the video",
    "listen": "what is heard, and when",
    "ground": "boxes for words",
    "wait": "the tracker waits for pivots",
    "prompt": "boxes to masks on pivot frames",
    "prepare": "frames resized for the tracker",
    "encode": "frames encoded for the tracker",
    "track": "objects through the video",
    "masks": "masks at the video's size",
    "store": "masks kept",
    "write": "masks to files",
    "draw": "masks over frames",
    "overlay": "overlay video",
}
_MOST_ROWS = 200
_MOST_BOXES = 45
_MOST_WARNINGS = 30


def tiles(shown: Shown) -> Html:
    """The figures that a reader looks for first."""
    record, video = shown.record, shown.record["input"]
    figures = [
        (shown.what, str(len(shown.entries))),
        ("frames", str(video["frames"])),
        ("length", f"{video['frames'] / video['fps']:.1f} s"),
        ("time taken", f"{record['elapsed_s']:.1f} s"),
    ]
    if "sound" in record:
        labels = record["sound"]["labels"]
        figures.insert(1, ("seconds with sound", f"{sum(map(bool, labels))} of {len(labels)}"))
    if shown.sounding_j is not None:
        figures.insert(0, ("mean J", f"{shown.sounding_j:.3f}"))
    elif shown.truth:
        figures.insert(0, ("mean J&F", f"{_mean([each.scores.j_and_f for each in shown.truth]):.3f}"))
    return element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in figures), class_="tiles"
    )


def summary(record: Mapping[str, Any]) -> Html:
    """Bundle, device and version in a line."""
    bundle = record["bundle"]
    rest = f" device {record['device']['asked']}, alref-edge {record['alref_edge']}"
    return element("p", "Bundle ", given(bundle["name"]), " ", trained_badge(bundle["trained"]), rest, class_="soft")


def what_was_run(record: Mapping[str, Any]) -> Html:
    """Input, bundle, device, version."""
    video, bundle, device = record["input"], record["bundle"], record["device"]
    providers = ", ".join(sorted(set(device["providers"].values()))) or "no network was needed"
    picture = (
        f"{video['width']}x{video['height']} pixels, {video['frames']} frames, {video['fps']:.4g} frames/s, "
        f"{video['frames'] / video['fps']:.1f} s, {video['codec'] or video['kind']}"
    )
    facts: list[tuple[str, object]] = [
        ("Input", element("code", given(video["path"], 1000))),
        ("Picture", picture),
        ("Bundle", [given(bundle["name"]), f", {bundle['precision']} ", trained_badge(bundle["trained"])]),
        ("SHA-256", element("code", given(bundle["sha256"]))),
        ("Device", [given(device["asked"]), f" ({providers})"]),
        ("Pivots by", given(record["selector"])),
        ("Version", f"alref-edge {record['alref_edge']}"),
    ]
    return element(
        "section",
        element("h2", "What was run"),
        element("dl", *((element("dt", name), element("dd", value)) for name, value in facts), class_="facts"),
    )


def trained_badge(trained: bool) -> Html:
    return (
        element("span", "trained", class_="badge good")
        if trained
        else element("span", "not trained", class_="badge bad")
    )


def overview(shown: Shown) -> Html:
    """A row for each sentence or object, with its scores where there is a truth."""
    entries, truth, sounds = shown.entries, shown.truth, shown.what == "objects"
    if not entries:
        nothing = element("p", "Nothing was found that sounds and is in view, so there are no masks.")
        return element("section", element("h2", "Objects"), nothing)
    measures = ("j", "f", "j_and_f")
    rows = []
    for number, entry in enumerate(entries[:_MOST_ROWS]):
        figures = (
            [getattr(truth[number].scores, name) for name in measures]
            if truth
            else [max((pivot["score"] for pivot in entry["pivots"]), default=None)]
        )
        cells = [
            element("th", swatch(number), given(name_of(entry)), scope="row"),
            element("td", _frames(entry["pivots"]), class_="beside"),
            element("td", seconds_in_words(entry["seconds"]), class_="beside") if sounds else None,
            element("td", truth[number].kind, class_="beside") if truth and not sounds else None,
        ]
        rows.append(element("tr", *cells, *(_figure(value) for value in figures)))
    fourth = [("Sounds in", "beside")] if sounds else [("Kind", "beside")] if truth else []
    if shown.sounding_j is not None:
        head = element("th", "All that sounds", scope="row")
        beside = element("td", class_="beside")
        rows.append(element("tr", head, beside, beside, _figure(shown.sounding_j), *2 * [_figure(None)], class_="mean"))
    elif truth and len(truth) > 1:
        means = [_mean([getattr(each.scores, name) for each in truth]) for name in measures]
        beside = element("td", class_="beside")
        head = element("th", "Mean", scope="row")
        rows.append(element("tr", head, beside, beside, *(_figure(mean) for mean in means), class_="mean"))
    note = (
        "J: overlap with the truth. F: agreement of the contours. 0 to 1, as DAVIS defines them, mean over all frames."
    )
    if shown.sounding_j is not None:
        note += " Of all that sounds: J on the last frame of each second, mean over the seconds."
    heads = [(shown.what.removesuffix("s").title(), None), ("Pivots", "beside"), *fourth]
    return element(
        "section",
        element("h2", shown.what.title()),
        _table([*heads, *((name, "number") for name in (("J", "F", "J&F") if truth else ("Best score",)))], rows),
        _left_out(len(entries) - _MOST_ROWS, shown.what),
        element("p", note, class_="soft") if truth else None,
    )


def boxes_considered(entry: Mapping[str, Any]) -> Html | None:
    """Every box that grounding proposed, by frame, with those that became pivots."""
    taken = [(pivot["frame"], pivot["box"]) for pivot in entry["pivots"]]
    found = [
        (looked["frame"], order, box, score, phrase)
        for looked in entry["considered"]
        for order, (box, score, phrase) in enumerate(
            zip(looked["boxes"], looked["scores"], looked["phrases"], strict=True), 1
        )
    ]
    if not found:
        return None
    rows = []
    for frame, order, box, score, phrase in found[:_MOST_BOXES]:
        is_pivot = (frame, box) in taken
        cells = [
            element("td", f"{frame}"),
            element("td", f"{order}"),
            element("td", given(phrase, 80), " (pivot)" if is_pivot else None),
            element("td", ", ".join(f"{side:.0f}" for side in box)),
            _figure(score),
        ]
        rows.append(element("tr", *cells, class_="taken" if is_pivot else None))
    return element(
        "details",
        element("summary", f"Boxes considered: {len(found)} on {len(entry['considered'])} frames"),
        _table(
            [*((name, None) for name in ("Frame", "Box", "Phrase", "Corners (x, y, x, y)")), ("Score", "number")], rows
        ),
        _left_out(len(found) - _MOST_BOXES, "boxes"),
    )


def times(record: Mapping[str, Any]) -> Html:
    """Seconds by stage."""
    return element("section", element("h2", "Time by stage"), bars(record["timings_s"], "s", _STAGES))


def counters(record: Mapping[str, Any]) -> Html:
    """What was counted, and the settings under which it was."""
    return element(
        "section",
        element("h2", "Counters"),
        _counts(record["counters"]),
        element("details", element("summary", "Reasoning"), _counts(record["reasoning"]))
        if "reasoning" in record
        else None,
        element("details", element("summary", "Settings"), _counts(record["settings"])),
        element("details", element("summary", "Networks"), _counts(record["device"]["providers"])),
    )


def warnings(texts: Sequence[str]) -> Html | None:
    """What the user should know."""
    if not texts:
        return None
    shown = [element("li", given(text)) for text in texts[:_MOST_WARNINGS]]
    return element(
        "section",
        element("h2", "Warnings"),
        element("ul", *shown),
        _left_out(len(texts) - _MOST_WARNINGS, "warnings"),
        class_="warnings",
    )


def swatch(number: int) -> Html:
    """The colour of an object's masks."""
    red, green, blue = object_colour(number)
    square = element("rect", x=0.5, y=0.5, width=13, height=13, rx=3, fill=f"#{red:02x}{green:02x}{blue:02x}")
    return element("svg", square, class_="swatch", viewBox="0 0 14 14", width=14, height=14, aria_hidden="true")


def _counts(values: Mapping[str, Any]) -> Html:
    rows = [
        element("div", element("dt", name.replace("_", " ")), element("dd", "none" if value is None else given(value)))
        for name, value in values.items()
    ]
    return element("dl", *rows, class_="counts")


def seconds_in_words(seconds: Sequence[int], most: int = 8) -> str:
    """Seconds in words, neighbours joined: "0 to 2 s, 4 to 5 s"; "none"."""
    sounds_s = np.isin(np.arange(max(seconds, default=0) + 1), seconds)
    spans = [f"{start} to {start + count} s" for start, count in true_runs(sounds_s)]
    return ", ".join(spans[:most] + (["…"] if len(spans) > most else [])) or "none"


def _frames(pivots: Sequence[Mapping[str, Any]]) -> str:
    frames = [str(pivot["frame"]) for pivot in pivots[:8]] + (["…"] if len(pivots) > 8 else [])
    return f"frame{'s' if len(pivots) > 1 else ''} {', '.join(frames)}" if pivots else "none"


def _table(heads: Sequence[tuple[str, str | None]], rows: Sequence[Html]) -> Html:
    """A table with a name and a class for each column."""
    head = element("tr", *(element("th", name, scope="col", class_=style) for name, style in heads))
    table = element("table", element("thead", head), element("tbody", *rows))
    return element("div", table, class_="wide")


def _figure(value: float | None) -> Html:
    return element("td", "-" if value is None else f"{value:.3f}", class_="number")


def _left_out(count: int, what: str) -> Html | None:
    return element("p", f"{count} more {what} stand in result.json.", class_="soft") if count > 0 else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
