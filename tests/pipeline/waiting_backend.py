"""A backend that only waits: its graphs make ones, each in its own time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import TracebackType

import numpy as np
import numpy.typing as npt

from alref_edge.bundle.files import GraphFile
from alref_edge.runtime import Buffer, Signature
from alref_edge.runtime.device import Placement, Probe
from alref_edge.runtime.session import Feeds, SessionOptions, TensorSpec, Wanted, check_tensors


def wait(graph: str) -> None:
    """Called at each run; tests put another here."""


class WaitingSession:
    """A `Session` of a graph that is never read."""

    provider = "waiting"
    device = "waiting:0"

    def __init__(self, name: str, signature: Signature) -> None:
        self.name, self._signature = name, signature
        self.inputs, self.outputs = _specs(signature.inputs), _specs(signature.outputs)

    def run(self, feeds: Feeds, *, into: Mapping[str, Buffer] | None = None) -> dict[str, np.ndarray]:
        """See `Session.run`."""
        into = into or {}
        check_tensors(self.name, self.inputs, feeds, self.outputs, into, self.device)
        wait(self.name)
        for place in into.values():
            place.write(np.ones(place.shape, place.dtype))
        shapes = self._signature.output_shapes(feeds)
        return {
            name: np.ones([size or 1 for size in shapes[name]], self.outputs[name].dtype)
            for name in self.outputs
            if name not in into
        }

    def buffer(self, shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> Buffer:
        """See `Session.buffer`."""
        buffer = Buffer.on_host(shape, np.dtype(dtype))
        buffer.device = self.device
        return buffer

    def close(self) -> None:
        """See `Session.close`: nothing is held."""

    def __enter__(self) -> WaitingSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def probe(placement: Placement) -> Probe:
    """See `Backend.probe`."""
    return Probe("waiting", works=True)


def open_session(
    graph: GraphFile, placement: Placement, options: SessionOptions, signature: Signature | None
) -> WaitingSession:
    """See `Backend.open_session`."""
    assert signature is not None
    return WaitingSession(PurePath(graph.file.name).stem, signature)


def _specs(wanted: Mapping[str, Wanted]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, np.dtype(dtypes.split("|")[0]), shape) for name, (dtypes, shape) in wanted.items()}
