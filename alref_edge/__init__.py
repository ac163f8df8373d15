"""alref-edge: language- and audio-referenced video object segmentation, offline, on ONNX Runtime."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from alref_edge import offline as offline  # switches ONNX Runtime's telemetry off

logging.getLogger(__name__).addHandler(logging.NullHandler())

_HOMES = {
    "AlrefError": "alref_edge.errors",
    "Beats": "alref_edge.models.beats",
    "Bundle": "alref_edge.bundle",
    "Detections": "alref_edge.types",
    "FrameSource": "alref_edge.media",
    "GroundingDino": "alref_edge.models.grounding_dino",
    "LanguageBind": "alref_edge.models.languagebind",
    "Pipeline": "alref_edge.pipeline",
    "Pivot": "alref_edge.types",
    "Sam2ImagePredictor": "alref_edge.models.sam2",
    "Sam2VideoTracker": "alref_edge.models.sam2",
    "YamNet": "alref_edge.models.yamnet",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for, so that importing the package loads no backend."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":
        return _version()
    raise AttributeError(f"module 'alref_edge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("alref-edge")
    except PackageNotFoundError:  # run from a clone that was not installed
        return "0.0.0"
