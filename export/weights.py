"""Weights stored once, and no wider than they are; values' names as short as can be.

The graphs of a component, and its precisions, share decoder, embeddings and tables. Numbers that float16 holds exactly
are stored in it, whatever type the graph wants: a Cast follows them, which engines fold when they load the graph. So
weights that were rounded to float16 take half the room in a float32 graph, and no more room for the float16 one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import count, product
from pathlib import Path
from string import ascii_letters

import numpy as np
import onnx

FILE = "weights.bin"
_INLINE_BYTES = 160  # about what an entry for a tensor in another file takes, twice
_NARROWED_NUMBERS = 48  # fewer would save less than the Cast takes
_ALIGN = 16


def share_weights(graphs: Iterable[Path]) -> Path | None:
    """Move the initialisers of graphs in one folder into one file beside them, equal ones once; shorten values' names.

    Args:
        graphs: `.onnx` files of one folder, weights inline; they are rewritten. Names of inputs and outputs stay.

    Returns:
        The file of the weights, or None where no initialiser is large.
    """
    offsets: dict[bytes, int] = {}
    paths = list(graphs)
    target = paths[0].parent / FILE
    with target.open("wb") as file:
        for path in paths:
            model = onnx.load(path)
            _narrow(model.graph)
            _shorten(model.graph)
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


def _narrow(graph: onnx.GraphProto) -> None:
    """Float32 initialisers that float16 holds bit by bit become float16, with a Cast."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        wide = onnx.numpy_helper.to_array(tensor)
        if wide.size < _NARROWED_NUMBERS:
            continue
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float16)
        if narrow.astype(np.float32).tobytes() != wide.tobytes():
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(narrow, f"{name}/stored"))
        casts.append(
            onnx.helper.make_node("Cast", [tensor.name], [name], name=f"{name}/Cast", to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _shorten(graph: onnx.GraphProto) -> None:
    """Values get names of a letter or two; nodes keep theirs."""
    fixed = {each.name for each in (*graph.input, *graph.output)}
    fresh = (name for name in _names() if name not in fixed)
    short = {name: name for name in fixed} | {"": ""}
    for tensor in graph.initializer:
        tensor.name = short.setdefault(tensor.name, next(fresh))
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name not in short:
                    short[name] = next(fresh)
                names[index] = short[name]


def _names() -> Iterator[str]:
    for length in count(1):
        yield from map("".join, product(ascii_letters, repeat=length))
