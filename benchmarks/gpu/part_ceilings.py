"""What the machine can do at most: the floors beside the figures are drawn from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu.record import Record
from benchmarks.gpu.subject import Subject

_SIDE, _BYTES = 8192, 1 << 30
_CPU_SIDE, _CPU_BYTES = 1024, 1 << 28
_RUNS = 10


def measure(subject: Subject, record: Record) -> None:
    """Products of large matrices by type, and a copy in the device's memory: by torch on a GPU, by numpy on a CPU."""
    if subject.device == "cpu":
        record.note(ceiling=_of_cpu())
        return
    with suppress(ImportError):
        import torch

        if torch.cuda.is_available():
            record.note(ceiling=_of_gpu(torch, subject.wait))


def _of_gpu(torch: Any, wait: Callable[[], None]) -> dict[str, Any]:
    tflops = {}
    for name, kind, tf32 in (("float16", torch.float16, False), ("tf32", torch.float32, True),
                             ("float32", torch.float32, False)):  # fmt: skip
        torch.backends.cuda.matmul.allow_tf32 = tf32
        matrix = torch.randn(_SIDE, _SIDE, device="cuda", dtype=kind)
        out = torch.empty_like(matrix)
        seconds = _best(partial(torch.matmul, matrix, matrix, out=out), wait)
        tflops[name] = 2 * _SIDE**3 / seconds / 1e12
    source = torch.empty(_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    gb_s = 2 * _BYTES / _best(lambda: target.copy_(source), wait) / 1e9
    return {"tflops": tflops, "gb_s": gb_s, "source": "measured: torch's products and copies"}


def _of_cpu() -> dict[str, Any]:
    matrix = np.ones((_CPU_SIDE, _CPU_SIDE), np.float32)
    out = np.empty_like(matrix)
    seconds = _best(lambda: np.matmul(matrix, matrix, out=out), lambda: None)
    source = np.ones(_CPU_BYTES, np.uint8)
    target = np.empty_like(source)
    gb_s = 2 * _CPU_BYTES / _best(lambda: np.copyto(target, source), lambda: None) / 1e9
    return {
        "tflops": {"float32": 2 * _CPU_SIDE**3 / seconds / 1e12},
        "gb_s": gb_s,
        "source": "measured: numpy's products and copies",
    }


def _best(call: Callable[[], object], wait: Callable[[], None]) -> float:
    """Seconds of the fastest run: a ceiling is what was reached once."""
    best = float("inf")
    for _ in range(_RUNS):
        wait()
        began = time.perf_counter()
        call()
        wait()
        best = min(best, time.perf_counter() - began)
    return best
