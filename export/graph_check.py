"""An exported graph on ONNX Runtime, to be held against the module that it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from alref_edge.errors import EngineError

Arrays = Mapping[str, np.ndarray]


class ExportedGraph:
    """A graph on the CPU, whose names are its module's.

    Args:
        source: its file, or the model itself.
        name: what it is called in errors.
        inputs, outputs: names of the module's, in order.

    Raises:
        EngineError: the graph has other names.
    """

    def __init__(self, source: Path | bytes, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, torch.get_num_threads())
        self.name, self.outputs = name, tuple(outputs)
        self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self._types = {each.name: each.type for each in self._session.get_inputs()}
        names = ([*self._types], [each.name for each in self._session.get_outputs()])
        if names != ([*inputs], [*outputs]):
            raise EngineError(f"{name}: names differ.", expected=([*inputs], [*outputs]), got=names)

    def run(self, feeds: Arrays, expected: Arrays) -> dict[str, np.ndarray]:
        """Its outputs, of the shapes that the module's have, and finite.

        Args:
            feeds: at least its inputs; float32 is rounded where the graph takes float16.
            expected: the module's outputs, all or some.

        Raises:
            EngineError: an output has another shape, or is not finite.
        """
        given = {
            key: feeds[key].astype(np.float16) if kind == "tensor(float16)" else feeds[key]
            for key, kind in self._types.items()
        }
        got = dict(zip(self.outputs, self._session.run(None, given), strict=True))
        for key, wanted in expected.items():
            if got[key].shape != wanted.shape or not np.isfinite(got[key]).all():
                raise EngineError(
                    f"{self.name}: the output {key} is wrong.", expected=f"finite {wanted.shape}", got=got[key].shape
                )
        return got

    def differs(self, output: str, limit: float, got: object) -> EngineError:
        """The error for an output that is further from the module's than the limit."""
        return EngineError(
            f"{self.name}: {output} differs from the module's.",
            expected=f"at most {limit:.2g}",
            got=got,
            mend="export with the pinned versions of export/constraints.txt; in float16, keep more of the graph in "
            "float32: export/precision.py.",
        )
