"""Weights on disk: equal ones once, narrow ones narrow, and every number that comes back the one that went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="export needs the export environment")
import onnxruntime  # noqa: E402

from export.weights import share_weights  # noqa: E402

RNG = np.random.default_rng(0)
WIDE = RNG.standard_normal((64, 64)).astype(np.float32)
SMALLEST, LARGEST = 2.0**-24, 65504.0
WEIGHTS = {
    "wide": WIDE,
    "narrow": WIDE.astype(np.float16).astype(np.float32),
    "extremes": np.resize(np.array([SMALLEST, -SMALLEST, LARGEST, -LARGEST, -0.0, 0.0], np.float32), (64, 64)),
    "too small": np.full((64, 64), 2.0**-25, np.float32),
    "too large": np.full((64, 64), 65536.0, np.float32),
    "few": np.full((1, 1), 0.5, np.float32),
}


def write(path: Path, weights: dict[str, np.ndarray], *, prefix: str = "") -> None:
    """x [64, 64] plus each of the weights, an output each."""
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [64, 64])
    outputs = [
        onnx.helper.make_tensor_value_info(f"y{i}", onnx.TensorProto.FLOAT, [64, 64]) for i in range(len(weights))
    ]
    nodes = [
        node
        for i, name in enumerate(weights)
        for node in (
            onnx.helper.make_node(
                "Identity", [prefix + name], [f"{prefix}a long name of a value {i}"], name=f"first {i}"
            ),
            onnx.helper.make_node("Add", ["x", f"{prefix}a long name of a value {i}"], [f"y{i}"], name=f"second {i}"),
        )
    ]
    tensors = [onnx.numpy_helper.from_array(value, prefix + name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(nodes, "graph", [x], outputs, tensors)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)


def run(path: Path, level: str = "ORT_ENABLE_ALL") -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {"x": np.full((64, 64), -0.0, np.float32)})]


@pytest.mark.parametrize("level", ["ORT_ENABLE_ALL", "ORT_DISABLE_ALL"])
def test_numbers_come_back_bit_by_bit(tmp_path: Path, level: str) -> None:
    write(tmp_path / "graph.onnx", WEIGHTS)
    plain = run(tmp_path / "graph.onnx", level)
    share_weights([tmp_path / "graph.onnx"])
    onnx.checker.check_model(tmp_path / "graph.onnx", full_check=True)
    for name, before, after in zip(WEIGHTS, plain, run(tmp_path / "graph.onnx", level), strict=True):
        assert before.tobytes() == after.tobytes(), name
        if name != "few":
            assert after.tobytes() == WEIGHTS[name].tobytes(), name


def test_what_float16_holds_takes_half_the_room(tmp_path: Path) -> None:
    write(tmp_path / "graph.onnx", {name: WEIGHTS[name] for name in ("wide", "narrow", "too small")})
    target = share_weights([tmp_path / "graph.onnx"])
    assert target is not None
    assert target.stat().st_size == (4 + 2 + 4) * 64 * 64
    casts = [node for node in onnx.load(tmp_path / "graph.onnx").graph.node if node.op_type == "Cast"]
    assert len(casts) == 1


def test_equal_weights_of_many_graphs_are_stored_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.onnx" for name in "abc"]
    for path in paths:
        write(path, {"wide": WIDE, "narrow": WEIGHTS["narrow"]}, prefix=path.stem)
    target = share_weights(paths)
    assert target is not None
    assert target.stat().st_size == (4 + 2) * 64 * 64


def test_names_are_short_but_those_of_inputs_and_outputs(tmp_path: Path) -> None:
    write(tmp_path / "graph.onnx", WEIGHTS)
    share_weights([tmp_path / "graph.onnx"])
    graph = onnx.load(tmp_path / "graph.onnx", load_external_data=False).graph
    assert [each.name for each in graph.input] == ["x"]
    assert [each.name for each in graph.output] == [f"y{i}" for i in range(len(WEIGHTS))]
    values = {name for node in graph.node for name in (*node.input, *node.output)}
    assert max(map(len, values)) <= 2


def test_nodes_have_a_name_each(tmp_path: Path) -> None:
    write(tmp_path / "graph.onnx", WEIGHTS)
    share_weights([tmp_path / "graph.onnx"])
    names = [node.name for node in onnx.load(tmp_path / "graph.onnx", load_external_data=False).graph.node]
    assert {"first 0", "second 0", "narrow/Cast"} <= set(names)
    assert len(set(names)) == len(names)


def test_graphs_without_large_weights_have_no_file_of_weights(tmp_path: Path) -> None:
    write(tmp_path / "graph.onnx", {"few": WEIGHTS["few"]})
    assert share_weights([tmp_path / "graph.onnx"]) is None
    assert [path.name for path in tmp_path.iterdir()] == ["graph.onnx"]
