"""A look into an `.onnx` file before ONNX Runtime sees it: is it no more than what our exporters write?

Graphs are plain: nodes of ONNX's own operators in a row, or some of ONNX Runtime's fused ones, weights in a file
beside. Whatever could make a small file run long or grow large is refused: graphs within nodes (Loop, If, Scan),
functions, other operators, counts beyond bounds, tensors that claim more numbers than there are bytes. The file is read
once, from front to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from alref_edge.bundle.manifest import is_plain
from alref_edge.errors import EngineError

MOST_NODES = 20_000
_MOST_TENSORS = 20_000
_MOST_EDGES = 200_000  # inputs and outputs of all nodes
_MOST_ATTRIBUTES = 100_000
_MOST_ENDS = 512  # inputs and outputs of the graph
_MOST_AXES = 16
_DOMAINS = (b"", b"ai.onnx")
_FUSED_DOMAIN = b"com.microsoft"
_FUSED = frozenset(
    {b"Attention", b"BiasGelu", b"Gelu", b"MultiHeadAttention", b"RotaryEmbedding", b"SkipLayerNormalization"}
)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _numbered(**numbers: int) -> dict[int, str]:
    return {number: name for name, number in numbers.items()}


# Fields of the messages of onnx.proto. One that is not here is refused: nothing is known of it.
_MODEL = _numbered(ir_version=1, producer_name=2, producer_version=3, domain=4, model_version=5, doc_string=6, graph=7)
_MODEL |= _numbered(opset_import=8, metadata_props=14)
_GRAPH = _numbered(node=1, name=2, initializer=5, doc_string=10, input=11, output=12, value_info=13, metadata_props=16)
_NODE = _numbered(input=1, output=2, name=3, op_type=4, attribute=5, doc_string=6, domain=7, overload=8)
_NODE |= _numbered(metadata_props=9)
_ATTRIBUTE = _numbered(name=1, f=2, i=3, s=4, t=5, floats=7, ints=8, strings=9, doc_string=13, type=20)
_TENSOR = _numbered(dims=1, data_type=2, float_data=4, int32_data=5, int64_data=7, name=8, raw_data=9, double_data=10)
_TENSOR |= _numbered(uint64_data=11, doc_string=12, external_data=13, data_location=14, metadata_props=16)
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
_WIDTHS = {"float32": 4, "uint8": 1, "int8": 1, "int32": 4, "int64": 8, "bool": 1, "float16": 2, "float64": 8}

_Field = tuple[int, int, int, int]  # number, wire type, and a varint's value and 0, or where its bytes begin and end


@dataclass(frozen=True)
class ExternalTensor:
    """An initialiser whose numbers lie in another file.

    Attributes:
        name: of the initialiser.
        dtype: as numpy names it.
        shape: its sizes.
        location: the file, relative to the graph's folder.
        offset: where it begins there, in bytes.
        length: in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    location: str
    offset: int
    length: int


def external_tensors(raw: bytes, name: str) -> list[ExternalTensor]:
    """Look through an `.onnx` file.

    Args:
        raw: its bytes.
        name: of the file, for people.

    Returns:
        The initialisers that lie outside it.

    Raises:
        EngineError: it is no ONNX file, or not one that our exporters write.
    """
    try:
        return _Reader(raw).model()
    except (_Malformed, UnicodeDecodeError) as error:
        raise EngineError(
            f"The graph {name} cannot be loaded: it is no graph that alref-edge exports.",
            got=str(error),
            mend="export the bundle again with `python -m export`.",
        ) from error


class _Malformed(ValueError):
    """What is wrong with a file, for `external_tensors`."""


class _Reader:
    """The messages of one file."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._edges = self._attributes = 0

    def model(self) -> list[ExternalTensor]:
        """The whole file."""
        graphs: list[tuple[int, int]] = []
        for count, (number, wire, start, end) in enumerate(self._fields(0, len(self._raw), _MODEL, "the model")):
            if count > _MOST_ENDS:
                raise _Malformed(f"a model of more than {_MOST_ENDS} parts")
            if number == 7:
                graphs.append(self._bytes(wire, start, end))
            elif number == 8:
                self._operators(*self._bytes(wire, start, end))
        if len(graphs) != 1:
            raise _Malformed(f"{len(graphs)} graphs, not one")
        return self._graph(*graphs[0])

    def _operators(self, start: int, end: int) -> None:
        for number, wire, first, last in self._fields(start, end, {1: "domain", 2: "version"}, "a set of operators"):
            if number == 1:
                start, end = self._bytes(wire, first, last)
                if self._raw[start:end] not in (*_DOMAINS, _FUSED_DOMAIN):
                    raise _Malformed(f"operators of the domain {self._text(start, end)!r}, not of ONNX itself")

    def _graph(self, start: int, end: int) -> list[ExternalTensor]:
        counts = dict.fromkeys(_GRAPH, 0)
        most = {1: MOST_NODES, 5: _MOST_TENSORS, 11: _MOST_ENDS, 12: _MOST_ENDS, 13: 2 * _MOST_EDGES}
        found: dict[str, ExternalTensor] = {}
        for number, wire, first, last in self._fields(start, end, _GRAPH, "the graph"):
            counts[number] += 1
            if counts[number] > most.get(number, MOST_NODES):
                raise _Malformed(f"more than {most.get(number, MOST_NODES)} times {_GRAPH[number]!r}")
            if number == 1:
                self._node(*self._bytes(wire, first, last))
            elif number == 5:
                tensor = self._tensor(*self._bytes(wire, first, last))
                if tensor is not None and found.setdefault(tensor.name, tensor) is not tensor:
                    raise _Malformed(f"two initialisers {tensor.name!r}")
        return list(found.values())

    def _node(self, start: int, end: int) -> None:
        kind = domain = b""
        for number, wire, first, last in self._fields(start, end, _NODE, "a node"):
            if number <= 2:
                self._edges += 1
            elif number == 5:
                self._attribute(*self._bytes(wire, first, last))
            elif number == 9:
                self._count_attribute()
            elif number in (4, 7):
                first, last = self._bytes(wire, first, last)
                text = self._text(first, last).encode()
                kind, domain = (text, domain) if number == 4 else (kind, text)
        if domain not in _DOMAINS and not (domain == _FUSED_DOMAIN and kind in _FUSED):
            raise _Malformed(f"an operator {kind.decode()!r} of the domain {domain.decode()!r}, not of ONNX itself")
        if self._edges > _MOST_EDGES:
            raise _Malformed(f"nodes with more than {_MOST_EDGES} inputs and outputs")

    def _attribute(self, start: int, end: int) -> None:
        self._count_attribute()
        for number, wire, first, last in self._fields(start, end, _ATTRIBUTE, "an attribute"):
            if number == 5 and self._tensor(*self._bytes(wire, first, last)) is not None:
                raise _Malformed("an attribute whose numbers lie in another file")
            if number == 9:
                self._count_attribute()

    def _count_attribute(self) -> None:
        """One attribute more, or one string of it, or one line of metadata."""
        self._attributes += 1
        if self._attributes > _MOST_ATTRIBUTES:
            raise _Malformed(f"more than {_MOST_ATTRIBUTES} attributes")

    def _tensor(self, start: int, end: int) -> ExternalTensor | None:
        """A tensor that lies in another file; None for one that lies here."""
        shape: list[int] = []
        entries: dict[str, str] = {}
        kind, outside, name = 0, False, ""
        for number, wire, first, last in self._fields(start, end, _TENSOR, "a tensor"):
            if number == 1:
                shape += self._integers(wire, first, last)
            elif number == 2:
                kind = first
            elif number == 8:
                name = self._text(*self._bytes(wire, first, last))
            elif number == 13:
                key, value = self._entry(*self._bytes(wire, first, last))
                if key in entries:
                    raise _Malformed(f"a tensor that tells its {key!r} twice")
                entries[key] = value
            elif number == 14:
                outside = first != 0
            elif number == 16:
                self._count_attribute()
        if kind not in _DTYPES:
            raise _Malformed(f"a tensor of the type {kind}, which is not known here")
        if len(shape) > _MOST_AXES or any(size < 0 for size in shape):
            raise _Malformed(f"a tensor of the shape {shape[:_MOST_AXES]}")
        dtype = _DTYPES[kind]
        width = _WIDTHS[dtype]
        if not outside:
            # A number takes a byte at least, however it is written.
            if entries or prod(shape) > end - start:
                raise _Malformed(f"a tensor of the shape {shape} in {end - start} bytes")
            return None
        location = entries.get("location", "")
        if not set(entries) <= {"location", "offset", "length", "checksum"} or not is_plain(location):
            raise _Malformed(f"weights in another file, told by {entries}")
        offset, length = (_number(entries.get(key, default)) for key, default in (("offset", "0"), ("length", "")))
        if length != prod(shape) * width or offset % width:
            raise _Malformed(f"{name!r}, {dtype} of the shape {shape}, in {length} bytes from {offset} on")
        return ExternalTensor(name, dtype, tuple(shape), location, offset, length)

    def _entry(self, start: int, end: int) -> tuple[str, str]:
        pair = {1: "", 2: ""}
        for number, wire, first, last in self._fields(start, end, {1: "key", 2: "value"}, "an entry"):
            pair[number] = self._text(*self._bytes(wire, first, last))
        return pair[1], pair[2]

    def _text(self, start: int, end: int) -> str:
        if end - start > 4096:
            raise _Malformed(f"a name of {end - start} bytes")
        return self._raw[start:end].decode()

    @staticmethod
    def _bytes(wire: int, start: int, end: int) -> tuple[int, int]:
        if wire != _BYTES:
            raise _Malformed(f"a number at byte {start} where a message should be")
        return start, end

    def _integers(self, wire: int, start: int, end: int) -> Sequence[int]:
        """A repeated int64, packed or not."""
        if wire == _VARINT:
            return [_signed(start)]
        found: list[int] = []
        while start < end and len(found) <= _MOST_AXES:
            value, start = self._varint(start, end)
            found.append(_signed(value))
        return found

    def _fields(self, start: int, end: int, known: dict[int, str], where: str) -> Iterator[_Field]:
        """The fields of a message, one after the other."""
        raw = self._raw
        while start < end:
            tag = raw[start]
            if tag < 0x80:
                start += 1
            else:
                tag, start = self._varint(start, end)
            number, wire = tag >> 3, tag & 7
            if number not in known:
                raise _Malformed(f"field {number} of {where} (a graph in a node, a function, or unknown)")
            if wire == _BYTES:
                size = raw[start] if start < end else 0x80
                if size < 0x80:
                    start += 1
                else:
                    size, start = self._varint(start, end)
                if size > end - start:
                    raise _Malformed(f"it ends within {known[number]!r} of {where}")
                yield number, wire, start, start + size
                start += size
            elif wire == _VARINT:
                value, start = self._varint(start, end)
                yield number, wire, value, 0
            elif wire in (_FIXED32, _FIXED64):
                start += 4 if wire == _FIXED32 else 8
                if start > end:
                    raise _Malformed(f"it ends within {known[number]!r} of {where}")
                yield number, wire, 0, 0
            else:
                raise _Malformed(f"no protobuf at byte {start}")

    def _varint(self, start: int, end: int) -> tuple[int, int]:
        value = shift = 0
        for at in range(start, min(end, start + 10)):
            byte = self._raw[at]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at + 1
            shift += 7
        raise _Malformed(f"no number at byte {start}")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 15:
        raise _Malformed(f"the number {text[:40]!r}")
    return int(text)
