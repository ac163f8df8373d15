"""Audio-visual segmentation: the method of AL-Ref-SAM 2 (arXiv 2408.15876, "Language-Binded Reference Unification").

A video goes by windows of up to 10 s, each of which is what the paper calls a clip: one frame a second is looked at,
every frame is tracked, and what sounds is told for every second. Step by step, with the official file that does the
same (`avs/*/`):

1. `understand` lets a selector name the objects that sound in a window (`gpt_cot_inference_stage_1.py`), each with its
   pivot frame, from the tags of `Ear.listen` (`beats.py`).
2. `find` proposes boxes of a category on its pivot frame (`gdino.py`), and lets the selector choose one of several
   (`gpt_cot_inference_stage_2.py`).
3. `Ear.segments` cuts the window's sound, and `Ear.labels` tells which of the objects sounds when
   (`languagebind_stage*.py`).
4. `propagate` turns pivot boxes into masks, and tracks them forward, then backward (`sam2.py`).

`scheduling` runs the first three, for many windows at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from alref_edge.errors import InputError, MediaError
from alref_edge.media import VideoSource
from alref_edge.models.audio.log_mel import SAMPLE_RATE
from alref_edge.models.beats import LONGEST_S, Tag, union_of_tags
from alref_edge.pipeline.audio_segments import AudioSegment, segment_sound
from alref_edge.pipeline.grounding import Grounder
from alref_edge.pipeline.jobs import Heard, Sounding
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.measure import Watch
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.selectors.base import SoundingCategory, SoundSelector, SoundWindow, pivot_of
from alref_edge.pipeline.settings import AvsSettings
from alref_edge.pipeline.sound import Sound
from alref_edge.pipeline.tracking import ObjectTracking
from alref_edge.types import Detections

_SHORTEST_SEGMENT = SAMPLE_RATE * 25 // 1000


def understand(
    window: SoundWindow,
    frames: range,
    ear: Ear,
    grounder: Grounder,
    selector: SoundSelector,
    settings: AvsSettings,
    silent: tuple[bool, ...],
) -> Heard:
    """Both decisions about a window, and when each object sounds."""
    grounder.show({frame: window.images[frame] for frame in window.frames})
    answer = list(selector.categories(window, lambda second, name: grounder.boxes(window.frames[second], name)))
    _check(answer, window, selector)
    categories = answer[: settings.max_categories]
    objects = tuple(find(window, each, grounder, selector) for each in categories)
    names = [each.name for each in objects]
    segments: tuple[AudioSegment, ...] = ()
    if settings.by_second and len(names) > 1:
        known = selector.segments(window)
        segments = ear.segments() if known is None else tuple(known)
        labels = ear.labels(names, segments, window.seconds)
    else:
        labels = [tuple(names)] * window.seconds
    grounder.forget(window.frames)
    gated = tuple(() if closed else label for closed, label in zip(silent, labels, strict=True))
    return Heard(window.start_s, frames, ear.tags or (), objects, segments, gated, silent)


def find(window: SoundWindow, category: SoundingCategory, grounder: Grounder, selector: SoundSelector) -> Sounding:
    """The box of a category on its pivot frame: the only one, or the one that the selector takes."""
    frame = window.frames[category.second]
    found = grounder.boxes(frame, category.name) if category.found is None else category.found
    warnings = (
        () if category.in_range else (f"the pivot of {category.name!r} lies beyond the clip: its first frame serves",)
    )
    if not len(found):
        lost = f"no box of {category.name!r} on frame {frame}: its masks are empty there"
        return Sounding(category.name, found, frame, None, (*warnings, lost))
    box = selector.box(window, category, found) if len(found) > 1 else 0
    pivot = pivot_of(frame, found, box)
    if pivot is None:
        raise InputError(
            f"The selector {selector.name!r} chose a box that it was not shown.",
            expected=f"0 to {len(found) - 1}",
            got=box,
        )
    height, width = window.images[frame].shape[:2]
    return Sounding(category.name, found.clipped(width, height), frame, pivot.clipped(width, height), warnings, box)


def keep_boxes(found: Detections, most: int) -> Detections:
    """The boxes that are shown to a selector: `most` or more by score, the best first; fewer in the queries' order.

    From the official `avs/*/gdino.py`; recorded answers count boxes in this order.
    """
    return found.top(most) if len(found) >= most else found


def _check(answer: Sequence[SoundingCategory], window: SoundWindow, selector: SoundSelector) -> None:
    names = [each.name for each in answer]
    if len(set(names)) < len(names) or any(each.pivot > window.seconds for each in answer):
        raise InputError(
            f"The selector {selector.name!r} gave categories that make no sense.",
            expected=f"each name once, pivots from 1 to {window.seconds}",
            got=[(each.name, each.pivot) for each in answer],
        )


class Ear:
    """What the networks of a bundle hear in one window."""

    def __init__(
        self, networks: Networks, sound: Sound, stretch: slice, alone: bool, settings: AvsSettings, watch: Watch
    ) -> None:
        self.wave = sound.wave_16khz[stretch]
        # A clip of a dataset is tagged with all of its sound, what goes beyond its last whole second too.
        whole = alone and settings.tag_whole_clips and len(sound.wave_16khz) <= LONGEST_S * SAMPLE_RATE
        self._tagged = sound.wave_16khz if whole else self.wave
        self._sound, self._stretch = sound, stretch
        self.tags: tuple[Tag, ...] | None = None
        self._networks, self._settings, self._watch = networks, settings, watch

    def listen(self) -> tuple[Tag, ...]:
        """The tags of all taggers together; remembered."""
        with self._networks.looking:
            if self.tags is None:
                self.tags = self._listen()
            return self.tags

    def _listen(self) -> tuple[Tag, ...]:
        taggings = []
        for name in self._settings.taggers:
            with self._watch.stage("load"):
                tagger = self._networks.tagger(name)
            if len(self._tagged) >= tagger.shortest:
                with self._watch.stage("listen"):
                    taggings.append(tagger.tag(self._tagged, min(self._settings.tags_per_tagger, len(tagger.labels))))
        return union_of_tags(*taggings)

    def segments(self) -> tuple[AudioSegment, ...]:
        """The segments of the sound, by YAMNet."""
        with self._networks.looking, self._watch.stage("load"):
            yamnet = self._networks.yamnet
        with self._networks.looking, self._watch.stage("listen"):
            return segment_sound(self.wave, yamnet, self._settings.segments)

    def labels(self, names: Sequence[str], segments: Sequence[AudioSegment], seconds: int) -> list[tuple[str, ...]]:
        """Which of the names sound in each second, by LanguageBind; the last answer repeats to the end."""
        audible = [each for each in segments if len(each.of(self.wave)) >= _SHORTEST_SEGMENT]
        if not audible:
            return [()] * seconds
        with self._networks.looking, self._watch.stage("load"):
            language = self._networks.language
        with self._networks.looking, self._watch.stage("decode"):
            wave = self._sound.language_16khz[self._stretch]
        with self._networks.looking, self._watch.stage("listen"):
            sounding = language.sounding(
                [each.of(wave) for each in audible],
                names,
                separator=self._settings.separator,
                synonyms=self._settings.synonyms,
            )
        labels = [label for each, label in zip(audible, sounding, strict=True) for _ in range(each.start_s, each.end_s)]
        return [*labels, *labels[-1:] * (seconds - len(labels))][:seconds]


def propagate(
    networks: Networks,
    source: VideoSource,
    found: Sequence[Heard],
    numbers: dict[str, int],
    settings: AvsSettings,
    watch: Watch,
    masks: MaskStore,
    cache_bytes: int,
) -> None:
    """Track every object of every window, from its pivot forward and then backward, to the ends of the window.

    Args:
        networks: SAM 2 is taken from them.
        source: the video.
        found: what `listen` gave.
        numbers: name to number of the object.
        settings: options of the tracker.
        watch: counts, times, reports.
        masks: where masks go, by number and frame, whether the object sounds then or not.
        cache_bytes: see `ObjectTracking`.
    """
    for heard in found:
        starts = {numbers[each.name]: each.pivot for each in heard.objects if each.pivot is not None}
        if not starts:
            continue
        tracking = ObjectTracking(networks, source, settings, watch, cache_bytes, heard.frames)
        try:
            for frame, image in images(source, {pivot.frame for pivot in starts.values()}, watch).items():
                boxes = {number: pivot.prompt_xyxy for number, pivot in starts.items() if pivot.frame == frame}
                tracking.prompt(frame, image, boxes)
            tracking.follow({number: pivot.frame for number, pivot in starts.items()}, masks)
        finally:
            tracking.close()


def images(source: VideoSource, frames: Iterable[int], watch: Watch) -> dict[int, np.ndarray]:
    """Some frames, RGB uint8 `[H, W, 3]` by index, ascending."""
    frames = set(frames)
    before = source.decoded
    images = dict(watch.over("decode", source.frames_at(frames)))
    watch.counters.decoded_pivots += source.decoded - before
    if images.keys() != frames:
        raise MediaError(
            f"{source.path} ended early.", expected=f"{source.frame_count()} frames", mend="copy the file again."
        )
    return images
