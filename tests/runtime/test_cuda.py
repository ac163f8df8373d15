"""The queue of a CUDA device, and sessions on it. All but the first tests need a GPU: `pytest tests/runtime`."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from alref_edge.runtime import Buffer, SessionOptions, Signature, cuda, open_session, ort, start_reading, to_host
from alref_edge.runtime.device import Placement
from alref_edge.runtime.memory import free_memory

onnx = pytest.importorskip("onnx")

MATRIX = ("float32", ("n", "n"))
SUMS = Signature({"x": MATRIX, "y": MATRIX}, {"total": MATRIX, "product": MATRIX})

needs_cuda = pytest.mark.skipif(not ort.probe(Placement("cuda")).works, reason="no working CUDA provider")


class Pieces:
    """Pieces of a ring, numbered, and those that were waited for, in order."""

    def __init__(self, size: int) -> None:
        self.ring, self.made, self.waited = cuda.Ring(1000, size), 0, []

    def take(self, nbytes: int) -> int:
        number, self.made = self.made, self.made + 1
        return self.ring.take(nbytes, lambda: self.waited.append(number)) - 1000


def test_a_ring_hands_out_pieces_in_turn_and_waits_for_the_oldest() -> None:
    pieces = Pieces(100)
    assert [pieces.take(40), pieces.take(40), pieces.waited] == [0, 40, []]
    assert [pieces.take(30), pieces.waited] == [0, [0]]  # 20 bytes at the end do not suffice
    assert [pieces.take(20), pieces.waited] == [30, [0, 1]]
    assert [pieces.take(50), pieces.waited] == [50, [0, 1]]
    assert [pieces.take(100), pieces.waited] == [0, [0, 1, 2, 3, 4]]


def test_an_empty_piece_takes_no_room() -> None:
    pieces = Pieces(10)
    assert [pieces.take(10), pieces.take(0), pieces.waited] == [0, 10, []]
    assert [pieces.take(4), pieces.take(4), pieces.waited] == [0, 4, [0]]


def test_no_more_pieces_are_in_use_than_a_ring_remembers() -> None:
    pieces = Pieces(1 << 20)
    for _ in range(cuda._MOST_PIECES + 44):
        pieces.take(1)
    assert pieces.waited == list(range(44))


@pytest.mark.parametrize("seed", range(5))
def test_pieces_that_are_in_use_never_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ring, used = cuda.Ring(0, 1000), {}
    for number in range(500):
        nbytes = int(rng.integers(0, 400 if seed else 3))
        first = ring.take(nbytes, lambda number=number: used.pop(number))
        assert first + nbytes <= 1000
        assert all(end <= first or first + nbytes <= begin for begin, end in used.values())
        if nbytes:
            used[number] = (first, first + nbytes)


def test_a_library_that_is_in_use_is_taken_before_one_that_would_have_to_be_loaded() -> None:
    libraries = ("libmissing.so.1", "libanl.so.1", "libc.so.6")  # glibc's, of which nobody loads the second
    assert cuda._loaded_first(libraries)._name == "libc.so.6"  # type: ignore[union-attr]
    assert cuda._loaded_first(("libmissing.so.1", "libBrokenLocale.so.1")) is not None
    assert cuda._loaded_first(("libmissing.so.1",)) is None


def graph_of(
    folder: Path, nodes: list[tuple[str, list[str], list[str]]], inputs: list[str], outputs: list[str]
) -> Path:
    """A graph of float32 matrices [n,n]."""
    ends = [
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", "n"]) for name in names]
        for names in (inputs, outputs)
    ]
    body = onnx.helper.make_graph([onnx.helper.make_node(*node) for node in nodes], "g", *ends)
    path = folder / "graph.onnx"
    onnx.save(onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """total = x + y, product = x @ y."""
    nodes = [("Add", ["x", "y"], ["total"]), ("MatMul", ["x", "y"], ["product"])]
    return graph_of(tmp_path, nodes, ["x", "y"], ["total", "product"])


@pytest.fixture
def powers(tmp_path: Path) -> Path:
    """z = x @ y @ y ..., 100 times: some milliseconds where n is 2048."""
    names = ["x", *(f"x{number}" for number in range(99)), "z"]
    nodes = [("MatMul", [one, "y"], [other]) for one, other in pairwise(names)]
    return graph_of(tmp_path, nodes, ["x", "y"], ["z"])


def pair(size: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((size, size)).astype(np.float32) for name in ("x", "y")}


@needs_cuda
def test_buffers_on_cuda(sums: Path) -> None:
    feeds = pair()
    with open_session(sums, device="cuda") as session:
        assert session.provider == ort.CUDA
        bank = session.buffer((12, 4))
        session.run(feeds, into={"total": bank.rows(4, 8)})
        results = session.run({"x": bank.rows(4, 8), "y": feeds["y"]})
    np.testing.assert_array_equal(bank.numpy()[4:8], feeds["x"] + feeds["y"])
    np.testing.assert_array_equal(results["total"], (feeds["x"] + feeds["y"]) + feeds["y"])


@needs_cuda
@pytest.mark.parametrize("nbytes", [0, 1, 4096, cuda._PIECE_BYTES + 1, cuda._DOWN_BYTES + 3, cuda._UP_BYTES + 3])
def test_what_is_written_is_read(sums: Path, nbytes: int) -> None:
    with open_session(sums, device="cuda") as session:
        one, other = (session.buffer((nbytes,), np.uint8) for _ in range(2))
    assert not one.numpy().any()
    array = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    expected = array.copy()
    one.write(array)
    array[:] = 0  # it was taken before
    other.write(one)
    for got in (one.numpy(), *to_host([other, one])):
        np.testing.assert_array_equal(got, expected)


@needs_cuda
def test_what_was_asked_for_before_is_read_though_it_is_fetched_late(sums: Path) -> None:
    with open_session(sums, device="cuda") as session:
        places = [session.buffer((1 << 20,), np.uint8) for _ in range(3)]
        reads = []
        for number in range(100):  # several times what lies pinned; every tenth is never fetched
            for place in places:
                place.write(np.full(1 << 20, number, np.uint8))
            reads.append(start_reading(places))
        for number, read in enumerate(reads):
            if number % 10:
                assert all((array == number).all() for array in read())


@needs_cuda
def test_many_writes_keep_their_order(sums: Path) -> None:
    with open_session(sums, device="cuda") as session:
        target = session.buffer((1 << 20,), np.uint8)
        for number in range(200):
            target.write(np.full(1 << 20, number, np.uint8))
    assert (target.numpy() == 199).all()


@needs_cuda
def test_runs_follow_each_other_without_waiting(powers: Path) -> None:
    size = 2048
    options = SessionOptions()
    with open_session(powers, device="cuda", options=options) as one, open_session(powers, device="cuda") as other:
        middle, last = one.buffer((size, size)), one.buffer((size, size))
        feeds = {"x": np.eye(size, dtype=np.float32), "y": np.eye(size, dtype=np.float32)[::-1].copy()}
        started = [session.buffer((size, size)) for session in (one, other)]
        for buffer, name in zip(started, ("x", "y"), strict=True):
            buffer.write(feeds[name])
        began = 0.0
        for _ in range(2):  # the first chooses algorithms
            last.numpy()
            began = time.perf_counter()
            assert one.run({"x": started[0], "y": started[1]}, into={"z": middle}) == {}
            assert other.run({"x": middle, "y": started[1]}, into={"z": last}) == {}
        queued = time.perf_counter() - began
        result = last.numpy()
        done = time.perf_counter() - began
    np.testing.assert_array_equal(result, feeds["x"])  # 200 reflections
    assert queued < done / 2, (queued, done)


@needs_cuda
def test_threads_share_a_session(sums: Path) -> None:
    with open_session(sums, device="cuda", signature=SUMS) as session:

        def many(seed: int) -> None:
            feeds = pair(16 + seed, seed)
            target = session.buffer(feeds["x"].shape)
            for _ in range(50):
                results = session.run(feeds, into={"total": target})
                np.testing.assert_array_equal(target.numpy(), feeds["x"] + feeds["y"])
                np.testing.assert_allclose(results["product"], feeds["x"] @ feeds["y"], atol=1e-4)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(many, range(8)))


def captures_of(session: object) -> int:
    return len(session._bound._captures)  # type: ignore[attr-defined]


@needs_cuda
def test_who_waits_for_room_to_upload_holds_up_nobody_else(powers: Path) -> None:
    with open_session(powers, device="cuda") as one, open_session(powers, device="cuda") as other:
        x, z = one.buffer((4096, 4096)), one.buffer((4096, 4096))
        small_x, small_z = other.buffer((4, 4)), other.buffer((4, 4))
        room, frame = one.buffer((cuda._UP_BYTES,), np.uint8), np.zeros(cuda._UP_BYTES, np.uint8)
        one.run({"x": x, "y": x}, into={"z": z})
        other.run({"x": small_x, "y": small_x}, into={"z": small_z})
        z.numpy()  # algorithms are chosen
        for _ in range(5):
            one.run({"x": x, "y": x}, into={"z": z})
        room.rows(0, len(frame) // 2).write(frame[: len(frame) // 2])  # lies pinned until the runs are done
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(room.write, frame)
            time.sleep(0.05)
            other.run({"x": small_x, "y": small_x}, into={"z": small_z})
            assert not waiting.done()


@needs_cuda
def test_captured_runs_give_what_others_give(sums: Path) -> None:
    with open_session(sums, device="cuda", options=SessionOptions(cuda_graphs=True), signature=SUMS) as session:
        x, y, target = (session.buffer((32, 32)) for _ in range(3))
        for seed in range(6):
            feeds = pair(32, seed)
            x.write(feeds["x"])
            y.write(feeds["y"])
            product = session.run({"x": x, "y": y}, into={"total": target})["product"]
            np.testing.assert_array_equal(target.numpy(), feeds["x"] + feeds["y"])
            np.testing.assert_allclose(product, feeds["x"] @ feeds["y"], atol=1e-4)
            other = pair(8 + seed, seed)  # in between, a shape of its own
            np.testing.assert_allclose(session.run(other)["product"], other["x"] @ other["y"], atol=1e-4)
        assert captures_of(session) == 1


@needs_cuda
def test_captures_stand_beside_threads_that_upload_and_wait(sums: Path) -> None:
    stop = threading.Event()
    with open_session(sums, device="cuda", options=SessionOptions(cuda_graphs=True), signature=SUMS) as session:
        aside = session.buffer((1 << 20,), np.uint8)

        def upload() -> int:
            count = 0
            while not stop.is_set():
                aside.write(np.full(1 << 20, count % 256, np.uint8))
                assert (aside.numpy() == count % 256).all()
                session.buffer((1 + count % 7, 1000))
                count += 1
            return count

        with ThreadPoolExecutor(2) as pool:
            uploads = pool.submit(upload)
            try:
                for size in range(8, 24):
                    for seed in range(4):
                        feeds = pair(size, seed)
                        np.testing.assert_allclose(session.run(feeds)["product"], feeds["x"] @ feeds["y"], atol=1e-4)
            finally:
                stop.set()
            assert uploads.result()
        assert captures_of(session) == 16


@needs_cuda
def test_settings_reach_onnx_runtime(sums: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def settings(options: SessionOptions) -> dict[str, str]:
        with open_session(sums, device="cuda", options=options) as session:
            assert not session._bound._on_host  # type: ignore[attr-defined]
            return session._session.get_provider_options()[ort.CUDA]  # type: ignore[attr-defined]

    default = settings(SessionOptions())
    assert default["user_compute_stream"] == str(cuda.stream(0).handle)
    assert default["has_user_compute_stream"] == "1"
    assert default["cudnn_conv_algo_search"] == "HEURISTIC"
    assert default["enable_skip_layer_norm_strict_mode"] == "1"
    assert (default["use_tf32"], default["enable_cuda_graph"]) == ("0", "0")
    other = settings(SessionOptions(tf32=True, cuda_graphs=True, providers={"cudnn_conv_algo_search": "EXHAUSTIVE"}))
    assert (other["use_tf32"], other["enable_cuda_graph"]) == ("1", "1")
    assert other["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert "plugin" not in "".join(capfd.readouterr())


@needs_cuda
def test_tf32_is_less_exact_and_only_where_it_is_asked_for(sums: Path) -> None:
    feeds, errors = pair(512), []
    exact = feeds["x"].astype(np.float64) @ feeds["y"].astype(np.float64)
    for tf32 in (False, True):
        with open_session(sums, device="cuda", options=SessionOptions(tf32=tf32)) as session:
            errors.append(np.abs(session.run(feeds)["product"] - exact).max())
    assert errors[0] < 1e-3 < errors[1]  # from compute capability 8.0 on


@needs_cuda
def test_buffers_come_out_of_the_free_memory(sums: Path) -> None:
    with open_session(sums, device="cuda") as session:
        before = free_memory(Placement("cuda"))
        kept: list[Buffer] = [session.buffer((1 << 28,), np.uint8)]
        kept[0].numpy()
        assert free_memory(Placement("cuda")) <= before - (1 << 28)


# In a process of its own: ONNX Runtime's arena takes all there is after it was asked for more.
_TOO_LARGE = """
import sys
import numpy as np
from alref_edge.errors import CapacityError
from alref_edge.runtime import open_session

with open_session(sys.argv[1], device="cuda") as session:
    try:
        session.buffer((1 << 44,), np.uint8)
    except CapacityError as error:
        print(error)
"""


@needs_cuda
def test_a_buffer_that_is_too_large_says_how_to_mend_it(sums: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _TOO_LARGE, str(sums)], capture_output=True, text=True, check=False)
    assert "max_batch" in done.stdout, done.stderr


_BOUNDED = """
import sys
import numpy as np
from alref_edge.errors import CapacityError, EngineError
from alref_edge.runtime import SessionOptions, open_session

with open_session(sys.argv[1], device="cuda", options=SessionOptions(gpu_memory=64 << 20)) as session:
    place, target = (session.buffer((1 << 13, 1 << 13)) for _ in range(2))
    try:
        session.run({"x": place, "y": place}, into={"z": target})
    except CapacityError:
        print("bounded")
    small = np.eye(4, dtype=np.float32)
    assert (session.run({"x": small, "y": small})["z"] == small).all()
try:
    open_session(sys.argv[1], device="cuda", options=SessionOptions(gpu_memory=65 << 20))
except EngineError:
    print("once")
"""


@needs_cuda
def test_a_bound_holds_for_all_sessions_of_a_process(powers: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _BOUNDED, str(powers)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["bounded", "once"], done.stderr


@needs_cuda
def test_a_session_closes_while_its_work_is_queued(powers: Path) -> None:
    size = 1024
    session = open_session(powers, device="cuda")
    x, y, z = (session.buffer((size, size)) for _ in range(3))
    for buffer in (x, y):
        buffer.write(np.eye(size, dtype=np.float32))
    session.run({"x": x, "y": y}, into={"z": z})
    session.close()
    np.testing.assert_array_equal(z.numpy(), np.eye(size, dtype=np.float32))
