"""What a run gives back: one frozen result a sentence or object, its masks read from disk frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from alref_edge.errors import InputError
from alref_edge.media import VideoInfo, VideoSource, encode_rle
from alref_edge.pipeline.jobs import Query, WindowResult
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.measure import RunStats
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.selectors.base import Decision, PivotSelector, SoundSelector
from alref_edge.pipeline.selectors.mllm import asks
from alref_edge.pipeline.settings import AvsSettings, RvosSettings
from alref_edge.types import Detections, Pivot

Self = TypeVar("Self", bound="MaskResult")


@dataclass(frozen=True)
class RunReport:
    """What all sentences or objects of one run have in common.

    Attributes:
        video: path of the video, as it was given.
        info: its size, rate and kind.
        frame_count: its exact number of frames.
        bundle: name of the bundle.
        bundle_sha256: hash that names its whole contents.
        trained: False where any of its weights are random.
        precision: of the graphs that ran.
        device: the device asked for.
        providers: the execution provider that ran each network.
        selector: who picked the pivots.
        settings: numbers of the method.
        counters: see `Counters`.
        timings_s: seconds by stage; those of pivots may overlap with those of tracking, if pivots are chosen ahead.
        reasoning: what the selector says of itself and counted; nothing if it counts nothing. One that asks an LLM
            counts "questions" even if there were none.
        elapsed_s: how long it took; what was done ahead of its turn is not counted.
    """

    video: str
    info: VideoInfo
    frame_count: int
    bundle: str
    bundle_sha256: str
    trained: bool
    precision: str
    device: str
    providers: Mapping[str, str]
    selector: str
    settings: RvosSettings | AvsSettings
    counters: Mapping[str, int]
    timings_s: Mapping[str, float]
    reasoning: Mapping[str, str | int] = field(default_factory=dict)
    elapsed_s: float = 0.0

    @property
    def wait_share(self) -> float:
        """The share of the time in which the tracker waited for pivots, 0 to 1: for the LLM, and for boxes.

        Known where the selector asks an LLM; for others, which choose between two steps of the tracker, 0.
        """
        return min(1.0, self.timings_s.get("wait", 0.0) / self.elapsed_s) if self.elapsed_s else 0.0

    @classmethod
    def of(
        cls,
        networks: Networks,
        source: VideoSource,
        selector: PivotSelector | SoundSelector,
        settings: RvosSettings | AvsSettings,
        stats: RunStats,
    ) -> RunReport:
        """The report of a run that is done."""
        bundle = networks.bundle
        return cls(
            video=str(source.path),
            info=source.info,
            frame_count=stats.counters.frames,
            bundle=bundle.manifest.name,
            bundle_sha256=bundle.sha256,
            trained=bundle.manifest.trained,
            precision=networks.precision,
            device=networks.device,
            providers=networks.providers,
            selector=selector.name,
            settings=settings,
            counters=asdict(stats.counters),
            timings_s={name: round(seconds, 4) for name, seconds in stats.seconds.items()},
            reasoning={**selector.facts, **({"questions": 0} if asks(selector) else {}), **stats.events},
            elapsed_s=round(stats.elapsed_s, 4),
        )


@dataclass(frozen=True)
class MaskResult:
    """Masks of one thing in a video. A context manager, which gives the masks' disk space back at its end.

    The masks of a run lie in one file: closing one result closes them all. It closes by itself when the last of them is
    forgotten.

    Attributes:
        index: number of the sentence or object, from 0.
        label: what was looked for.
        pivots: frames and boxes from which it was tracked, ascending; none if no box was found.
        considered: the boxes looked at, by frame, in the order in which they were shown to the selector.
        warnings: what the user should know.
        run: what all results of the run have in common.
        own_warnings: those of `warnings` that are about this sentence or object alone.
    """

    index: int
    label: str
    pivots: tuple[Pivot, ...]
    considered: Mapping[int, Detections]
    warnings: tuple[str, ...]
    run: RunReport
    _masks: MaskStore = field(repr=False, compare=False)
    own_warnings: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def frame_count(self) -> int:
        """Frames of the video, each of which has a mask."""
        return self.run.frame_count

    def mask(self, frame: int) -> np.ndarray:
        """The mask on a frame, bool `[H, W]` of the video's size.

        Raises:
            InputError: the video has no such frame, or the result was closed.
        """
        return self._masks.get(self.index, frame)

    def masks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Every frame and its mask, bool `[H, W]`, in order; one is in memory at a time."""
        for frame in range(self.frame_count):
            yield frame, self.mask(frame)

    def rles(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every frame and its mask as COCO's compressed run-length encoding."""
        for frame, mask_hw in self.masks():
            yield frame, encode_rle(mask_hw)

    def close(self) -> None:
        """Give back the disk space of the run's masks."""
        self._masks.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(frozen=True)
class RvosResult(MaskResult):
    """What one sentence came to; `label` is the sentence.

    Attributes:
        decisions: what the selector decided, by number of the segment; those that it dropped are missing.
        start_frame: the pivot from which tracking began; None without one.
        fell_back: whether frame 0 had to serve, no segment having a pivot.
    """

    decisions: Mapping[int, Decision]
    start_frame: int | None
    fell_back: bool

    @classmethod
    def of(cls, index: int, query: Query, general: Sequence[str], report: RunReport, masks: MaskStore) -> RvosResult:
        """The result of a query that went through the method; its boxes are clipped to the frame."""
        size = report.info.width, report.info.height
        return cls(
            index=index,
            label=query.text,
            pivots=tuple(pivot.clipped(*size) for pivot in query.pivots),
            considered={frame: found.clipped(*size) for frame, found in sorted(query.considered.items())},
            warnings=(*general, *query.warnings),
            run=report,
            _masks=masks,
            decisions=dict(sorted(query.decisions.items())),
            start_frame=query.start if query.pivots else None,
            fell_back=query.fell_back,
            own_warnings=tuple(query.warnings),
        )

    @property
    def sentence(self) -> str:
        """The sentence."""
        return self.label


@dataclass(frozen=True)
class AvsResult(MaskResult):
    """An object that sounds at times; `label` is its category. Its masks are empty where it does not sound.

    Attributes:
        sounds_t: whether it sounds on each frame, bool `[T]`.
        seconds: the seconds of the video in which it sounds.
    """

    sounds_t: np.ndarray = field(repr=False, compare=False)
    seconds: tuple[int, ...]

    @property
    def name(self) -> str:
        """The category."""
        return self.label

    def mask(self, frame: int) -> np.ndarray:
        """See `MaskResult.mask`; empty where the object does not sound."""
        tracked_hw = self.tracked(frame)
        return tracked_hw if self.sounds_t[frame] else np.zeros_like(tracked_hw)

    def tracked(self, frame: int) -> np.ndarray:
        """Its mask on a frame whether it sounds or not, bool `[H, W]`. Errors as of `mask`."""
        return super().mask(frame)


@dataclass(frozen=True, eq=False)
class AvsRun(Sequence[AvsResult]):
    """The objects that sound in a video, and what was heard. Nothing at all may sound. A context manager.

    Attributes:
        objects: each category once, in the order in which they were first heard of.
        windows: what was found out about each window.
        labels: the names of what sounds in each second of the video.
        warnings: what the user should know of the whole.
        report: what was run, and how long it took.
        class_of: class of each category by name, its number in the settings' `categories` counted from 1; where it is
            none of them, that of the nearest; empty if there are no categories.
        wave_16khz: the sound, float32 `[samples]`, from the first frame on.
        second_of_frame: the second of each frame, int64 `[T]`.
        sound: the file that was listened to, which may be the video itself; None where it was given as samples.
    """

    objects: tuple[AvsResult, ...]
    windows: tuple[WindowResult, ...]
    labels: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]
    report: RunReport
    class_of: Mapping[str, int]
    wave_16khz: np.ndarray = field(repr=False)
    second_of_frame: np.ndarray = field(repr=False)
    _masks: MaskStore = field(repr=False)
    sound: Path | None = None

    @classmethod
    def of(
        cls,
        found: Sequence[WindowResult],
        numbers: Mapping[str, int],
        warnings: Sequence[str],
        report: RunReport,
        class_of: Mapping[str, int],
        wave_16khz: np.ndarray,
        second_of_frame: np.ndarray,
        masks: MaskStore,
        sound: Path | None = None,
    ) -> AvsRun:
        """The run that found this; `numbers` are those of the objects by name, in order, as in the store."""
        objects = []
        for name, index in numbers.items():
            mine = [each for window in found for each in window.objects if each.name == name]
            seconds = [h.start_s + s for h in found for s, names in enumerate(h.labels) if name in names]
            objects.append(
                AvsResult(
                    index=index,
                    label=name,
                    pivots=tuple(each.pivot for each in mine if each.pivot is not None),
                    considered={each.frame: each.considered for each in mine},
                    warnings=tuple(warning for each in mine for warning in each.warnings),
                    run=report,
                    _masks=masks,
                    sounds_t=np.isin(second_of_frame, seconds),
                    seconds=tuple(seconds),
                )
            )
        labels: list[tuple[str, ...]] = [()] * (int(second_of_frame[-1]) + 1)
        for window in found:
            labels[window.start_s : window.start_s + len(window.labels)] = window.labels
        return cls(
            objects=tuple(objects),
            windows=tuple(found),
            labels=tuple(labels),
            warnings=tuple(warnings),
            report=report,
            class_of=class_of,
            wave_16khz=wave_16khz,
            second_of_frame=second_of_frame,
            _masks=masks,
            sound=sound,
        )

    def mask(self, frame: int) -> np.ndarray:
        """The pixels of everything that sounds on a frame, bool `[H, W]`. Errors as of `MaskResult.mask`."""
        self._check(frame)
        info = self.report.info
        merged_hw = np.zeros((info.height, info.width), bool)
        for each in self.objects:
            merged_hw |= each.mask(frame)
        return merged_hw

    def class_map(self, frame: int) -> np.ndarray:
        """The class of what sounds at each pixel, uint8 `[H, W]`, 0 where nothing does: later labels over earlier ones.

        Raises:
            InputError: the settings have no categories, or as of `mask`.
        """
        self._check(frame)
        if not self.class_of and self.objects:
            raise InputError(
                "A class map needs the categories that there are.",
                expected="the setting `categories`",
                mend="name them: `categories`.",
            )
        info = self.report.info
        classes_hw = np.zeros((info.height, info.width), np.uint8)
        by_name = {each.name: each for each in self.objects}
        for name in self.labels[self.second_of_frame[frame]]:
            classes_hw[by_name[name].mask(frame)] = self.class_of[name]
        return classes_hw

    def _check(self, frame: int) -> None:
        if not 0 <= frame < len(self.second_of_frame):
            raise InputError(
                "The video has no such frame.", expected=f"0 to {len(self.second_of_frame) - 1}", got=frame
            )

    def close(self) -> None:
        """Give back the disk space of the masks."""
        self._masks.close()

    def __enter__(self) -> AvsRun:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.objects)

    @overload
    def __getitem__(self, index: int) -> AvsResult: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[AvsResult, ...]: ...
    def __getitem__(self, index: int | slice) -> AvsResult | tuple[AvsResult, ...]:
        return self.objects[index]
