"""Memory that stays on a session's device between calls."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence

import numpy as np

from alref_edge.errors import EngineError


class Buffer:
    """A contiguous tensor on a device, or a run of its rows.

    Made by `Session.buffer`. On the CPU it is a numpy array; elsewhere a backend's own allocation, of which `owner`
    keeps the memory alive.

    Attributes:
        shape: sizes of the tensor.
        dtype: its numpy dtype.
        device: "cpu" or "cuda:0", "cuda:1", ...
        ptr: address of its first element on the device.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: np.dtype,
        device: str,
        ptr: int,
        owner: object,
        copy: Callable[[int, int, int, bool], None],
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.device = device
        self.ptr = ptr
        self._owner = owner
        self._copy = copy

    @classmethod
    def on_host(cls, shape: Sequence[int], dtype: np.dtype) -> Buffer:
        """A zeroed buffer in the host's memory."""
        array = np.zeros(shape, dtype)
        return cls(shape, dtype, "cpu", array.ctypes.data, array, _host_copy)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> Buffer:
        """The rows `start` to `stop` of the first axis: a view of the same memory."""
        if not self.shape or not 0 <= start <= stop <= self.shape[0]:
            raise EngineError(
                "A buffer has no such rows.",
                expected=f"a run within 0 to {self.shape[0] if self.shape else 0}",
                got=(start, stop),
            )
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        shape = (stop - start, *self.shape[1:])
        return Buffer(shape, self.dtype, self.device, self.ptr + start * row, self._owner, self._copy)

    def numpy(self) -> np.ndarray:
        """A copy in the host's memory."""
        array = np.empty(self.shape, self.dtype)
        self._copy(array.ctypes.data, self.ptr, self.nbytes, True)
        return array

    def write(self, array: np.ndarray) -> None:
        """Overwrite the whole buffer with an array of its shape and dtype.

        Raises:
            EngineError: the shape or the dtype differs.
        """
        if array.shape != self.shape or array.dtype != self.dtype:
            raise EngineError(
                "An array does not fit the buffer.",
                expected=f"{self.dtype}{list(self.shape)}",
                got=f"{array.dtype}{list(array.shape)}",
            )
        array = np.ascontiguousarray(array)
        self._copy(self.ptr, array.ctypes.data, self.nbytes, False)

    def __repr__(self) -> str:
        return f"Buffer({self.dtype}{list(self.shape)} on {self.device})"


def _host_copy(target: int, source: int, nbytes: int, to_host: bool) -> None:
    ctypes.memmove(target, source, nbytes)
