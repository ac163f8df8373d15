"""Timing two programs beside each other in one run: raw samples, medians, and the ratio with its interval."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """Samples of two contenders that were run in turn.

    Attributes:
        ours_s, theirs_s: seconds of each counted run.
        ratio: median of theirs / ours, pair by pair: above 1, ours is faster.
        ratio_low, ratio_high: 95 % bootstrap interval of that median.
    """

    ours_s: list[float]
    theirs_s: list[float]
    ratio: float
    ratio_low: float
    ratio_high: float

    def row(self, name: str) -> str:
        """One line of a table."""
        return (
            f"{name:<42}{1e3 * float(np.median(self.ours_s)):>10.1f}{1e3 * float(np.median(self.theirs_s)):>10.1f}"
            f"{self.ratio:>8.2f}  [{self.ratio_low:.2f}, {self.ratio_high:.2f}]"
        )

    def to_json(self) -> dict[str, Any]:
        """The samples and figures, for a result file."""
        return asdict(self)


HEADER = f"{'':<42}{'ours ms':>10}{'theirs ms':>10}{'ratio':>8}  95 %"


def processor_time() -> float:
    """Seconds that this process and its children have been on a processor, all threads together. For Linux.

    Other programs on the machine hardly stretch it, as they do the time of the wall.
    """
    return time.process_time() + sum(map(_processor_time, descendants("self")))


def descendants(pid: int | str) -> list[int]:
    """The processes that a process started and that run still, and theirs. For Linux."""
    children: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended by now
            children += map(int, path.read_text().split())
    return [*children, *(each for child in children for each in descendants(child))]


def _processor_time(pid: int) -> float:
    with suppress(OSError):  # a process that has ended by now
        # The clock of a process is its number, inverted, beside the kind of clock: see clock_getcpuclockid(3).
        return time.clock_gettime(~pid << 3 | 2)
    return 0.0


def compare(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    runs: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Run two contenders in turn, so that a machine whose speed drifts serves both alike."""
    for _ in range(warmup):
        ours()
        theirs()
    samples: tuple[list[float], list[float]] = ([], [])
    for turn in range(runs):
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        for which in order:
            start = clock()
            (ours, theirs)[which]()
            samples[which].append(clock() - start)
    ratios = np.array(samples[1]) / np.array(samples[0])
    low, high = bootstrap_median(ratios)
    return Comparison(samples[0], samples[1], float(np.median(ratios)), low, high)


def bootstrap_median(values: np.ndarray, *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a median, by resampling."""
    picks = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(np.median(values[picks], axis=1), [2.5, 97.5])
    return float(low), float(high)


def environment(packages: Sequence[str]) -> dict[str, Any]:
    """What the figures depend on: processor, cores, versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in packages},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
