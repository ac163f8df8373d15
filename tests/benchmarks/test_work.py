"""Operations and bytes of nodes, and the reading of ONNX Runtime's profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks.gpu.profiling import largest, profile_graph, read_profile, short_kernel
from benchmarks.gpu.work import Ceiling, given_ceiling, nbytes, operations


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "count"),
    [
        ("MatMul", [(5, 7), (7, 3)], (5, 3), 5 * 7 * 3),
        ("MatMul", [(2, 4, 5, 7), (2, 4, 7, 3)], (2, 4, 5, 3), 8 * 5 * 7 * 3),
        ("FusedMatMul", [(2, 7, 5), (2, 7, 3)], (2, 5, 3), 2 * 5 * 7 * 3),  # the left transposed
        ("Gemm", [(5, 7), (3, 7), (3,)], (5, 3), 5 * 7 * 3),
        ("Conv", [(1, 8, 10, 10), (16, 8, 3, 3), (16,)], (1, 16, 10, 10), 1600 * 8 * 9),
        ("Conv", [(1, 8, 10, 10), (8, 1, 7, 7)], (1, 8, 10, 10), 800 * 49),  # one group a channel
        ("ConvTranspose", [(1, 8, 10, 10), (8, 4, 2, 2)], (1, 4, 20, 20), 800 * 4 * 4),
        ("MultiHeadAttention", [(2, 10, 64), (2, 30, 64), (2, 30, 32)], (2, 10, 32), 2 * 10 * 30 * (64 + 32)),
        ("MultiHeadAttention", [(1, 10, 64), (1, 4, 30, 16), (1, 4, 30, 16)], (1, 10, 64), 10 * 30 * 128),
        ("MultiHeadAttention", [(1, 10, 4, 3, 16)], (1, 10, 64), 10 * 10 * 128),  # packed
        ("Attention", [(1, 10, 64), (64, 192), (192,)], (1, 10, 64), 10 * 64 * 192 + 10 * 10 * 128),
        ("Softmax", [(5, 7)], (5, 7), 0),
        ("Add", [(5, 7), (7,)], (5, 7), 0),
    ],
)
def test_operations(operator: str, inputs: list[tuple[int, ...]], output: tuple[int, ...], count: int) -> None:
    assert operations(operator, inputs, [output]) == 2 * count


def test_bytes() -> None:
    assert (
        nbytes([{"float": [2, 3]}, {"float16": [5]}, {"int64": [4]}, {"bool": [3]}, {"float": []}]) == 24 + 10 + 35 + 4
    )


def test_floors() -> None:
    ceiling = Ceiling({"float16": 100.0}, 1000.0, "made up")
    assert ceiling.floor_ms(1e12, 1e6, "float16") == pytest.approx(10.0)
    assert ceiling.floor_ms(1e6, 1e9, "float16") == pytest.approx(1.0)
    for name, gb_s in (("NVIDIA H200", 4800.0), ("NVIDIA H100 80GB HBM3", 3350.0), ("NVIDIA H100 PCIe", 2000.0)):
        found = given_ceiling(name)
        assert found is not None
        assert found.gb_s == gb_s
    assert given_ceiling("Tesla T4") is None
    assert given_ceiling(None) is None


def test_a_real_profile_of_a_graph(tmp_path: Path) -> None:
    helper = onnx.helper
    weights = onnx.numpy_helper.from_array(np.ones((64, 32), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="first/MatMul"), helper.make_node("Relu", ["y"], ["z"])],
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["n", 32])],
        [weights],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    found = profile_graph(path, {"x": np.ones((16, 64), np.float32)}, ("z",), "cpu", {}, 1)
    assert found["operations"] == 2 * 16 * 64 * 32
    assert found["weight_bytes"] == 64 * 32 * 4
    assert found["nodes"] == found["launches"] == 2
    assert set(found["ms_by_operator"]) == {"MatMul", "Relu"}
    assert "first/MatMul" in found["ms_by_node"]


def test_a_real_profile_counts_fused_attention(tmp_path: Path) -> None:
    helper, heads, width = onnx.helper, 2, 32
    node = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["y"], domain="com.microsoft", num_heads=heads)
    sizes = {"q": (1, 10, width), "k": (1, 30, width), "v": (1, 30, width), "y": (1, 10, width)}
    infos = {name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in sizes.items()}
    graph = helper.make_graph([node], "attention", [infos[name] for name in "qkv"], [infos["y"]])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "attention.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    feeds = {name: np.ones(sizes[name], np.float32) for name in "qkv"}
    found = profile_graph(path, feeds, ("y",), "cpu", {}, 1)
    assert found["operations"] == 2 * 10 * 30 * 2 * width
    assert found["fed_bytes"] == 4 * width * (10 + 30 + 30)


def _event(cat: str, name: str, ts: int, dur: int, **args: Any) -> dict[str, Any]:
    return {"cat": cat, "name": name, "ts": ts, "dur": dur, "args": args}


def test_kernels_of_a_gpu_are_those_of_the_runs_that_count() -> None:
    """As ONNX Runtime lists them: what a node takes on the host is no time of the device."""
    gemm, where = "void cutlass::Kernel2<cutlass_80_tensorop_f16<int>>(Params)", "CUDAExecutionProvider"
    shapes = {
        "input_type_shape": [{"float16": [4, 8]}, {"float16": [8, 2]}],
        "output_type_shape": [{"float16": [4, 2]}],
    }
    events: list[dict[str, Any]] = []
    for start in (0, 1000, 2000):
        events += [
            _event("Session", "model_run", start, 900),
            _event("Node", "a/MatMul_kernel_time", start + 10, 5, op_name="MatMul", provider=where,
                   **shapes),
            _event("Node", "b/Shape_kernel_time", start + 20, 5, op_name="Shape", provider="CPUExecutionProvider"),
            _event("Kernel", gemm, start + 30, 200, op_name="MatMul", parent_name="a/MatMul_kernel_time"),
            _event("Kernel", "void Reduce<float, 4>(float*)", start + 40, 100, op_name="MatMul",
                   parent_name="a/MatMul_kernel_time"),
        ]  # fmt: skip
    found = read_profile(events, warm=1, device="cuda")
    assert found["device_ms"] == pytest.approx(0.3)
    assert found["launches"] == 2
    assert (found["nodes"], found["nodes_elsewhere"]) == (2, 1)
    assert found["operations"] == 2 * 4 * 8 * 2
    assert found["ms_by_node"] == {"a/MatMul": 0.3}
    assert found["ms_by_kernel"] == {"Kernel2": 0.2, "Reduce": 0.1}


def test_without_kernels_the_time_is_not_known() -> None:
    events = [
        _event("Session", "model_run", 0, 900),
        _event("Node", "a_kernel_time", 1, 5, op_name="Add", provider="x"),
    ]
    found = read_profile(events, warm=0, device="cuda")
    assert found["device_ms"] is None
    assert found["launches"] is None
    assert "ms_by_operator" not in found


def test_names_of_kernels_are_short() -> None:
    assert short_kernel("void onnxruntime::cuda::BroadcastBiasKernel<half>(half*, half const*, int)") == (
        "BroadcastBiasKernel"
    )
    assert short_kernel("sm90_xmma_gemm_f16f16") == "sm90_xmma_gemm_f16f16"


def test_the_rest_is_summed() -> None:
    assert largest({"a": 1.0, "b": 3.0, "c": 2.0}, 2) == {"b": 3.0, "c": 2.0, "others": 1.0}
