"""Weights stored once: the graphs of a component share decoder, embeddings and tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import onnx

FILE = "weights.bin"
_INLINE_BYTES = 1024
_ALIGN = 64


def share_weights(graphs: Iterable[Path]) -> Path | None:
    """Move the large initialisers of graphs in one folder into one file beside them, equal ones once.

    Args:
        graphs: `.onnx` files of one folder, weights inline; they are rewritten.

    Returns:
        The file of the weights, or None where no initialiser is large.
    """
    offsets: dict[bytes, int] = {}
    paths = list(graphs)
    target = paths[0].parent / FILE
    with target.open("wb") as file:
        for path in paths:
            model = onnx.load(path)
            for tensor in model.graph.initializer:
                raw = onnx.numpy_helper.to_array(tensor).tobytes()
                if len(raw) < _INLINE_BYTES:
                    continue
                digest = hashlib.sha256(raw).digest()
                if digest not in offsets:
                    file.write(b"\0" * (-file.tell() % _ALIGN))
                    offsets[digest] = file.tell()
                    file.write(raw)
                tensor.raw_data = raw
                onnx.external_data_helper.set_external_data(tensor, FILE, offsets[digest], len(raw))
                for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                    tensor.ClearField(field)
            path.write_bytes(model.SerializeToString(deterministic=True))
    if not offsets:
        target.unlink()
        return None
    return target
