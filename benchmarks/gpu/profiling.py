"""Where a graph's time goes: ONNX Runtime's profile of a session of its own; kernels by torch where that tells none."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.runtime.ort import CUDA_SETTINGS, PROVIDERS, load_onnxruntime
from benchmarks.gpu.work import node_work

_WARM, _RUNS, _LISTED = 3, 5, 16
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def profile_graph(
    path: Path,
    feeds: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    device: str,
    providers: Mapping[str, str],
    threads: int,
) -> dict[str, Any]:
    """Run a graph a few times with everything bound on the device, and read the profile.

    Args:
        path: an `.onnx` file, its weights beside it.
        feeds: every input.
        outputs: those that are computed.
        device: "cpu" or "cuda".
        providers: settings of the execution provider.
        threads: of the CPU; 0: ONNX Runtime's choice.

    Returns:
        device_ms and launches of a run (None where no profiler tells of kernels), time by operator, kernel and node,
        nodes after optimisation and those on another provider, operations, bytes of the weights as they are stored, of
        the inputs, and of all that nodes read and write, as plain values.
    """
    with tempfile.TemporaryDirectory() as folder:
        session, run = bound_session(path, feeds, outputs, device, providers, threads, Path(folder))
        for _ in range(_WARM + _RUNS):
            run()
        events = json.loads(Path(session.end_profiling()).read_text())
    del session, run
    found = read_profile(events, warm=_WARM, device=device)
    found |= {"weight_bytes": _weight_bytes(path), "fed_bytes": sum(array.nbytes for array in feeds.values())}
    if device == "cuda" and found["launches"] is None:
        kernels = _by_torch(path, feeds, outputs, device, providers, threads)
        found |= kernels or {}
    return found


def read_profile(events: Sequence[Mapping[str, Any]], *, warm: int, device: str) -> dict[str, Any]:
    """The figures of a profile's runs after the first `warm`, a run each; see `profile_graph`."""
    runs = sorted((each["ts"], each["ts"] + each["dur"]) for each in events if each["name"] == "model_run")[warm:]
    begin, count = runs[0][0], len(runs)
    nodes = [each for each in events if each["cat"] == "Node" and each["ts"] >= begin and "op_name" in each["args"]]
    nodes = [each for each in nodes if each["name"].endswith("_kernel_time")]
    kernels = [each for each in events if each["cat"] == "Kernel" and each["ts"] >= begin]
    # On the CPU a node is its kernel; on a GPU its time on the host is that of launching.
    timed = nodes if device == "cpu" else kernels
    by: dict[str, dict[str, float]] = {name: defaultdict(float) for name in ("operator", "kernel", "node")}
    for each in timed:
        ms = each["dur"] / 1000 / count
        arguments = each.get("args", {})
        by["operator"][str(arguments.get("op_name", "?"))] += ms
        by["node"][_node(str(arguments.get("parent_name", each["name"])))] += ms
        if device != "cpu":
            by["kernel"][short_kernel(each["name"])] += ms
    one_run = [each for each in nodes if runs[0][0] <= each["ts"] < runs[0][1]]
    work = [node_work(each) for each in one_run]
    return {
        "source": "ONNX Runtime's profile",
        "device_ms": sum(each["dur"] for each in timed) / 1000 / count if timed else None,
        "launches": round(len(timed) / count) if timed else None,
        "nodes": len(one_run),
        "nodes_elsewhere": sum(each["args"].get("provider") != PROVIDERS[device] for each in one_run),
        "operations": sum(each[0] for each in work),
        "bytes_through": sum(each[1] for each in work),
        **{f"ms_by_{name}": largest(values) for name, values in by.items() if values},
    }


def torch_kernels(call: Callable[[], object], runs: int = _RUNS) -> dict[str, Any] | None:
    """Time and launches of kernels of a call, a run each, by torch's profiler, whoever launches them; None without."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(runs):
            call()
        torch.cuda.synchronize()
    by: dict[str, float] = defaultdict(float)
    launches = 0
    for each in profile.key_averages():
        if each.self_device_time_total > 0:
            by[short_kernel(each.key)] += each.self_device_time_total / 1000 / runs
            launches += each.count
    return {
        "source": "torch's profiler",
        "device_ms": sum(by.values()),
        "launches": round(launches / runs),
        "ms_by_kernel": largest(by),
    }


def largest(values: Mapping[str, float], most: int = _LISTED) -> dict[str, float]:
    """The greatest values, the greatest first, and what the others sum to."""
    ordered = sorted(values.items(), key=lambda each: -each[1])
    rest = sum(value for _, value in ordered[most:])
    kept = {name: round(value, 4) for name, value in ordered[:most]}
    return {**kept, "others": round(rest, 4)} if rest else kept


def short_kernel(name: str) -> str:
    """A kernel's name without its types and arguments."""
    plain = name.removeprefix("void ")
    while (shorter := re.sub(r"<[^<>]*>", "", plain)) != plain:
        plain = shorter
    return re.sub(r"\(.*", "", plain).split("::")[-1].strip()[:80] or name[:80]


def _weight_bytes(path: Path) -> int:
    import onnx

    tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    return sum(prod(each.dims) * onnx.helper.tensor_dtype_to_np_dtype(each.data_type).itemsize for each in tensors)


def _node(name: str) -> str:
    return re.sub(r"_(kernel_time|fence_before|fence_after)$", "", name)


def bound_session(
    path: Path,
    feeds: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    device: str,
    providers: Mapping[str, str],
    threads: int,
    folder: Path | None = None,
) -> tuple[Any, Callable[[], object]]:
    """A session of ONNX Runtime itself, and a call that runs it with everything bound where it runs."""
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if folder is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
    settings = {**(CUDA_SETTINGS if device == "cuda" else {}), **providers}
    session = onnxruntime.InferenceSession(
        str(path), options, providers=[(PROVIDERS[device], settings)], enable_fallback=0
    )
    binding = session.io_binding()
    held = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0) for name, array in feeds.items()}
    for name in feeds:
        binding.bind_ortvalue_input(name, held[name])
    for spec in session.get_outputs():
        if spec.name not in outputs:
            continue
        if all(isinstance(size, int) for size in spec.shape):  # a CUDA graph wants it where it was
            kind = _DTYPES[spec.type]
            held[spec.name] = onnxruntime.OrtValue.ortvalue_from_shape_and_type(spec.shape, kind, device, 0)
            binding.bind_ortvalue_output(spec.name, held[spec.name])
        else:
            binding.bind_output(spec.name, device)

    def run() -> object:
        session.run_with_iobinding(binding)
        return held  # alive as long as they are bound

    return session, run


def _by_torch(
    path: Path,
    feeds: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    device: str,
    providers: Mapping[str, str],
    threads: int,
) -> dict[str, Any] | None:
    with suppress(RuntimeError):  # a machine may not let anybody profile
        _, run = bound_session(path, feeds, outputs, device, providers, threads)
        for _ in range(_WARM):
            run()
        return torch_kernels(run)
    return None
