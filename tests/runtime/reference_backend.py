"""A backend in one file: graphs on the ONNX reference evaluator, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import TracebackType

import numpy as np
import numpy.typing as npt
import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from onnx.reference import ReferenceEvaluator

from alref_edge.bundle.files import GraphFile
from alref_edge.errors import EngineError
from alref_edge.runtime.buffers import Buffer
from alref_edge.runtime.device import Placement, Probe
from alref_edge.runtime.session import Feeds, SessionOptions, Signature, TensorSpec, check_tensors

PROVIDER = "ReferenceEvaluator"


class ReferenceSession:
    """A `Session`; its buffers lie in the host's memory."""

    provider = PROVIDER
    device = "cpu"

    def __init__(self, graph: GraphFile, signature: Signature | None) -> None:
        self.name = PurePath(graph.file.name).stem
        model = onnx.load_from_string(graph.file.read(1 << 30))
        for tensor in model.graph.initializer:
            if uses_external_data(tensor):
                info = ExternalDataInfo(tensor)
                weights = graph.beside(info.location).mapped()
                tensor.raw_data = weights[info.offset or 0 : (info.offset or 0) + info.length]
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]
        for node in model.graph.node:
            for attribute in node.attribute:
                # Opset 20 gave it another name, the only one that the evaluator knows.
                if (node.op_type, attribute.name, attribute.s) == ("GridSample", "mode", b"bilinear"):
                    attribute.s = b"linear"
        self.inputs, self.outputs = _specs(model.graph.input), _specs(model.graph.output)
        if signature is not None:
            signature.check(self.name, self.inputs, self.outputs)
            self.outputs = {name: self.outputs[name] for name in signature.outputs}
        self._evaluator = ReferenceEvaluator(model)

    def run(self, feeds: Feeds, *, into: Mapping[str, Buffer] | None = None) -> dict[str, np.ndarray]:
        """See `Session.run`."""
        into = into or {}
        check_tensors(self.name, self.inputs, feeds, self.outputs, into, self.device)
        arrays = {name: each.numpy() if isinstance(each, Buffer) else each for name, each in feeds.items()}
        try:
            made = dict(zip(self.outputs, self._evaluator.run(list(self.outputs), arrays), strict=True))
        except Exception as error:
            raise EngineError(f"{self.name}: the reference evaluator failed.", got=error) from error
        for name, buffer in into.items():
            buffer.write(made.pop(name))
        return made

    def buffer(self, shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> Buffer:
        """See `Session.buffer`."""
        return Buffer.on_host(shape, np.dtype(dtype))

    def close(self) -> None:
        """See `Session.close`: nothing is held."""

    def __enter__(self) -> ReferenceSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def probe(placement: Placement) -> Probe:
    """See `Backend.probe`."""
    return Probe(PROVIDER, works=True)


def open_session(
    graph: GraphFile, placement: Placement, options: SessionOptions, signature: Signature | None
) -> ReferenceSession:
    """See `Backend.open_session`."""
    return ReferenceSession(graph, signature)


def _specs(values: Sequence[onnx.ValueInfoProto]) -> dict[str, TensorSpec]:
    specs = {}
    for value in values:
        tensor = value.type.tensor_type
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        shape = tuple(
            axis.dim_value if axis.HasField("dim_value") else axis.dim_param or f"{value.name}.{number}"
            for number, axis in enumerate(tensor.shape.dim)
        )
        specs[value.name] = TensorSpec(value.name, dtype, shape)
    return specs
