"""Errors that say that memory did not suffice, and how much of it is free."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from alref_edge.runtime.device import Placement
from alref_edge.runtime.memory import free_memory, is_out_of_memory, machine_memory

# As ONNX Runtime 1.31 words them: `bfc_arena.cc` and, for CUDA's libraries, `cuda_call.cc`.
_NODE = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running MatMul node. Name:'' Status Message: "
)
_CALL = "; GPU=0 ; hostname=box ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/"
TOO_LITTLE = {
    "arena's bound": _NODE + "void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "
    "Available memory of 65536 is smaller than requested bytes of 4194304",
    "arena, device full": _NODE + "Failed to allocate memory for requested buffer of size 4194304",
    "arena, in pieces": _NODE + "Failed to find a free memory block despite calling Extend. rounded_bytes=4194304",
    "cudaMalloc": f"CUDA failure 2: out of memory {_CALL}cuda_allocator.cc ; line=78 ; expr=cudaMalloc(&p, size); ",
    "cuBLAS": f"CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED {_CALL}cuda_execution_provider.cc ; line=180 ; "
    "expr=cublasCreate(&cublas_handle_); ",
    "cuBLAS, in words": f"CUBLAS failure 3: the resource allocation failed {_CALL}cuda_stream_handle.cc ; line=66 ; "
    "expr=cublasCreate(&cublas_handle_); ",
    "cuDNN 8": f"CUDNN failure 2: CUDNN_STATUS_ALLOC_FAILED {_CALL}cuda_stream_handle.cc ; line=68 ; ",
    "cuDNN 9": "CUDNN failure 4003: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED "
    + _CALL
    + "nn/conv.cc ; line=1 ; ",
    "error's name": "cudaErrorMemoryAllocation",
    "host": "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc",
}
OTHERS = {
    "shape": _NODE
    + "/onnxruntime_src/onnxruntime/core/providers/cpu/math/matmul_helper.h:59 MatMul dimension mismatch",
    "launch": f"CUDA failure 700: an illegal memory access was encountered {_CALL}gpu_data_transfer.cc ; line=73 ; ",
    "cuBLAS": f"CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED {_CALL}math/gemm.cc ; line=1 ; ",
    "capture": f"CUDA failure 900: operation not permitted when stream is capturing {_CALL}cuda_graph.cc ; line=1 ; ",
}


@pytest.mark.parametrize("case", TOO_LITTLE)
def test_too_little_memory_is_known_by_its_words(case: str) -> None:
    assert is_out_of_memory(RuntimeError(TOO_LITTLE[case]))


@pytest.mark.parametrize("case", OTHERS)
def test_other_failures_are_not_taken_for_it(case: str) -> None:
    assert not is_out_of_memory(RuntimeError(OTHERS[case]))


_PROGRAM = """
import numpy as np
from onnx import TensorProto, helper
from alref_edge.runtime import ort
from alref_edge.runtime.memory import is_out_of_memory

ort.machine_memory = lambda: 1 << 20
onnxruntime = ort.load_onnxruntime()
ends = [helper.make_tensor_value_info("size", TensorProto.INT64, [1])], [
    helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
]
nodes = [helper.make_node("ConstantOfShape", ["size"], ["x"]), helper.make_node("Neg", ["x"], ["y"])]
model = helper.make_model(
    helper.make_graph(nodes, "g", *ends), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
)
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.add_session_config_entry("session.use_env_allocators", "1")
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
try:
    session.run(None, {"size": np.array([1 << 20])})
except Exception as error:
    print(is_out_of_memory(error), error)
"""


def test_the_arena_really_words_it_so() -> None:
    pytest.importorskip("onnx")
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True"), done.stdout


def test_free_memory_of_the_host_is_a_part_of_what_there_is() -> None:
    free = free_memory(Placement("cpu"))
    assert 0 < free <= machine_memory()
    available = int(Path("/proc/meminfo").read_text(encoding="ascii").split("MemAvailable:")[1].split()[0]) * 1024
    assert free <= 1.2 * available
