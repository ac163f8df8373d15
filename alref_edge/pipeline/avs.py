"""Audio-visual segmentation: the method of AL-Ref-SAM 2 (arXiv 2408.15876) for what sounds in a video.

A video goes by windows of up to 10 s, each of which is what the paper calls a clip: one frame a second is looked at,
every frame is tracked, and what sounds is told for every second.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from alref_edge.errors import InputError, MediaError
from alref_edge.media import VideoSource
from alref_edge.models.audio.log_mel import SAMPLE_RATE
from alref_edge.models.beats import LONGEST_S, Tag, union_of_tags
from alref_edge.pipeline.audio_segments import AudioSegment, segment_sound
from alref_edge.pipeline.grounding import Grounder
from alref_edge.pipeline.lbru import SoundingCategory, SoundSelector, SoundWindow, keep_boxes
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.measure import Watch
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.pivots import pivot_of
from alref_edge.pipeline.scheduling import executor
from alref_edge.pipeline.settings import AvsSettings
from alref_edge.pipeline.sound import Sound
from alref_edge.pipeline.tracking import ObjectTracking
from alref_edge.types import Detections, Pivot

_EPSILON_S = 1e-6
_MOST_WINDOWS = 8
_SHORTEST_SEGMENT = SAMPLE_RATE * 25 // 1000
# Two steps of a 16-bit sample: a track that never leaves them is silent.
_AUDIBLE = 2.0**-14


@dataclass(frozen=True)
class Sounding:
    """An object that sounds in a window.

    Attributes:
        name: its category.
        considered: the boxes on its pivot frame, clipped to it.
        frame: index of that frame in the video.
        pivot: the box from which it is tracked; None if there was none, and its masks are empty.
        warnings: what the user should know.
        box: which of `considered` the pivot is, from 0.
    """

    name: str
    considered: Detections
    frame: int
    pivot: Pivot | None
    warnings: tuple[str, ...] = ()
    box: int = 0


@dataclass(frozen=True)
class Heard:
    """What was found out about one window.

    Attributes:
        start_s: its first second.
        frames: its frames in the video.
        tags: what the taggers heard; none where nobody asked them.
        objects: in the order of the selector's answer.
        segments: of its sound, in seconds from its start; none where nobody asked.
        labels: the names of the objects that sound in each of its seconds, in the order of `objects`.
        silent: for each of its seconds, whether the silence gate closed it.
    """

    start_s: int
    frames: range
    tags: tuple[Tag, ...]
    objects: tuple[Sounding, ...]
    segments: tuple[AudioSegment, ...]
    labels: tuple[tuple[str, ...], ...]
    silent: tuple[bool, ...]


@dataclass(frozen=True)
class Clock:
    """Which second each frame is of.

    Attributes:
        second_of_frame: int64 `[T]`, from 0, never falling.
    """

    second_of_frame: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, source: VideoSource) -> Clock:
        """The clock of a video, counted from its first frame; less than half a second at its end is no second more."""
        times_s = source.times_s()
        times_s = times_s - times_s[0]
        count = max(1, int(times_s[-1] + 1 / source.info.fps + 0.5 + _EPSILON_S))
        seconds = np.floor(times_s + _EPSILON_S).astype(np.int64)
        return cls(np.minimum(np.maximum.accumulate(seconds), count - 1))

    @property
    def seconds(self) -> int:
        """The length of the video."""
        return int(self.second_of_frame[-1]) + 1

    def windows(self, length_s: int) -> Iterator[tuple[int, range, tuple[int, ...]]]:
        """The first second of each window, its frames, and the one that stands for each of its seconds: the last one
        that is shown in it, as in AVSBench. A window of which no frame is shown is left out.
        """
        for start in range(0, self.seconds, length_s):
            first, stop = np.searchsorted(self.second_of_frame, [start, start + length_s]).tolist()
            if first < stop:
                count = min(length_s, self.seconds - start)
                ends = np.searchsorted(self.second_of_frame, np.arange(start + 1, start + count + 1))
                yield start, range(first, stop), tuple(np.maximum(ends - 1, first).tolist())


def listen(
    networks: Networks,
    source: VideoSource,
    sound: Sound,
    selector: SoundSelector,
    settings: AvsSettings,
    watch: Watch,
) -> list[Heard]:
    """Find out, window by window, which objects sound, when, and where they are to be found.

    Args:
        networks: of the bundle; those that nobody asks are not loaded.
        source: the video.
        sound: its sound; silence follows its end.
        selector: makes the decisions.
        settings: numbers of the method.
        watch: counts, times, reports.
    """
    watch.counters.frames = source.frame_count()
    grounder = Grounder(
        networks,
        settings.box_threshold,
        settings.text_threshold,
        lambda found: keep_boxes(found, settings.boxes_per_frame),
        watch,
    )
    clock = Clock.of(source)
    found: list[Heard] = []
    pool = executor(selector.in_flight)
    asked: deque[Future[Heard]] = deque()

    def settle(most: int) -> None:
        while len(asked) > most:
            before = time.perf_counter()
            found.append(asked.popleft().result())
            watch.add("wait", time.perf_counter() - before if selector.in_flight else 0)
            watch.report("listen", found[-1].start_s + len(found[-1].labels), clock.seconds)

    try:
        for index, (start_s, frames, shown) in enumerate(clock.windows(settings.window_s)):
            stretch = slice(start_s * SAMPLE_RATE, (start_s + len(shown)) * SAMPLE_RATE)
            wave = sound.wave_16khz[stretch]
            silent = silent_seconds(wave, len(shown), settings.silence_db)
            if all(silent):
                asked.append(pool.submit(Heard, start_s, frames, (), (), (), ((),) * len(shown), silent))
            else:
                ear = _Ear(networks, sound, stretch, len(shown) == clock.seconds, settings, watch)
                images = _images(source, shown, watch)
                window = SoundWindow(index, start_s, shown, images, ear.listen, watch.count, watch.report)
                asked.append(pool.submit(_understand, window, frames, ear, grounder, selector, settings, silent))
            settle(max(0, min(selector.in_flight, _MOST_WINDOWS) - 1))
        settle(0)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return found


def track(
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
            for frame, image in _images(source, {pivot.frame for pivot in starts.values()}, watch).items():
                boxes = {number: pivot.prompt_xyxy for number, pivot in starts.items() if pivot.frame == frame}
                tracking.prompt(frame, image, boxes)
            tracking.follow({number: pivot.frame for number, pivot in starts.items()}, masks)
        finally:
            tracking.close()


def silent_seconds(wave_16khz: np.ndarray, seconds: int, silence_db: float | None) -> tuple[bool, ...]:
    """Whether each second's RMS level is below `silence_db`, relative to full scale; no sound at all is silence too.

    None asks for no gate: nothing is silent, unless there is no sample of it in the whole window.
    """
    if silence_db is None:
        return (len(wave_16khz) == 0,) * seconds
    power = 10 ** (silence_db / 10)
    parts = [wave_16khz[s * SAMPLE_RATE : (s + 1) * SAMPLE_RATE].astype(np.float64) for s in range(seconds)]
    return tuple(len(part) == 0 or bool(np.mean(part**2) < power) for part in parts)


class _Ear:
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


def _understand(
    window: SoundWindow,
    frames: range,
    ear: _Ear,
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
    objects = tuple(_find(window, each, grounder, selector) for each in categories)
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


def _find(window: SoundWindow, category: SoundingCategory, grounder: Grounder, selector: SoundSelector) -> Sounding:
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


def _check(answer: Sequence[SoundingCategory], window: SoundWindow, selector: SoundSelector) -> None:
    names = [each.name for each in answer]
    if len(set(names)) < len(names) or any(each.pivot > window.seconds for each in answer):
        raise InputError(
            f"The selector {selector.name!r} gave categories that make no sense.",
            expected=f"each name once, pivots from 1 to {window.seconds}",
            got=[(each.name, each.pivot) for each in answer],
        )


def _images(source: VideoSource, frames: Iterable[int], watch: Watch) -> dict[int, np.ndarray]:
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


def why_nothing(
    found: Sequence[Heard], sound: Sound, selector: SoundSelector, settings: AvsSettings
) -> tuple[str, ...]:
    """Where nothing at all sounds, why, in words; nothing where something does.

    Args:
        found: what `listen` gave.
        sound, selector, settings: what it was given.
    """
    if any(each.pivot is not None and each.name in names for h in found for each in h.objects for names in h.labels):
        return ()
    last = found[-1]
    wave = sound.wave_16khz[: (last.start_s + len(last.silent)) * SAMPLE_RATE]
    if not len(wave):
        return ("nothing sounds: no sound falls into the time of the video",)
    if np.abs(wave).max() < _AUDIBLE:
        return ("nothing sounds: the sound is silent from beginning to end",)
    reasons = Counter(_why_nothing(heard, wave, selector, settings) for heard in found)
    if len(reasons) == 1:
        return (f"nothing sounds: {next(iter(reasons))}",)
    told = [f"in {count} of {len(found)} windows {reason}" for reason, count in reasons.most_common()]
    return (f"nothing sounds: {'; '.join(told)}",)


def _why_nothing(heard: Heard, wave_16khz: np.ndarray, selector: SoundSelector, settings: AvsSettings) -> str:
    """Why nothing sounds in a window; the same words for windows that are alike."""
    gate_db = settings.silence_db
    if all(heard.silent):
        if gate_db is None:
            return "the sound has ended before"
        starts = range(0, len(wave_16khz), SAMPLE_RATE)
        loudest = max(np.mean(wave_16khz[s : s + SAMPLE_RATE].astype(np.float64) ** 2) for s in starts)
        return (
            f"every second is below the silence gate of {gate_db:g} dB, the loudest of the video has "
            f"{10 * np.log10(loudest):.1f} dB; --no-silence-gate opens it"
        )
    if heard.objects:
        if not any(each.pivot for each in heard.objects):
            return "no box was found on the pivot frames"
        return f"what has a box is heard in no second{'' if gate_db is None else ' that the silence gate leaves open'}"
    best = max((tag.probability for tag in heard.tags), default=1.0)
    if best < settings.tag_threshold:
        return f"no tag reaches the threshold of {settings.tag_threshold:g}, the best has {best:.2g}"
    if not heard.tags and selector.name != "replay":
        return "the sound is too short to be tagged"
    return f"the selector {selector.name!r} names no object in view"
