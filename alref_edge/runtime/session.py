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


Wanted: TypeAlias = tuple[str, tuple["int | str", ...]]
"""What a network needs of a tensor: its dtypes, parted by "|", and its sizes; a letter or name is any size."""


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs that a network needs of its graph. A name of a size means the same wherever it stands.

    The graph must have those inputs and no other, those outputs and maybe others, which are then not computed.
    """

    inputs: Mapping[str, Wanted]
    outputs: Mapping[str, Wanted]

    def check(self, graph: str, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
        """Raise an EngineError unless a graph has these inputs and outputs."""
        missing = [name for name in self.outputs if name not in outputs]
        if set(inputs) != set(self.inputs) or missing:
            raise EngineError(
                f"The graph {graph} is not of the network that it is listed for.",
                expected=f"{', '.join(sorted(self.inputs))} to {', '.join(sorted(self.outputs))}",
                got=f"{', '.join(sorted(inputs)) or 'nothing'} to {', '.join(sorted(outputs)) or 'nothing'}",
                mend="export the bundle again with `python -m export`.",
            )
        for wanted, specs, free in ((self.inputs, inputs, False), (self.outputs, outputs, True)):
            for name, (dtypes, shape) in wanted.items():
                if not _is_wanted(specs[name], dtypes, shape, free):
                    raise EngineError(
                        f"The graph {graph} is not of the network that it is listed for: {name!r} is another tensor.",
                        expected=f"{dtypes}[{', '.join(map(str, shape))}]",
                        got=specs[name],
                        mend="export the bundle again with `python -m export`.",
                    )

    def output_shapes(self, feeds: Feeds) -> dict[str, tuple[int | None, ...]]:
        """The shapes that outputs have for some inputs; None for a size that the inputs do not tell."""
        sizes = {
            axis: size
            for name, (_, shape) in self.inputs.items()
            for axis, size in zip(shape, feeds[name].shape, strict=True)
            if isinstance(axis, str)
        }
        return {
            name: tuple(axis if isinstance(axis, int) else sizes.get(axis) for axis in shape)
            for name, (_, shape) in self.outputs.items()
        }


@dataclass(frozen=True)
class SessionOptions:
    """How a session runs.

    Attributes:
        threads: CPU threads for one operator; 0 leaves the choice to the backend (one a physical core).
        allow_fallback: let a session run on the CPU when the device asked for does not work.
        providers: settings of the execution provider, as ONNX Runtime names them; they go before all others.
        gpu_memory: bytes of a device that all sessions of this process together may take for weights and work; None
            leaves it to them, or to the bound that an earlier session set. Buffers, and what CUDA's libraries take for
            themselves, come on top.
        tf32: let products of float32 numbers on a GPU keep 10 bits of a mantissa, which is several times faster. ONNX
            Runtime takes it for leave to use tensor cores in convolutions of float16, too.
        cuda_graphs: capture runs that repeat as CUDA graphs; None does what was measured to be best.
    """

    threads: int = 0
    allow_fallback: bool = False
    providers: Mapping[str, str] = field(default_factory=dict)
    gpu_memory: int | None = None
    tf32: bool = False
    cuda_graphs: bool | None = None

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise EngineError("A session cannot run on fewer than no threads.", expected="0 or more", got=self.threads)
        if self.gpu_memory is not None and self.gpu_memory < 1:
            raise EngineError(
                "Sessions cannot run in no memory.", expected="gpu_memory of 1 byte or more", got=self.gpu_memory
            )
        if self.gpu_memory is not None and self.cuda_graphs:
            # A captured graph keeps using the places of its intermediates, which in memory that sessions share may
            # become another one's own.
            raise EngineError(
                "CUDA graphs cannot be captured in memory that sessions share.",
                mend="leave out cuda_graphs, or gpu_memory.",
            )


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

        A device does what sessions and buffers are asked for in the order of the calls. Only reading waits for it:
        where all outputs are named in `into`, this returns when the run is queued, and an error of the run may come
        from a later call. Arrays that were fed may be changed when it returns.

        Args:
            feeds: every input by name, an array of the host or a buffer of this session's device.
            into: outputs that are to be written in place into a buffer of the device; they are not returned. They must
                not lie in what the run reads: a run that is captured is done twice.

        Returns:
            The outputs not named in `into`, as arrays of the host.

        Raises:
            EngineError: a name, dtype or shape does not fit the graph, or the backend failed.
            CapacityError: the device's memory does not suffice.
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


def _is_wanted(spec: TensorSpec, dtypes: str, shape: tuple[int | str, ...], free: bool) -> bool:
    """Whether a tensor is as wanted: a wanted number is that number, a wanted name is a name, or where it is free
    any size."""
    if str(spec.dtype) not in dtypes.split("|") or len(spec.shape) != len(shape):
        return False
    return all(
        size == want if isinstance(want, int) else free or isinstance(size, str)
        for want, size in zip(shape, spec.shape, strict=True)
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
