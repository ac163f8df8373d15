"""Referring video object segmentation: the method of AL-Ref-SAM 2 (arXiv 2408.15876), for many sentences at once.

What does not depend on the sentence is done once for all of them. Where a selector has many questions in flight, pivots
are chosen ahead: while one video is tracked, the next ones are looked at.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import numpy as np

from alref_edge.errors import InputError, MediaError, quoted
from alref_edge.media import VideoSource
from alref_edge.pipeline.grounding import Grounder
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.measure import Watch
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.pivots import Decision, PivotSelector, Segment, Window, pivot_of, windows
from alref_edge.pipeline.scheduling import LOOKAHEAD_BYTES, ahead, executor
from alref_edge.pipeline.selectors.mllm import check_usable
from alref_edge.pipeline.settings import RvosSettings
from alref_edge.pipeline.tracking import ObjectTracking
from alref_edge.types import Detections, Pivot

FELL_BACK = "no segment has a pivot: the best box on frame 0 serves"
NO_BOX = "no box was found for this sentence: its masks are empty"
NO_PIVOT_GIVEN = "no pivot is given for this sentence: its masks are empty"


@dataclass
class Query:
    """A sentence on its way through the method.

    Attributes:
        text: the sentence.
        given: pivots known beforehand, of which there may be none; None where the selector is asked segment by segment.
        pivots: the pivots chosen so far, ascending by frame.
        decisions: what the selector decided, by segment.
        considered: the boxes that were looked at, by frame.
        fell_back: whether frame 0 had to serve.
        warnings: what the user should know.
    """

    text: str
    given: tuple[Pivot, ...] | None
    pivots: list[Pivot] = field(default_factory=list)
    decisions: dict[int, Decision] = field(default_factory=dict)
    considered: dict[int, Detections] = field(default_factory=dict)
    fell_back: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def start(self) -> int:
        """The frame from which the object is tracked: its middle pivot."""
        return self.pivots[len(self.pivots) // 2].frame


@dataclass(eq=False)
class Job:
    """A video on its way through the method.

    Attributes:
        source: it.
        queries: its sentences; their pivots, boxes and warnings are filled in.
        watch: counts, times, reports.
        spill_dir: where its masks wait; see `MaskStore`.
    """

    source: VideoSource
    queries: Sequence[Query]
    watch: Watch
    spill_dir: str | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """Pivots of a stretch of a job's video, as they go to the tracker.

    Attributes:
        job: whose.
        pivots: number of the sentence, and a pivot of it.
        images: the frames that have pivots, RGB uint8 `[H, W, 3]` by index.
        last: whether the job has no more.
    """

    job: Job
    pivots: Sequence[tuple[int, Pivot]]
    images: Mapping[int, np.ndarray]
    last: bool = False

    @property
    def nbytes(self) -> int:
        return sum(image.nbytes for image in self.images.values())


def segment_videos(
    networks: Networks,
    jobs: Iterable[Job],
    selector: PivotSelector,
    settings: RvosSettings,
    cache_bytes: int,
    trials: int = 1,
) -> Iterator[tuple[Job, MaskStore]]:
    """Find and segment, in one video after the other, what its sentences refer to.

    In every segment of five sampled frames the selector picks a pivot frame and a box on it; SAM 2 turns the boxes into
    masks, and tracks each object forward and then backward from its middle pivot, with all its pivots in memory. An
    object that has no pivot starts at the best box on frame 0; if there is none either, or if it was given that there
    is no pivot, its masks are empty.

    Args:
        networks: Grounding DINO and SAM 2.
        jobs: the videos, taken as they are needed.
        selector: picks the pivots; in other threads if it has questions in flight.
        settings: numbers of the method.
        cache_bytes: see `ObjectTracking`.
        trials: questions to an LLM that decides alone, of which one must have a usable answer for the work to go on; if
            there are fewer in all, one of them must by the end.

    Yields:
        Each job when its masks are whole, in order, and the masks by number of the sentence and frame. An error ends it
        all, after the jobs before it.
    """
    finding = find_pivots(networks, jobs, selector, settings, trials)
    works_ahead = selector.in_flight > 0
    found = ahead(finding, lambda each: each.nbytes) if works_ahead else ((0.0, each) for each in finding)
    tracking: ObjectTracking | None = None
    try:
        for waited_s, each in found:
            job = each.job
            if tracking is None:
                began = time.perf_counter() - waited_s
                tracking = ObjectTracking(networks, job.source, settings, job.watch, cache_bytes)
            job.watch.add("wait", waited_s)
            _prompt(tracking, each)
            if each.last:
                info = job.source.info
                masks = MaskStore(len(job.queries), job.source.frame_count(), info.height, info.width, job.spill_dir)
                starts = {number: query.start for number, query in enumerate(job.queries) if query.pivots}
                tracking.follow(starts, masks)
                tracking.close()
                tracking = None
                job.watch.elapsed_s = time.perf_counter() - began
                yield job, masks
    finally:
        found.close()
        if tracking is not None:
            tracking.close()


def find_pivots(
    networks: Networks, jobs: Iterable[Job], selector: PivotSelector, settings: RvosSettings, trials: int = 1
) -> Generator[Found, None, None]:
    """The first half of the method: pivots of all segments of all jobs, in order. Arguments as of `segment_videos`.

    The selector is asked about many segments, sentences and videos at once, as many as it can have in flight.
    """
    events: Counter[str] = Counter()

    def settle(each: _Asked | BaseException) -> Found:
        found = _settle(each)
        if found.last:
            events.update(found.job.watch.events)
            if events["questions"] >= trials:
                check_usable(selector, events)
        return found

    pool = executor(selector.in_flight)
    asked: deque[_Asked | BaseException] = deque()
    try:
        for each in _ask_all(networks, jobs, selector, settings, pool):
            asked.append(each)
            while asked and (
                _undone([asked[0]]) == 0 or _undone(asked) > 2 * selector.in_flight or _nbytes(asked) > LOOKAHEAD_BYTES
            ):
                yield settle(asked.popleft())
        while asked:
            yield settle(asked.popleft())
        check_usable(selector, events)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A stretch of a video, of which the selector is asked.

    Attributes:
        job: whose.
        images: its frames by index.
        choices: number of a sentence, and its pivots there, which are to come.
        finish: makes what goes to the tracker of the pivots.
    """

    job: Job
    images: Mapping[int, np.ndarray]
    choices: Sequence[tuple[int, Future[list[Pivot]]]]
    finish: Callable[[Sequence[tuple[int, Pivot]]], Found]


def _undone(asked: Iterable[_Asked | BaseException]) -> int:
    return sum(not choice.done() for each in asked if isinstance(each, _Asked) for _, choice in each.choices)


def _nbytes(asked: Iterable[_Asked | BaseException]) -> int:
    return sum(image.nbytes for each in asked if isinstance(each, _Asked) for image in each.images.values())


def _settle(asked: _Asked | BaseException) -> Found:
    """Wait for the answers. An error that came up in looking at a video is raised when it is that video's turn."""
    if isinstance(asked, BaseException):
        raise asked
    return asked.finish([(number, pivot) for number, choice in asked.choices for pivot in choice.result()])


def _ask_all(
    networks: Networks, jobs: Iterable[Job], selector: PivotSelector, settings: RvosSettings, pool: Executor
) -> Iterator[_Asked | BaseException]:
    """Ask about every segment of every job; the first error ends it, in its place."""
    try:
        for job in jobs:
            yield from _ask(networks, job, selector, settings, pool)
    except Exception as error:
        yield error


def _ask(
    networks: Networks, job: Job, selector: PivotSelector, settings: RvosSettings, pool: Executor
) -> Iterator[_Asked]:
    """Ask about every segment of a video, and at its end see to the sentences that have no pivot."""
    watch, queries = job.watch, job.queries
    watch.counters.frames = job.source.frame_count()
    grounder = Grounder(
        networks,
        settings.box_threshold,
        settings.text_threshold,
        lambda found: _proposals(found, settings),
        watch,
    )
    for query in queries:
        _check_given(query, job.source)
        if query.given is None:
            grounder.read(query.text)

    def note(window: Window, images: Mapping[int, np.ndarray], pivots: Sequence[tuple[int, Pivot]]) -> Found:
        for number, pivot in pivots:
            queries[number].pivots.append(pivot)
        grounder.forget(frame for frame in window.frames if frame > 0)
        return Found(job, pivots, {pivot.frame: images[pivot.frame] for _, pivot in pivots})

    def fall_back(_: Sequence[tuple[int, Pivot]]) -> Found:
        lost = [(number, query) for number, query in enumerate(queries) if not query.pivots]
        pivots = [(number, pivot) for number, query in lost for pivot in _fall_back(query, grounder, settings)]
        for number, pivot in pivots:
            queries[number].pivots.append(pivot)
        return Found(job, pivots, {pivot.frame: grounder.images[pivot.frame] for _, pivot in pivots}, last=True)

    for window, images in _look(job.source, queries, settings, watch):
        grounder.show(images)
        segment = Segment(window.index, window.sampled, images, watch.count) if window.is_segment else None
        choices = [
            (number, pool.submit(_pivots_in, window, segment, query, selector, grounder))
            for number, query in enumerate(queries)
        ]
        yield _Asked(job, images, choices, partial(note, window, images))
    yield _Asked(job, {}, (), fall_back)


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
        wanted |= {0} | {frame for window in cut.values() if window.is_segment for frame in window.sampled}
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


def _proposals(found: Detections, settings: RvosSettings) -> Detections:
    """The boxes of a frame that a selector may choose of, best first."""
    different = found if settings.distinct_iou is None else found.distinct(settings.distinct_iou)
    return different.top(settings.boxes_per_frame)


def _pivots_in(
    window: Window, segment: Segment | None, query: Query, selector: PivotSelector, grounder: Grounder
) -> list[Pivot]:
    """A sentence's pivots in one window: those given for it, or the selector's choice if the window is a segment."""
    if query.given is not None:
        return [pivot for pivot in query.given if pivot.frame in window.frames]
    if segment is None:
        return []
    ground = partial(_ground, query, grounder, segment)
    decision = selector.select(segment, query.text, ground)
    if decision is None:
        return []
    if decision.frame not in window.sampled:
        raise InputError(
            f"The selector {selector.name!r} chose a frame that it was not shown.",
            expected=window.sampled,
            got=decision.frame,
        )
    query.decisions[window.index] = decision
    if decision.found is not None:
        query.considered[decision.frame] = decision.found
    if decision.box is None:
        return []
    found = ground(decision.frame) if decision.found is None else decision.found
    pivot = pivot_of(decision.frame, found, decision.box)
    return [] if pivot is None else [pivot]


def _ground(query: Query, grounder: Grounder, segment: Segment, frame: int) -> Detections:
    """What a selector calls: the boxes of its sentence on a frame of its segment, noted in passing."""
    segment.image(frame)
    query.considered[frame] = grounder.boxes(frame, query.text)
    return query.considered[frame]


def _fall_back(query: Query, grounder: Grounder, settings: RvosSettings) -> list[Pivot]:
    """No segment gave a pivot: the best box on frame 0 at lower thresholds, or nothing. No pivots given are none."""
    if query.given is not None:
        query.warnings.append(NO_PIVOT_GIVEN)
        return []
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


def _prompt(tracking: ObjectTracking, found: Found) -> None:
    """Prompt the tracker with pivots, frame by frame: all sentences of a frame together."""
    by_frame: Callable[[tuple[int, Pivot]], int] = lambda item: item[1].frame  # noqa: E731
    for frame, group in groupby(sorted(found.pivots, key=by_frame), key=by_frame):
        tracking.prompt(frame, found.images[frame], {number: pivot.prompt_xyxy for number, pivot in group})


def _check_given(query: Query, source: VideoSource) -> None:
    frame_count, width, height = source.frame_count(), source.info.width, source.info.height
    for pivot in query.given or ():
        if pivot.frame >= frame_count:
            raise InputError(
                f"A pivot of {quoted(query.text)} lies beyond the video.",
                expected=f"a frame from 0 to {frame_count - 1}",
                got=pivot.frame,
                mend="check that the pivots were made for this video.",
            )
        x0, y0, x1, y1 = pivot.prompt_xyxy.tolist()
        if not (x0 < min(x1, width) and y0 < min(y1, height) and x1 > 0 and y1 > 0):
            raise InputError(
                f"A pivot's box of {quoted(query.text)} lies outside the frame, or has no area.",
                expected=f"x0 y0 x1 y1 in pixels of {width}x{height}",
                got=pivot.prompt_xyxy.tolist(),
                mend="check that the pivots were made for this video.",
            )
