"""The ONNX Runtime backend: CPU and CUDA."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from alref_edge import offline
from alref_edge.bundle.files import GraphFile
from alref_edge.bundle.manifest import MOST_GRAPH_BYTES
from alref_edge.errors import AlrefError, CapacityError, EngineError, ProviderError
from alref_edge.runtime import cuda
from alref_edge.runtime.bound import BoundRuns
from alref_edge.runtime.buffers import Buffer
from alref_edge.runtime.captures import GraphCaptures
from alref_edge.runtime.device import Placement, Probe, fell_back
from alref_edge.runtime.memory import is_out_of_memory, machine_memory
from alref_edge.runtime.onnx_file import ExternalTensor, external_tensors
from alref_edge.runtime.session import Feeds, SessionOptions, Signature, TensorSpec, check_tensors

_log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA}
"""ONNX Runtime's name of the execution provider by kind of device."""

# y = Neg(x), one float: the smallest graph that shows whether a provider runs anything.
_PROBE_GRAPH = bytes.fromhex(
    "080a12003a360a0b0a017812017922034e6567120570726f62655a0f0a0178120a0a08080112040a020801620f0a0179120a0a0808"
    "0112040a02080142040a001012"
)
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}

CUDA_GRAPHS = False
"""Whether runs that repeat are captured as CUDA graphs where the options leave it open. Not measured yet."""

# The bound of each CUDA device's memory, in bytes.
_GPU_MEMORY: dict[int, int] = {}

CUDA_SETTINGS = {
    # The default searches: convolutions by a slower heuristic, transposed ones by trying every algorithm, for each new
    # shape (`conv.cc`, `conv_transpose.cc`). DEFAULT means fallback kernels, "extremely slow" by the log. This one is
    # cuDNN's first choice.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Sums of SkipLayerNormalization are as wide as its input otherwise (`skip_layer_norm_impl.cu`), those of
    # LayerNormalization always float32.
    "enable_skip_layer_norm_strict_mode": "1",
    # TF32 keeps 10 bits of a mantissa: a float32 graph is to be float32, if nothing else is asked for.
    "use_tf32": "0",
}
"""Settings of the CUDA provider that every session has."""

# A table that is made when a graph is loaded is no larger: the largest is an embedding of 150 MB.
_FOLDED_BYTES = 512 << 20


class OnnxRuntimeSession:
    """A `Session` on ONNX Runtime. Tensors that stay on the device are bound by address, without a copy.

    On CUDA, sessions and buffers of a device share one stream; see `cuda.Stream`.

    ONNX Runtime is given no path: the graph's bytes, looked through before, and weights where the file is mapped. What
    it does not copy for itself stays the file's own pages, which all sessions share.
    """

    def __init__(
        self,
        graph: GraphFile,
        placement: Placement,
        options: SessionOptions,
        signature: Signature | None = None,
    ) -> None:
        onnxruntime = load_onnxruntime()
        file = PurePath(graph.file.name)
        self.name = file.stem
        self._placement = placement
        self._signature = signature
        raw = graph.file.read(MOST_GRAPH_BYTES)
        tensors = external_tensors(raw, file.name)
        settings = _session_options(onnxruntime, options)
        stream = cuda.stream(placement.number) if placement.kind == "cuda" else None
        if stream is not None:
            options = _under_bound(placement.number, options)
            if options.gpu_memory is not None:
                _bound_gpu_memory(placement.number, options.gpu_memory, sum(tensor.length for tensor in tensors))
        maps, self._weights = _weights(onnxruntime, graph, tensors)
        try:
            settings.add_external_initializers(list(self._weights), list(self._weights.values()))
            self._session, capturing = _loaded(raw, settings, placement, options, stream)
        except Exception as error:  # ONNX Runtime raises many classes, all of them its own
            if stream is not None and is_out_of_memory(error):
                raise _out_of_memory(f"The graph {file.name} cannot be loaded", error) from error
            raise EngineError(
                f"The graph {file.name} cannot be loaded.",
                got=str(error).strip()[:500],
                mend="export the bundle again with `python -m export`, or update ONNX Runtime.",
            ) from error
        for pages in maps:
            pages.madvise(mmap.MADV_DONTNEED)  # most weights are ONNX Runtime's own by now, in another order
        self.provider: str = self._session.get_providers()[0]
        if self.provider != PROVIDERS[placement.kind]:
            if not options.allow_fallback:
                raise fell_back(PROVIDERS[placement.kind], f"the session of {file.name} runs on {self.provider}")
            self._placement, stream = Placement("cpu"), None
        self.inputs = _specs(self._session.get_inputs())
        self.outputs = _specs(self._session.get_outputs())
        if signature is not None:
            signature.check(file.name, self.inputs, self.outputs)
            self.outputs = {name: self.outputs[name] for name in signature.outputs}
        self._stream = stream
        self._bound: BoundRuns | None = None
        if stream is not None:
            self._bound = BoundRuns(
                self._session,
                self.inputs,
                self.outputs,
                (self._placement.kind, self._placement.number),
                stream,
                lambda nbytes: self.buffer((nbytes,), np.uint8),
                GraphCaptures() if capturing else None,
            )

    @property
    def device(self) -> str:
        """See `Session.device`."""
        return str(self._placement)

    def run(self, feeds: Feeds, *, into: Mapping[str, Buffer] | None = None) -> dict[str, np.ndarray]:
        """See `Session.run`."""
        if self._session is None:
            raise EngineError(f"{self.name}: the session is closed.", mend="open it again.")
        check_tensors(self.name, self.inputs, feeds, self.outputs, into or {}, self.device)
        into = into or {}
        known = self._known_shapes(feeds, into)
        try:
            if self._bound is not None:
                return self._bound.run(feeds, into, known)
            room = {
                name: np.empty(shape, self.outputs[name].dtype) for name, shape in known.items() if shape is not None
            }
            if not into and not room and not any(isinstance(value, Buffer) for value in feeds.values()):
                return dict(zip(known, self._session.run(list(known), dict(feeds)), strict=True))
            return self._run_on_host(feeds, {**into, **room}, list(known))
        except AlrefError:
            raise
        except Exception as error:  # as above
            if self._stream is not None and is_out_of_memory(error):
                raise _out_of_memory(f"{self.name}: ONNX Runtime failed", error) from error
            raise EngineError(f"{self.name}: ONNX Runtime failed.", got=str(error).strip()[:500]) from error

    def _known_shapes(self, feeds: Feeds, into: Mapping[str, Buffer]) -> dict[str, tuple[int, ...] | None]:
        """The outputs that are to be returned, with the shapes that the signature tells: a graph that makes another of
        them fails. None where it tells none."""
        shapes = {} if self._signature is None else self._signature.output_shapes(feeds)
        known: dict[str, tuple[int, ...] | None] = {}
        for name in self.outputs:
            sizes = [size for size in shapes.get(name, (None,)) if size]
            if name not in into:
                known[name] = tuple(sizes) if name in shapes and len(sizes) == len(shapes[name]) else None
        return known

    def _run_on_host(
        self, feeds: Feeds, into: Mapping[str, Buffer | np.ndarray], names: list[str]
    ) -> dict[str, np.ndarray]:
        binding = self._session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, Buffer):
                binding.bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ptr)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name in self.outputs:
            target = into.get(name)
            if target is None:
                binding.bind_output(name)
            else:
                address = target.ptr if isinstance(target, Buffer) else target.ctypes.data
                binding.bind_output(name, "cpu", 0, target.dtype.type, target.shape, address)
        self._session.run_with_iobinding(binding)
        results = dict(zip(self.outputs, binding.get_outputs(), strict=True))
        arrays = {name: target for name, target in into.items() if isinstance(target, np.ndarray)}
        return {name: arrays[name] if name in arrays else results[name].numpy() for name in names}

    def buffer(self, shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> Buffer:
        """See `Session.buffer`."""
        dtype = np.dtype(dtype)
        if self._stream is None:
            return Buffer.on_host(shape, dtype)
        onnxruntime = load_onnxruntime()
        try:
            with self._stream.turn():
                value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                    list(shape), dtype.type, "cuda", self._placement.number
                )
        except Exception as error:  # as above
            if is_out_of_memory(error):
                raise _out_of_memory(f"{self.name}: there is no room for a buffer", error) from error
            raise EngineError(f"{self.name}: ONNX Runtime made no buffer.", got=_first_line(error)) from error
        buffer = Buffer(shape, dtype, self.device, value.data_ptr(), value, self._stream)
        self._stream.zero(buffer.ptr, buffer.nbytes)
        return buffer

    def close(self) -> None:
        """See `Session.close`."""
        if self._session is None:
            return
        if self._stream is not None:
            with contextlib.suppress(AlrefError):  # of which hears who reads a result
                self._stream.wait()  # queued runs use the session's memory
        with self._stream.turn() if self._stream else contextlib.nullcontext():  # as loading
            self._session = self._bound = None
            self._weights = {}

    def __enter__(self) -> OnnxRuntimeSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_session(
    graph: GraphFile, placement: Placement, options: SessionOptions, signature: Signature | None
) -> OnnxRuntimeSession:
    """See `Backend.open_session`."""
    return OnnxRuntimeSession(graph, placement, options, signature)


def load_onnxruntime() -> Any:
    """The onnxruntime module, with the CUDA libraries of installed packages loaded where it is the GPU build.

    Raises:
        ProviderError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            "ONNX Runtime is not installed.",
            got=str(error),
            mend="pip install 'alref-edge[cpu]' for a CPU, or 'alref-edge[gpu]' for an NVIDIA GPU.",
        ) from error
    return _prepared(onnxruntime)


@cache
def _prepared(onnxruntime: Any) -> Any:
    if offline.loaded_first:
        onnxruntime.disable_telemetry_events()  # what can still be stopped
    if CUDA in onnxruntime.get_available_providers():
        with contextlib.suppress(Exception):
            onnxruntime.preload_dlls()
    _bound_memory(onnxruntime)
    return onnxruntime


def _bound_memory(onnxruntime: Any) -> None:
    """Let all sessions share one arena of the host's memory, which ends at three quarters of the machine's.

    A graph that wants more fails; without the bound the kernel would end the process, or another.
    """
    kinds = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    arena = onnxruntime.OrtArenaCfg({"max_mem": machine_memory() * 3 // 4})
    # Who uses ONNX Runtime beside us may have made one of their own: that one is taken.
    with contextlib.suppress(Exception):
        onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", kinds[0], 0, kinds[1]), arena)


@cache
def probe(placement: Placement) -> Probe:
    """See `Backend.probe`."""
    found = _probed(placement)
    _log.info("%s on %s: %s", found.provider, placement, "works" if found.works else found.reason)
    return found


def _probed(placement: Placement) -> Probe:
    onnxruntime = load_onnxruntime()
    provider = PROVIDERS[placement.kind]
    if provider not in onnxruntime.get_available_providers():
        return Probe(provider, False, "this build of ONNX Runtime does not contain it")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    chosen = (provider, _device_id(placement))
    try:
        session = onnxruntime.InferenceSession(_PROBE_GRAPH, options, providers=[chosen], enable_fallback=0)
        runs_on = session.get_providers()[0]
        if runs_on == provider:
            import numpy as np

            session.run(None, {"x": np.ones(1, np.float32)})
            return Probe(provider, True)
    except Exception as error:  # whatever a provider's library throws is the answer that was asked for
        return Probe(provider, False, _first_line(error))
    return Probe(provider, False, _library_fault(provider) or f"ONNX Runtime fell back to {runs_on}")


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


def _loaded(
    raw: bytes, settings: Any, placement: Placement, options: SessionOptions, stream: cuda.Stream | None
) -> tuple[Any, bool]:
    """ONNX Runtime's session of a graph, and whether its runs may be captured as CUDA graphs."""

    def load(capturing: bool) -> Any:
        provider = _provider(placement, options, stream.handle if stream else None, capturing)
        return load_onnxruntime().InferenceSession(raw, settings, providers=[provider], enable_fallback=0)

    if stream is None:
        return load(False), False
    with stream.turn():  # what loading does on the device would disturb a capture
        if _captures(options):
            try:
                return load(True), True
            except Exception as error:
                if "graph capture" not in str(error):
                    raise
                # Part of the graph runs on the CPU, of which nothing can be captured (`inference_session.cc`).
                _log.info("a graph is not captured: %s", _first_line(error))
        return load(False), False


def _provider(
    placement: Placement, options: SessionOptions, stream: int | None = None, capturing: bool = False
) -> tuple[str, dict[str, str]]:
    """An execution provider with its settings.

    Args:
        placement: the device.
        options: of the session.
        stream: address of the CUDA stream that the session is to use.
        capturing: whether graphs may be captured.
    """
    settings = _device_id(placement)
    if placement.kind == "cuda":
        settings |= {**CUDA_SETTINGS, "use_tf32": str(int(options.tf32))}
        if stream is not None:
            settings |= {"has_user_compute_stream": "1", "user_compute_stream": str(stream)}
        if capturing:
            settings["enable_cuda_graph"] = "1"
    return PROVIDERS[placement.kind], settings | dict(options.providers)


def _device_id(placement: Placement) -> dict[str, str]:
    """The setting that names a device, left out where it is the first: wherever a number is given ONNX Runtime 1.31
    looks for a plugin of that device first, and warns that there is none (`onnxruntime_pybind_state.cc`)."""
    return {"device_id": str(placement.number)} if placement.number else {}


def _captures(options: SessionOptions) -> bool:
    """Whether runs may be captured as CUDA graphs."""
    return options.gpu_memory is None and (CUDA_GRAPHS if options.cuda_graphs is None else options.cuda_graphs)


def _under_bound(number: int, options: SessionOptions) -> SessionOptions:
    """A session's options with the bound that an earlier session set on its CUDA device, where it has none itself: it
    takes its memory from the same arena."""
    return options if options.gpu_memory else replace(options, gpu_memory=_GPU_MEMORY.get(number))


def _bound_gpu_memory(number: int, most: int, weights: int) -> None:
    """Let all sessions on a CUDA device share one arena of its memory, which ends at `most` bytes.

    Without it each session has an arena of its own (`gpu_mem_limit` bounds one). Weights are taken beside the arena and
    only counted (`bfc_arena.cc`): those that exceed it alone are refused here.

    Raises:
        CapacityError: a session's weights need more.
        EngineError: another bound holds in this process, or ONNX Runtime cannot set it.
    """
    if weights > most:
        raise CapacityError(
            "A graph's weights do not fit the GPU memory that they may take.",
            expected=f"at most {most} bytes",
            got=f"{weights} bytes",
            mend="allow more, or use a smaller bundle, or float16.",
        )
    if _GPU_MEMORY.get(number, most) != most:
        raise EngineError(
            f"The memory of cuda:{number} was bounded before.",
            expected=f"{_GPU_MEMORY[number]} bytes again",
            got=f"{most} bytes",
            mend="give all sessions of a process the same gpu_memory.",
        )
    if number not in _GPU_MEMORY:
        _register_arena(number, most)
        _GPU_MEMORY[number] = most


def _register_arena(number: int, most: int) -> None:
    onnxruntime = load_onnxruntime()
    kinds = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    place = onnxruntime.OrtMemoryInfo("Cuda", kinds[0], number, kinds[1])
    arena = onnxruntime.OrtArenaCfg({"max_mem": most})
    try:
        onnxruntime.create_and_register_allocator_v2(CUDA, place, {"device_id": str(number)}, arena)
    except Exception as error:  # as above
        raise EngineError(f"The memory of cuda:{number} cannot be bounded.", got=_first_line(error)) from error


def _out_of_memory(message: str, error: Exception) -> CapacityError:
    return CapacityError(
        f"{message}: the device's memory does not suffice.", got=str(error).strip()[:500], mend=cuda.OUT_OF_MEMORY
    )


def _session_options(onnxruntime: Any, options: SessionOptions) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # what fails is raised, too
    settings.intra_op_num_threads = options.threads
    # A dozen graphs have a pool each: one that went on spinning after its run would slow the next graph's.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    settings.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(_FOLDED_BYTES))
    settings.add_session_config_entry("session.use_env_allocators", "1")
    return settings


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:300]


def _library_fault(provider: str) -> str:
    """What the dynamic loader says of a provider's library: ONNX Runtime itself only logs it."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    name = provider.removesuffix("ExecutionProvider").lower()
    library = folder / f"libonnxruntime_providers_{name}.so"
    if not library.exists():
        return ""
    try:
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        return _first_line(error)
    return ""
