"""What a user waits for: whole processes, from their start on."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.gpu.record import Record, Row, needs
from benchmarks.gpu.subject import FLOAT16, FLOAT32, Subject

_RUNS = 3
_ROOT = Path(__file__).parent.parent.parent


def demo(subject: Subject, record: Record) -> None:
    """`alref-edge demo` with the shipped bundle, from the start of its process to its end; on the CPU beside."""
    with needs("PyAV, which the demo draws its clip with,"):
        import av  # noqa: F401
    for device in dict.fromkeys((subject.device, "cpu")):
        record.measure(f"nano demo, process to process, {device}", partial(_demo, subject, device))


def _demo(subject: Subject, device: str) -> Row:
    taken = []
    for _ in range(min(_RUNS, subject.runs)):
        with tempfile.TemporaryDirectory() as folder:
            command = ["demo", "--device", device, "--threads", str(subject.threads), "--out", f"{folder}/demo"]
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "alref_edge", *command], cwd=_ROOT, capture_output=True, text=True, check=False
            )
            taken.append(time.perf_counter() - began)
        if done.returncode:
            raise RuntimeError(f"alref-edge demo ended with {done.returncode}: {done.stderr[-400:]}")
    return Row(taken, "s")


def first_mask(subject: Subject, record: Record) -> None:
    """A process that verifies the bundle, loads its graphs, and has tracked one object to the second frame's mask."""
    for variant in subject.variants("sam2", FLOAT16, FLOAT32):
        name = f"process start to first mask, {variant.name}"
        record.measure(name, partial(_first_mask, subject, variant.precision))


def _first_mask(subject: Subject, precision: str) -> Row:
    taken, stages = [], {}
    for _ in range(min(_RUNS, subject.runs)):
        command = [str(subject.root), subject.device, precision, str(subject.threads)]
        began = time.time()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu.first_mask", *command],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the process ended with {done.returncode}: {done.stderr[-400:]}")
        stamps = json.loads(done.stdout.splitlines()[-1])
        taken.append(stamps["tracked"] - began)
        ends = [began, *stamps.values()]
        stages = {name: end - start for name, start, end in zip(stamps, ends, ends[1:], strict=False)}
    return Row(taken, "s", {"last_run_s": stages})
