"""Each graph beside the official PyTorch module: the same weights, inputs and threads, run in turn."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import HEADER, Comparison, compare, environment

# name → (ours, theirs): one call each.
Case = tuple[str, Callable[[], object], Callable[[], object]]
SUITES = ("sam2.1_nano", "sam2.1_tiny", "sam2.1_base_plus", "nano", "swin_t", "swin_b")


def main(argv: list[str]) -> int:
    """Time the suites asked for; print a table and write the samples as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks components", description=__doc__)
    parser.add_argument("--suite", action="append", choices=SUITES, help="default: sam2.1_tiny and swin_t")
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", type=Path, default=Path(".parity_cache/components"), help="where exports are kept")
    parser.add_argument("--out", type=Path, help="JSON file for the samples")
    arguments = parser.parse_args(argv)

    rows: dict[str, Comparison] = {}
    print(HEADER)
    for suite in arguments.suite or ("sam2.1_tiny", "swin_t"):
        for name, ours, theirs in _cases(suite, arguments.work, arguments.threads):
            rows[f"{suite} {name}"] = compare(ours, theirs, runs=arguments.runs)
            print(rows[f"{suite} {name}"].row(f"{suite} {name}"), flush=True)
    if arguments.out:
        packages = ("onnxruntime", "torch", "sam2", "transformers", "numpy")
        result = {
            "program": "components",
            "threads": arguments.threads,
            "environment": environment(packages),
            "rows": {name: row.to_json() for name, row in rows.items()},
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _cases(suite: str, work: Path, threads: int) -> Iterator[Case]:
    import torch

    torch.set_num_threads(threads)
    if suite.startswith("sam2"):
        from benchmarks.components_sam2 import cases
    else:
        from benchmarks.components_grounding_dino import cases
    yield from cases(suite, _exported(suite, work), threads)


def _exported(suite: str, work: Path) -> Any:
    """The component of a seeded export, made once and kept."""
    from alref_edge.bundle import Bundle
    from export.bundle import add_to_bundle

    root = work / suite
    name = "sam2" if suite.startswith("sam2") else "grounding_dino"
    if not (root / "bundle.json").exists():
        if name == "sam2":
            from export.sam2 import export_sam2 as export
        else:
            from export.grounding_dino import export_grounding_dino as export
        made = work / f".making-{suite}"
        made.mkdir(parents=True, exist_ok=True)
        root.mkdir(parents=True, exist_ok=True)
        add_to_bundle(root, export(suite, made, seed=0))
        made.rmdir()
    return Bundle.open(root).component(name)
