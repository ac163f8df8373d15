"""One queue of work a CUDA device, through the CUDA runtime library that ONNX Runtime already uses.

Sessions, uploads and downloads of a device share one stream, so that what is asked for is done in the order of the
calls, and nobody but who reads a result has to wait. Between host and device lies pinned memory, of a fixed size: from
elsewhere CUDA copies only after it has waited for the stream.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TypeVar

import numpy as np

from alref_edge.errors import CapacityError, EngineError

OUT_OF_MEMORY = (
    "do less at once (a smaller max_batch, a smaller video), end what else uses the device, "
    "or allow more where gpu_memory is set."
)
"""What mends the lack of a device's memory."""

_NAMES = ("libcudart.so.13", "libcudart.so.12")
_HOST_TO_DEVICE, _DEVICE_TO_HOST, _DEVICE_TO_DEVICE = 1, 2, 3
_MEMORY_ALLOCATION = 2  # cudaErrorMemoryAllocation
_NON_BLOCKING = 1  # a stream that the default stream, which others use, neither waits for nor holds up
_NO_TIMING = 2  # an event that is only waited for
_THREAD_LOCAL = 1  # see `_Library.enter`

# Pinned, for each way. Upwards lie three frames of 4096 x 2160 pixels: one on its way, one behind it, one being laid.
_UP_BYTES, _DOWN_BYTES = 80 << 20, 32 << 20
_PIECE_BYTES = 4 << 20
_MOST_PIECES = 256  # that a ring hands out, each with an event to wait for

Result = TypeVar("Result")


class _Library:
    """The functions that are used, with an error where CUDA returns one."""

    def __init__(self, library: ctypes.CDLL) -> None:
        address, size, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        self._library = library
        self._thread = threading.local()
        arguments: dict[str, list[type]] = {
            "cudaSetDevice": [integer],
            "cudaThreadExchangeStreamCaptureMode": [address],
            "cudaStreamCreateWithFlags": [address, ctypes.c_uint],
            "cudaMallocHost": [address, size],
            "cudaMemcpyAsync": [address, address, size, integer, address],
            "cudaMemsetAsync": [address, integer, size, address],
            "cudaEventCreateWithFlags": [address, ctypes.c_uint],
            "cudaEventRecord": [address, address],
            "cudaEventSynchronize": [address],
            "cudaMemGetInfo": [address, address],
        }
        for name, kinds in arguments.items():
            getattr(library, name).argtypes = kinds
            getattr(library, name).restype = integer
        library.cudaGetErrorString.argtypes = [integer]
        library.cudaGetErrorString.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: object) -> None:
        """Call a function.

        Raises:
            CapacityError: the memory that it asks for is not free.
            EngineError: it failed, or work that was queued before did.
        """
        code = getattr(self._library, name)(*arguments)
        if code == _MEMORY_ALLOCATION:
            raise CapacityError(f"{name} found no free memory.", mend=OUT_OF_MEMORY)
        if code:
            said = self._library.cudaGetErrorString(code).decode()
            raise EngineError(f"{name} failed, or work queued before it.", got=f"CUDA error {code}, {said}")

    def made(self, name: str, *arguments: object) -> int:
        """The handle or address that a function writes to where its first argument points."""
        handle = ctypes.c_void_p()
        self.call(name, ctypes.byref(handle), *arguments)
        return handle.value or 0

    def enter(self, number: int) -> None:
        """Let the calling thread work with a device.

        ONNX Runtime captures graphs in the global mode (`cuda_graph.cc`), in which CUDA refuses to any thread what
        could disturb the capture, waiting for an event among it. Here the captures of other threads are no matter:
        what is queued takes turns, what is waited for was queued outside of any capture.
        """
        self.call("cudaSetDevice", number)
        if not getattr(self._thread, "entered", False):
            self.call("cudaThreadExchangeStreamCaptureMode", ctypes.byref(ctypes.c_int(_THREAD_LOCAL)))
            self._thread.entered = True


@cache
def _library() -> _Library:
    found = _loaded_first(_NAMES)
    if found is not None:
        return _Library(found)
    raise EngineError(
        "The CUDA runtime library was not found.",
        expected=" or ".join(_NAMES),
        mend="pip install 'alref-edge[gpu]', or put the CUDA toolkit's lib folder on LD_LIBRARY_PATH.",
    )


def _loaded_first(names: Sequence[str]) -> ctypes.CDLL | None:
    """The first of some libraries that this process uses already, else the first that it can load."""
    for mode in (os.RTLD_NOLOAD, ctypes.DEFAULT_MODE):
        for name in names:
            with contextlib.suppress(OSError):
                return ctypes.CDLL(name, mode)
    return None


class Stream:
    """All that is asked of one device, in one order: a `Memory`. Lives as long as the process; see `stream`.

    Attributes:
        number: of the device.
        handle: address of the CUDA stream, for ONNX Runtime.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._lock = threading.RLock()
        self._uploading = threading.Lock()  # taken before a turn, never in one
        self._library = _library()
        self._library.enter(number)
        self.handle = self._library.made("cudaStreamCreateWithFlags", _NON_BLOCKING)
        self._up, self._down = (
            Ring(self._library.made("cudaMallocHost", size), size) for size in (_UP_BYTES, _DOWN_BYTES)
        )
        self._passed_events: list[int] = []
        self._executor: ThreadPoolExecutor | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Held while work is queued, so that the parts of one piece of work follow each other, and a graph that is
        captured holds one run. Only reading may wait in it: where more is read, or lies unfetched, than is pinned."""
        with self._lock:
            self._library.enter(self.number)
            yield

    def write(self, target: int, array: np.ndarray) -> None:
        """See `Memory.write`. Not for who has the turn: there may be room only after work that was queued before."""
        with self._uploading:
            for start in range(0, array.nbytes, _PIECE_BYTES):
                count = min(_PIECE_BYTES, array.nbytes - start)
                event = self._event()
                pinned = self._up.take(count, partial(self._wait, event))
                ctypes.memmove(pinned, array.ctypes.data + start, count)
                with self.turn():
                    self._copy(target + start, pinned, count, _HOST_TO_DEVICE)
                    self._library.call("cudaEventRecord", event, self.handle)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """See `Memory.copy`."""
        with self.turn():
            self._copy(target, source, nbytes, _DEVICE_TO_DEVICE)

    def zero(self, target: int, nbytes: int) -> None:
        """Fill memory with zeros."""
        with self.turn():
            if nbytes:
                self._library.call("cudaMemsetAsync", target, 0, nbytes, self.handle)

    def start_reading(self, pieces: Sequence[tuple[np.ndarray, int]]) -> Callable[[], None]:
        """See `Memory.start_reading`."""
        if not pieces:
            return lambda: None
        nbytes = sum(array.nbytes for array, _ in pieces)
        with self.turn():
            if nbytes > _DOWN_BYTES:
                for array, source in pieces:
                    self._copy(array.ctypes.data, source, array.nbytes, _DEVICE_TO_HOST)
                return self.wait
            reading = _Reading(self._wait)
            at, placed = self._down.take(nbytes, reading.finish), []
            for array, source in pieces:
                self._copy(at, source, array.nbytes, _DEVICE_TO_HOST)
                placed.append((array, at))
                at += array.nbytes
            event = self._event()
            self._library.call("cudaEventRecord", event, self.handle)
            reading.started(event, placed)
        return reading.finish

    def wait(self) -> None:
        """Wait until all that was queued before is done."""
        with self.turn():
            event = self._event()
            self._library.call("cudaEventRecord", event, self.handle)
        self._wait(event)

    def in_its_thread(self, call: Callable[[], Result]) -> Result:
        """Do something in the stream's own thread, always the same one, and wait for the call to return."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, f"cuda:{self.number}")
        return self._executor.submit(call).result()

    def _copy(self, target: int, source: int, nbytes: int, kind: int) -> None:
        if nbytes:
            self._library.call("cudaMemcpyAsync", target, source, nbytes, kind, self.handle)

    def _event(self) -> int:
        with contextlib.suppress(IndexError):
            return self._passed_events.pop()
        self._library.enter(self.number)
        return self._library.made("cudaEventCreateWithFlags", _NO_TIMING)

    def _wait(self, event: int) -> None:
        """Wait for an event, which is then used again."""
        self._library.enter(self.number)
        self._library.call("cudaEventSynchronize", event)
        self._passed_events.append(event)


class _Reading:
    """Arrays that are filled from pinned memory, once, by who wants them or who wants that memory."""

    def __init__(self, wait: Callable[[int], None]) -> None:
        self._wait = wait
        self._lock = threading.Lock()
        self._event = 0
        self._pieces: list[tuple[np.ndarray, int]] = []

    def started(self, event: int, pieces: list[tuple[np.ndarray, int]]) -> None:
        """After the event has passed, each array's numbers are in pinned memory at its address."""
        self._event, self._pieces = event, pieces

    def finish(self) -> None:
        with self._lock:
            if not self._pieces:
                return
            self._wait(self._event)
            for array, at in self._pieces:
                ctypes.memmove(array.ctypes.data, at, array.nbytes)
            self._pieces = []


class Ring:
    """A block of memory of which pieces are handed out in turn, the oldest again when it is free.

    Args:
        start: address of the block.
        size: in bytes.
    """

    def __init__(self, start: int, size: int) -> None:
        self._start = start
        self._size = size
        self._next = 0
        self._taken: deque[tuple[int, int, Callable[[], object]]] = deque()

    def take(self, nbytes: int, until: Callable[[], object]) -> int:
        """The address of a piece, waited for where all is taken, or too many pieces are.

        Args:
            nbytes: of the piece, at most the ring's size.
            until: returns when the piece is free again.
        """
        first = self._next
        if first + nbytes > self._size:
            while self._taken and self._taken[0][0] >= first:  # of the round before: what is in the way is the oldest
                self._free_oldest()
            first = 0
        last = first + nbytes
        while self._taken and self._taken[0][0] < last and first < self._taken[0][1]:
            self._free_oldest()
        if nbytes:
            if len(self._taken) == _MOST_PIECES:
                self._free_oldest()
            self._taken.append((first, last, until))
        self._next = last
        return self._start + first

    def _free_oldest(self) -> None:
        self._taken.popleft()[2]()


_STREAMS: dict[int, Stream] = {}
_MAKING = threading.Lock()


def stream(number: int) -> Stream:
    """The stream of a device, made when it is first asked for."""
    with _MAKING:
        if number not in _STREAMS:
            _STREAMS[number] = Stream(number)
        return _STREAMS[number]


def free_memory(number: int) -> int:
    """Bytes that are free on a device; what ONNX Runtime holds ready for its next run is not among them."""
    library, free, total = _library(), ctypes.c_size_t(), ctypes.c_size_t()
    library.enter(number)
    library.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
    return free.value
