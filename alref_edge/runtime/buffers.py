"""Memory that stays on a session's device between calls."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from alref_edge.errors import EngineError


class Memory(Protocol):
    """How a device's memory is reached. What is asked for is done in the order of the calls."""

    def write(self, target: int, array: np.ndarray) -> None:
        """Fill memory from a contiguous array, which may be changed as soon as this returns."""
        ...

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Fill memory from other memory of the same device."""
        ...

    def start_reading(self, pieces: Sequence[tuple[np.ndarray, int]]) -> Callable[[], None]:
        """Fill contiguous arrays, each from its address. What is returned waits until they are filled."""
        ...


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
        self, shape: Sequence[int], dtype: np.dtype, device: str, ptr: int, owner: object, memory: Memory
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.device = device
        self.ptr = ptr
        self._owner = owner
        self._memory = memory

    @classmethod
    def on_host(cls, shape: Sequence[int], dtype: np.dtype) -> Buffer:
        """A zeroed buffer in the host's memory."""
        array = np.zeros(shape, dtype)
        return cls(shape, dtype, "cpu", array.ctypes.data, array, _HOST)

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
        return Buffer(shape, self.dtype, self.device, self.ptr + start * row, self._owner, self._memory)

    def view(self, shape: Sequence[int], dtype: np.dtype) -> Buffer:
        """Its first bytes as a tensor of another shape and dtype."""
        other = Buffer(shape, dtype, self.device, self.ptr, self._owner, self._memory)
        if other.nbytes > self.nbytes:
            raise EngineError("A view is larger than its buffer.", expected=f"at most {self.nbytes} bytes", got=other)
        return other

    def numpy(self) -> np.ndarray:
        """A copy in the host's memory. Waits until all that was asked of the buffer's device before is done."""
        return to_host([self])[0]

    def write(self, source: np.ndarray | Buffer) -> None:
        """Overwrite the whole buffer with an array, or with a buffer of the same device, of its shape and dtype.

        It does not wait for the device; the source may be changed as soon as it returns.

        Raises:
            EngineError: the shape, the dtype or the device differs.
        """
        if source.shape != self.shape or source.dtype != self.dtype:
            raise EngineError(
                "An array does not fit the buffer.",
                expected=f"{self.dtype}{list(self.shape)}",
                got=f"{source.dtype}{list(source.shape)}",
            )
        if not isinstance(source, Buffer):
            self._memory.write(self.ptr, np.ascontiguousarray(source))
        elif source.device == self.device:
            self._memory.copy(self.ptr, source.ptr, self.nbytes)
        else:
            raise EngineError("A buffer is on another device.", expected=self.device, got=source.device)

    def __repr__(self) -> str:
        return f"Buffer({self.dtype}{list(self.shape)} on {self.device})"


def to_host(buffers: Sequence[Buffer]) -> list[np.ndarray]:
    """Copies of buffers of one device in the host's memory; see `Buffer.numpy`. The host waits once."""
    return start_reading(buffers)()


def start_reading(buffers: Sequence[Buffer]) -> Callable[[], list[np.ndarray]]:
    """Have buffers of one device copied to the host, and go on.

    Returns:
        Waits for the copies and returns them. They are of this moment: a run that is queued later may write to the
        buffers.
    """
    arrays = [np.empty(buffer.shape, buffer.dtype) for buffer in buffers]
    if not buffers:
        return lambda: arrays
    finish = buffers[0]._memory.start_reading([(one, each.ptr) for one, each in zip(arrays, buffers, strict=True)])

    def read() -> list[np.ndarray]:
        finish()
        return arrays

    return read


class _HostMemory:
    """The host's own: everything is done when the call returns."""

    def write(self, target: int, array: np.ndarray) -> None:
        ctypes.memmove(target, array.ctypes.data, array.nbytes)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        ctypes.memmove(target, source, nbytes)

    def start_reading(self, pieces: Sequence[tuple[np.ndarray, int]]) -> Callable[[], None]:
        for array, source in pieces:
            ctypes.memmove(array.ctypes.data, source, array.nbytes)
        return lambda: None


_HOST = _HostMemory()
