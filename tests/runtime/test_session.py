"""The session border: what fits runs, what does not says what was expected and what came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alref_edge.errors import CapacityError, EngineError, ProviderError
from alref_edge.runtime import Buffer, SessionOptions, open_session, ort, start_reading, to_host
from alref_edge.runtime.device import Placement, resolve

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """total[N,3] = x[N,3] + y[N,3]; product[N,3] = x * y."""
    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3])
        for name in ("x", "y", "total", "product")
    ]
    nodes = [
        onnx.helper.make_node("Add", ["x", "y"], ["total"]),
        onnx.helper.make_node("Mul", ["x", "y"], ["product"]),
    ]
    body = onnx.helper.make_graph(nodes, "arithmetic", tensors[:2], tensors[2:])
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path_factory.mktemp("graph") / "arithmetic.onnx"
    onnx.save(model, path)
    return path


def pair(rows: int = 2) -> dict[str, np.ndarray]:
    """Two inputs that fit."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((rows, 3)).astype(np.float32) for name in ("x", "y")}


def test_run_returns_every_output_by_name(graph: Path) -> None:
    feeds = pair()
    with open_session(graph, device="cpu") as session:
        results = session.run(feeds)
    assert list(results) == ["total", "product"]
    np.testing.assert_array_equal(results["total"], feeds["x"] + feeds["y"])
    np.testing.assert_array_equal(results["product"], feeds["x"] * feeds["y"])


def test_buffers_are_read_and_written_in_place(graph: Path) -> None:
    feeds = pair()
    with open_session(graph, device="cpu") as session:
        bank = session.buffer((6, 3))
        source = session.buffer((2, 3))
        source.write(feeds["x"])
        results = session.run({"x": source, "y": feeds["y"]}, into={"total": bank.rows(2, 4)})
    assert list(results) == ["product"]
    np.testing.assert_array_equal(results["product"], feeds["x"] * feeds["y"])
    np.testing.assert_array_equal(bank.numpy()[2:4], feeds["x"] + feeds["y"])
    assert not bank.numpy()[[0, 1, 4, 5]].any()


def test_a_buffer_is_written_from_a_buffer_and_many_are_read_at_once(graph: Path) -> None:
    with open_session(graph, device="cpu") as session:
        bank, source = session.buffer((6, 3)), session.buffer((2, 3))
        source.write(np.full((2, 3), 5, np.float32))
        bank.rows(1, 3).write(source)
        source.write(np.full((2, 3), 6, np.float32))
        with pytest.raises(EngineError, match="does not fit"):
            bank.write(source)
    read = start_reading([bank, source])
    bank.write(np.ones((6, 3), np.float32))
    one, other = read()
    assert one[:, 0].tolist() == [0, 5, 5, 0, 0, 0]
    assert (other == 6).all()
    assert to_host([]) == []
    assert (to_host([bank, bank])[1] == 1).all()


def test_a_buffer_on_another_device_is_no_source(graph: Path) -> None:
    elsewhere = Buffer((2, 3), np.dtype(np.float32), "cuda:0", 0, None, None)  # type: ignore[arg-type]
    with open_session(graph, device="cpu") as session, pytest.raises(EngineError, match="another device"):
        session.buffer((2, 3)).write(elsewhere)


def test_a_view_is_of_the_same_memory_and_no_larger() -> None:
    room = Buffer.on_host((10,), np.dtype(np.uint8))
    room.view((2,), np.dtype(np.float32)).write(np.array([1, 2], np.float32))
    assert room.numpy()[:8].view(np.float32).tolist() == [1, 2]
    with pytest.raises(EngineError, match="10 bytes"):
        room.view((3,), np.dtype(np.float32))


def test_a_run_of_rows_keeps_its_memory_alive(graph: Path) -> None:
    with open_session(graph, device="cpu") as session:
        view = session.buffer((4, 3)).rows(1, 3)
    view.write(np.full((2, 3), 7, np.float32))
    assert (view.numpy() == 7).all()


BAD_FEEDS = {
    "missing": ({"x": np.zeros((2, 3), np.float32)}, "input names"),
    "unknown": (pair() | {"z": np.zeros((2, 3), np.float32)}, "input names"),
    "dtype": (pair() | {"y": np.zeros((2, 3))}, "float64"),
    "rank": (pair() | {"y": np.zeros((2, 3, 1), np.float32)}, "float32[2, 3, 1]"),
    "fixed size": (pair() | {"y": np.zeros((2, 4), np.float32)}, "float32[2, 4]"),
    "symbol with two sizes": (pair() | {"y": np.zeros((5, 3), np.float32)}, "n=2"),
}


@pytest.mark.parametrize("case", BAD_FEEDS)
def test_what_does_not_fit_is_refused_with_expected_and_got(graph: Path, case: str) -> None:
    feeds, said = BAD_FEEDS[case]
    with open_session(graph, device="cpu") as session, pytest.raises(EngineError) as caught:
        session.run(feeds)
    assert said in str(caught.value)
    assert "Expected:" in str(caught.value)
    assert "Got:" in str(caught.value)


def test_an_output_buffer_of_another_shape_is_refused(graph: Path) -> None:
    with open_session(graph, device="cpu") as session:
        with pytest.raises(EngineError, match="total"):
            session.run(pair(), into={"total": session.buffer((2, 4))})
        with pytest.raises(EngineError, match="output names"):
            session.run(pair(), into={"sum": session.buffer((2, 3))})


def test_sizes_of_outputs_are_tied_to_those_of_inputs(graph: Path) -> None:
    with open_session(graph, device="cpu") as session, pytest.raises(EngineError, match="n=2"):
        session.run(pair(rows=2), into={"total": session.buffer((3, 3))})


def test_a_buffer_of_another_device_is_refused(graph: Path) -> None:
    elsewhere = Buffer((2, 3), np.dtype(np.float32), "cuda:0", 0, None, None)  # type: ignore[arg-type]
    with open_session(graph, device="cpu") as session:
        with pytest.raises(EngineError, match="another device"):
            session.run(pair() | {"x": elsewhere})
        with pytest.raises(EngineError, match="another device"):
            session.run(pair(), into={"total": elsewhere})


def test_dimensions_without_a_name_are_independent(tmp_path: Path) -> None:
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None]) for name in ("x", "y")]
    outputs = [onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [None])]
    body = onnx.helper.make_graph([onnx.helper.make_node("Concat", ["x", "y"], ["z"], axis=0)], "g", tensors, outputs)
    onnx.save(
        onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10),
        tmp_path / "g.onnx",
    )
    with open_session(tmp_path / "g.onnx", device="cpu") as session:
        assert len(session.run({"x": np.zeros(2, np.float32), "y": np.zeros(3, np.float32)})["z"]) == 5


def test_rows_outside_a_buffer_are_refused(graph: Path) -> None:
    with open_session(graph, device="cpu") as session, pytest.raises(EngineError, match="no such rows"):
        session.buffer((2, 3)).rows(1, 3)


def test_a_closed_session_says_so(graph: Path) -> None:
    session = open_session(graph, device="cpu")
    session.close()
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run(pair())


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"broken\.onnx cannot be loaded"):
        open_session(path, device="cpu")
    with pytest.raises(EngineError, match="no graph"):
        open_session(tmp_path / "absent.onnx", device="cpu")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": -1}, "threads"),
        ({"gpu_memory": 0}, "gpu_memory"),
        ({"gpu_memory": 1 << 30, "cuda_graphs": True}, "CUDA graphs"),
    ],
)
def test_options_are_checked(options: dict[str, int], said: str) -> None:
    with pytest.raises(EngineError, match=said):
        SessionOptions(**options)  # type: ignore[arg-type]


def test_settings_of_a_provider_follow_the_options_and_the_users_go_before() -> None:
    name, settings = ort._provider(Placement("cuda"), SessionOptions(), stream=4711)
    assert name == ort.CUDA
    assert settings == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_skip_layer_norm_strict_mode": "1",
        "use_tf32": "0",
        "has_user_compute_stream": "1",
        "user_compute_stream": "4711",
    }
    options = SessionOptions(tf32=True, providers={"sdpa_kernel": "1", "cudnn_conv_algo_search": "DEFAULT"})
    _, other = ort._provider(Placement("cuda", 2), options, stream=4711, capturing=True)
    assert other == {
        **settings,
        "device_id": "2",
        "cudnn_conv_algo_search": "DEFAULT",
        "use_tf32": "1",
        "enable_cuda_graph": "1",
        "sdpa_kernel": "1",
    }
    assert ort._provider(Placement("cpu"), SessionOptions()) == (ort.CPU, {})


@pytest.mark.parametrize("default", [True, False])
def test_graphs_are_captured_by_default_or_as_asked_for(monkeypatch: pytest.MonkeyPatch, default: bool) -> None:
    monkeypatch.setattr(ort, "CUDA_GRAPHS", default)
    assert ort._captures(SessionOptions()) == default
    assert [ort._captures(SessionOptions(cuda_graphs=asked)) for asked in (True, False)] == [True, False]
    assert not ort._captures(SessionOptions(gpu_memory=1 << 30))


def test_the_memory_of_a_device_is_bounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "_GPU_MEMORY", {0: 1 << 30})
    with pytest.raises(EngineError, match="bounded before"):
        ort._bound_gpu_memory(0, 1 << 31, weights=10)
    with pytest.raises(CapacityError, match="weights"):
        ort._bound_gpu_memory(0, 1 << 30, weights=(1 << 30) + 1)


def test_a_bound_holds_for_sessions_that_ask_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "_GPU_MEMORY", {1: 1 << 30})
    monkeypatch.setattr(ort, "CUDA_GRAPHS", True)
    bounded = ort._under_bound(1, SessionOptions(tf32=True))
    assert bounded == SessionOptions(tf32=True, gpu_memory=1 << 30)
    assert not ort._captures(bounded)
    assert ort._under_bound(0, SessionOptions()) == SessionOptions()
    assert ort._under_bound(1, SessionOptions(gpu_memory=7)).gpu_memory == 7
    with pytest.raises(EngineError, match="memory that sessions share"):
        ort._under_bound(1, SessionOptions(cuda_graphs=True))


@pytest.mark.skipif(ort.probe(Placement("cuda")).works, reason="here the memory can be bounded")
def test_a_bound_that_could_not_be_set_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "_GPU_MEMORY", {})
    for most in (1 << 30, 1 << 31):
        with pytest.raises(EngineError, match="cannot be bounded"):
            ort._bound_gpu_memory(0, most, weights=10)
    assert not ort._GPU_MEMORY


def test_unknown_device(graph: Path) -> None:
    with pytest.raises(ProviderError, match="no such device"):
        open_session(graph, device="quantum")


@pytest.mark.skipif(ort.probe(Placement("cuda")).works, reason="CUDA works here")
def test_a_provider_that_does_not_work_is_an_error_unless_falling_back_is_allowed(graph: Path) -> None:
    with pytest.raises(ProviderError, match="CUDAExecutionProvider was asked for"):
        open_session(graph, device="cuda")
    with open_session(graph, device="cuda", options=SessionOptions(allow_fallback=True)) as session:
        assert session.provider == ort.CPU
    assert resolve("auto") == Placement("cpu")


def test_the_probe_tells_what_works() -> None:
    assert ort.probe(Placement("cpu")).works
    cuda = ort.probe(Placement("cuda"))
    assert cuda.provider == ort.CUDA
    assert cuda.works or cuda.reason
