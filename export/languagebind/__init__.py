"""Export of LanguageBind: audio tower and text towers, from official folders or seeds.

Importing it loads neither torch nor onnx: the reference environment, which has no onnx, reads the configurations here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from export.languagebind.configs import VARIANTS, official_config

if TYPE_CHECKING:
    from export.languagebind.exporter import export_languagebind
    from export.languagebind.seeding import save_seeded_folder

__all__ = ["VARIANTS", "export_languagebind", "official_config", "save_seeded_folder"]

_LAZY = {"export_languagebind": "exporter", "save_seeded_folder": "seeding"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
