"""What the tracker remembers: spatial memories in rows of one device buffer, pointers and scores on the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from alref_edge.runtime import Buffer


class MemoryBank:
    """Spatial memories as rows of one buffer on the device. It grows when full; freed rows are used again.

    Args:
        room: makes a zeroed buffer of a shape on the device.
        shape: of one memory, `[D, h, w]`.
        capacity: rows to begin with.
    """

    def __init__(self, room: Callable[[tuple[int, ...]], Buffer], shape: tuple[int, ...], capacity: int = 16) -> None:
        self._room = room
        self._shape = shape
        self._taken = np.zeros(capacity, bool)
        self.buffer = room((capacity, *shape))

    def __len__(self) -> int:
        """Rows in use."""
        return int(self._taken.sum())

    @property
    def capacity(self) -> int:
        """Rows that there are."""
        return len(self._taken)

    def allocate(self, count: int) -> int:
        """Take `count` rows that lie side by side; the first row's number."""
        start = self._gap(count)
        if start + count > self.capacity:
            self._grow(max(2 * self.capacity, start + count))
        self._taken[start : start + count] = True
        return start

    def release(self, row: int) -> None:
        """Give a row back."""
        self._taken[row] = False

    def clear(self) -> None:
        """Give all rows back."""
        self._taken[:] = False

    def _gap(self, count: int) -> int:
        """The first run of `count` free rows, which may reach beyond the last row."""
        start = 0
        for row in np.flatnonzero(self._taken):
            if row - start >= count:
                break
            start = int(row) + 1
        return start

    def _grow(self, capacity: int) -> None:
        old, rows = self.buffer, self.capacity
        self.buffer = self._room((capacity, *self._shape))
        self.buffer.rows(0, rows).write(old)
        self._taken = np.concatenate([self._taken, np.zeros(capacity - rows, bool)])


@dataclass
class Remembered:
    """One object on one frame: its row in the bank (None once dropped), its pointer float32 `[C]`."""

    row: int | None
    pointer_c: np.ndarray


@dataclass
class Prompted(Remembered):
    """One object on a frame where the user prompted it: also its low-resolution logits `[h, w]` and its score."""

    logits_hw: np.ndarray
    score: float
    points_n2: np.ndarray | None = None
    labels_n: np.ndarray | None = None


@dataclass
class ObjectMemory:
    """All that is remembered of one object.

    Attributes:
        prompted: by frame, in the order in which the prompts were given.
        recent: tracked frames by index, those that a later frame may still attend to.
        tracked: the spans of frames swept so far.
        anchors: frames around which memory outlives the sweep that made it.
    """

    prompted: dict[int, Prompted] = field(default_factory=dict)
    recent: dict[int, Remembered] = field(default_factory=dict)
    tracked: list[range] = field(default_factory=list)
    anchors: tuple[int, ...] = ()

    def was_tracked(self, frame: int) -> bool:
        """Whether a sweep passed this frame."""
        return any(frame in span for span in self.tracked)

    def mark_tracked(self, frame: int) -> None:
        """Note that a sweep passed this frame."""
        for number, span in enumerate(self.tracked):
            if span.start - 1 <= frame <= span.stop:
                self.tracked[number] = range(min(span.start, frame), max(span.stop, frame + 1))
                return
        self.tracked.append(range(frame, frame + 1))

    def look_up(self, frame: int) -> Remembered:
        """What is remembered of a frame, prompted or tracked."""
        return self.prompted[frame] if frame in self.prompted else self.recent[frame]

    def lacks(self, frame: int, *, spatial: bool) -> bool:
        """Whether a frame was tracked and its pointer, or its spatial memory, has been dropped since."""
        if frame in self.prompted or not self.was_tracked(frame):
            return False
        entry = self.recent.get(frame)
        return entry is None or (spatial and entry.row is None)

    def forget(self, frame: int, memory_reach: int, pointer_reach: int) -> list[int]:
        """Drop what lies too far from `frame`, the frame just tracked, and from the anchors.

        Args:
            frame: the frame just tracked.
            memory_reach: how many frames away a spatial memory can still be attended to.
            pointer_reach: the same for pointers.

        Returns:
            The bank's rows that fall free.
        """
        freed = []
        for other, entry in list(self.recent.items()):
            distance = min(abs(other - centre) for centre in (frame, *self.anchors))
            if distance > memory_reach and entry.row is not None:
                freed.append(entry.row)
                entry.row = None
            if distance > max(memory_reach, pointer_reach):
                del self.recent[other]
        return freed
