"""Two results of `python -m benchmarks gpu`: every row that both have, and whether the new one is slower.

A row is slower where its median has grown by more than allowed, and by more than half of that whatever samples are
drawn again: the 95 % interval of the ratio of medians. Of kernels, whose time scatters little, the ratio alone counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alref_edge.errors import AlrefError, InputError
from benchmarks.gpu.record import all_rows, read_result
from benchmarks.gpu.targets import ratio_of_medians


@dataclass(frozen=True)
class Change:
    """A row of two results.

    Attributes:
        name: the row's, "kernels" added where their own time is meant.
        old, new: medians.
        unit: of these.
        ratio: new / old: above 1, the new one is slower.
        low, high: its 95 % interval.
    """

    name: str
    old: float
    new: float
    unit: str
    ratio: float
    low: float
    high: float


def main(argv: list[str]) -> int:
    """Print the rows; 0 when none is a regression, 1 when one is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=__doc__)
    parser.add_argument("old", type=Path, help="gpu.json or its folder")
    parser.add_argument("new", type=Path)
    parser.add_argument("--max-regression", type=float, default=0.1, help="share of the old time; 0.1 if left out")
    arguments = parser.parse_args(argv)
    try:
        old, new = read_result(arguments.old), read_result(arguments.new)
        found = list(changes(all_rows(old), all_rows(new)))
        if not found:
            raise InputError("The two results have no row in common.", mend="measure the same parts and bundle.")
    except AlrefError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for difference in other_machine(old, new):
        print(f"warning: {difference}")
    slower = [change for change in found if is_regression(change, arguments.max_regression)]
    for change in found:
        mark = "SLOWER" if change in slower else ""
        interval = f"{change.ratio:.3f} [{change.low:.3f}, {change.high:.3f}]"
        print(f"{change.name:<72}{change.old:>10.4g}{change.new:>10.4g} {change.unit:<3}{interval:>24}  {mark}")
    only_old = sorted(all_rows(old).keys() - all_rows(new).keys())
    for name in only_old:
        print(f"warning: {name}: in the old result alone")
    print(f"{len(found)} rows, {len(slower)} slower by more than {arguments.max_regression:.0%}")
    return 1 if slower else 0


def changes(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> Iterator[Change]:
    """What became of every row that two results have."""
    for name in (name for name in old if name in new):
        one, other = old[name], new[name]
        ratio, low, high = ratio_of_medians(other["samples"], one["samples"])
        yield Change(name, one["median"], other["median"], one["unit"], ratio, low, high)
        kernels = [row.get("profile", {}) for row in (one, other)]
        times = [each.get("device_ms") for each in kernels]
        if kernels[0].get("source") == kernels[1].get("source") and all(times) and "gpu_memory_mib" in one:
            ratio = times[1] / times[0]
            yield Change(f"{name}, kernels", times[0], times[1], "ms", ratio, ratio, ratio)


def is_regression(change: Change, most: float) -> bool:
    """Whether a row is slower by more than `most`, a share of the old time, and not by what its samples scatter."""
    return change.ratio > 1 + most and change.low > 1 + most / 2


def other_machine(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """In what the machines differ that the figures depend on."""
    known = [_machine(result) for result in (old, new)]
    for key in known[0].keys() & known[1].keys():
        if known[0][key] != known[1][key]:
            yield f"{key} was {known[0][key]}, and is {known[1][key]}: times may differ for that alone"


def _machine(result: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in result["parts"].values():
        environment = part.get("environment", {})
        found |= {key: environment[key] for key in ("processor", "cores") if key in environment}
        if "gpu" in environment:
            found |= {"GPU": environment["gpu"]["name"], "driver": environment["gpu"].get("driver")}
    return found
