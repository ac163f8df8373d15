"""Export of BEATs, fine-tuned on AudioSet: official checkpoints, or seeded weights, also of nano size."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from export.beats.configs import BASE, NANO, VARIANTS, BeatsConfig

if TYPE_CHECKING:
    from export.beats.checkpoint import Checkpoint, build_model, load_checkpoint
    from export.beats.exporter import export_beats
    from export.beats.seeding import seeded_checkpoint

__all__ = [
    "BASE",
    "NANO",
    "VARIANTS",
    "BeatsConfig",
    "Checkpoint",
    "build_model",
    "export_beats",
    "load_checkpoint",
    "seeded_checkpoint",
]

_LAZY = {
    "Checkpoint": "checkpoint",
    "build_model": "checkpoint",
    "export_beats": "exporter",
    "load_checkpoint": "checkpoint",
    "seeded_checkpoint": "seeding",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
