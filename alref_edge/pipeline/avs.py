"""Audio-visual segmentation: the method of AL-Ref-SAM 2 (arXiv 2408.15876, "Language-Binded Reference Unification").

A video goes by windows of up to 10 s, each of which is what the paper calls a clip: one frame a second is looked at,
every frame is tracked, and what sounds is told for every second. Step by step, with the official file that does the
same (`avs/*/`):

1. `name_categories` asks a selector which objects sound, of the tags that the taggers give (`beats.py`) and of what is
   in view, each with its pivot frame (`gpt_cot_inference_stage_1.py`).
2. `choose_box` proposes boxes of a category on its pivot frame (`gdino.py`); of several the selector chooses one
   (`gpt_cot_inference_stage_2.py`).
3. `label_seconds` cuts the sound into segments, and tells which of the objects sound in each
   (`languagebind_stage*.py`).
4. `propagate` turns the pivot boxes into masks, and tracks them forward and then backward (`sam2.py`).

`scheduling` asks about many windows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from alref_edge.errors import InputError, MediaError
from alref_edge.media import VideoSource
from alref_edge.pipeline.audio_segments import AudioSegment
from alref_edge.pipeline.grounding import Grounder
from alref_edge.pipeline.jobs import SoundingObject, WindowResult
from alref_edge.pipeline.measure import RunStats
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.selectors.base import SoundingCategory, SoundSelector, SoundWindow, pivot_of
from alref_edge.pipeline.settings import AvsSettings
from alref_edge.pipeline.sound_analysis import SoundAnalysis
from alref_edge.pipeline.tracking import ObjectTracking
from alref_edge.types import Detections


def find_sounding_objects(
    window: SoundWindow,
    frames: range,
    analysis: SoundAnalysis,
    grounder: Grounder,
    selector: SoundSelector,
    settings: AvsSettings,
    silent: tuple[bool, ...],
) -> WindowResult:
    """What sounds in a window, where it is to be found, and when it sounds: steps 1 to 3.

    Args:
        window: its frames.
        frames: all that the video has in it.
        analysis: of its sound.
        grounder: proposes boxes.
        selector: makes the decisions.
        settings: numbers of the method.
        silent: for each of its seconds, whether the silence gate closed it.
    """
    grounder.add_frames({frame: window.images[frame] for frame in window.frames})
    categories = name_categories(window, grounder, selector, settings)
    objects = tuple(choose_box(window, each, grounder, selector) for each in categories)
    segments, labels = label_seconds(window, [each.name for each in objects], analysis, selector, settings)
    grounder.drop_frames(window.frames)
    gated = tuple(() if closed else label for closed, label in zip(silent, labels, strict=True))
    return WindowResult(window.start_s, frames, analysis.tags or (), objects, segments, gated, silent)


def name_categories(
    window: SoundWindow, grounder: Grounder, selector: SoundSelector, settings: AvsSettings
) -> Sequence[SoundingCategory]:
    """The categories that sound in a window, each with its pivot frame, as the selector has them."""
    answer = list(selector.categories(window, lambda second, name: grounder.boxes(window.frames[second], name)))
    names = [each.name for each in answer]
    if len(set(names)) < len(names) or any(each.pivot > window.seconds for each in answer):
        raise InputError(
            f"The selector {selector.name!r} gave categories that make no sense.",
            expected=f"each name once, pivots from 1 to {window.seconds}",
            got=[(each.name, each.pivot) for each in answer],
        )
    return answer[: settings.max_categories]


def choose_box(
    window: SoundWindow, category: SoundingCategory, grounder: Grounder, selector: SoundSelector
) -> SoundingObject:
    """The box of a category on its pivot frame: the only one, or the one that the selector takes."""
    frame = window.frames[category.second]
    found = grounder.boxes(frame, category.name) if category.found is None else category.found
    warnings = (
        () if category.in_range else (f"the pivot of {category.name!r} lies beyond the clip: its first frame serves",)
    )
    if not len(found):
        lost = f"no box of {category.name!r} on frame {frame}: its masks are empty there"
        return SoundingObject(category.name, found, frame, None, (*warnings, lost))
    box = selector.box(window, category, found) if len(found) > 1 else 0
    pivot = pivot_of(frame, found, box)
    if pivot is None:
        raise InputError(
            f"The selector {selector.name!r} chose a box that it was not shown.",
            expected=f"0 to {len(found) - 1}",
            got=box,
        )
    height, width = window.images[frame].shape[:2]
    return SoundingObject(
        category.name, found.clipped(width, height), frame, pivot.clipped(width, height), warnings, box
    )


def keep_boxes(found: Detections, most: int) -> Detections:
    """The boxes that are shown to a selector: `most` or more by score, the best first; fewer in the queries' order.

    From the official `avs/*/gdino.py`; recorded answers count boxes in this order.
    """
    return found.top(most) if len(found) >= most else found


def label_seconds(
    window: SoundWindow, names: Sequence[str], analysis: SoundAnalysis, selector: SoundSelector, settings: AvsSettings
) -> tuple[tuple[AudioSegment, ...], list[tuple[str, ...]]]:
    """Which of the names sound in each second; a single one sounds in all, with no look at the segments.

    Returns:
        The segments of the sound, none where nobody asked, and the names by second.
    """
    if not settings.by_second or len(names) < 2:
        return (), [tuple(names)] * window.seconds
    known = selector.audio_segments(window)
    segments = analysis.audio_segments() if known is None else tuple(known)
    return segments, analysis.labels_by_second(names, segments, window.seconds)


def propagate(
    networks: Networks,
    source: VideoSource,
    found: Sequence[WindowResult],
    numbers: dict[str, int],
    settings: AvsSettings,
    stats: RunStats,
    put: Callable[[int, int, np.ndarray], None],
    cache_bytes: int,
) -> None:
    """Track every object of every window, from its pivot forward and then backward, to the ends of the window.

    Args:
        networks: SAM 2 is taken from them.
        source: the video.
        found: what `analyse_windows` gave.
        numbers: name to number of the object.
        settings: options of the tracker.
        stats: counts, times, reports.
        put: takes a number, a frame and the mask, whether the object sounds then or not.
        cache_bytes: see `ObjectTracking`.
    """
    for window in found:
        starts = {numbers[each.name]: each.pivot for each in window.objects if each.pivot is not None}
        if not starts:
            continue
        tracking = ObjectTracking(networks, source, settings, stats, cache_bytes, window.frames)
        try:
            for frame, image in read_frames(source, {pivot.frame for pivot in starts.values()}, stats).items():
                boxes = {number: pivot.prompt_xyxy for number, pivot in starts.items() if pivot.frame == frame}
                tracking.prompt(frame, image, boxes)
            tracking.propagate_both_ways({number: pivot.frame for number, pivot in starts.items()}, put)
        finally:
            tracking.close()


def read_frames(source: VideoSource, frames: Iterable[int], stats: RunStats) -> dict[int, np.ndarray]:
    """Some frames, RGB uint8 `[H, W, 3]` by index, ascending."""
    frames = set(frames)
    before = source.decoded
    images = dict(stats.over("decode", source.frames_at(frames)))
    stats.counters.decoded_pivots += source.decoded - before
    if images.keys() != frames:
        raise MediaError(
            f"{source.path} ended early.", expected=f"{source.frame_count()} frames", mend="copy the file again."
        )
    return images
