"""What other libraries would send or fetch by themselves, and the switches in the environment that stop them.

ONNX Runtime's official builds have a device id of their own and send events since 1.29 (its `Privacy.md`);
ORT_DISABLE_TELEMETRY=1 stops all of it, if it stands in the environment before the library is loaded. Importing
`alref_edge` puts it there, for this process and those that it starts.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, MutableMapping

TELEMETRY = "ORT_DISABLE_TELEMETRY"
HUBS = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_DISABLE_TELEMETRY",
    "DO_NOT_TRACK",
)
VLLM = (TELEMETRY, *HUBS, "VLLM_NO_USAGE_STATS", "VLLM_DO_NOT_TRACK")

_ON = ("1", "true", "yes", "on")  # what ONNX Runtime and Hugging Face's libraries read as yes


class OfflineWarning(UserWarning):
    """A setting of the user's, or the order of imports, is against what this package promises."""


def is_set(name: str) -> bool:
    """Whether a switch stands in this process's environment."""
    return os.environ.get(name, "").strip().lower() in _ON


loaded_first = "onnxruntime" in sys.modules and not is_set(TELEMETRY)
"""Whether ONNX Runtime was loaded before this package, and without its switch."""


def switch_off(names: Iterable[str], environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets switches. One that says otherwise is overruled, since nothing here goes online, and a warning says so."""
    for name in names:
        said = environment.get(name, "").strip()
        environment[name] = "1"
        if said and said.lower() not in _ON:
            _warn(f"{name}={said} is overruled by {name}=1: alref-edge is offline, and so is what it loads and starts.")


def _switch_off_telemetry() -> None:
    if loaded_first:
        _warn(
            "onnxruntime was imported before alref_edge, without its switch: it may write a device id and send events "
            f"from this process. Import alref_edge first, or set {TELEMETRY}=1 before the program starts."
        )
    switch_off((TELEMETRY,))


def _warn(text: str) -> None:
    """Warn on behalf of the line that imports or calls this package."""
    level, frame = 0, sys._getframe()
    while frame.f_back is not None and (name := frame.f_globals["__name__"]).startswith(("alref_edge", "importlib.")):
        level += not name.startswith("importlib.")  # `warnings` skips these
        frame = frame.f_back
    warnings.warn(text, OfflineWarning, stacklevel=level + 1)


_switch_off_telemetry()
