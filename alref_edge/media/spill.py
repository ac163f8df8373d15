"""A stack of equal frames that stays small in memory: the first few are held, the rest lie in a temporary file."""

from __future__ import annotations

import os
import shutil
import tempfile
from types import TracebackType
from typing import IO

import numpy as np

from alref_edge.errors import CapacityError

MEMORY_BYTES = 24 << 20
"""Frames of a backward walk held in memory before the rest go to disk."""

_MEND = "point TMPDIR to a disk with room, or re-encode with a key frame every few seconds (ffmpeg -g 60)."
_DISK_RESERVE = 256 << 20


def spill_folder() -> str:
    """Where temporary files go: `TMPDIR`, else `/var/tmp` (on disk, where `/tmp` may be memory), else the default."""
    if not os.environ.get("TMPDIR") and os.access("/var/tmp", os.W_OK | os.X_OK):
        return "/var/tmp"
    return tempfile.gettempdir()


class FrameStack:
    """Last in, first out. The file has no name on disk, so nothing is left even if the process is killed.

    Args:
        shape: of one frame, `[H, W, 3]`; frames are uint8.
        memory_bytes: frames held in memory before the rest is written out.
        folder: where the temporary file goes; `spill_folder()` by default.
        mend: what helps where the disk is full.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        memory_bytes: int = MEMORY_BYTES,
        folder: str | None = None,
        mend: str = _MEND,
    ) -> None:
        self._shape = shape
        self._frame_bytes = int(np.prod(shape))
        self._in_memory = max(1, memory_bytes // self._frame_bytes)
        self._folder = folder or spill_folder()
        self._mend = mend
        self._held: list[np.ndarray] = []
        self._file: IO[bytes] | None = None
        self._spilled = 0

    def __len__(self) -> int:
        return len(self._held) + self._spilled

    @property
    def spilled(self) -> int:
        """Frames that lie in the temporary file now."""
        return self._spilled

    def reserve(self, count: int) -> None:
        """Raises CapacityError if the disk has no room for `count` frames more."""
        to_disk = len(self) + count - max(self._in_memory, len(self._held))
        needed = to_disk * self._frame_bytes
        if to_disk <= 0:
            return
        free = shutil.disk_usage(self._folder).free
        if needed + _DISK_RESERVE > free:
            raise self._full(needed, free)

    def push(self, frame_hw3_u8: np.ndarray) -> None:
        """Adds a frame. Raises CapacityError if the disk is full."""
        if not self._spilled and len(self._held) < self._in_memory:
            self._held.append(frame_hw3_u8)
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
            self._file.seek(self._spilled * self._frame_bytes)
            rest = np.ascontiguousarray(frame_hw3_u8).data.cast("B")
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._full(self._frame_bytes, error) from error
        self._spilled += 1

    def pop(self) -> np.ndarray:
        """Removes and returns the frame that was added last. IndexError if there is none."""
        frame = self[len(self) - 1]
        if self._spilled:
            self._spilled -= 1
        else:
            self._held.pop()
        return frame

    def __getitem__(self, index: int) -> np.ndarray:
        """A frame by its number from the bottom. IndexError if there is none. Threads may share it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index < len(self._held):
            return self._held[index]
        assert self._file is not None
        frame = np.empty(self._shape, np.uint8)
        rest, at = frame.data.cast("B"), (index - len(self._held)) * self._frame_bytes
        while rest:
            count = os.preadv(self._file.fileno(), [rest], at)
            if not count:
                raise CapacityError(
                    "A temporary frame could not be read back.", expected=f"{self._frame_bytes} bytes", got="fewer"
                )
            rest, at = rest[count:], at + count
        return frame

    def close(self) -> None:
        """Drops every frame and the temporary file."""
        self._held.clear()
        self._spilled = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> FrameStack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _full(self, needed: int, got: object) -> CapacityError:
        return CapacityError(
            f"No room for temporary frames in {self._folder}.",
            expected=f"{needed / 2**20:.0f} MiB free and {_DISK_RESERVE / 2**20:.0f} MiB to spare",
            got=f"{got / 2**20:.0f} MiB free" if isinstance(got, int) else got,
            mend=self._mend,
        )
