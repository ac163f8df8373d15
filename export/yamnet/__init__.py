"""Export of YAMNet: MobileNet-v1 over log-mel patches, from the official Keras `yamnet.h5` or from a seed.

`variants` and `keras_file` need numpy and h5py only; the graph is made by `exporter`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.yamnet.exporter import export_yamnet
    from export.yamnet.keras_file import read_weights, save_seeded_checkpoint, write_weights
    from export.yamnet.variants import VARIANTS

__all__ = ["VARIANTS", "export_yamnet", "read_weights", "save_seeded_checkpoint", "write_weights"]

_HOME = {
    "VARIANTS": "variants",
    "export_yamnet": "exporter",
    "read_weights": "keras_file",
    "save_seeded_checkpoint": "keras_file",
    "write_weights": "keras_file",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
