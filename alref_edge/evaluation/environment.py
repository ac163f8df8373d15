"""What figures may depend on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from alref_edge.pipeline import Pipeline

_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "pillow")


def bundle_facts(pipeline: Pipeline) -> dict[str, Any]:
    """Which bundle was measured, as plain values."""
    manifest = pipeline.bundle.manifest
    return {"name": manifest.name, "sha256": pipeline.bundle.sha256, "trained": manifest.trained}


def environment() -> dict[str, Any]:
    """On what it was measured, as plain values."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": cores,
        "packages": {package: version for package in _PACKAGES if (version := _version(package))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
