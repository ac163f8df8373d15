"""The ONNX Runtime backend: CPU and CUDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from alref_edge.errors import EngineError
from alref_edge.runtime import cuda, providers
from alref_edge.runtime.buffers import Buffer
from alref_edge.runtime.session import Feeds, SessionOptions, TensorSpec, check_tensors

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class OnnxRuntimeSession:
    """A `Session` on ONNX Runtime. Tensors that stay on the device are bound by address, without a copy."""

    def __init__(self, path: Path, placement: providers.Placement, options: SessionOptions) -> None:
        onnxruntime = providers.load_onnxruntime()
        self.name = path.stem
        self._placement = placement
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path),
                _session_options(onnxruntime, options),
                providers=[_provider(placement, options)],
                enable_fallback=0,
            )
        except Exception as error:  # ONNX Runtime raises many classes, all of them its own
            raise EngineError(
                f"The graph {path.name} cannot be loaded.",
                got=str(error).strip()[:500],
                mend="export the bundle again with `python -m export`, or update ONNX Runtime.",
            ) from error
        self.provider: str = self._session.get_providers()[0]
        if self.provider != placement.provider:
            if not options.allow_fallback:
                raise providers.fell_back(placement.provider, f"the session of {path.name} runs on {self.provider}")
            self._placement = providers.Placement(self.provider, "cpu")
        self.inputs = _specs(self._session.get_inputs())
        self.outputs = _specs(self._session.get_outputs())

    @property
    def device(self) -> str:
        """See `Session.device`."""
        return self._placement.device

    def run(self, feeds: Feeds, *, into: Mapping[str, Buffer] | None = None) -> dict[str, np.ndarray]:
        """See `Session.run`."""
        if self._session is None:
            raise EngineError(f"{self.name}: the session is closed.", mend="open it again.")
        check_tensors(self.name, self.inputs, feeds, self.outputs, into or {}, self.device)
        names = [name for name in self.outputs if not into or name not in into]
        try:
            if not into and not any(isinstance(value, Buffer) for value in feeds.values()):
                return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
            return self._run_bound(feeds, into or {}, names)
        except Exception as error:  # as above
            raise EngineError(f"{self.name}: ONNX Runtime failed.", got=str(error).strip()[:500]) from error

    def _run_bound(self, feeds: Feeds, into: Mapping[str, Buffer], names: list[str]) -> dict[str, np.ndarray]:
        binding = self._session.io_binding()
        device, number = self.device.partition(":")[0], self._placement.device_id
        for name, value in feeds.items():
            if isinstance(value, Buffer):
                binding.bind_input(name, device, number, value.dtype.type, value.shape, value.ptr)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name in self.outputs:
            if name in into:
                target = into[name]
                binding.bind_output(name, device, number, target.dtype.type, target.shape, target.ptr)
            else:
                binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        results = dict(zip(self.outputs, binding.get_outputs(), strict=True))
        return {name: results[name].numpy() for name in names}

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


def _provider(placement: providers.Placement, options: SessionOptions) -> tuple[str, dict[str, str]]:
    settings = dict(options.providers)
    if placement.provider == providers.CUDA:
        settings.setdefault("device_id", str(placement.device_id))
        # TF32 keeps 10 bits of a mantissa: a float32 graph is to be float32.
        settings.setdefault("use_tf32", "0")
    return placement.provider, settings


def _session_options(onnxruntime: Any, options: SessionOptions) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = options.threads
    # A dozen graphs have a pool each: one that went on spinning after its run would slow the next graph's.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings
