"""Which backend runs on a device, and whether the device works here. Knows no library that runs graphs."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from alref_edge.bundle.files import GraphFile
from alref_edge.errors import ProviderError
from alref_edge.runtime.session import Session, SessionOptions, Signature

BACKENDS = {"cpu": "alref_edge.runtime.ort", "cuda": "alref_edge.runtime.ort"}
"""Module of the `Backend` by kind of device; device N of a kind is "kind:N", the first of them "kind" too."""

_FORMS = {"cuda": ("cuda", "standard")}
_AUTO = ("cuda", "cpu")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """A device: its kind, a key of `BACKENDS`, and its number."""

    kind: str
    number: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.number}"


@dataclass(frozen=True)
class Probe:
    """Whether a provider runs a graph on this machine, and if not, why not."""

    provider: str
    works: bool
    reason: str = ""


class Backend(Protocol):
    """What the module of a backend has."""

    def probe(self, placement: Placement) -> Probe:
        """Run a small graph on a device and see whether it stays there."""
        ...

    def open_session(
        self, graph: GraphFile, placement: Placement, options: SessionOptions, signature: Signature | None
    ) -> Session:
        """See `alref_edge.runtime.open_session`, whose errors it raises."""
        ...


def backend(kind: str) -> Backend:
    """The backend of a kind of device, imported when it is first asked for."""
    module: Backend = import_module(BACKENDS[kind])  # type: ignore[assignment]
    return module


def forms_of(kind: str) -> tuple[str, ...]:
    """The forms of graphs that run on a kind of device, best first."""
    return _FORMS.get(kind, ("standard",))


def resolve(device: str, *, allow_fallback: bool = False) -> Placement:
    """What a device name means here.

    Args:
        device: "cpu", "cuda", "cuda:N", or "auto": CUDA where it works, else the CPU.
        allow_fallback: take the CPU where the device asked for does not work.

    Raises:
        ProviderError: the name is unknown, or the device does not work here.
    """
    if device == "auto":
        found = (Placement(kind) for kind in _AUTO)
        placement = next(each for each in found if each.kind == "cpu" or backend(each.kind).probe(each).works)
        _log.debug("the device auto is %s", placement)
        return placement
    match = re.fullmatch(r"(\w+?)(?::(\d+))?", device, re.ASCII)
    if match is None or match[1] not in BACKENDS or (match[1] == "cpu" and match[2]):
        others = [name for kind in BACKENDS if kind != "cpu" for name in (kind, f"{kind}:N")]
        raise ProviderError(
            "There is no such device.",
            expected=f"{', '.join(['auto', 'cpu', *others[:-1]])} or {others[-1]}",
            got=device,
            mend="choose one of these.",
        )
    placement = Placement(match[1], int(match[2] or 0))
    if placement.kind == "cpu":
        return placement
    probed = backend(placement.kind).probe(placement)
    if probed.works:
        return placement
    if allow_fallback:
        _log.warning("%s does not work here, the CPU is taken", placement)
        return Placement("cpu")
    raise fell_back(probed.provider, probed.reason)


def fell_back(provider: str, reason: str) -> ProviderError:
    """The error for a provider that was asked for and does not run."""
    return ProviderError(
        f"{provider} was asked for but does not work here: {reason}.",
        mend="install the GPU build (pip install 'alref-edge[gpu]') and the driver that it needs, see "
        "`alref-edge doctor`, or use --device cpu, or --allow-fallback.",
    )
