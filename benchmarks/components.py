"""Each graph beside the official PyTorch module: the same weights, inputs and threads, run in turn."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from alref_edge.bundle import Component
from benchmarks.timing import HEADER, Comparison, compare, environment, processor_time

# name → (ours, theirs): one call each.
Case = tuple[str, Callable[[], object], Callable[[], object]]
# Kind of component and variant, by suite.
SUITES = {
    "sam2.1_nano": ("sam2", "sam2.1_nano"),
    "sam2.1_tiny": ("sam2", "sam2.1_tiny"),
    "sam2.1_base_plus": ("sam2", "sam2.1_base_plus"),
    "grounding_dino_nano": ("grounding_dino", "nano"),
    "swin_t": ("grounding_dino", "swin_t"),
    "swin_b": ("grounding_dino", "swin_b"),
    "beats_nano": ("beats", "as2m_nano"),
    "beats_as20k": ("beats", "as20k"),
    "beats_as2m": ("beats", "as2m"),
    "languagebind_nano": ("languagebind", "nano"),
    "languagebind": ("languagebind", "vit_l14"),
    "yamnet_nano": ("yamnet", "nano"),
    "yamnet": ("yamnet", "yamnet"),
}
CLOCKS = {"wall": time.perf_counter, "processor": processor_time}
DEFAULT = ("sam2.1_tiny", "swin_t", "beats_as20k", "beats_as2m", "beats_nano", "languagebind", "yamnet")


def main(argv: list[str]) -> int:
    """Time the suites asked for; print a table and write the samples as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks components", description=__doc__)
    parser.add_argument("--suite", action="append", choices=SUITES, help=f"default: {', '.join(DEFAULT)}")
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: on a busy machine, for 1 thread")
    parser.add_argument("--work", type=Path, default=Path(".parity_cache/components"), help="where exports are kept")
    parser.add_argument("--out", type=Path, help="JSON file for the samples")
    arguments = parser.parse_args(argv)
    if arguments.clock == "processor" and arguments.threads != 1:
        parser.error("--clock processor adds up what threads wait for each other: give --threads 1")

    rows: dict[str, Comparison] = {}
    print(HEADER)
    for suite in arguments.suite or DEFAULT:
        for name, ours, theirs in _cases(suite, arguments.work, arguments.threads):
            rows[f"{suite} {name}"] = compare(ours, theirs, runs=arguments.runs, clock=CLOCKS[arguments.clock])
            print(rows[f"{suite} {name}"].row(f"{suite} {name}"), flush=True)
    if arguments.out:
        packages = ("onnxruntime", "torch", "sam2", "numpy")
        result = {
            "program": "components",
            "threads": arguments.threads,
            "clock": arguments.clock,
            "environment": environment(packages),
            "rows": {name: row.to_json() for name, row in rows.items()},
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _cases(suite: str, work: Path, threads: int) -> Iterator[Case]:
    import torch

    torch.set_num_threads(threads)
    kind, variant = SUITES[suite]
    cases = import_module(f"benchmarks.components_{kind}").cases
    yield from cases(variant, _exported(kind, variant, work / suite), threads)


def _exported(kind: str, variant: str, root: Path) -> Component:
    """The component of a seeded export, made once and kept in a bundle of its own."""
    from alref_edge.bundle import Bundle
    from export.bundle import add_to_bundle

    if not (root / "bundle.json").exists():
        export = getattr(import_module(f"export.{kind}"), f"export_{kind}")
        made = root.with_name(f".making-{root.name}")
        made.mkdir(parents=True, exist_ok=True)
        root.mkdir(parents=True, exist_ok=True)
        add_to_bundle(root, export(variant, made, seed=0))
        made.rmdir()
    bundle = Bundle.open(root)
    (name,) = bundle.manifest.components
    return bundle.component(name)
