"""What programs need to run the official code beside ours: its environment, and the shipped weights in its format."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from alref_edge.bundle import Bundle
from alref_edge.bundle.verify import sha256_of
from alref_edge.errors import InputError

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "export" / "nano" / "weights"


def reference_python() -> str:
    """Python of the reference environment, from ALREF_REFERENCE_PYTHON.

    Raises:
        InputError: the variable is not set.
    """
    python = os.environ.get("ALREF_REFERENCE_PYTHON")
    if not python:
        raise InputError(
            "The reference environment is not named.",
            expected="its python in ALREF_REFERENCE_PYTHON",
            mend="bash benchmarks/official/install.sh FOLDER",
        )
    return python


def run_official(runner: str, *arguments: str) -> None:
    """Run a module of `benchmarks.official` in the reference environment.

    Raises:
        RuntimeError: it failed; the end of what it said is in the message.
    """
    command = [reference_python(), "-m", f"benchmarks.official.{runner}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the official runner {runner} failed:\n{done.stderr[-3000:]}")


def official_checkpoints(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """The weights that the shipped bundle was exported from, official checkpoints, as the runners want them.

    Raises:
        InputError: the committed weights are not those of the bundle.
    """
    checkpoints = {}
    for name in ("sam2", "grounding_dino"):
        entry = bundle.manifest.components[name]
        path = WEIGHTS / str(entry.source.get("checkpoint"))
        if not path.is_file() or sha256_of(path) != entry.source["sha256"]:
            raise InputError(
                f"The bundle {bundle.manifest.name!r} was not made from the weights in {WEIGHTS}.",
                expected=entry.source,
                mend="export engines/nano again, as its model card says.",
            )
        checkpoints[name] = {"variant": entry.variant, "checkpoint": str(path)}
    checkpoints["grounding_dino"]["vocab"] = str(WEIGHTS / "vocab.txt")
    return checkpoints
