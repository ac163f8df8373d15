"""GELU in a form that ONNX Runtime recognises."""

from __future__ import annotations

import math

from torch import Tensor, erf


def gelu(x: Tensor) -> Tensor:
    """The exact GELU of any shape: `torch.nn.functional.gelu`.

    Exported, torch's own halves the sum before it multiplies, which ONNX Runtime runs as five operators; of this order
    it makes one, together with the bias before it.
    """
    return x * (erf(x / math.sqrt(2)) + 1) * 0.5
