"""Export of Grounding DINO: Swin-T, Swin-B and nano, from official checkpoints, transformers folders or seeds.

Importing it loads neither torch nor onnx: the reference environment, which has no onnx, reads the configurations here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from export.grounding_dino.configs import VARIANTS, official_config

if TYPE_CHECKING:
    from export.grounding_dino.exporter import export_grounding_dino
    from export.grounding_dino.seeding import save_seeded_checkpoint

__all__ = ["VARIANTS", "export_grounding_dino", "official_config", "save_seeded_checkpoint"]

_LAZY = {"export_grounding_dino": "exporter", "save_seeded_checkpoint": "seeding"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
