"""How a worker in the reference environment runs parts of the official code, one whenever its input names it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping


def serve(parts: Mapping[str, Callable[[], object]]) -> None:
    """Say `ready`, then run the part that each line of the input names and answer `done`, until the input ends."""
    import torch

    print("ready", flush=True)
    with torch.inference_mode():
        for line in sys.stdin:
            parts[line.strip()]()
            print("done", flush=True)
