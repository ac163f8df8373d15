"""The method, as a library call: a bundle, a video and sentences in; masks out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import numpy as np

from alref_edge.bundle import Bundle
from alref_edge.errors import BundleError, InputError, quoted
from alref_edge.media import AudioLimits, FrameSource, Limits, VideoSource, open_video
from alref_edge.pipeline import rvos
from alref_edge.pipeline.avs import propagate
from alref_edge.pipeline.avs_results import AvsRun
from alref_edge.pipeline.clock import Clock
from alref_edge.pipeline.jobs import Job, Query, WindowResult, sounding_seconds
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.measure import ProgressCallback, RunStats, one_at_a_time
from alref_edge.pipeline.networks import SOUND, SOUND_TEXT_MATCHER, VISION, Networks, best_precision
from alref_edge.pipeline.results import RunReport
from alref_edge.pipeline.rvos_results import RvosResult, RvosRun
from alref_edge.pipeline.saving import MaskSink
from alref_edge.pipeline.scheduling import analyse_windows, segment_videos
from alref_edge.pipeline.selectors.base import PivotSelector, SoundSelector
from alref_edge.pipeline.selectors.grounding import GroundingSelector, GroundingSoundSelector
from alref_edge.pipeline.selectors.mllm import check_usable, not_asked, unusable_warnings
from alref_edge.pipeline.settings import AnySettings, AvsSettings, RvosSettings
from alref_edge.pipeline.silence import why_nothing
from alref_edge.pipeline.sound import Sound
from alref_edge.pipeline.tracking import FEATURE_CACHE_BYTES
from alref_edge.runtime import SessionOptions

Video: TypeAlias = str | os.PathLike[str] | VideoSource | np.ndarray | Iterable[np.ndarray]
"""A file, a folder of frames, an image, a source that is open, or frames in memory: see `FrameSource`."""

_MOST_SENTENCES = 1000
_MOST_CHARACTERS = 4000
_TRIALS = 20


class Pipeline:
    """Networks of one bundle on one device, serving any number of videos. A context manager.

    Made by `from_bundle`, or of `Networks`, some of them of one's own. Graphs are loaded when first needed, and kept.

    `rvos`, `rvos_many` and `avs` take the same keywords:

        selector: decides: picks the pivots, or what sounds; by grounding if None.
        settings: numbers of the method; the bundle's defaults if None.
        limits: caps on the video (those of an opened source hold as they are).
        fps: frames per second of what has no clock: a folder, an image, frames in memory.
        progress: called after every frame of every stage.
        spill_dir: where masks, and frames that come one by one, wait in unnamed temporary files; None: TMPDIR,
            /var/tmp, or the system's choice.
        feature_cache_bytes: see `ObjectTracking`.
        sink: takes every mask as soon as it is known, while others are still tracked: a `ResultFolder` of one video,
            say.
    """

    def __init__(self, networks: Networks, warnings: Sequence[str] = ()) -> None:
        self._networks = networks
        self._warnings = tuple(warnings)

    @classmethod
    def from_bundle(
        cls,
        path: str | os.PathLike[str] | None = None,
        device: str = "auto",
        *,
        precision: str = "auto",
        allow_fallback: bool = False,
        threads: int = 0,
        gpu_memory: int | None = None,
        components: Collection[str] = (),
    ) -> Pipeline:
        """Verify a bundle and make a pipeline of it.

        Args:
            path: the bundle's folder; None takes the one shipped with the package, a small one for generated scenes.
            device: "cpu", "cuda", "cuda:N", or "auto": CUDA where it works, else the CPU.
            precision: "float32"; "float16", where the bundle has it; "tf32": float32 graphs, of whose products a GPU
                rounds the factors to 10 bits of a mantissa; "auto": on a GPU float16, where the bundle's tracker was
                accepted in it by its masks, else float32.
            allow_fallback: run on the CPU where the device asked for does not work, instead of an error.
            threads: CPU threads for one operator; 0 leaves the choice to the backend.
            gpu_memory: bytes of the GPU that the graphs may take; see `SessionOptions`.
            components: names of the components to take where the bundle has several for one part, as two detectors.

        Raises:
            InputError: the bundle has no component of such a name.
            BundleError: the bundle is missing, altered or incomplete, has several components for one part and none of
                them was chosen, or has no graphs of that precision.
            ProviderError: the device does not work here.
        """
        from alref_edge.runtime.device import resolve

        placement = resolve(device, allow_fallback=allow_fallback)
        fell_back = device.startswith("cuda") and placement.kind == "cpu"
        warnings = (
            [f"fell back: {device} was asked for and does not work here, the CPU runs instead"] if fell_back else []
        )
        bundle = Bundle.open(None if path is None else Path(path))
        if precision == "auto":
            precision = best_precision(bundle, placement.kind)
        if placement.kind == "cpu" and precision == "tf32":
            warnings.append("a CPU has no tf32: float32 ran")
            precision = "float32"
        if placement.kind == "cpu" and gpu_memory is not None:
            warnings.append("the bound on a GPU's memory binds nothing on a CPU")
        options = SessionOptions(
            threads=threads, allow_fallback=allow_fallback, gpu_memory=gpu_memory, tf32=precision == "tf32"
        )
        networks = Networks(bundle, device, options, precision, components=components)
        networks.check(part for part in VISION if networks.has(part))
        return cls(networks, warnings)

    @property
    def networks(self) -> Networks:
        """The networks, to be asked by themselves, between runs: `pipeline.networks.detector`."""
        return self._networks

    @property
    def bundle(self) -> Bundle:
        """The bundle in use."""
        return self._networks.bundle

    @property
    def precision(self) -> str:
        """The precision of the graphs: "float32", "tf32" (see `from_bundle`), "float16"."""
        return self._networks.precision

    @property
    def hears(self) -> bool:
        """Whether the bundle has all the networks that `avs` asks where nobody else decides."""
        taggers, components = self.avs_settings().taggers, self.bundle.manifest.components
        return components.keys() >= {*taggers} and all(map(self._networks.has, SOUND))

    @property
    def notice(self) -> str | None:
        """What a user of the shipped bundle should know, in a line; None for any other bundle, or one without notes."""
        manifest = self.bundle.manifest
        if not self.bundle.is_shipped or not manifest.trained or not manifest.notes:
            return None
        return f'using the shipped bundle "{manifest.name}": {manifest.notes}'

    @property
    def warnings(self) -> tuple[str, ...]:
        """What holds for every result of this pipeline: weights that are not trained, another device than asked for."""
        if self.bundle.manifest.trained:
            return self._warnings
        return (
            *self._warnings,
            f"untrained: the bundle {self.bundle.manifest.name!r} has random weights, its masks mean nothing",
        )

    @property
    def settings(self) -> RvosSettings:
        """The numbers of referring segmentation that the bundle wants.

        Raises:
            BundleError: they make no sense.
        """
        return self._defaults(RvosSettings(), "rvos")

    def avs_settings(self, base: AvsSettings | None = None) -> AvsSettings:
        """The numbers of audio-visual segmentation that the bundle wants, over those of `base`.

        Raises:
            BundleError: they make no sense.
        """
        return self._defaults(base or AvsSettings(), "avs")

    def _defaults(self, base: AnySettings, name: str) -> AnySettings:
        try:
            return base.changed(self.bundle.manifest.defaults.get(name, {}))
        except (InputError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(
                "The bundle's default settings make no sense.", got=str(error), mend="export the bundle again."
            ) from error

    def rvos(
        self,
        video: Video,
        sentences: str | Sequence[str],
        *,
        selector: PivotSelector | None = None,
        settings: RvosSettings | None = None,
        limits: Limits | None = None,
        fps: float = 24.0,
        progress: ProgressCallback | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        feature_cache_bytes: int = FEATURE_CACHE_BYTES,
        sink: MaskSink | None = None,
    ) -> RvosRun:
        """Segment, in a video, what each sentence refers to.

        The sentences share the work: give them together. Everything that can be checked is checked first; when this
        returns, the work is done. Masks lie on disk till the run is closed or forgotten.

        Args:
            video: a file, a folder of frames, an image, or a source that `open_video` gave; or frames in memory, uint8
                `[T, H, W, 3]` RGB or an iterable of `[H, W, 3]`, which is read to its end at once (see `FrameSource`).
            sentences: one or many.
            selector, settings, limits, fps, progress, spill_dir, feature_cache_bytes, sink: see `Pipeline`.

        Returns:
            One result a sentence, in their order.

        Raises:
            InputError: a sentence, pivot or setting makes no sense.
            MediaError: the video cannot be read or is over a limit.
            MllmError: an LLM that decides alone cannot be asked, or gave no usable answer at all (see `MllmSelector`).
            BundleError, EngineError, ProviderError, CapacityError: see there.
        """
        settings, selector = settings or self.settings, selector or GroundingSelector()
        progress = one_at_a_time(progress)
        job = self._job(video, sentences, selector, limits, fps, progress, spill_dir, sink)
        (run,) = self._run([job], selector, settings, feature_cache_bytes)
        return run

    def rvos_many(
        self,
        videos: Iterable[tuple[Video, str | Sequence[str]]],
        *,
        selector: PivotSelector | None = None,
        settings: RvosSettings | None = None,
        limits: Limits | None = None,
        fps: float = 24.0,
        progress: ProgressCallback | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        feature_cache_bytes: int = FEATURE_CACHE_BYTES,
        sink: MaskSink | None = None,
    ) -> Iterator[RvosRun]:
        """Segment many videos, each with sentences of its own. Lazy: a video is worked on when its run is asked for.

        With a selector that asks an LLM, pivots are chosen for the videos to come while one is tracked, as far ahead as
        the selector's `in_flight` and memory allow, so that neither waits for the other.

        Args:
            videos: pairs of what `rvos` takes as `video` and `sentences`; taken one by one, some ahead of the results,
                in another thread then. Each is a source of its own.
            selector, settings, limits, fps, progress, spill_dir, feature_cache_bytes, sink: see `Pipeline`.

        Yields:
            The run of each video, in order. Close it when it is done with: its masks lie on disk till then.

        Raises:
            As `rvos`, when it is the turn of the video that the error is about; then nothing more comes. That no answer
            of an LLM is usable is an error after the 20th question, or else at the end.
        """
        settings, selector = settings or self.settings, selector or GroundingSelector()
        told = one_at_a_time(progress)
        jobs = (self._job(video, texts, selector, limits, fps, told, spill_dir, sink) for video, texts in videos)
        return self._run(jobs, selector, settings, feature_cache_bytes, _TRIALS)

    def _job(
        self,
        video: Video,
        sentences: str | Sequence[str],
        selector: PivotSelector,
        limits: Limits | None,
        fps: float,
        progress: ProgressCallback | None,
        spill_dir: str | os.PathLike[str] | None,
        sink: MaskSink | None,
    ) -> Job:
        """A video and its sentences, checked as far as that goes without work."""
        queries = []
        for text in _checked_sentences(sentences):
            given = selector.given(text)
            queries.append(Query(text, None if given is None else tuple(given)))
        source = _opened(video, limits, fps, spill_dir)
        folder = None if spill_dir is None else os.fspath(spill_dir)
        return Job(source, queries, RunStats(progress=progress), folder, sink)

    def _run(
        self,
        jobs: Iterable[Job],
        selector: PivotSelector,
        settings: RvosSettings,
        cache_bytes: int,
        trials: int = 1,
    ) -> Iterator[RvosRun]:
        for job, masks in segment_videos(self._networks, jobs, selector, settings, cache_bytes, trials):
            report = RunReport.of(self._networks, job.source, selector, settings, job.stats)
            events = job.stats.events
            unasked = not_asked(selector, events, settings)
            if unasked:  # which says what serves, so no sentence has to
                for query in job.queries:
                    query.warnings = [warning for warning in query.warnings if warning != rvos.FELL_BACK]
            general = (*self.warnings, *job.source.warnings, *unasked, *unusable_warnings(events))
            yield RvosRun.of(
                [RvosResult.of(number, query, general, report, masks) for number, query in enumerate(job.queries)]
            )

    def avs(
        self,
        video: Video,
        sound: str | os.PathLike[str] | np.ndarray | None = None,
        *,
        selector: SoundSelector | None = None,
        settings: AvsSettings | None = None,
        limits: Limits | None = None,
        fps: float = 24.0,
        progress: ProgressCallback | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        feature_cache_bytes: int = FEATURE_CACHE_BYTES,
        sink: MaskSink | None = None,
        audio_limits: AudioLimits | None = None,
    ) -> AvsRun:
        """Segment, in a video, the objects that sound, in the seconds in which they do.

        When this returns, the work is done, as with `rvos`. A selector that asks an LLM is asked about several windows
        at once; tracking begins when all are answered.

        Args:
            video: see `rvos`.
            sound: a file, or float32 `[samples]` at 16 kHz in [-1, 1] that begins with the first frame; None: the
                video's own track.
            selector, settings, limits, fps, progress, spill_dir, feature_cache_bytes, sink: see `Pipeline`. Without a
                selector, tags, words and grounding decide.
            audio_limits: caps on the sound.

        Returns:
            The objects, each category once, with masks that are empty where it is not heard.

        Raises:
            InputError: a setting, or an answer of the selector, makes no sense.
            MediaError: the video or the sound cannot be read or is over a limit, or there is no sound.
            MllmError: as of `rvos`.
            BundleError: the bundle has no networks that hear.
            EngineError, ProviderError, CapacityError: see there.
        """
        settings = settings or self.avs_settings()
        self._check_sound_networks(selector, settings)
        source = _opened(video, limits, fps, spill_dir)
        stats = RunStats(progress=one_at_a_time(progress))
        with stats.stage("decode"):
            heard = Sound.of(source, sound, audio_limits)
        selector = selector or self.sound_selector(settings)
        began = time.perf_counter()
        found = analyse_windows(self._networks, source, heard, selector, settings, stats)
        check_usable(selector, stats.events)
        numbers = {name: n for n, name in enumerate(dict.fromkeys(o.name for each in found for o in each.objects))}
        info, folder = source.info, None if spill_dir is None else os.fspath(spill_dir)
        masks = MaskStore(len(numbers), source.frame_count(), info.height, info.width, folder)
        put = masks.put if sink is None else _heard(masks, sink, list(numbers), source, found)
        propagate(self._networks, source, found, numbers, settings, stats, put, feature_cache_bytes)
        stats.elapsed_s = time.perf_counter() - began
        return AvsRun.of(
            found,
            numbers,
            (
                *self.warnings,
                *source.warnings,
                *heard.warnings,
                *why_nothing(found, heard, selector, settings),
                *unusable_warnings(stats.events),
            ),
            RunReport.of(self._networks, source, selector, settings, stats),
            self._class_of(list(numbers), settings.categories),
            heard.wave_16khz,
            Clock.of(source).second_of_frame,
            masks,
            None if isinstance(sound, np.ndarray) else source.path if sound is None else Path(sound),
        )

    def sound_selector(self, settings: AvsSettings | None = None) -> GroundingSoundSelector:
        """The selector that `avs` has if it is given none: by tags, words and grounding.

        Args:
            settings: numbers of the method; the bundle's defaults if None.
        """
        settings = settings or self.avs_settings()
        return GroundingSoundSelector(self._nearest, settings.categories, settings.tag_threshold)

    def _nearest(self, words: Sequence[str], choices: Sequence[str]) -> list[str]:
        with self._networks.lock:
            return self._networks.sound_text_matcher.nearest(words, choices)

    def _check_sound_networks(self, selector: SoundSelector | None, settings: AvsSettings) -> None:
        """Raises BundleError where a network is missing that is sure to be asked."""
        if selector is None:
            self._networks.check(SOUND if settings.by_second else (), settings.taggers)
        elif settings.by_second:
            self._networks.check([SOUND_TEXT_MATCHER])

    def _class_of(self, names: list[str], categories: tuple[str, ...]) -> dict[str, int]:
        """The class of each name: that of the nearest category, counted from 1."""
        known = set(names) <= set(categories)
        if not categories or not (known or self._networks.has(SOUND_TEXT_MATCHER)):
            return {}
        nearest = names if known else self._nearest(names, categories)
        return {name: 1 + categories.index(each) for name, each in zip(names, nearest, strict=True)}

    def close(self) -> None:
        """Close every session; closing twice does nothing. Results stay readable."""
        self._networks.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _opened(video: Video, limits: Limits | None, fps: float, spill_dir: str | os.PathLike[str] | None) -> VideoSource:
    if isinstance(video, VideoSource):
        return video
    if isinstance(video, (str, bytes, os.PathLike)) or not isinstance(video, Iterable):
        return open_video(video, limits, fps=fps)
    return FrameSource(video, fps, limits, spill_dir=spill_dir)


def _checked_sentences(sentences: str | Sequence[str]) -> list[str]:
    texts = [sentences] if isinstance(sentences, str) else list(sentences)
    if not texts or len(texts) > _MOST_SENTENCES:
        raise InputError(
            "The number of sentences is out of range.", expected=f"1 to {_MOST_SENTENCES}", got=len(texts),
            mend="give at least one in `sentences`.",
        )  # fmt: skip
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip():
            got = f"{quoted(text) if isinstance(text, str) else repr(text)[:60]} as number {number} of {len(texts)}"
            raise InputError("A sentence is empty.", got=got, mend="say in words what to look for.")
        if len(text) > _MOST_CHARACTERS:
            raise InputError(
                "A sentence is too long.",
                expected=f"at most {_MOST_CHARACTERS} characters",
                got=f"{len(text)} characters in {quoted(text)}",
                mend="shorten it, or split it into several sentences.",
            )
    return [text.strip() for text in texts]


def _heard(
    masks: MaskStore, sink: MaskSink, names: Sequence[str], source: VideoSource, found: Sequence[WindowResult]
) -> Callable[[int, int, np.ndarray], None]:
    """Puts masks of objects into the store, and into the sink where they sound."""
    sink.begin(names, source)
    second_of_frame = Clock.of(source).second_of_frame
    sounds_nt = [np.isin(second_of_frame, sounding_seconds(name, found)) for name in names]

    def put(number: int, frame: int, mask_hw: np.ndarray) -> None:
        masks.put(number, frame, mask_hw)
        if sounds_nt[number][frame]:
            sink.put(number, frame, mask_hw)

    return put
