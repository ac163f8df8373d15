"""Every row of the table of targets and the official code beside it, by one command.

Parts run one after another, each in a process of its own, which ends within 150 s. Their results are files in DIR,
written after every row: the same command again goes on where the last one stopped, and measures nothing twice. They are
merged into DIR/gpu.json. A bundle without its weights (`python -m benchmarks skeleton`) is filled with random ones
first: speed does not depend on the values.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from alref_edge.bundle import Bundle, default_bundle
from alref_edge.bundle.manifest import MANIFEST
from alref_edge.errors import AlrefError
from alref_edge.files import unwound_by_signals
from alref_edge.runtime.device import resolve
from benchmarks import fill
from benchmarks.gpu import machine, targets
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.record import Record, Skipped, read_json, write_json
from benchmarks.gpu.subject import Subject

_SECONDS, _RUNS = 450, 50


def main(argv: list[str]) -> int:
    """Run the parts asked for that are not done; 0 when all rows are measured but those that cannot be here."""
    arguments = _parser().parse_args(argv)
    arguments.work = arguments.work or arguments.out / "work"
    try:
        with unwound_by_signals():
            root = _filled(arguments.bundle or default_bundle(), arguments.work)
            if arguments.here:
                return _run_here(arguments.part[0], root, arguments)
            return _run_all(root, arguments)
    except AlrefError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    default = ", ".join(name for name, part in PARTS.items() if part.by_default)
    parser.add_argument("--part", action="append", choices=PARTS, help=f"default: {default}")
    parser.add_argument("--bundle", type=Path, help="or one without its weights; the shipped one if left out")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--work", type=Path, help="folder of filled bundles and the like, DIR/work if left out")
    parser.add_argument("--runs", type=int, default=_RUNS, help="counted runs of a graph, or frames of a tracker")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: ONNX Runtime's choice")
    parser.add_argument("--seconds", type=int, default=_SECONDS, help="no part goes on for longer after the start")
    parser.add_argument("--again", action="store_true", help="measure parts anew that are done")
    parser.add_argument("--here", action="store_true", help="run the one part named in this process, without a limit")
    return parser


def _run_all(root: Path, arguments: argparse.Namespace) -> int:
    # What no part could run with is told once, before any does.
    resolve(arguments.device)
    Bundle.open(root)
    arguments.out.mkdir(parents=True, exist_ok=True)
    began, left = time.monotonic(), []
    chosen = arguments.part or [name for name, part in PARTS.items() if part.by_default]
    for name in chosen:
        if not arguments.again and _record(name, root, arguments).done:
            print(f"{name}: done before")
            continue
        limit = min(PARTS[name].seconds, arguments.seconds - (time.monotonic() - began))
        if limit < 1:
            left.append(f"{name} (no time left)")
            continue
        print(f"{name}:", flush=True)
        ended = _run_process(name, root, arguments, limit)
        if ended is None:
            left.append(f"{name} (cut short after {limit:.0f} s)")
        elif ended:
            left.append(f"{name} (ended with {ended})")
    result = _merge(arguments.out)
    print()
    print("\n".join(targets.markdown(result)))
    for part in result["parts"].values():
        for warning in part.get("warnings", ()):
            print(f"warning: {part['subject']['variant']}: {warning}")
    print(f"\n{arguments.out / 'gpu.json'}")
    if left:
        print(f"not done: {', '.join(left)}; the same command goes on from here", file=sys.stderr)
    return 1 if left else 0


def _run_process(name: str, root: Path, arguments: argparse.Namespace, limit: float) -> int | None:
    """Run a part in a process of its own; its exit status, or None where it was ended at its limit."""
    command = [sys.executable, "-m", "benchmarks", "gpu", "--here", "--part", name, "--bundle", str(root)]
    command += ["--device", arguments.device, "--out", str(arguments.out), "--work", str(arguments.work)]
    command += [
        "--runs",
        str(arguments.runs),
        "--threads",
        str(arguments.threads),
        *(["--again"] if arguments.again else []),
    ]
    quiet = {**os.environ, "TQDM_DISABLE": "1"}  # of the official code's bars
    process = subprocess.Popen(command, start_new_session=True, env=quiet)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):  # it, and what it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _run_here(name: str, root: Path, arguments: argparse.Namespace) -> int:
    record = _record(name, root, arguments, again=arguments.again)
    subject = Subject(root, arguments.device, arguments.runs, arguments.threads, arguments.work)
    began, memory = time.monotonic(), subject.memory()
    try:
        PARTS[name].measure(subject, record)
    except Skipped as reason:
        print(f"  skipped: {reason}")
        record.skip(str(reason))
        return 0
    record.note(seconds=round(time.monotonic() - began, 1), memory_before=memory, memory_after=subject.memory())
    record.finish(machine.facts(arguments.device))
    return 1 if record.failures else 0


def _record(name: str, root: Path, arguments: argparse.Namespace, *, again: bool = False) -> Record:
    """The file of a part about this bundle on this device."""
    of = PARTS[name].of
    # The manifest alone: verifying the files is for the processes that run them.
    manifest = fill.read_manifest(root / MANIFEST)
    entry = manifest["components"].get(of, {"variant": f"no {of}"})
    variant = of.strip("()") if of.startswith("(") else str(entry["variant"])
    subject: dict[str, Any] = {"part": name, "variant": variant, "device": arguments.device}
    if not of.startswith("("):
        subject["bundle"] = fill.sha256_of_manifest(root / MANIFEST)
    return Record(arguments.out / f"{name}.{variant}.json", subject, again=again)


def _filled(bundle: Path, work: Path) -> Path:
    """The bundle, or where it lacks its weights one that has random ones."""
    if not fill.is_skeleton(bundle):
        return bundle
    root = work / "bundles" / bundle.resolve().name
    if not fill.is_filled(bundle, root):
        print(f"filling {bundle} with random weights: {root}", flush=True)
        fill.fill(bundle, root)
    return root


def _merge(out: Path) -> dict[str, Any]:
    parts = {path.stem: read_json(path) for path in sorted(out.glob("*.*.json"))}
    parts = {name: part for name, part in parts.items() if part.get("program") == "gpu"}
    order = list(PARTS)
    parts = dict(sorted(parts.items(), key=lambda each: order.index(each[1]["subject"]["part"])))
    result = {"program": "gpu", "parts": parts}
    write_json(out / "gpu.json", result)
    return result
