"""Masks of a whole video, kept on disk: a video of any length costs the same memory."""

from __future__ import annotations

import os
import tempfile
import weakref
import zlib
from types import TracebackType

import numpy as np

from alref_edge.errors import CapacityError, InputError
from alref_edge.media import spill_folder


class MaskStore:
    """Masks by object and frame in one temporary file, bit-packed and deflated.

    The file has no name on disk: it is gone when the store is closed or collected, or the process ends however it
    ends. Masks may be put in any order; a mask put twice is the last one. Reading is safe from several threads.

    Args:
        objects: number of objects.
        frames: number of frames.
        height, width: size of a mask in pixels.
        folder: where the temporary file goes; `alref_edge.media.spill_folder()` by default.

    Raises:
        CapacityError: there is no room for the file, or its folder cannot be written.
    """

    def __init__(self, objects: int, frames: int, height: int, width: int, folder: str | None = None) -> None:
        self.shape = (objects, frames, height, width)
        self._at = np.full((objects, frames), -1, np.int64)
        self._length = np.zeros((objects, frames), np.int32)
        self._end = 0
        self._folder = folder
        try:
            # Closed by close or collection.
            self._file = tempfile.TemporaryFile(buffering=0, dir=folder or spill_folder())  # noqa: SIM115
        except OSError as error:
            raise self._full(error) from error
        self._close = weakref.finalize(self, self._file.close)

    def put(self, item: int, frame: int, mask_hw: np.ndarray) -> None:
        """Store a mask, bool `[H, W]`.

        Raises:
            InputError: no such object or frame, or another size.
            CapacityError: the disk is full.
        """
        self._check(item, frame)
        if mask_hw.shape != self.shape[2:] or mask_hw.dtype != np.bool_:
            raise InputError(
                "A mask does not fit its store.",
                expected=f"bool{list(self.shape[2:])}",
                got=f"{mask_hw.dtype}{list(mask_hw.shape)}",
            )
        packed = zlib.compress(np.packbits(mask_hw).data, 1)
        rest = memoryview(packed)
        try:
            while rest:
                rest = rest[os.pwrite(self._file.fileno(), rest, self._end + len(packed) - len(rest)) :]
        except OSError as error:
            raise self._full(error) from error
        self._at[item, frame], self._length[item, frame] = self._end, len(packed)
        self._end += len(packed)

    def has(self, item: int, frame: int) -> bool:
        """Whether a mask was put."""
        self._check(item, frame)
        return bool(self._at[item, frame] >= 0)

    def get(self, item: int, frame: int) -> np.ndarray:
        """A mask, bool `[H, W]`; all False if none was put.

        Raises:
            InputError: no such object or frame, or the store is closed.
        """
        self._check(item, frame)
        height, width = self.shape[2:]
        if self._at[item, frame] < 0:
            return np.zeros((height, width), bool)
        packed = os.pread(self._file.fileno(), int(self._length[item, frame]), int(self._at[item, frame]))
        bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8), count=height * width)
        return bits.reshape(height, width).view(bool)

    @property
    def nbytes(self) -> int:
        """Size of the temporary file in bytes."""
        return self._end

    def close(self) -> None:
        """Give the disk back; closing twice does nothing."""
        self._close()

    def __enter__(self) -> MaskStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, item: int, frame: int) -> None:
        if not self._close.alive:
            raise InputError("The masks were given back already.", mend="read them before the result is closed.")
        if not (0 <= item < self.shape[0] and 0 <= frame < self.shape[1]):
            raise InputError(
                "There is no such mask.",
                expected=f"an object of {self.shape[0]} and a frame of {self.shape[1]}",
                got=(item, frame),
            )

    def _full(self, error: OSError) -> CapacityError:
        if self._folder is not None:
            mend = "make room there, or give another `spill_dir`."
        else:
            mend = "make room there, or set TMPDIR to a larger disk."
        return CapacityError(
            f"The masks cannot be stored in {self._folder or spill_folder()}.", got=error.strerror, mend=mend
        )
