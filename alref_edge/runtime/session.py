"""What every backend offers: named tensors in, named tensors out, state that may stay on the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from alref_edge.errors import EngineError
from alref_edge.runtime.buffers import Buffer

Feeds: TypeAlias = Mapping[str, "np.ndarray | Buffer"]


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output: a symbolic dimension is a name, a fixed one a number."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class SessionOptions:
    """How a session runs.

    Attributes:
        threads: CPU threads for one operator; 0 leaves the choice to the backend (one a physical core).
        allow_fallback: let a session run on the CPU when the device asked for does not work.
        providers: extra settings of the execution provider, as ONNX Runtime names them.
    """

    threads: int = 0
    allow_fallback: bool = False
    providers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise EngineError("A session cannot run on fewer than no threads.", expected="0 or more", got=self.threads)


class Session(Protocol):
    """One graph, ready to run on `device`.

    `provider` is the one that ONNX Runtime really registered for it; operators that it lacks may still run on the CPU.
    """

    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def outputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def provider(self) -> str: ...

    @property
    def device(self) -> str: ...

    def run(self, feeds: Feeds, *, into: Mapping[str, Buffer] | None = None) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            feeds: every input by name, an array of the host or a buffer of this session's device.
            into: outputs that are to be written in place into a buffer of the device; they are not returned.

        Returns:
            The outputs not named in `into`, as arrays of the host.

        Raises:
            EngineError: a name, dtype or shape does not fit the graph, or the backend failed.
        """
        ...

    def buffer(self, shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> Buffer:
        """A zeroed buffer on this session's device."""
        ...

    def close(self) -> None:
        """Give back what the session holds; closing twice does nothing."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_tensors(
    graph: str,
    inputs: Mapping[str, TensorSpec],
    feeds: Feeds,
    outputs: Mapping[str, TensorSpec],
    into: Mapping[str, Buffer],
    device: str,
) -> None:
    """Raise an EngineError unless the tensors of a run fit its graph.

    `feeds` must have just the graph's inputs and `into` only outputs, with their dtypes and shapes, buffers on the
    session's device. A symbolic dimension takes any size, but the same size wherever its name stands.
    """
    _check_names(graph, "input", inputs, feeds, complete=True)
    _check_names(graph, "output", outputs, into, complete=False)
    sizes: dict[str, int] = {}
    for specs, tensors in ((inputs, feeds), (outputs, into)):
        for name, tensor in tensors.items():
            _check_one(graph, specs[name], tensor, sizes)
            if isinstance(tensor, Buffer) and tensor.device != device:
                raise EngineError(
                    f"{graph}: the buffer for {name!r} is on another device.", expected=device, got=tensor.device
                )


def _check_names(
    graph: str, kind: str, specs: Mapping[str, TensorSpec], given: Iterable[str], *, complete: bool
) -> None:
    given = set(given)
    wrong = given - set(specs)
    missing = set(specs) - given if complete else set()
    if wrong or missing:
        raise EngineError(f"{graph}: the {kind} names do not fit the graph.", expected=sorted(specs), got=sorted(given))


def _check_one(graph: str, spec: TensorSpec, tensor: np.ndarray | Buffer, sizes: dict[str, int]) -> None:
    fits = tensor.dtype == spec.dtype and len(tensor.shape) == len(spec.shape)
    for want, size in zip(spec.shape, tensor.shape, strict=False):
        fits = fits and size == (sizes.setdefault(want, size) if isinstance(want, str) else want)
    if not fits:
        known = ", ".join(f"{key}={size}" for key, size in sizes.items() if key in spec.shape)
        raise EngineError(
            f"{graph}: the tensor {spec.name!r} does not fit the graph.",
            expected=f"{spec}" + (f" with {known}" if known else ""),
            got=f"{tensor.dtype}[{', '.join(map(str, tensor.shape))}]",
        )
