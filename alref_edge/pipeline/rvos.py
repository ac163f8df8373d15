"""Referring video object segmentation: the method of AL-Ref-SAM 2 (arXiv 2408.15876), for many sentences at once.

What does not depend on the sentence is done once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import numpy as np

from alref_edge.errors import InputError, MediaError
from alref_edge.media import VideoSource
from alref_edge.pipeline.grounding import Grounder
from alref_edge.pipeline.masks import MaskStore
from alref_edge.pipeline.measure import Watch
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.pivots import PivotSelector, Segment, Window, pivot_of, windows
from alref_edge.pipeline.settings import RvosSettings
from alref_edge.pipeline.tracking import ObjectTracking
from alref_edge.types import Detections, Pivot

FELL_BACK = "no segment has a pivot: the best box on frame 0 serves"
NO_BOX = "no box was found for this sentence: its masks are empty"


@dataclass
class Query:
    """A sentence on its way through the method.

    Attributes:
        text: the sentence.
        given: pivots known beforehand; None where the selector is asked segment by segment.
        pivots: the pivots chosen so far, ascending by frame.
        considered: the boxes that were looked at, by frame.
        fell_back: whether frame 0 had to serve.
        warnings: what the user should know.
    """

    text: str
    given: tuple[Pivot, ...] | None
    pivots: list[Pivot] = field(default_factory=list)
    considered: dict[int, Detections] = field(default_factory=dict)
    fell_back: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def start(self) -> int:
        """The frame from which the object is tracked: its middle pivot."""
        return self.pivots[len(self.pivots) // 2].frame


def segment_video(
    networks: Networks,
    source: VideoSource,
    queries: Sequence[Query],
    selector: PivotSelector,
    settings: RvosSettings,
    watch: Watch,
    masks: MaskStore,
    cache_bytes: int,
) -> None:
    """Find and segment what each sentence refers to.

    In every segment of five sampled frames the selector picks a pivot frame and a box on it; SAM 2 turns the boxes into
    masks, and tracks each object forward and then backward from its middle pivot, with all its pivots in memory. An
    object that has no pivot starts at the best box on frame 0; if there is none either, its masks are empty.

    Args:
        networks: Grounding DINO and SAM 2.
        source: the video.
        queries: the sentences; their pivots, boxes and warnings are filled in.
        selector: picks the pivots.
        settings: numbers of the method.
        watch: counts, times, reports.
        masks: where masks go, by number of the sentence and frame.
        cache_bytes: see `ObjectTracking`.
    """
    watch.counters.frames = source.frame_count()
    grounder = Grounder(
        lambda: networks.detector,
        settings.box_threshold,
        settings.text_threshold,
        lambda found: found.top(settings.boxes_per_frame),
        watch,
    )
    for query in queries:
        _check_given(query, source)
        if not query.given:
            grounder.read(query.text)
    tracking = ObjectTracking(networks, source, settings, watch, cache_bytes)
    try:
        for window, images in _look(source, queries, settings, watch):
            grounder.show(images)
            found = [
                (number, pivot)
                for number, query in enumerate(queries)
                for pivot in _pivots_in(window, images, query, selector, grounder)
            ]
            _prompt(tracking, queries, found, images)
        lost = [(number, query) for number, query in enumerate(queries) if not query.pivots]
        found = [(number, pivot) for number, query in lost for pivot in _fall_back(query, grounder, settings)]
        _prompt(tracking, queries, found, grounder.images)
        tracking.follow({number: query.start for number, query in enumerate(queries) if query.pivots}, masks)
    finally:
        tracking.close()


def _look(
    source: VideoSource, queries: Sequence[Query], settings: RvosSettings, watch: Watch
) -> Iterator[tuple[Window, Mapping[int, np.ndarray]]]:
    """The video's windows in order, with the frames that are needed of each; only one window's are held at a time.

    Needed are a segment's sampled frames where a selector is to look at them, the frames of given pivots, and frame 0
    where it may have to serve.
    """
    frame_count = source.frame_count()
    cut = {window.index: window for window in windows(frame_count, settings)}
    wanted = {pivot.frame for query in queries for pivot in query.given or ()}
    if any(query.given is None for query in queries):
        wanted |= {frame for window in cut.values() if window.is_segment for frame in window.sampled}
    if any(not query.given for query in queries):
        wanted.add(0)
    length = settings.frames_per_segment * settings.sample_step
    before, done = source.decoded, 0
    frames = watch.over("decode", source.frames_at(wanted))
    for index, group in groupby(frames, key=lambda item: item[0] // length):
        images = dict(group)
        yield cut[index], images
        done += len(images)
        watch.report("pivots", done, len(wanted))
    watch.counters.decoded_pivots += source.decoded - before
    if done != len(wanted):
        raise MediaError(f"{source.path} ended early.", expected=f"{frame_count} frames", mend="copy the file again.")


def _pivots_in(
    window: Window, images: Mapping[int, np.ndarray], query: Query, selector: PivotSelector, grounder: Grounder
) -> list[Pivot]:
    """A sentence's pivots in one window: those given for it, or the selector's choice if the window is a segment."""
    if query.given is not None:
        return [pivot for pivot in query.given if pivot.frame in window.frames]
    if not window.is_segment:
        return []
    segment = Segment(window.index, window.sampled, images)
    pivot = selector.select(segment, query.text, partial(_ground, query, grounder, segment))
    if pivot is not None and pivot.frame not in window.sampled:
        raise InputError(
            f"The selector {selector.name!r} chose a frame that it was not shown.",
            expected=window.sampled,
            got=pivot.frame,
        )
    return [] if pivot is None else [pivot]


def _ground(query: Query, grounder: Grounder, segment: Segment, frame: int) -> Detections:
    """What a selector calls: the boxes of its sentence on a frame of its segment, noted in passing."""
    segment.image(frame)
    query.considered[frame] = grounder.boxes(frame, query.text)
    return query.considered[frame]


def _fall_back(query: Query, grounder: Grounder, settings: RvosSettings) -> list[Pivot]:
    """No segment gave a pivot: the best box on frame 0 at lower thresholds, or nothing."""
    thresholds = settings.fallback_box_threshold, settings.fallback_text_threshold
    found = grounder.detect(0, query.text, *thresholds).top(1)
    if not query.considered.get(0):
        query.considered[0] = found
    pivot = pivot_of(0, found)
    if pivot is None:
        query.warnings.append(NO_BOX)
        return []
    query.fell_back = True
    query.warnings.append(FELL_BACK)
    return [pivot]


def _prompt(
    tracking: ObjectTracking,
    queries: Sequence[Query],
    found: Sequence[tuple[int, Pivot]],
    images: Mapping[int, np.ndarray],
) -> None:
    """Note pivots and prompt the tracker with them, frame by frame: all sentences of a frame together."""
    by_frame: Callable[[tuple[int, Pivot]], int] = lambda item: item[1].frame  # noqa: E731
    for frame, group in groupby(sorted(found, key=by_frame), key=by_frame):
        pivots = dict(group)
        for number, pivot in pivots.items():
            queries[number].pivots.append(pivot)
        tracking.prompt(frame, images[frame], {number: pivot.box_xyxy for number, pivot in pivots.items()})


def _check_given(query: Query, source: VideoSource) -> None:
    frame_count, width, height = source.frame_count(), source.info.width, source.info.height
    for pivot in query.given or ():
        if pivot.frame >= frame_count:
            raise InputError(
                f"A pivot of {query.text!r} lies beyond the video.",
                expected=f"a frame from 0 to {frame_count - 1}",
                got=pivot.frame,
                mend="check that the pivots were made for this video.",
            )
        x0, y0, x1, y1 = pivot.box_xyxy.tolist()
        if not (x0 < min(x1, width) and y0 < min(y1, height) and x1 > 0 and y1 > 0):
            raise InputError(
                f"A pivot's box of {query.text!r} lies outside the frame, or has no area.",
                expected=f"x0 y0 x1 y1 in pixels of {width}x{height}",
                got=pivot.box_xyxy.tolist(),
                mend="check that the pivots were made for this video.",
            )
