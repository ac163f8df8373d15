"""When things are done: look-ahead, and what a selector is asked when.

The steps themselves are in `rvos` and `avs`. What does not depend on the sentence is done once for all of them. Where a
selector has many questions in flight, pivots are chosen ahead: while one video is tracked, the next ones are looked at.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from alref_edge.media import VideoSource
from alref_edge.models.audio.log_mel import SAMPLE_RATE
from alref_edge.pipeline import avs, rvos
from alref_edge.pipeline.clock import Clock
from alref_edge.pipeline.grounding import Grounder
from alref_edge.pipeline.jobs import Job, Prompts, WindowResult
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.measure import RunStats, drawn
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.selectors.base import PivotSelector, Segment, SoundSelector, SoundWindow, Span
from alref_edge.pipeline.selectors.mllm import check_usable
from alref_edge.pipeline.settings import AvsSettings, RvosSettings
from alref_edge.pipeline.silence import silent_seconds
from alref_edge.pipeline.sound import Sound
from alref_edge.pipeline.sound_analysis import SoundAnalysis
from alref_edge.pipeline.stages import Stages
from alref_edge.pipeline.tracking import ObjectTracking
from alref_edge.types import Pivot

Item = TypeVar("Item")

_LEAVE_S = 1.0
_MOST_WINDOWS = 8
LOOKAHEAD_BYTES = 512 << 20
"""Frames that may lie ready for the tracker, and as many again of which the LLM is asked."""


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
    tracking: ObjectTracking | None = None
    try:
        with (
            Stages(patience_s=_LEAVE_S) as stages,
            drawn(
                stages.ahead(finding, most=LOOKAHEAD_BYTES, size=lambda each: each.nbytes) if works_ahead else finding
            ) as found,
        ):
            for waited_s, each in _waited_for(found):
                job = each.job
                if tracking is None:
                    began = time.perf_counter() - waited_s
                    tracking = ObjectTracking(networks, job.source, settings, job.stats, cache_bytes)
                job.stats.add("wait", waited_s if works_ahead else 0)
                rvos.prompt(tracking, each)
                if each.last:
                    masks = rvos.propagate(tracking, job)
                    tracking.close()
                    tracking = None
                    job.stats.elapsed_s = time.perf_counter() - began
                    yield job, masks
    finally:
        if tracking is not None:
            tracking.close()


def find_pivots(
    networks: Networks, jobs: Iterable[Job], selector: PivotSelector, settings: RvosSettings, trials: int = 1
) -> Generator[Prompts, None, None]:
    """The first half of the method: pivots of all segments of all jobs, in order. Arguments as of `segment_videos`.

    The selector is asked about many segments, sentences and videos at once, as many as it can have in flight.
    """
    events: Counter[str] = Counter()

    def settle(each: _Asked | BaseException) -> Prompts:
        found = _settle(each)
        if found.last:
            events.update(found.job.stats.events)
            if events["questions"] >= trials:
                check_usable(selector, events)
        return found

    pool = executor(selector.in_flight)
    asked: deque[_Asked | BaseException] = deque()
    try:
        with drawn(_ask_all(networks, jobs, selector, settings, pool)) as asking:
            for each in asking:
                asked.append(each)
                while asked and (
                    _undone([asked[0]]) == 0
                    or _undone(asked) > 2 * selector.in_flight
                    or _nbytes(asked) > LOOKAHEAD_BYTES
                ):
                    yield settle(asked.popleft())
        while asked:
            yield settle(asked.popleft())
        check_usable(selector, events)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A span of a video, of which the selector is asked.

    Attributes:
        job: whose.
        images: its frames by index.
        choices: number of a sentence, and its pivots there, which are to come.
        finish: makes what goes to the tracker of the pivots.
    """

    job: Job
    images: Mapping[int, np.ndarray]
    choices: Sequence[tuple[int, Future[list[Pivot]]]]
    finish: Callable[[Sequence[tuple[int, Pivot]]], Prompts]


def _undone(asked: Iterable[_Asked | BaseException]) -> int:
    return sum(not choice.done() for each in asked if isinstance(each, _Asked) for _, choice in each.choices)


def _nbytes(asked: Iterable[_Asked | BaseException]) -> int:
    return sum(image.nbytes for each in asked if isinstance(each, _Asked) for image in each.images.values())


def _settle(asked: _Asked | BaseException) -> Prompts:
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
    stats, queries = job.stats, job.queries
    stats.counters.frames = job.source.frame_count()
    grounder = Grounder(
        networks,
        settings.box_threshold,
        settings.text_threshold,
        lambda found: rvos.keep_boxes(found, settings),
        stats,
    )
    for query in queries:
        rvos.check_given(query, job.source)
        if query.given is None:
            grounder.encode_text(query.text)

    def note(span: Span, images: Mapping[int, np.ndarray], pivots: Sequence[tuple[int, Pivot]]) -> Prompts:
        for number, pivot in pivots:
            queries[number].pivots.append(pivot)
        grounder.drop_frames(frame for frame in span.frames if frame > 0)
        return Prompts(job, pivots, {pivot.frame: images[pivot.frame] for _, pivot in pivots})

    def fall_back(_: Sequence[tuple[int, Pivot]]) -> Prompts:
        lost = [(number, query) for number, query in enumerate(queries) if not query.pivots]
        pivots = [(number, pivot) for number, query in lost for pivot in rvos.fall_back(query, grounder, settings)]
        for number, pivot in pivots:
            queries[number].pivots.append(pivot)
        return Prompts(job, pivots, {pivot.frame: grounder.images[pivot.frame] for _, pivot in pivots}, last=True)

    with Stages(stats) as stages:
        for span, images in rvos.sample(job.source, queries, settings, stats, stages.over):
            grounder.add_frames(images)
            segment = Segment(span.index, span.sampled, images, stats.count) if span.is_segment else None
            choices = [
                (number, pool.submit(rvos.choose_pivots, span, segment, query, selector, grounder))
                for number, query in enumerate(queries)
            ]
            yield _Asked(job, images, choices, partial(note, span, images))
    yield _Asked(job, {}, (), fall_back)


def analyse_windows(
    networks: Networks,
    source: VideoSource,
    sound: Sound,
    selector: SoundSelector,
    settings: AvsSettings,
    stats: RunStats,
) -> list[WindowResult]:
    """Find out, window by window, which objects sound, when, and where they are to be found.

    Args:
        networks: of the bundle; those that nobody asks are not loaded.
        source: the video.
        sound: its sound; silence follows its end.
        selector: makes the decisions.
        settings: numbers of the method.
        stats: counts, times, reports.
    """
    stats.counters.frames = source.frame_count()
    grounder = Grounder(
        networks,
        settings.box_threshold,
        settings.text_threshold,
        lambda found: avs.keep_boxes(found, settings.boxes_per_frame),
        stats,
    )
    clock = Clock.of(source)
    found: list[WindowResult] = []
    pool = executor(selector.in_flight)
    asked: deque[Future[WindowResult]] = deque()

    def settle(most: int) -> None:
        while len(asked) > most:
            before = time.perf_counter()
            found.append(asked.popleft().result())
            stats.add("wait", time.perf_counter() - before if selector.in_flight else 0)
            stats.report("listen", found[-1].start_s + len(found[-1].labels), clock.seconds)

    try:
        for index, (start_s, frames, shown) in enumerate(clock.windows(settings.window_s)):
            part = slice(start_s * SAMPLE_RATE, (start_s + len(shown)) * SAMPLE_RATE)
            wave = sound.wave_16khz[part]
            silent = silent_seconds(wave, len(shown), settings.silence_db)
            if all(silent):
                asked.append(pool.submit(WindowResult, start_s, frames, (), (), (), ((),) * len(shown), silent))
            else:
                analysis = SoundAnalysis(networks, sound, part, len(shown) == clock.seconds, settings, stats)
                images = avs.read_frames(source, shown, stats)
                window = SoundWindow(index, start_s, shown, images, analysis.tag_sounds, stats.count, stats.report)
                asked.append(
                    pool.submit(
                        avs.find_sounding_objects, window, frames, analysis, grounder, selector, settings, silent
                    )
                )
            settle(max(0, min(selector.in_flight, _MOST_WINDOWS) - 1))
        settle(0)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return found


class Inline(Executor):
    """Runs what is submitted at once, in the calling thread."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `concurrent.futures.Executor`; an error is raised here."""
        future: Future[Any] = Future()
        future.set_result(call(*args, **kwargs))
        return future


def executor(in_flight: int) -> Executor:
    """What runs so many calls at once, each in a thread of its own; with 0, one after the other in the caller's."""
    return ThreadPoolExecutor(in_flight, "alref-edge-ask") if in_flight else Inline()


def _waited_for(items: Iterable[Item]) -> Iterator[tuple[float, Item]]:
    """How many seconds each item was waited for, and the item."""
    before = time.perf_counter()
    for item in items:
        yield time.perf_counter() - before, item
        before = time.perf_counter()
