"""Running graphs: one protocol, one backend an engine."""

from __future__ import annotations

from pathlib import Path

from alref_edge.errors import EngineError
from alref_edge.runtime.buffers import Buffer
from alref_edge.runtime.session import Session, SessionOptions, TensorSpec

__all__ = ["Buffer", "Session", "SessionOptions", "TensorSpec", "open_session"]


def open_session(path: str | Path, *, device: str = "auto", options: SessionOptions | None = None) -> Session:
    """Load a graph and make it ready to run.

    Args:
        path: an `.onnx` file.
        device: "cpu", "cuda", "cuda:N", or "auto".
        options: threads, fall-back and provider settings.

    Raises:
        EngineError: there is no such graph, or it cannot be loaded.
        ProviderError: the device does not work here and falling back was not allowed.
    """
    from alref_edge.runtime import onnxruntime, providers

    path = Path(path)
    if not path.is_file():
        raise EngineError(f"There is no graph at {path}.", mend="export the bundle again.")
    options = options or SessionOptions()
    return onnxruntime.OnnxRuntimeSession(
        path, providers.resolve(device, allow_fallback=options.allow_fallback), options
    )
