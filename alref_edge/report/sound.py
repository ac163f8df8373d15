"""The part of the page that shows what was heard: one axis of time, and on it sound, segments, tags and objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from alref_edge.media import object_colour
from alref_edge.pipeline import AvsRun
from alref_edge.report import parts
from alref_edge.report.charts import true_runs
from alref_edge.report.markup import Html, element, given
from alref_edge.report.pictures import Album, spectrogram
from alref_edge.report.shown import Shown, name_of

_MOST_TAGS, _MOST_OBJECTS, _MOST_WINDOWS = 12, 24, 30
_MOST_TICKS, _MOST_RULES = 6, 60
_TICKS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_HEIGHT = 10

Span = tuple[float, float]


def section(shown: Shown, run: AvsRun, album: Album) -> Html:
    """What was heard in each second, and what was taken to make the sound.

    Args:
        shown: the run, with its record and truth.
        run: itself.
        album: holds the spectrogram.
    """
    seconds, windows = len(run.labels), shown.record["sound"]["windows"]
    line = _Line(seconds, windows)
    rows = [
        *_spectrogram(run.wave_16khz, seconds, album),
        *line.row("segments", _segments(windows)),
        *(cell for name, most in _best_tags(windows) for cell in _tag(line, name, most, windows)),
    ]
    for number, entry in enumerate(shown.entries[:_MOST_OBJECTS]):
        truth = None if shown.truth is None else shown.truth[number].visible_t
        rows += _object(line, number, entry, None if truth is None else np.unique(run.second_of_frame[truth]))
    if line.silent:
        rows += line.row("silence", [_path(line.silent, 2, 6, "silence")])
    rows += [element("div"), _axis(seconds)]
    told = "A second is coloured where the object sounds in it."
    told += " The line below is the truth." if shown.truth else ""
    left = len(shown.entries) - _MOST_OBJECTS
    return element(
        "section",
        element("h2", "What was heard"),
        element("div", *rows, class_="timeline"),
        element("p", told, class_="soft") if shown.entries else None,
        element("p", f"{left} more objects stand in result.json.", class_="soft") if left > 0 else None,
        _tags_by_window(windows),
    )


class _Line:
    """Rows over the seconds of a video, all as wide: their rules, and where it is silent."""

    def __init__(self, seconds: int, windows: Sequence[Mapping[str, Any]]) -> None:
        self._seconds = seconds
        silent = np.zeros(seconds, bool)
        for window in windows:
            silent[window["start_s"] : window["start_s"] + len(window["silent"])] = window["silent"]
        self.silent = [(start, start + count) for start, count in true_runs(silent)]
        step = next((each for each in _TICKS_S if seconds <= each * _MOST_RULES), seconds)
        self._rules = element(
            "path", class_="rule", d="".join(f"M{x} 0V{_HEIGHT}" for x in range(0, seconds + 1, step))
        )
        borders = "".join(f"M{window['start_s']} 0V{_HEIGHT}" for window in windows[1:])
        self._borders = element("path", class_="border", d=borders) if borders else None

    def row(self, name: object, drawn: Sequence[Html], label: str | None = None) -> list[Html]:
        """A name and what stands beside it, drawn in seconds by tenths of the row."""
        picture = element(
            "svg",
            _path(self.silent, 0, _HEIGHT, "absent") if self.silent else None,
            *drawn,
            self._rules,
            self._borders,
            viewBox=f"0 0 {self._seconds} {_HEIGHT}",
            preserveAspectRatio="none",
            **({"aria_hidden": "true"} if label is None else {"role": "img", "aria_label": label}),
        )
        return [element("div", name), element("div", picture)]


def _spectrogram(wave_16khz: np.ndarray, seconds: int, album: Album) -> list[Html]:
    alt = f"Spectrogram of {seconds} s, 125 Hz at the bottom to 7.5 kHz at the top"
    name = [element("span", "7.5 kHz"), element("span", "sound"), element("span", "125 Hz")]
    picture = album.drawing(spectrogram(wave_16khz, seconds), alt)
    return [element("div", *name, class_="hertz"), element("div", picture)]


def _segments(windows: Sequence[Mapping[str, Any]]) -> list[Html]:
    """Every other segment of a window is darker."""
    spans = [
        [(window["start_s"] + start, window["start_s"] + end) for start, end in window["segments"]]
        for window in windows
    ]
    even = [span for each in spans for span in each[::2]]
    odd = [span for each in spans for span in each[1::2]]
    return [_path(each, 2, 6, style) for each, style in ((even, "segment"), (odd, "segment other")) if each]


def _best_tags(windows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """The tags that are most probable somewhere, and how probable they are there."""
    most: dict[str, float] = {}
    for window in windows:
        for tag in window["tags"]:
            most[tag["name"]] = max(tag["probability"], most.get(tag["name"], 0.0))
    return sorted(most.items(), key=lambda item: -item[1])[:_MOST_TAGS]


def _tag(line: _Line, name: str, most: float, windows: Sequence[Mapping[str, Any]]) -> list[Html]:
    """The more probable in a window, the darker."""
    drawn = [
        element(
            "rect", class_="tag", x=window["start_s"], y=2, width=len(window["silent"]), height=6,
            fill_opacity=f"{tag['probability']:.2f}",
        )
        for window in windows
        for tag in window["tags"]
        if tag["name"] == name
    ]  # fmt: skip
    return line.row([given(name, 40), element("small", f" {most:.2f}")], drawn)


def _object(line: _Line, number: int, entry: Mapping[str, Any], truth_s: np.ndarray | None) -> list[Html]:
    red, green, blue = object_colour(number)
    name = name_of(entry)
    drawn = [_path(_spans(entry["seconds"]), 1.5, 5, "sounds", f"#{red:02x}{green:02x}{blue:02x}")]
    label = f"{name[:80]} sounds in {parts.seconds_in_words(entry['seconds'])}"
    if truth_s is not None:
        drawn.append(_path(_spans(truth_s.tolist()), 7.5, 1.5, "truth"))
        label += f"; in truth in {parts.seconds_in_words(truth_s.tolist())}"
    return line.row([parts.swatch(number), given(name, 40)], drawn, label)


def _axis(seconds: int) -> Html:
    """Words at their seconds; given in percent, so nothing stretches them."""
    step = next((each for each in _TICKS_S if seconds <= each * _MOST_TICKS), seconds)
    words = [
        element(
            "text",
            f"{second} s",
            x=f"{100 * second / seconds:.2f}%",
            y=14,
            text_anchor="start" if second == 0 else "end" if second == seconds else "middle",
        )
        for second in range(0, seconds + 1, step)
    ]
    return element("div", element("svg", *words, class_="axis", role="img", aria_label=f"0 to {seconds} s"))


def _tags_by_window(windows: Sequence[Mapping[str, Any]]) -> Html | None:
    heard = [window for window in windows if window["tags"]]
    if not heard:
        return None
    rows = []
    for window in heard[:_MOST_WINDOWS]:
        tags = sorted(window["tags"], key=lambda tag: -tag["probability"])
        words = [[", " if order else None, given(tag["name"], 40), f" {tag['probability']:.2f}"]
                 for order, tag in enumerate(tags)]  # fmt: skip
        where = f"{window['start_s']} to {window['start_s'] + len(window['silent'])} s"
        rows.append(element("div", element("dt", where), element("dd", *words)))
    left = len(heard) - _MOST_WINDOWS
    return element(
        "details",
        element("summary", "Tags of each window, with their probabilities"),
        element("dl", *rows, class_="counts whole"),
        element("p", f"{left} more windows stand in result.json.", class_="soft") if left > 0 else None,
    )


def _spans(seconds: Sequence[int]) -> list[Span]:
    sounds_s = np.isin(np.arange(max(seconds, default=0) + 1), seconds)
    return [(start, start + count) for start, count in true_runs(sounds_s)]


def _path(spans: Iterable[Span], y: float, height: float, style: str, fill: str | None = None) -> Html:
    """Bars over seconds, in one element however many there are."""
    bars = "".join(f"M{start:g} {y:g}H{end:g}v{height:g}H{start:g}z" for start, end in spans)
    return element("path", class_=style, d=bars, fill=fill)
