"""Which second each frame of a video is of, and the windows of time that it is looked at by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from alref_edge.media import VideoSource

_EPSILON_S = 1e-6


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
