"""Runs of an ONNX Runtime session on a device: queued, with every tensor at an address there; only reading waits."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any, Protocol

import numpy as np

from alref_edge.runtime.buffers import Buffer
from alref_edge.runtime.captures import NONE, GraphCaptures
from alref_edge.runtime.memory import is_out_of_memory
from alref_edge.runtime.session import Feeds, TensorSpec

_log = logging.getLogger(__name__)

_MOST_BINDINGS = 64


class Queue(Protocol):
    """What a device does in the order of the calls; `cuda.Stream` is one."""

    def turn(self) -> AbstractContextManager[Any]:
        """Held while work is queued, so that the parts of a run follow each other. Nothing is written to buffers in it:
        that may have to wait."""
        ...

    def start_reading(self, pieces: Sequence[tuple[np.ndarray, int]]) -> Callable[[], None]:
        """See `Memory.start_reading`."""
        ...

    def in_its_thread(self, call: Callable[[], None]) -> None:
        """Do something in a thread that is always the same, and wait for the call to return."""
        ...


class BoundRuns:
    """The runs of one session.

    Arrays of the host go through rooms of this session's own on the device, one for each input or output, which keep
    their place from run to run: what is queued later is done later. While one run waits to get its arrays there, other
    sessions go on. A binding is kept for each set of tensors; it takes as long to make as a small graph to queue.

    Args:
        session: of ONNX Runtime, with `queue` as its stream.
        inputs: of the graph.
        outputs: of the graph that are wanted.
        device: kind and number, as ONNX Runtime names them.
        queue: of the device.
        room: makes a buffer of so many bytes on the device.
        captures: of this session, which then runs in the queue's own thread: ONNX Runtime keeps captured graphs, and
            handles of its libraries, for each thread that ever ran a session with them, until the session ends
            (`cuda_execution_provider.cc`). None where it captures none.
    """

    def __init__(
        self,
        session: Any,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        device: tuple[str, int],
        queue: Queue,
        room: Callable[[int], Buffer],
        captures: GraphCaptures | None,
    ) -> None:
        self._session = session
        self._inputs = inputs
        self._outputs = outputs
        self._device = device
        self._queue = queue
        self._room = room
        self._captures = captures
        self._lock = threading.Lock()  # of the rooms and bindings; taken before a turn, never in one
        self._rooms: dict[str, Buffer] = {}
        self._bindings: OrderedDict[Hashable, Any] = OrderedDict()
        self._on_host = _host_inputs(session) if device[0] != "cpu" else frozenset()

    def run(
        self, feeds: Feeds, into: Mapping[str, Buffer], shapes: Mapping[str, tuple[int, ...] | None]
    ) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            feeds: every input.
            into: outputs that have their place.
            shapes: of the other outputs, None where it is not known beforehand.

        Returns:
            The outputs not in `into`, waited for; where there is none, nothing is.
        """
        with self._lock:
            fed = {name: self._fed(name, feeds[name]) for name in self._inputs}
            targets = {name: into.get(name) or self._target(name, shapes[name]) for name in self._outputs}
            with self._queue.turn():
                made = self._launch(fed, targets)
                places = {name: made.get(name, targets[name]) for name in targets if name not in into}
                results = {name: self._result(name, place) for name, place in places.items()}
                if not results:
                    return {}
                finish = self._queue.start_reading([piece for piece in results.values() if piece[0].nbytes])
        finish()
        return {name: array for name, (array, _) in results.items()}

    def _fed(self, name: str, value: np.ndarray | Buffer) -> np.ndarray | Buffer:
        """What is bound to an input: a place on the device, or an array where ONNX Runtime wants it on the host."""
        if isinstance(value, Buffer):
            return value
        if name in self._on_host:
            return np.ascontiguousarray(value)
        room = self._place(name, value.shape, value.dtype)
        room.write(value)
        return room

    def _target(self, name: str, shape: tuple[int, ...] | None) -> Buffer | None:
        return None if shape is None else self._place(name, shape, self._outputs[name].dtype)

    def _place(self, name: str, shape: Sequence[int], dtype: np.dtype) -> Buffer:
        """This session's room for a tensor; a larger one where it does not suffice."""
        nbytes = max(1, int(np.prod(shape, dtype=object)) * dtype.itemsize)
        if name not in self._rooms or self._rooms[name].nbytes < nbytes:
            self._rooms[name] = self._room(nbytes)
        return self._rooms[name].view(shape, dtype)

    def _launch(self, fed: Mapping[str, np.ndarray | Buffer], targets: Mapping[str, Buffer | None]) -> dict[str, Any]:
        """Queue the graph. Returns the outputs that ONNX Runtime found a place for."""
        places = [place for place in (*fed.values(), *targets.values()) if isinstance(place, Buffer)]
        if len(places) < len(fed) + len(targets):
            binding = self._binding(fed, targets)
            self._run(binding, NONE)
            made = zip(targets, binding.get_outputs(), strict=True)
            return {name: value for name, value in made if targets[name] is None}
        key = tuple((place.ptr, place.shape) for place in places)
        if key not in self._bindings:
            self._bindings[key] = self._binding(fed, targets)
            if len(self._bindings) > _MOST_BINDINGS:
                self._bindings.popitem(last=False)
        self._bindings.move_to_end(key)
        number = NONE if self._captures is None else self._captures.number(key)
        try:
            self._run(self._bindings[key], number)
        except Exception as error:
            if self._captures is None or number == NONE or is_out_of_memory(error):
                raise
            # What a graph may not do while it is captured only CUDA knows.
            _log.warning("a graph could not be captured, its session goes on without: %s", error)
            self._captures.stop()
            self._run(self._bindings[key], NONE)
        return {}

    def _binding(self, fed: Mapping[str, np.ndarray | Buffer], targets: Mapping[str, Buffer | None]) -> Any:
        binding = self._session.io_binding()
        for name, place in fed.items():
            if isinstance(place, Buffer):
                binding.bind_input(name, *self._device, place.dtype.type, place.shape, place.ptr)
            else:
                binding.bind_cpu_input(name, place)
        for name, target in targets.items():
            if target is None:
                binding.bind_output(name, *self._device)
            else:
                binding.bind_output(name, *self._device, target.dtype.type, target.shape, target.ptr)
        return binding

    def _run(self, binding: Any, number: int) -> None:
        call = partial(self._session.run_with_iobinding, binding, _run_options(number))
        if self._captures is None:
            call()
        else:
            self._queue.in_its_thread(call)

    def _result(self, name: str, place: Any) -> tuple[np.ndarray, int]:
        """An array for an output and where it lies: in a buffer, or where ONNX Runtime put it. That place may be given
        to others at once: what they do with it is queued after its reading."""
        if isinstance(place, Buffer):
            return np.empty(place.shape, place.dtype), place.ptr
        return np.empty(place.shape(), self._outputs[name].dtype), place.data_ptr()


def _host_inputs(session: Any) -> frozenset[str]:
    """The inputs that only the CPU's part of a graph reads, such as sizes, as far as this ONNX Runtime tells."""
    if not hasattr(session, "get_input_memory_infos"):
        return frozenset()
    infos = zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
    return frozenset(node.name for node, info in infos if info.name == "Cpu")


@cache
def _run_options(number: int) -> Any:
    """Options of a run that captures or replays the graph of a number, and returns when it is queued."""
    from onnxruntime import RunOptions

    options = RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options
