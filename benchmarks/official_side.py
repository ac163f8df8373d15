"""What programs need to run the official code beside ours: its environment, and the shipped weights in its format."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
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


def official_checkpoints(bundle: Bundle, weights: Path = WEIGHTS) -> dict[str, dict[str, Any]]:
    """What a bundle was exported from, official checkpoints, as the runners want them.

    Args:
        bundle: one exported from files, not from seeds.
        weights: folder in which those files are, anywhere.

    Raises:
        InputError: a file is not there, or is another.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in ("sam2", "grounding_dino", "languagebind"):
        entry = bundle.manifest.components.get(name)
        if entry is not None:
            path = _exported(bundle, entry.source, "", weights)
            found[name] = {"variant": entry.variant, "checkpoint": str(path)}
            if name == "grounding_dino":
                found[name]["vocab"] = str(path.with_name("vocab.txt"))
            if "image_sha256" in entry.source:
                found[name]["image_checkpoint"] = str(_exported(bundle, entry.source, "image_", weights))
    return found


def _exported(bundle: Bundle, source: Mapping[str, Any], prefix: str, weights: Path) -> Path:
    """The file of `weights` that a component's record names."""
    for path in weights.rglob(str(source.get(f"{prefix}checkpoint"))):
        if sha256_of(path) == source[f"{prefix}sha256"]:
            return path
    raise InputError(
        f"The bundle {bundle.manifest.name!r} was not made from the weights in {weights}.",
        expected=dict(source),
        mend="export it from them again, as its model card says for engines/nano.",
    )
