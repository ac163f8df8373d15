"""Running graphs: one protocol, one backend an engine."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from alref_edge.bundle.files import GraphFile
from alref_edge.errors import EngineError
from alref_edge.runtime.buffers import Buffer, start_reading, to_host
from alref_edge.runtime.device import backend, resolve
from alref_edge.runtime.memory import free_memory
from alref_edge.runtime.session import Session, SessionOptions, Signature, TensorSpec

__all__ = [
    "Buffer",
    "Session",
    "SessionOptions",
    "Signature",
    "TensorSpec",
    "free_memory",
    "open_session",
    "start_reading",
    "to_host",
]

_log = logging.getLogger(__name__)


def open_session(
    graph: str | Path | GraphFile,
    *,
    device: str = "auto",
    options: SessionOptions | None = None,
    signature: Signature | None = None,
) -> Session:
    """Load a graph and make it ready to run.

    Args:
        graph: an `.onnx` file, or one of a bundle as it was verified: `Component.open_graph`.
        device: "cpu", "cuda", "cuda:N", or "auto".
        options: threads, memory, precision, fall-back and provider settings.
        signature: the inputs and outputs that the graph must have; None takes any.

    Raises:
        BundleError: a file was altered since it was verified, or the graph's weights are not where they should be.
        EngineError: there is no such graph, it cannot be loaded, or it is not of that signature.
        CapacityError: it does not fit the device's memory.
        ProviderError: the device does not work here and falling back was not allowed.
    """
    if not isinstance(graph, GraphFile):
        path = Path(graph)
        if not path.is_file():
            raise EngineError(f"There is no graph at {path}.", mend="export the bundle again.")
        graph = GraphFile.at(path)
    options = options or SessionOptions()
    placement = resolve(device, allow_fallback=options.allow_fallback)
    began = time.perf_counter()
    session = backend(placement.kind).open_session(graph, placement, options, signature)
    ms = 1000 * (time.perf_counter() - began)
    _log.info("loaded %s on %s, by %s, in %.0f ms", graph.file.name, session.device, session.provider, ms)
    return session
