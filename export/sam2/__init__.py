"""Export of SAM 2 and SAM 2.1: the official modules, rewritten for export, as five ONNX graphs.

`variants`, `build` and `seeding` need torch and sam2 only, so that the reference environment can build the same model;
the graphs are made by `exporter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.sam2.build import build_model, save_seeded_checkpoint
    from export.sam2.exporter import export_sam2
    from export.sam2.variants import VARIANTS, model_config

__all__ = ["VARIANTS", "build_model", "export_sam2", "model_config", "save_seeded_checkpoint"]

_HOME = {
    "VARIANTS": "variants",
    "model_config": "variants",
    "build_model": "build",
    "save_seeded_checkpoint": "build",
    "export_sam2": "exporter",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
