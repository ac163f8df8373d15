"""Referring video object segmentation: the method of AL-Ref-SAM 2 (arXiv 2408.15876, "GPT-assisted Pivot Selection").

Step by step, with the official file that does the same (`rvos/ytvos/*`):

1. `cut_into_segments` says which frames make a segment, and which of them are sampled; `sample` decodes these
   (`concat_stage_1.py`).
2. `choose_pivots` asks a selector about each segment, which chooses the pivot frame, has boxes proposed on it by
   `propose_boxes`, and chooses one of them (`gpt_cot_inference_stage_1.py`, `concat_stage_2.py`,
   `gpt_cot_inference_stage_2.py`). Where no segment has a pivot, `fall_back` takes the best box on frame 0.
3. `prompt` turns the pivot boxes into masks, and `propagate` tracks them through the video, forward and then backward
   from the middle pivot (`segment_inference_stage_2.py`).

`scheduling` runs the steps, for all sentences of a video together, and for many videos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby

import numpy as np

from alref_edge.errors import InputError, MediaError, quoted
from alref_edge.media import VideoSource
from alref_edge.models.protocols import Stage
from alref_edge.pipeline.grounding import Grounder
from alref_edge.pipeline.jobs import Job, Prompts, Query
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.measure import RunStats
from alref_edge.pipeline.selectors.base import PivotSelector, Segment, Span, pivot_of
from alref_edge.pipeline.settings import RvosSettings
from alref_edge.pipeline.tracking import ObjectTracking
from alref_edge.types import Detections, Pivot

FELL_BACK = "no segment has a pivot: the best box on frame 0 serves"
NO_BOX = "no box was found for this sentence: its masks are empty"
NO_PIVOT_GIVEN = "no pivot is given for this sentence: its masks are empty"


def cut_into_segments(frame_count: int, settings: RvosSettings) -> Iterator[Span]:
    """Cut a video into spans of `frames_per_segment * sample_step` frames, each sampled from its first frame on.

    From the official `concat_stage_1.py`: all but the last are full; a tail with a single sampled frame is yielded
    too, but makes no segment. A video that is no longer than that makes one where the settings say so, of frames at
    even distances.
    """
    if settings.ask_short and 0 < frame_count <= settings.sample_step:
        step = -(-frame_count // settings.frames_per_segment)
        yield Span(0, range(frame_count), tuple(range(0, frame_count, step)), is_segment=True)
        return
    length = settings.frames_per_segment * settings.sample_step
    for index, start in enumerate(range(0, frame_count, length)):
        frames = range(start, min(start + length, frame_count))
        sampled = tuple(frames[:: settings.sample_step])
        yield Span(index, frames, sampled, is_segment=len(sampled) > 1)


def sample(
    source: VideoSource, queries: Sequence[Query], settings: RvosSettings, stats: RunStats, stage: Stage
) -> Iterator[tuple[Span, Mapping[int, np.ndarray]]]:
    """The video's spans in order, with the frames that are needed of each; only one span's are held at a time.

    Needed are a segment's sampled frames where a selector is to look at them, the frames of given pivots, and frame 0
    where it may have to serve. `stage` decodes them.
    """
    frame_count = source.frame_count()
    cut = {span.index: span for span in cut_into_segments(frame_count, settings)}
    wanted = {pivot.frame for query in queries for pivot in query.given or ()}
    if any(query.given is None for query in queries):
        wanted |= {0} | {frame for span in cut.values() if span.is_segment for frame in span.sampled}
    length = settings.frames_per_segment * settings.sample_step
    before, done = source.decoded, 0
    frames = stage("decode", source.frames_at(wanted))
    for index, group in groupby(frames, key=lambda item: item[0] // length):
        images = dict(group)
        yield cut[index], images
        done += len(images)
        stats.report("pivots", done, len(wanted))
    stats.counters.decoded_pivots += source.decoded - before
    if done != len(wanted):
        raise MediaError(f"{source.path} ended early.", expected=f"{frame_count} frames", mend="copy the file again.")


def choose_pivots(
    span: Span, segment: Segment | None, query: Query, selector: PivotSelector, grounder: Grounder
) -> list[Pivot]:
    """A sentence's pivots in one span: those given for it, or the selector's choice if the span is a segment."""
    if query.given is not None:
        return [pivot for pivot in query.given if pivot.frame in span.frames]
    if segment is None:
        return []
    ground = partial(propose_boxes, query, grounder, segment)
    decision = selector.select(segment, query.text, ground)
    if decision is None:
        return []
    if decision.frame not in span.sampled:
        raise InputError(
            f"The selector {selector.name!r} chose a frame that it was not shown.",
            expected=span.sampled,
            got=decision.frame,
        )
    query.decisions[span.index] = decision
    if decision.found is not None:
        query.considered[decision.frame] = decision.found
    if decision.box is None:
        return []
    found = ground(decision.frame) if decision.found is None else decision.found
    pivot = pivot_of(decision.frame, found, decision.box)
    return [] if pivot is None else [pivot]


def propose_boxes(query: Query, grounder: Grounder, segment: Segment, frame: int) -> Detections:
    """What a selector calls: the boxes of its sentence on a frame of its segment, noted in passing."""
    segment.image(frame)
    query.considered[frame] = grounder.boxes(frame, query.text)
    return query.considered[frame]


def keep_boxes(found: Detections, settings: RvosSettings) -> Detections:
    """The boxes of a frame that a selector may choose of, best first."""
    different = found if settings.distinct_iou is None else found.distinct(settings.distinct_iou)
    return different.top(settings.boxes_per_frame)


def fall_back(query: Query, grounder: Grounder, settings: RvosSettings) -> list[Pivot]:
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


def prompt(tracking: ObjectTracking, prompts: Prompts) -> None:
    """Prompt the tracker with pivots, frame by frame: all sentences of a frame together."""
    by_frame: Callable[[tuple[int, Pivot]], int] = lambda item: item[1].frame  # noqa: E731
    for frame, group in groupby(sorted(prompts.pivots, key=by_frame), key=by_frame):
        tracking.prompt(frame, prompts.images[frame], {number: pivot.prompt_xyxy for number, pivot in group})


def propagate(tracking: ObjectTracking, job: Job) -> MaskStore:
    """Track every sentence's object forward and then backward from its middle pivot, with all its pivots in memory.

    Returns:
        The masks by number of the sentence and frame; those of a sentence without a pivot are empty.
    """
    info = job.source.info
    masks = MaskStore(len(job.queries), job.source.frame_count(), info.height, info.width, job.spill_dir)
    starts = {number: query.start for number, query in enumerate(job.queries) if query.pivots}
    if job.sink is not None:
        job.sink.begin([query.text for query in job.queries], job.source)

    def put(number: int, frame: int, mask_hw: np.ndarray) -> None:
        masks.put(number, frame, mask_hw)
        if job.sink is not None:
            job.sink.put(number, frame, mask_hw)

    tracking.propagate_both_ways(starts, put)
    return masks


def check_given(query: Query, source: VideoSource) -> None:
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
