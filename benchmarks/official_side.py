"""What programs need to run the official code beside ours: its environment, and the shipped weights in its format."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from alref_edge.bundle import Bundle
from alref_edge.errors import InputError

ROOT = Path(__file__).parent.parent


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


def official_checkpoints(bundle: Bundle, folder: Path) -> dict[str, dict[str, Any]]:
    """The weights of a seeded bundle as official checkpoints in `folder`, by component, as the runners want them."""
    from export.grounding_dino import save_seeded_checkpoint as save_grounding_dino
    from export.sam2 import save_seeded_checkpoint as save_sam2

    components = bundle.manifest.components
    sam2, grounding = components["sam2"], components["grounding_dino"]
    save_sam2(sam2.variant, sam2.source["seed"], folder / "sam2.pt")
    save_grounding_dino(grounding.variant, grounding.source["seed"], folder / "grounding_dino.pth")
    return {
        "sam2": {"variant": sam2.variant, "checkpoint": str(folder / "sam2.pt")},
        "grounding_dino": {
            "variant": grounding.variant,
            "checkpoint": str(folder / "grounding_dino.pth"),
            "vocab": str((bundle.root / grounding.files["vocab"]).resolve()),
        },
    }
