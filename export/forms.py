"""The forms of a graph: one module writes itself with ONNX's operators, or with those that ONNX Runtime fuses for CUDA.

The steps of a transformer that the forms differ in, of `nn.Linear` and `nn.LayerNorm`: in the form `cuda`, products are
nothing else, and biases are added by what follows. A module of such steps knows of forms where these do not suffice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn

from export import fused
from export.gelu import gelu

_FORM = ContextVar("form", default="standard")


@contextmanager
def writing(form: str) -> Iterator[None]:
    """Within it, modules write themselves in a form. Those of `cuda` cannot be run in torch."""
    token = _FORM.set(form)
    try:
        yield
    finally:
        _FORM.reset(token)


def fusing() -> bool:
    """Is the form with fused operators being written?"""
    return _FORM.get() == "cuda"


def joined(x: Tensor, branch: Tensor, last: nn.Linear, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """The sum of x and a branch that ends in the layer `last`, and the sum normalised."""
    if fusing():
        return fused.add_norm(x, fused.project(branch, last), norm, last.bias)
    total = x + last(branch)
    return total, norm(total)


def hidden_gelu(x: Tensor, linear: nn.Linear) -> Tensor:
    """The GELU of what a layer makes of x."""
    return fused.bias_gelu(fused.project(x, linear), linear.bias) if fusing() else gelu(linear(x))
