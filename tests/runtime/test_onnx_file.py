"""Graphs that are more than our exporters write are refused before ONNX Runtime sees them."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alref_edge.errors import AlrefError, BundleError, EngineError
from alref_edge.runtime import Signature, open_session
from alref_edge.runtime.onnx_file import MOST_NODES, external_tensors

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
SHIPPED = sorted((ROOT / "engines" / "nano").glob("*/*.onnx"))
SIGNATURE = Signature({"x": ("float32", (1, "n"))}, {"y": ("float32", (1, 7))})


def model(nodes: list[Any], initializers: list[Any] | None = None, functions: list[Any] | None = None) -> Any:
    """x[1,n] to y[1,7] by some nodes."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 7])
    graph = helper.make_graph(nodes, "g", [x], [y], initializers or [])
    domains = ["", *{node.domain for node in nodes if node.domain}]
    operators = [helper.make_opsetid(domain, 18 if not domain else 1) for domain in domains]
    return helper.make_model(graph, opset_imports=operators, ir_version=10, functions=functions or [])


def constant(name: str, *numbers: float, dtype: Any = np.int64) -> Any:
    return onnx.numpy_helper.from_array(np.array(numbers, dtype), name)


def ending(name: str) -> list[Any]:
    """y = the sum of a tensor, seven times."""
    return [
        helper.make_node("ReduceSum", [name], ["sum"], keepdims=1),
        helper.make_node("Expand", ["sum", "seven"], ["y"]),
    ]


SEVEN = constant("seven", 1, 7)


def good() -> Any:
    return model(ending("x"), [SEVEN])


def inner() -> Any:
    """A graph for a node."""
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 7])
    return helper.make_graph([helper.make_node("Identity", ["y0"], ["v"])], "inner", [], [value])


def loop() -> Any:
    state = helper.make_tensor_value_info("s", TensorProto.FLOAT, None)
    names = [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("c", 9, [])]
    done = helper.make_tensor_value_info("d", TensorProto.FLOAT, None)
    again = helper.make_tensor_value_info("a", 9, [])
    nodes = [helper.make_node("Identity", ["c"], ["a"]), helper.make_node("Concat", ["s", "s"], ["d"], axis=1)]
    body = helper.make_graph(nodes, "body", [*names, state], [again, done])
    rounds = constant("rounds", 1 << 62)
    rounds.dims[:] = []
    return model([helper.make_node("Loop", ["rounds", "", "x"], ["l"], body=body), *ending("l")], [SEVEN, rounds])


def branch() -> Any:
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner(), else_branch=inner())
    return model([*ending("x")[:1], helper.make_node("Expand", ["sum", "seven"], ["y0"]), node], [SEVEN])


def listed_graphs() -> Any:
    made = good()
    attribute = made.graph.node[0].attribute.add(name="bodies", type=onnx.AttributeProto.GRAPHS)
    attribute.graphs.append(inner())
    return made


def functions() -> Any:
    """27 functions, each of which calls the next one twice."""
    made = []
    for number in range(27):
        calls = [helper.make_node(f"F{number + 1}", [a], [b], domain="own") for a, b in (("a", "b"), ("b", "c"))]
        last = [helper.make_node("Relu", ["a"], ["c"])]
        nodes = calls if number < 26 else last
        operators = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        made.append(helper.make_function("own", f"F{number}", ["a"], ["c"], nodes, operators))
    return model([helper.make_node("F0", ["x"], ["f"], domain="own"), *ending("f")], [SEVEN], made)


def row(count: int) -> Any:
    names = ["x", *(f"a{number}" for number in range(count))]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in itertools.pairwise(names)]
    return model([*nodes, *ending(names[-1])], [SEVEN])


def outside(location: str = "weights.bin", offset: Any = 0, length: Any = 40, size: int = 10, **more: str) -> Any:
    """A graph with one weight of ten numbers in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, size], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length, **more}.items():
        weight.external_data.add(key=key, value=str(value))
    return model([helper.make_node("Mul", ["x", "w"], ["p"]), *ending("p")], [SEVEN, weight])


def in_attribute() -> Any:
    made = good()
    node = helper.make_node("Constant", [], ["k"], value=constant("v", 1.0, dtype=np.float32))
    tensor = node.attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "length": "4"}.items():
        tensor.external_data.add(key=key, value=value)
    made.graph.node.append(node)
    return made


def claiming(*shape: int) -> Any:
    tensor = constant("w", 1.0, dtype=np.float32)
    tensor.dims[:] = shape
    return model(ending("x"), [SEVEN, tensor])


def sparse() -> Any:
    made = good()
    made.graph.sparse_initializer.add().dims.extend([1 << 40])
    return made


def edges() -> Any:
    return model([helper.make_node("Concat", ["x"] * 300_000, ["c"], axis=1), *ending("c")], [SEVEN])


def reused() -> Any:
    made = outside()
    for number in range(100):
        made.graph.initializer.add().CopyFrom(made.graph.initializer[1])
        made.graph.initializer[-1].name = f"w{number}"
    return made


def ends() -> Any:
    made = good()
    for number in range(1000):
        made.graph.input.append(helper.make_tensor_value_info(f"i{number}", TensorProto.FLOAT, [1]))
    return made


HOSTILE: dict[str, Callable[[], Any]] = {
    "a loop of 2⁶² rounds that doubles a tensor": loop,
    "a branch": branch,
    "graphs in a list": listed_graphs,
    "functions that unfold": functions,
    "an operator of ONNX Runtime": lambda: model(
        [helper.make_node("FusedGemm", ["x", "x"], ["g"], domain="com.microsoft"), *ending("g")], [SEVEN]
    ),
    "an operator of nobody": lambda: model(
        [helper.make_node("Own", ["x"], ["g"], domain="own"), *ending("g")], [SEVEN]
    ),
    "nodes without end": lambda: row(200_000),
    "a node too many": lambda: row(MOST_NODES),
    "inputs without end": edges,
    "ends without end": ends,
    "a tensor larger than its bytes": lambda: claiming(1 << 40),
    "a tensor larger than any": lambda: claiming(*[1 << 62] * 4),
    "a tensor of negative size": lambda: claiming(-1),
    "a tensor of many axes": lambda: claiming(*[1] * 100),
    "a sparse tensor": sparse,
    "weights by an absolute path": lambda: outside("/etc/passwd"),
    "weights above": lambda: outside("../weights.bin"),
    "weights nowhere": lambda: outside("other.bin"),
    "weights in a path of another form": lambda: outside("./weights.bin"),
    "weights in no path": lambda: outside(""),
    "weights before the file": lambda: outside(offset=-40),
    "weights beyond the file": lambda: outside(offset=4000),
    "weights beyond any file": lambda: outside(offset=10**19),
    "weights askew": lambda: outside(offset=1),
    "weights of another length": lambda: outside(length=39),
    "weights of a length in words": lambda: outside(length="ten"),
    "weights of three GiB": lambda: outside(length=3 << 30, size=3 << 28),
    "weights told in another way": lambda: outside(basepath="/"),
    "weights again and again": reused,
    "weights of an attribute": in_attribute,
    "two graphs in one file": lambda: good().SerializeToString() + good().SerializeToString(),
    "no graph": lambda: b"",
    "a folder's worth of zeros": lambda: bytes(1 << 20),
    "words": lambda: b"not a graph",
    "a file too large": lambda: bytes((16 << 20) + 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_graph_is_refused(tmp_path: Path, name: str) -> None:
    made = HOSTILE[name]()
    raw = made if isinstance(made, bytes) else made.SerializeToString()
    (tmp_path / "g.onnx").write_bytes(raw)
    np.ones(20, np.float32).tofile(tmp_path / "weights.bin")
    began = time.monotonic()
    with pytest.raises((EngineError, BundleError)) as caught:
        open_session(tmp_path / "g.onnx", device="cpu", signature=SIGNATURE)
    assert caught.value.mend
    assert time.monotonic() - began < 10


def test_the_fused_operators_that_exporters_write_run(tmp_path: Path) -> None:
    weight = constant("b", 0.0, dtype=np.float32)
    fused = helper.make_node("BiasGelu", ["sum", "b"], ["gelu"], domain="com.microsoft")
    made = model([*ending("x")[:1], fused, helper.make_node("Expand", ["gelu", "seven"], ["y"])], [SEVEN, weight])
    (tmp_path / "g.onnx").write_bytes(made.SerializeToString())
    with open_session(tmp_path / "g.onnx", device="cpu", signature=SIGNATURE) as session:
        got = session.run({"x": np.ones((1, 10), np.float32)})["y"]
    np.testing.assert_allclose(got, np.full((1, 7), 10), rtol=1e-6)


def test_what_is_no_more_than_that_runs(tmp_path: Path) -> None:
    np.arange(20, dtype=np.float32).tofile(tmp_path / "weights.bin")
    for made, expected in ((good(), 10), (outside(offset=40), sum(range(10, 20))), (row(50), 10)):
        (tmp_path / "g.onnx").write_bytes(made.SerializeToString())
        with open_session(tmp_path / "g.onnx", device="cpu", signature=SIGNATURE) as session:
            np.testing.assert_array_equal(
                session.run({"x": np.ones((1, 10), np.float32)})["y"], np.full((1, 7), expected)
            )


def test_two_weights_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime would look for the second in the working directory."""
    made = outside()
    made.graph.initializer.add().CopyFrom(made.graph.initializer[1])
    (tmp_path / "g.onnx").write_bytes(made.SerializeToString())
    np.ones(20, np.float32).tofile(tmp_path / "weights.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match="two initialisers 'w'"):
        open_session(tmp_path / "g.onnx", device="cpu", signature=SIGNATURE)


def test_weights_that_are_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(outside().SerializeToString())
    np.ones(20, np.float32).tofile(tmp_path / "elsewhere")
    (tmp_path / "weights.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"weights of g\.onnx cannot be read"):
        open_session(tmp_path / "g.onnx", device="cpu")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_shipped_graphs_are_read_as_onnx_reads_them(path: Path) -> None:
    raw = path.read_bytes()
    expected = []
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            told = {entry.key: entry.value for entry in tensor.external_data}
            place = told["location"], int(told["offset"]), int(told["length"])
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type).name
            expected.append((tensor.name, dtype, tuple(tensor.dims), *place))
    began = time.perf_counter()
    found = external_tensors(raw, path.name)
    assert time.perf_counter() - began < 1  # some milliseconds, on a machine with nothing else to do
    assert [(t.name, t.dtype, t.shape, t.location, t.offset, t.length) for t in found] == expected


def test_a_damaged_graph_gets_its_error_or_is_read() -> None:
    raw = (ROOT / "engines/nano/yamnet/yamnet.onnx").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for number in range(600):
        damaged = bytearray(raw)
        if number % 3 == 0:
            damaged = damaged[: int(random.integers(len(raw)))]
        else:
            for at in random.integers(len(raw), size=number % 5 + 1):
                damaged[at] = int(random.integers(256))
        try:
            external_tensors(bytes(damaged), "damaged.onnx")
        except AlrefError as error:
            assert isinstance(error, EngineError)  # noqa: PT017
            refused += 1
    assert refused > 200


def test_an_output_of_another_size_than_promised_is_not_made(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], keepdims=1),
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Mul", ["sizes", "many"], ["large"]),
        helper.make_node("Expand", ["m", "large"], ["y"]),
    ]
    (tmp_path / "g.onnx").write_bytes(model(nodes, [constant("many", 1, 80_000_000)]).SerializeToString())
    with open_session(tmp_path / "g.onnx", device="cpu", signature=SIGNATURE) as session:
        with pytest.raises(EngineError, match="ONNX Runtime failed"):
            session.run({"x": np.ones((1, 10), np.float32)})
        for rows in (np.ones((2, 10), np.float32), np.ones((1, 10), np.float64)):
            with pytest.raises(EngineError, match="does not fit"):
                session.run({"x": rows})


DOUBLING = """
import re, sys
from pathlib import Path
import numpy as np
from alref_edge.errors import EngineError
from alref_edge.runtime import open_session, ort
ort.machine_memory = lambda: 1 << 30
try:
    with open_session(sys.argv[1], device="cpu") as session:
        session.run({"x": np.ones((1, 1024), np.float32)})
except EngineError as error:
    # The peak of this process alone: that of getrusage may be the parent's.
    print("EngineError", re.search("VmHWM:\\\\s+(\\\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.parametrize("source", ["x", "c"], ids=["when it runs", "when it is loaded"])
def test_a_graph_has_no_more_memory_than_the_machine(tmp_path: Path, source: str) -> None:
    names = [source, *(f"d{number}" for number in range(40))]
    nodes = [helper.make_node("Concat", [a, a], [b], axis=1) for a, b in itertools.pairwise(names)]
    nodes += [helper.make_node("Add", [names[-1], "x"], ["both"]), *ending("both")]
    (tmp_path / "g.onnx").write_bytes(
        model(nodes, [SEVEN, constant("c", *[[1.0] * 1024], dtype=np.float32)]).SerializeToString()
    )
    command = [sys.executable, "-c", DOUBLING, str(tmp_path / "g.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    error, kilobytes = done.stdout.split()
    assert error == "EngineError"
    assert done.stderr == ""
    assert int(kilobytes) < 2_500_000
