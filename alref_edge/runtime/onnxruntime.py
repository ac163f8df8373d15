"""The ONNX Runtime backend: CPU and CUDA."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from alref_edge.bundle.files import GraphFile
from alref_edge.bundle.manifest import MOST_GRAPH_BYTES
from alref_edge.errors import EngineError
from alref_edge.runtime import cuda, providers
from alref_edge.runtime.buffers import Buffer
from alref_edge.runtime.onnx_file import ExternalTensor, external_tensors
from alref_edge.runtime.session import Feeds, SessionOptions, Signature, TensorSpec, check_tensors

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}

# A table that is made when a graph is loaded is no larger: the largest is an embedding of 150 MB.
_FOLDED_BYTES = 512 << 20


class OnnxRuntimeSession:
    """A `Session` on ONNX Runtime. Tensors that stay on the device are bound by address, without a copy.

    ONNX Runtime is given no path: the graph's bytes, looked through before, and weights where the file is mapped. What
    it does not copy for itself stays the file's own pages, which all sessions share.
    """

    def __init__(
        self,
        graph: GraphFile,
        placement: providers.Placement,
        options: SessionOptions,
        signature: Signature | None = None,
    ) -> None:
        onnxruntime = providers.load_onnxruntime()
        file = PurePath(graph.file.name)
        self.name = file.stem
        self._placement = placement
        self._signature = signature
        raw = graph.file.read(MOST_GRAPH_BYTES)
        tensors = external_tensors(raw, file.name)
        settings = _session_options(onnxruntime, options)
        maps, self._weights = _weights(onnxruntime, graph, tensors)
        try:
            settings.add_external_initializers(list(self._weights), list(self._weights.values()))
            self._session: Any = onnxruntime.InferenceSession(
                raw, settings, providers=[_provider(placement, options)], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime raises many classes, all of them its own
            raise EngineError(
                f"The graph {file.name} cannot be loaded.",
                got=str(error).strip()[:500],
                mend="export the bundle again with `python -m export`, or update ONNX Runtime.",
            ) from error
        for pages in maps:
            pages.madvise(mmap.MADV_DONTNEED)  # most weights are ONNX Runtime's own by now, in another order
        self.provider: str = self._session.get_providers()[0]
        if self.provider != placement.provider:
            if not options.allow_fallback:
                raise providers.fell_back(placement.provider, f"the session of {file.name} runs on {self.provider}")
            self._placement = providers.Placement(self.provider, "cpu")
        self.inputs = _specs(self._session.get_inputs())
        self.outputs = _specs(self._session.get_outputs())
        if signature is not None:
            signature.check(file.name, self.inputs, self.outputs)
            self.outputs = {name: self.outputs[name] for name in signature.outputs}

    @property
    def device(self) -> str:
        """See `Session.device`."""
        return self._placement.device

    def run(self, feeds: Feeds, *, into: Mapping[str, Buffer] | None = None) -> dict[str, np.ndarray]:
        """See `Session.run`."""
        if self._session is None:
            raise EngineError(f"{self.name}: the session is closed.", mend="open it again.")
        check_tensors(self.name, self.inputs, feeds, self.outputs, into or {}, self.device)
        into = into or {}
        room = self._room(feeds, into)
        names = [name for name in self.outputs if name not in into]
        try:
            if not into and not room and not any(isinstance(value, Buffer) for value in feeds.values()):
                return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
            return self._run_bound(feeds, {**into, **room}, names)
        except Exception as error:  # as above
            raise EngineError(f"{self.name}: ONNX Runtime failed.", got=str(error).strip()[:500]) from error

    def _room(self, feeds: Feeds, into: Mapping[str, Buffer]) -> dict[str, np.ndarray]:
        """Arrays for the outputs whose shape the signature tells: a graph that makes another of them fails."""
        if self._signature is None:
            return {}
        room = {}
        for name, shape in self._signature.output_shapes(feeds).items():
            known = [size for size in shape if size]
            if name not in into and len(known) == len(shape):
                room[name] = np.empty(known, self.outputs[name].dtype)
        return room

    def _run_bound(
        self, feeds: Feeds, into: Mapping[str, Buffer | np.ndarray], names: list[str]
    ) -> dict[str, np.ndarray]:
        binding = self._session.io_binding()
        device, number = self.device.partition(":")[0], self._placement.device_id
        for name, value in feeds.items():
            if isinstance(value, Buffer):
                binding.bind_input(name, device, number, value.dtype.type, value.shape, value.ptr)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name in self.outputs:
            target = into.get(name)
            if isinstance(target, Buffer):
                binding.bind_output(name, device, number, target.dtype.type, target.shape, target.ptr)
            elif target is not None:
                binding.bind_output(name, "cpu", 0, target.dtype.type, target.shape, target.ctypes.data)
            else:
                binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        results = dict(zip(self.outputs, binding.get_outputs(), strict=True))
        arrays = {name: target for name, target in into.items() if isinstance(target, np.ndarray)}
        return {name: arrays[name] if name in arrays else results[name].numpy() for name in names}

    def buffer(self, shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> Buffer:
        """See `Session.buffer`."""
        if self.device == "cpu":
            return Buffer.on_host(shape, np.dtype(dtype))
        onnxruntime = providers.load_onnxruntime()
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            list(shape), np.dtype(dtype).type, "cuda", self._placement.device_id
        )
        buffer = Buffer(shape, np.dtype(dtype), self.device, value.data_ptr(), value, cuda.copy)
        buffer.write(np.zeros(shape, dtype))
        return buffer

    def close(self) -> None:
        """See `Session.close`."""
        self._session = None
        self._weights = {}

    def __enter__(self) -> OnnxRuntimeSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _specs(nodes: Sequence[Any]) -> dict[str, TensorSpec]:
    specs = {}
    for node in nodes:
        if node.type not in _DTYPES:
            raise EngineError("A graph has a tensor of an unknown type.", expected=sorted(_DTYPES), got=node.type)
        # A dimension without a name of its own is like no other.
        shape = tuple(
            size if isinstance(size, int) else size or f"{node.name}.{axis}" for axis, size in enumerate(node.shape)
        )
        specs[node.name] = TensorSpec(node.name, np.dtype(_DTYPES[node.type]), shape)
    return specs


def _weights(
    onnxruntime: Any, graph: GraphFile, tensors: Sequence[ExternalTensor]
) -> tuple[list[mmap.mmap], dict[str, Any]]:
    """The files that initialisers lie in, as memory, and each initialiser there.

    Raises:
        BundleError: there is no such file, or it was altered since it was verified.
        EngineError: an initialiser lies outside its file, or all of them are more than the files hold.
    """
    maps, values = {}, {}
    for location in dict.fromkeys(tensor.location for tensor in tensors if tensor.length):
        maps[location] = graph.beside(location).mapped()
    name, most = PurePath(graph.file.name).name, 2 * sum(map(len, maps.values()))
    for tensor in tensors:
        whole: Any = maps.get(tensor.location, b"")
        if tensor.offset + tensor.length > len(whole):
            raise EngineError(
                f"The graph {name} cannot be loaded: its weights are not where it looks for them.",
                expected=f"{tensor.dtype} within the {len(whole)} bytes of {tensor.location}",
                got=f"{tensor.length} bytes from {tensor.offset} on",
                mend="export the bundle again with `python -m export`.",
            )
        array = np.frombuffer(whole, tensor.dtype, int(np.prod(tensor.shape, dtype=object)), tensor.offset)
        values[tensor.name] = onnxruntime.OrtValue.ortvalue_from_numpy(array.reshape(tensor.shape))
    if sum(tensor.length for tensor in tensors) > most:
        raise EngineError(
            f"The graph {name} cannot be loaded: it takes the same weights again and again.",
            expected=f"{most} bytes at most",
            mend="export the bundle again with `python -m export`.",
        )
    return list(maps.values()), values


def _provider(placement: providers.Placement, options: SessionOptions) -> tuple[str, dict[str, str]]:
    settings = dict(options.providers)
    if placement.provider == providers.CUDA:
        settings.setdefault("device_id", str(placement.device_id))
        # TF32 keeps 10 bits of a mantissa: a float32 graph is to be float32.
        settings.setdefault("use_tf32", "0")
    return placement.provider, settings


def _session_options(onnxruntime: Any, options: SessionOptions) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # what fails is raised, too
    settings.intra_op_num_threads = options.threads
    # A dozen graphs have a pool each: one that went on spinning after its run would slow the next graph's.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    settings.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(_FOLDED_BYTES))
    settings.add_session_config_entry("session.use_env_allocators", "1")
    return settings
