"""Runs that are queued with every tensor in its place: here on the CPU, which has nothing to wait for."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from alref_edge.runtime import Buffer, TensorSpec
from alref_edge.runtime.bound import BoundRuns
from alref_edge.runtime.captures import NONE, GraphCaptures
from alref_edge.runtime.ort import load_onnxruntime

onnx = pytest.importorskip("onnx")

SPECS = {name: TensorSpec(name, np.dtype(np.float32), ("n", 3)) for name in ("x", "y", "difference", "product")}


class HostQueue:
    """A `Queue` of the host: what is asked for is done at once. It notes how often it is read, and by which thread
    things are done in its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.reads = 0
        self.threads: list[int] = []
        self.executor = ThreadPoolExecutor(1)

    def turn(self) -> threading.RLock:
        return self._lock

    def start_reading(self, pieces: Sequence[tuple[np.ndarray, int]]) -> Callable[[], None]:
        self.reads += 1
        for array, source in pieces:
            ctypes.memmove(array.ctypes.data, source, array.nbytes)
        return lambda: None

    def in_its_thread(self, call: Callable[[], None]) -> None:
        def noted() -> None:
            self.threads.append(threading.get_ident())
            call()

        self.executor.submit(noted).result()


class Bound:
    """difference[N,3] = x[N,3] - y[N,3]; product[N,3] = x * y, with the numbers that runs were given."""

    def __init__(self, session: Any, captures: GraphCaptures | None = None, fails_captured: bool = False) -> None:
        self._session, self._fails_captured = session, fails_captured
        self.queue, self.rooms, self.bindings, self.numbers = HostQueue(), 0, 0, []
        inputs, outputs = ({name: SPECS[name] for name in names} for names in (("x", "y"), ("difference", "product")))
        self.runs = BoundRuns(self, inputs, outputs, ("cpu", 0), self.queue, self._room, captures)

    def _room(self, nbytes: int) -> Buffer:
        self.rooms += 1
        return Buffer.on_host((nbytes,), np.dtype(np.uint8))

    def io_binding(self) -> Any:
        self.bindings += 1
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.numbers.append(int(options.get_run_config_entry("gpu_graph_id")))
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        if self._fails_captured and self.numbers[-1] != NONE:
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
        self._session.run_with_iobinding(binding, options)

    def __call__(
        self, x: np.ndarray | Buffer, y: np.ndarray | Buffer, into: dict[str, Buffer] | None = None, known: bool = True
    ) -> dict[str, np.ndarray]:
        shapes = dict.fromkeys(("difference", "product"), x.shape if known else None)
        return self.runs.run({"y": y, "x": x}, into or {}, shapes)


@pytest.fixture(scope="module")
def session() -> Any:
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in SPECS]
    nodes = [
        onnx.helper.make_node("Sub", ["x", "y"], ["difference"]),
        onnx.helper.make_node("Mul", ["x", "y"], ["product"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", tensors[:2], tensors[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    return load_onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def arrays(rows: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.random.default_rng(seed).standard_normal((2, rows, 3)).astype(np.float32)
    return x, y


def buffers(*values: np.ndarray) -> list[Buffer]:
    made = [Buffer.on_host(value.shape, value.dtype) for value in values]
    for buffer, value in zip(made, values, strict=True):
        buffer.write(value)
    return made


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("rows", [1, 5])
def test_arrays_go_in_and_come_out(session: Any, rows: int, known: bool) -> None:
    bound = Bound(session)
    for seed in range(3):
        x, y = arrays(rows, seed)
        results = bound(x, y, known=known)
        assert list(results) == ["difference", "product"]
        np.testing.assert_array_equal(results["difference"], x - y)
        np.testing.assert_array_equal(results["product"], x * y)
    assert bound.queue.reads == 3


def test_empty_tensors_pass(session: Any) -> None:
    x, y = arrays(0)
    assert Bound(session)(x, y)["product"].shape == (0, 3)


def test_where_all_is_in_buffers_nothing_is_read(session: Any) -> None:
    bound = Bound(session)
    x, y = arrays()
    targets = dict(zip(("product", "difference"), buffers(np.zeros_like(x), np.zeros_like(x)), strict=True))
    assert bound(*buffers(x, y), targets) == {}
    assert bound.queue.reads == 0
    np.testing.assert_array_equal(targets["difference"].numpy(), x - y)
    np.testing.assert_array_equal(targets["product"].numpy(), x * y)


def test_bindings_and_rooms_are_used_again(session: Any) -> None:
    bound = Bound(session)
    for seed in range(4):
        bound(*arrays(4, seed))
    assert (bound.bindings, bound.rooms) == (1, 4)
    for rows in (2, 4, 3, 2):
        x, y = arrays(rows)
        np.testing.assert_array_equal(bound(x, y)["difference"], x - y)
    assert (bound.bindings, bound.rooms) == (3, 4)
    bound(*arrays(9))
    assert (bound.bindings, bound.rooms) == (4, 8)


def test_tensors_that_change_places_have_a_binding_each(session: Any) -> None:
    bound = Bound(session)
    x, y = arrays()
    one, other = buffers(x, y)
    np.testing.assert_array_equal(bound(one, other)["difference"], x - y)
    np.testing.assert_array_equal(bound(other, one)["difference"], y - x)
    np.testing.assert_array_equal(bound(one, other)["difference"], x - y)
    assert bound.bindings == 2


def test_bindings_are_bounded(session: Any) -> None:
    bound = Bound(session)
    x, y = arrays()
    kept = [buffers(x + number, y) for number in range(100)]
    for number, (one, other) in enumerate(kept):
        np.testing.assert_array_equal(bound(one, other)["difference"], x + number - y)
    assert len(bound.runs._bindings) == 64
    np.testing.assert_array_equal(bound(*kept[0])["difference"], x - y)


def test_runs_that_repeat_are_captured_in_the_thread_of_the_queue(session: Any) -> None:
    bound = Bound(session, GraphCaptures())
    for seed in range(3):
        bound(*arrays(2, seed))
    bound(*arrays(3))
    assert bound.numbers == [NONE, 1, 1, NONE]
    assert len(set(bound.queue.threads)) == 1
    assert bound.queue.threads[0] != threading.get_ident()


def test_without_captures_the_caller_runs_itself(session: Any) -> None:
    bound = Bound(session)
    for seed in range(3):
        bound(*arrays(2, seed))
    assert bound.numbers == [NONE] * 3
    assert not bound.queue.threads


def test_outputs_without_a_place_are_never_captured(session: Any) -> None:
    bound = Bound(session, GraphCaptures())
    for seed in range(3):
        bound(*arrays(2, seed), known=False)
    assert bound.numbers == [NONE] * 3


def test_a_graph_that_cannot_be_captured_runs_without(session: Any, caplog: pytest.LogCaptureFixture) -> None:
    bound = Bound(session, GraphCaptures(), fails_captured=True)
    for seed in range(4):
        x, y = arrays(2, seed)
        np.testing.assert_array_equal(bound(x, y)["product"], x * y)
    assert bound.numbers == [NONE, 1, NONE, NONE, NONE]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


class SlowMemory:
    """The host's memory, where a write waits till it may go on."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()

    def write(self, target: int, array: np.ndarray) -> None:
        self.began.set()
        assert self.go_on.wait(5)
        ctypes.memmove(target, array.ctypes.data, array.nbytes)


def test_a_run_that_waits_to_upload_holds_up_no_other_session(session: Any) -> None:
    slow, other, memory = Bound(session), Bound(session), SlowMemory()
    slow.queue._lock = other.queue._lock  # one device

    def room(nbytes: int) -> Buffer:
        made = Buffer.on_host((nbytes,), np.dtype(np.uint8))
        return Buffer(made.shape, made.dtype, "cpu", made.ptr, made, memory)  # type: ignore[arg-type]

    slow.runs._room = room
    x, y = arrays()
    with ThreadPoolExecutor(2) as pool:
        try:
            waiting = pool.submit(slow, x, y)
            assert memory.began.wait(5)
            np.testing.assert_array_equal(pool.submit(other, y, x).result(5)["difference"], y - x)
            assert not waiting.done()
        finally:
            memory.go_on.set()
        np.testing.assert_array_equal(waiting.result(5)["difference"], x - y)


def test_threads_do_not_take_each_others_rooms(session: Any) -> None:
    bound = Bound(session)

    def many(seed: int) -> bool:
        x, y = arrays(1 + seed % 3, seed)
        return all(np.array_equal(bound(x, y)["difference"], x - y) for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, range(8)))
