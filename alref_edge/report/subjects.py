"""The part of the page that shows one sentence or object: pivots, masks along the clip, scores over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alref_edge.media import VideoSource
from alref_edge.pipeline import MaskResult
from alref_edge.report import parts
from alref_edge.report.charts import Line, time_chart
from alref_edge.report.markup import Html, element, given
from alref_edge.report.pictures import Album, with_boxes, with_mask
from alref_edge.report.shown import name_of
from alref_edge.report.truth import Truth

_MOST_PIVOTS = 6
_MOST_IN_A_STRIP, _MOST_IN_ALL_STRIPS = 8, 96
_STRIP_SIDE, _PIVOT_SIDE = 240, 320


@dataclass
class Subject:
    """A sentence or an object that sounds with all that is known of it, and its pictures once they are taken.

    Attributes:
        number: of it, from 0.
        entry: what the record says of it.
        result: its masks.
        truth: what they are held against.
        pivots: pictures by frame; None where there was no room for one.
        strip: the same, of frames along the clip.
    """

    number: int
    entry: Mapping[str, Any]
    result: MaskResult
    truth: Truth | None
    pivots: dict[int, Html | None] = field(default_factory=dict)
    strip: dict[int, Html | None] = field(default_factory=dict)

    @property
    def shown_pivots(self) -> Sequence[Mapping[str, Any]]:
        chosen: Sequence[Mapping[str, Any]] = self.entry["pivots"][:_MOST_PIVOTS]
        return chosen


def take_pictures(subjects: Sequence[Subject], source: VideoSource, album: Album) -> None:
    """Fill the subjects' pictures in one walk over the frames that are wanted."""
    frames = subjects[0].result.frame_count
    count = min(_MOST_IN_A_STRIP, _MOST_IN_ALL_STRIPS // len(subjects))
    strip = set(np.linspace(0, frames - 1, count).round().astype(int).tolist())
    pivots = {pivot["frame"] for subject in subjects for pivot in subject.shown_pivots}
    for frame, image in source.frames_at(strip | pivots):
        for subject in subjects:
            for pivot in subject.shown_pivots:
                if pivot["frame"] == frame:
                    boxes = _boxes_on(subject.entry, frame)
                    drawn = with_boxes(image, boxes, pivot["box"], subject.number, _PIVOT_SIDE)
                    alt = f"Frame {frame} with the pivot's box and {len(boxes)} boxes that were considered"
                    subject.pivots[frame] = album.picture(drawn, alt)
            if frame in strip:
                mask_hw = subject.result.mask(frame)
                truth_hw = None if subject.truth is None else subject.truth.mask(frame)
                alt = f"Frame {frame}, its mask covers {mask_hw.mean():.1%} of the picture"
                drawn = with_mask(image, mask_hw, truth_hw, _STRIP_SIDE)
                subject.strip[frame] = album.picture(drawn, alt)


def section(subject: Subject, times_s: np.ndarray, seconds: float) -> Html:
    """The section of one sentence or object.

    Args:
        times_s: when each frame is shown, from 0, float64 `[T]`.
        seconds: the video's length.
    """
    entry, truth = subject.entry, subject.truth
    kind = element("span", truth.kind, class_="badge") if truth and truth.kind else None
    scores = truth.scores if truth else None
    sounds = "seconds" in entry
    notes = ["Bright: the mask" + (", which is empty where the object does not sound." if sounds else ".")]
    notes += ["White line: the contour of the truth."] if truth else []
    return element(
        "section",
        element("h2", parts.swatch(subject.number), given(name_of(entry)), " ", kind),
        element("p", f"Sounds in: {parts.seconds_in_words(entry['seconds'])}.") if sounds else None,
        element("p", f"J {scores.j:.3f}, F {scores.f:.3f}, J&F {scores.j_and_f:.3f}") if scores else None,
        element("p", "No segment had a pivot: frame 0 had to serve.") if entry.get("fell_back") else None,
        _pivots(subject),
        element("h3", "Masks along the clip"),
        element("div", *(_strip_figure(subject, frame, times_s) for frame in sorted(subject.strip)), class_="strip"),
        element("p", " ".join(notes), class_="soft"),
        *_chart(subject, seconds),
        parts.boxes_considered(entry),
    )


def _pivots(subject: Subject) -> list[Html]:
    pivots = subject.entry["pivots"]
    if not pivots:
        return [element("p", "There is no pivot, so the masks are empty.")]
    figures = []
    for pivot in subject.shown_pivots:
        role = " Tracking begins here." if pivot["frame"] == subject.entry.get("start_frame") else ""
        phrase = ["“", given(pivot["phrase"], 80), "”"] if pivot["phrase"] else "no phrase"
        caption = [element("strong", f"frame {pivot['frame']}, score {pivot['score']:.2f}"), ", ", phrase, ".", role]
        figures.append(element("figure", subject.pivots[pivot["frame"]], element("figcaption", *caption)))
    left = len(pivots) - len(figures)
    return [
        element("h3", f"Pivots: {len(pivots)}"),
        element("div", *figures, class_="pivots"),
        *([element("p", f"{left} more pivots stand in result.json.", class_="soft")] if left else []),
    ]


def _strip_figure(subject: Subject, frame: int, times_s: np.ndarray) -> Html:
    where = f"frame {frame}, {times_s[frame]:.1f} s"
    score = None if subject.truth is None else element("strong", f"J {subject.truth.scores.region_t[frame]:.2f}")
    return element("figure", subject.strip[frame], element("figcaption", where, score))


def _chart(subject: Subject, seconds: float) -> tuple[Html, Html]:
    pivots = [pivot["frame"] for pivot in subject.entry["pivots"]]
    if subject.truth is not None:
        scores = subject.truth.scores
        lines = [Line("J", scores.region_t, "j"), Line("F", scores.boundary_t, "f")]
        label = f"J and F over time: J from {scores.region_t.min():.2f} to {scores.region_t.max():.2f}"
        chart = time_chart(
            lines,
            label=label,
            top=1,
            unit="",
            seconds=seconds,
            pivots=pivots,
            absent_t=~subject.truth.visible_t,
            absence="not to be heard" if "seconds" in subject.entry else "out of sight",
        )
        return element("h3", "J and F over time"), chart
    covered_t = np.array([100 * mask_hw.mean() for _, mask_hw in subject.result.masks()])
    top = float(max(1.0, np.ceil(covered_t.max())))
    label = f"Share of the picture that the mask covers, from {covered_t.min():.1f} % to {covered_t.max():.1f} %"
    lines = [Line("share of the picture", covered_t, "j")]
    chart = time_chart(lines, label=label, top=top, unit=" %", seconds=seconds, pivots=pivots)
    return element("h3", "Size of the mask over time"), chart


def _boxes_on(entry: Mapping[str, Any], frame: int) -> list[Sequence[float]]:
    return [box for looked in entry["considered"] if looked["frame"] == frame for box in looked["boxes"]][:9]
