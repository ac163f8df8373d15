"""What every source of frames has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alref_edge.errors import InputError, MediaError
from alref_edge.media.limits import Limits
from alref_edge.media.spill import MEMORY_BYTES, FrameStack


@dataclass(frozen=True)
class VideoInfo:
    """What is known without decoding.

    Attributes:
        frames: number of frames; None where the container cannot be trusted and nobody has counted yet.
        width, height: of the frames as they are delivered, rotation applied, in pixels.
        fps: average frames per second (of a folder or an image: the rate given to `open_video`; 25 of a video of one
            frame, or of one whose rate is not between 0 and 1,000).
        duration_s: length in seconds; 0 where the container does not say.
        kind: "video", "frames" (a folder) or "image".
        codec: name of the codec, or the image format.
        rotation: degrees clockwise by which stored pictures were turned: 0, 90, 180 or 270.
    """

    frames: int | None
    width: int
    height: int
    fps: float
    duration_s: float
    kind: str
    codec: str = ""
    rotation: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or (self.frames is not None and self.frames < 1):
            raise MediaError(
                "A video has no frames or no size.",
                expected="at least one frame of at least one pixel",
                got=f"{self.frames} frames of {self.width}x{self.height}",
            )


class VideoSource(ABC):
    """Frames of a video, a folder or an image, in display order, as RGB uint8 `[H, W, 3]` arrays.

    Every walk opens the medium anew and closes it at its end, so walks may be interleaved and a source holds no
    open file between them.

    Attributes:
        path: what was opened.
        info: VideoInfo.
        limits: the caps that hold.
        decoded: frames that left a decoder so far, those stepped over included. The one picture that opening reads
            and the counting pass of a container that cannot be trusted are not in it.
        warnings: what was left out or assumed, in words.
    """

    def __init__(self, path: Path, info: VideoInfo, limits: Limits) -> None:
        self.path = path
        self.info = info
        self.limits = limits
        self.decoded = 0
        self.warnings: list[str] = []

    def __repr__(self) -> str:
        info = self.info
        return f"<{type(self).__name__} {self.path} {info.width}x{info.height} {info.frames} frames {info.fps:g}/s>"

    @abstractmethod
    def frame_count(self) -> int:
        """Exact number of frames; decodes the whole once where the container cannot be trusted. MediaError."""

    @abstractmethod
    def times_s(self) -> np.ndarray:
        """float64 `[T]`: when each frame is shown, in seconds on the container's clock (the first may not be 0)."""

    @property
    def frame_names(self) -> tuple[str, ...] | None:
        """The names of a folder's frames without their suffixes, by index, each once; None where there are none."""
        return None

    @abstractmethod
    def _read(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the `wanted` frames (ascending, no repeats), ending quietly at the end of the video."""

    @abstractmethod
    def _group_start(self, index: int) -> int:
        """First frame of the key-frame group that holds frame `index`: where decoding has to begin."""

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Yields `(index, image_hw3_u8)` for `range(start, stop, step)`, clipped to the video like a slice.

        Stretches between two wanted frames are jumped over by key frames where that decodes less.

        Raises:
            InputError: a negative start or stop, or a step below 1.
            MediaError: the video is damaged or over a limit.
        """
        _check_range(start, stop, step)
        if stop is None and self.info.frames is None:
            return self._read(range(start, self.limits.frames + 1, step))
        count = self.frame_count() if self.info.frames is None else self.info.frames
        return self._read(range(start, count if stop is None else min(stop, count), step))

    def frames_at(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields `(index, image_hw3_u8)` for the given frames, ascending, each once, decoding as few as possible.

        Raises:
            InputError: an index outside the video.
            MediaError: the video is damaged or over a limit.
        """
        wanted = sorted({int(index) for index in indices})
        if wanted and (wanted[0] < 0 or wanted[-1] >= self.frame_count()):
            raise InputError(
                f"{self.path} has no such frame.",
                expected=f"frames 0 to {self.frame_count() - 1}",
                got=wanted[0] if wanted[0] < 0 else wanted[-1],
            )
        return self._read(wanted)

    def frame(self, index: int) -> np.ndarray:
        """One frame, RGB uint8 `[H, W, 3]`. InputError if there is none of that index; MediaError."""
        return next(self.frames_at([index]))[1]

    def frames_reversed(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yields `(index, image_hw3_u8)` from `stop - 1` down to `start`, in bounded memory.

        Goes by key-frame groups from the last to the first: a group is decoded once, from its key frame; frames beyond
        about 24 MiB wait in a temporary file, removed at the end. No frame is decoded twice in one walk.

        Raises:
            InputError: a negative start or stop.
            MediaError: the video is damaged or over a limit.
            CapacityError: no disk space for the frames of one group.
        """
        _check_range(start, stop, 1)
        count = self.frame_count()
        return self._backwards(start, count if stop is None else min(stop, count))

    def _backwards(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        shape = (self.info.height, self.info.width, 3)
        at_once = max(1, MEMORY_BYTES // int(np.prod(shape)))
        with FrameStack(shape) as stack:
            while stop > start:
                first = self._group_start(stop - 1)
                # Small groups are taken together: one opening and one seek serve many of them.
                while first > start and stop - self._group_start(first - 1) <= at_once:
                    first = self._group_start(first - 1)
                first = max(first, start)
                stack.reserve(stop - first)
                for _, frame in self._read(range(first, stop)):
                    stack.push(frame)
                if len(stack) != stop - first:
                    raise self._missing(first + len(stack))
                for index in reversed(range(first, stop)):
                    yield index, stack.pop()
                stop = first

    def _missing(self, index: int) -> MediaError:
        return MediaError(
            f"{self.path} is damaged: frame {index} could not be decoded.",
            expected=f"{self.info.frames} frames" if self.info.frames else "an undamaged video",
            got=f"no frame {index}",
            mend="copy the file again, or repair it: ffmpeg -i IN -c:v libx264 OUT.mp4",
        )


def _check_range(start: int, stop: int | None, step: int) -> None:
    if start < 0 or (stop is not None and stop < 0) or step < 1:
        raise InputError(
            "The range of frames is malformed.",
            expected="start and stop from 0, step from 1",
            got=f"start={start}, stop={stop}, step={step}",
        )
