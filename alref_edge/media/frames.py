"""Frames that a program has, in an array or coming one by one, as a video."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from alref_edge.errors import InputError
from alref_edge.media.limits import Limits
from alref_edge.media.source import VideoInfo, VideoSource
from alref_edge.media.spill import FrameStack

MEMORY_BYTES = 256 << 20
"""Frames of an iterable held in memory before the rest go to disk."""

_EXPECTED = "uint8 [T, H, W, 3], RGB, or an iterable of uint8 [H, W, 3]"
_NAME = Path("frames")


class FrameSource(VideoSource):
    """Frames in memory.

    An array is looked at where it is: leave it as it is while the source is in use. An iterable is read to its end at
    once; what does not fit the memory lies in a temporary file that has no name and goes with the source.

    Args:
        frames: uint8 `[T, H, W, 3]`, RGB; or an iterable of uint8 `[H, W, 3]`, all of one size.
        fps: frames per second.
        limits: caps on the size of a frame, on their number and on the length; `Limits()` by default.
        spill_dir: where the temporary file goes; None: TMPDIR, /var/tmp, or the system's choice.
        memory_bytes: frames of an iterable that are held in memory.

    Raises:
        InputError: no frames, frames of another form or of different sizes, or a rate that is no positive number.
        MediaError: over a limit.
        CapacityError: the disk is full.
    """

    def __init__(
        self,
        frames: np.ndarray | Iterable[np.ndarray],
        fps: float = 24.0,
        limits: Limits | None = None,
        *,
        spill_dir: str | os.PathLike[str] | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        limits = limits or Limits()
        if not 0 < fps < 1e6:
            raise InputError("The frame rate is out of range.", expected="above 0 frames per second", got=fps)
        self._frames: np.ndarray | FrameStack
        if isinstance(frames, np.ndarray):
            if frames.ndim != 4:
                raise InputError("Frames have another form.", expected=_EXPECTED, got=_form(frames), mend=_mend(frames))
            for frame in frames[:1]:
                _check(frame, limits)
            limits.check_frames(len(frames), _NAME)
            limits.check_duration(len(frames) / fps, _NAME)
            self._frames = frames
        else:
            folder = None if spill_dir is None else os.fspath(spill_dir)
            self._frames = _read_all(iter(frames), fps, limits, folder, memory_bytes)
        if not len(self._frames):
            raise InputError("There are no frames.", expected=_EXPECTED, got="none")
        height, width, _ = self._frames[0].shape
        count = len(self._frames)
        super().__init__(_NAME, VideoInfo(count, width, height, float(fps), count / fps, "frames", "raw"), limits)

    def frame_count(self) -> int:
        """See `VideoSource.frame_count`."""
        return len(self._frames)

    def times_s(self) -> np.ndarray:
        """See `VideoSource.times_s`."""
        return np.arange(len(self._frames)) / self.info.fps

    def _group_start(self, index: int) -> int:
        return index

    def _read(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted:
            if index >= len(self._frames):
                return
            self.decoded += 1
            yield index, np.array(self._frames[index], order="C")


def _read_all(
    frames: Iterator[np.ndarray], fps: float, limits: Limits, folder: str | None, memory_bytes: int
) -> FrameStack:
    """Copies, since who yields frames may use one array for all of them."""
    first = next(frames, None)
    if first is None:
        return FrameStack((1, 1, 3))
    first = _array(first)
    _check(first, limits)
    stack = FrameStack(first.shape, memory_bytes, folder, mend="give another `spill_dir`, or fewer or smaller frames.")
    try:
        for number, each in enumerate(chain([first], frames)):
            frame = _array(each)
            limits.check_frames(number + 1, _NAME)
            limits.check_duration((number + 1) / fps, _NAME)
            if frame.shape != first.shape or frame.dtype != np.uint8:
                raise InputError(
                    f"Frame {number} is not like the first.", expected=_form(first), got=_form(frame), mend=_mend(frame)
                )
            stack.reserve(1)
            stack.push(frame.copy())
    except BaseException:
        stack.close()
        raise
    return stack


def _array(frame: object) -> np.ndarray:
    try:
        return np.asarray(frame)
    except (TypeError, ValueError) as error:
        raise InputError("A frame is no array.", expected=_EXPECTED, got=error) from error


def _check(frame: np.ndarray, limits: Limits) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise InputError("A frame has another form.", expected=_EXPECTED, got=_form(frame), mend=_mend(frame))
    limits.check_pixels(frame.shape[1], frame.shape[0], _NAME)


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _mend(frame: np.ndarray) -> str | None:
    """What makes frames of the usual other forms right."""
    if np.issubdtype(frame.dtype, np.floating):
        return "multiply numbers from 0 to 1 by 255, and convert: (frames * 255).round().astype('uint8')."
    if frame.dtype == np.uint8 and frame.shape[-1:] == (4,):
        return "leave out the fourth channel: frames[..., :3]."
    if frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3:
        return "of one frame make an array of one: frame[None]."
    return None
