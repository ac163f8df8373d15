"""What audio-visual segmentation gives back: one result an object that sounds, and what was heard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alref_edge.errors import InputError
from alref_edge.models.audio.log_mel import SAMPLE_RATE
from alref_edge.pipeline.jobs import WindowResult, sounding_seconds
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.results import MaskResult, Run, RunReport


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

    def to_json(self) -> dict[str, Any]:
        """See `MaskResult.to_json`."""
        return {"name": self.label, "seconds": list(self.seconds), **super().to_json()}

    def mask(self, frame: int) -> np.ndarray:
        """See `MaskResult.mask`; empty where the object does not sound."""
        tracked_hw = self.tracked(frame)
        return tracked_hw if self.sounds_t[frame] else np.zeros_like(tracked_hw)

    def tracked(self, frame: int) -> np.ndarray:
        """Its mask on a frame whether it sounds or not, bool `[H, W]`. Errors as of `mask`."""
        return super().mask(frame)


@dataclass(frozen=True, eq=False)
class AvsRun(Run[AvsResult]):
    """The objects that sound in a video, and what was heard. Nothing at all may sound. See `Run`.

    Attributes:
        results: each category once, in the order in which they were first heard of.
        windows: what was found out about each window.
        labels: the names of what sounds in each second of the video.
        warnings: what the user should know of the whole.
        class_of: class of each category by name, its number in the settings' `categories` counted from 1; where it is
            none of them, that of the nearest; empty if there are no categories.
        wave_16khz: the sound, float32 `[samples]`, from the first frame on.
        second_of_frame: the second of each frame, int64 `[T]`.
        sound: the file that was listened to, which may be the video itself; None where it was given as samples.
    """

    schema: ClassVar[str] = "alref-edge.avs/1"
    listed_as: ClassVar[str] = "objects"

    windows: tuple[WindowResult, ...]
    labels: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]
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
            seconds = sounding_seconds(name, found)
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
            results=tuple(objects),
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

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """See `Run.all_warnings`."""
        return tuple(dict.fromkeys([*self.warnings, *super().all_warnings]))

    def _more(self) -> dict[str, Any]:
        """What was heard, and when."""
        windows = [
            {
                "start_s": window.start_s,
                "frames": [window.frames.start, window.frames.stop],
                "tags": [asdict(tag) for tag in window.tags],
                "segments": [[each.start_s, each.end_s] for each in window.audio_segments],
                "silent": list(window.silent),
            }
            for window in self.windows
        ]
        sound = {
            "duration_s": len(self.wave_16khz) / SAMPLE_RATE,
            "labels": [list(labels) for labels in self.labels],
            "classes": dict(self.class_of),
            "windows": windows,
        }
        return {"sound": sound}

    def mask(self, frame: int) -> np.ndarray:
        """The pixels of everything that sounds on a frame, bool `[H, W]`. Errors as of `MaskResult.mask`."""
        self._check(frame)
        info = self.report.info
        merged_hw = np.zeros((info.height, info.width), bool)
        for each in self:
            merged_hw |= each.mask(frame)
        return merged_hw

    def class_map(self, frame: int) -> np.ndarray:
        """The class of what sounds at each pixel, uint8 `[H, W]`, 0 where nothing does: later labels over earlier ones.

        Raises:
            InputError: the settings have no categories, or as of `mask`.
        """
        self._check(frame)
        if not self.class_of and len(self):
            raise InputError(
                "A class map needs the categories that there are.",
                expected="the setting `categories`",
                mend="name them: `categories`.",
            )
        info = self.report.info
        classes_hw = np.zeros((info.height, info.width), np.uint8)
        by_name = {each.name: each for each in self}
        for name in self.labels[self.second_of_frame[frame]]:
            classes_hw[by_name[name].mask(frame)] = self.class_of[name]
        return classes_hw

    def _check(self, frame: int) -> None:
        if not 0 <= frame < len(self.second_of_frame):
            raise InputError(
                "The video has no such frame.", expected=f"0 to {len(self.second_of_frame) - 1}", got=frame
            )

    def close(self) -> None:
        """See `Run.close`."""
        self._masks.close()
