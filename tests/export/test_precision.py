"""Float16 graphs: what the policy keeps at full width stays there, and masks are those of float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="export needs the export environment")
import onnxruntime  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402

from alref_edge.bundle import Bundle  # noqa: E402
from alref_edge.datasets.synthetic import make_scene  # noqa: E402
from alref_edge.errors import InputError  # noqa: E402
from alref_edge.models.sam2 import Sam2Graphs  # noqa: E402
from alref_edge.runtime import Buffer, open_session  # noqa: E402
from export.precision import Policy, check_precisions, element_types, to_float16  # noqa: E402
from export.weights import share_weights  # noqa: E402
from tests.export.graphs import stored  # noqa: E402
from tests.models.sam2.jobs import overlaps, track_scene  # noqa: E402

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
DELICATE = {"Sin", "Cos", "Log", "Pow", "Sqrt", "ReduceMean", "ReduceSum", "Resize", "GridSample", "TopK"}
PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
POLICY = Policy(
    float32_weights=(r"head\.",), float32_inputs=frozenset({"place"}), float16_borders=frozenset({"state", "next"})
)
# Features go through products; a place goes, by a sine, a reshape and a sum, into a product of its own.
GRAPH = """<ir_version: 10, opset_import: ["": 18]>
toy (float[N,8] x, float[N,1] place, float[N,8] state) =>
    (float[N,8] y, float[N,8] angles, float[N,8] next, float[N,8] scores)
{
    scaled = Mul(weight, scale)
    hidden = MatMul(x, scaled)
    kept = Relu(hidden)
    y = Add(kept, state)
    far = Mul(place, periods)
    flat = Reshape(far, shape)
    sine = Sin(flat)
    angles = Add(sine, kept)
    next = MatMul(angles, weight)
    scores = MatMul(kept, HEAD)
}"""


@pytest.fixture(scope="module")
def toy() -> onnx.ModelProto:
    model = onnx.parser.parse_model(GRAPH)
    rng = np.random.default_rng(0)
    arrays = {
        "weight": (rng.standard_normal((8, 8)) / 3).astype(np.float16).astype(np.float32),
        "scale": np.float32(0.3),
        "periods": np.linspace(1, 9, 8, dtype=np.float32)[None],
        "shape": np.array([-1, 8]),
        "HEAD": rng.standard_normal((8, 8)).astype(np.float32) * 3e4,
    }
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for node in model.graph.node:
        node.input[:] = ["head.weight" if name == "HEAD" else name for name in node.input]
    model.graph.initializer[-1].name = "head.weight"
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {
        each.name: feeds[each.name].astype(np.float16 if each.type == "tensor(float16)" else np.float32)
        for each in session.get_inputs()
    }
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, given), strict=True))


def test_types_follow_the_policy(toy: onnx.ModelProto) -> None:
    narrow = to_float16(toy, POLICY)
    onnx.checker.check_model(narrow, full_check=True)
    types = element_types(narrow)
    borders = {each.name: types[each.name] for each in (*narrow.graph.input, *narrow.graph.output)}
    assert borders == {
        "x": FLOAT,
        "place": FLOAT,
        "state": HALF,
        "y": FLOAT,
        "angles": FLOAT,
        "next": HALF,
        "scores": FLOAT,
    }
    read = {
        node.output[0]: {types[name] for name in node.input if types[name] in (FLOAT, HALF)}
        for node in narrow.graph.node
    }
    assert read["hidden"] == read["kept"] == read["next"] == {HALF}
    assert read["far"] == read["flat"] == read["sine"] == read["angles"] == {FLOAT}  # a place, all the way
    assert read["scaled"] == {FLOAT}  # constants are made at full width, and rounded once
    assert read["scores"] == {FLOAT}  # its weights are named by the policy
    kept = [node for node in narrow.graph.node if "angles" in node.output]
    assert all(types[name] == FLOAT for name in kept[0].input)


def test_rounded_graphs_answer_as_float32_ones(toy: onnx.ModelProto) -> None:
    rng = np.random.default_rng(1)
    feeds = {name: rng.standard_normal((5, 8)).astype(np.float32) for name in ("x", "state")}
    feeds["place"] = np.array([[1.0], [100.25], [1000.125], [3000.0625], [7.0]], np.float32)
    wanted, got = run(toy, feeds), run(to_float16(toy, POLICY), feeds)
    for name, value in wanted.items():
        limit = 0.01 * float(np.abs(value).max())
        assert np.abs(got[name] - value).max() < limit, name
    # Rounded places would be another angle: float16 has steps of 2 at 3000.
    rounded = run(to_float16(toy, Policy()), feeds)
    assert np.abs(rounded["angles"] - wanted["angles"]).max() > 0.1


def test_a_float16_graph_with_its_weights_beside_it_answers_the_same(toy: onnx.ModelProto, tmp_path: Path) -> None:
    narrow = to_float16(toy, POLICY)
    stored = [tensor for tensor in narrow.graph.initializer if tensor.name.startswith("weight")]
    assert sorted(tensor.data_type for tensor in stored) == [FLOAT, HALF]  # as a factor, and as it is
    rng = np.random.default_rng(2)
    feeds = {name: rng.standard_normal((5, 8)).astype(np.float32) for name in ("x", "state")}
    feeds["place"] = rng.standard_normal((5, 1)).astype(np.float32)
    wanted = run(narrow, feeds)
    onnx.save(narrow, tmp_path / "toy.onnx")
    share_weights([tmp_path / "toy.onnx"])
    names = [tensor.name for tensor in onnx.load(tmp_path / "toy.onnx").graph.initializer]
    assert len(names) == len(set(names))
    got = run(onnx.load(tmp_path / "toy.onnx"), feeds)
    assert all(got[name].tobytes() == value.tobytes() for name, value in wanted.items())


MOVED = """<ir_version: 10, opset_import: ["": 18]>
moved (float[N,8] x) => (float[N,16] y, float[N,8] scores)
{
    both = Concat<axis = 0>(weight, other)
    turned = Transpose<perm = [1, 0]>(both)
    y = MatMul(x, turned)
    head = Transpose<perm = [1, 0]>(HEAD)
    scores = MatMul(x, head)
}"""


def test_what_only_moves_weights_moves_rounded_ones() -> None:
    """A file in float16 alone holds no float32 weights; the policy's weights are told where they are moved too."""
    model = onnx.parser.parse_model(MOVED)
    rng = np.random.default_rng(3)
    for name in ("weight", "other", "head.weight"):
        values = rng.standard_normal((8, 8)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for node in model.graph.node:
        node.input[:] = ["head.weight" if name == "HEAD" else name for name in node.input]
    narrow = to_float16(model, POLICY)
    onnx.checker.check_model(narrow, full_check=True)
    stored = {tensor.name: tensor.data_type for tensor in narrow.graph.initializer}
    assert stored == {"weight/float16": HALF, "other/float16": HALF, "head.weight": FLOAT}
    assert Counter(node.op_type for node in narrow.graph.node) == {"Concat": 1, "Transpose": 2, "MatMul": 2, "Cast": 2}
    x = rng.standard_normal((5, 8)).astype(np.float32)
    wanted, got = run(model, {"x": x}), run(narrow, {"x": x})
    np.testing.assert_allclose(got["y"], wanted["y"], atol=0.05)
    np.testing.assert_allclose(got["scores"], wanted["scores"], rtol=1e-5, atol=1e-5)


def test_the_float32_model_is_left_as_it_is(toy: onnx.ModelProto) -> None:
    before = toy.SerializeToString(deterministic=True)
    to_float16(toy, POLICY)
    assert toy.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("wrong", [(), ("float8",), ("float32", "int8")])
def test_unknown_precisions(wrong: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="no such precision"):
        check_precisions(wrong)


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return Bundle.open()


def nodes_of(path: Path) -> Iterator[tuple[onnx.NodeProto, set[int]]]:
    """Nodes that compute from what a graph is given, with the float types that they read."""
    model = onnx.load(path, load_external_data=False)
    types = element_types(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if all(name in constants for name in node.input if name):
            constants.update(node.output)
        else:
            yield node, {types[name] for name in node.input if name and name not in constants} & {FLOAT, HALF}


@pytest.mark.parametrize("component", ["sam2", "grounding_dino"])
def test_the_shipped_graphs_follow_their_policy(shipped: Bundle, component: str) -> None:
    products: list[set[int]] = []
    for path in shipped.component(component, "float16").graphs.values():
        for node, read in nodes_of(path):
            if node.op_type in DELICATE:
                assert read <= {FLOAT}, f"{path.name}: {node.op_type}"
            if node.op_type in PRODUCTS:
                products.append(read)
    halves = sum(read == {HALF} for read in products)
    assert all(len(read) == 1 for read in products)
    assert 0.85 < halves / len(products) < 1  # the rest are heads, and prompts' places


def places_of(shipped: Bundle, component: str, precision: str) -> set[tuple[int, int]]:
    """Where a component's weights of a precision lie in their file, whatever form they are for."""
    forms = shipped.manifest.components[component].forms
    return stored(path for form in forms for path in shipped.component(component, precision, (form,)).graphs.values())


@pytest.mark.parametrize("component", ["beats_as2m", "beats_as20k", "grounding_dino", "languagebind", "sam2", "yamnet"])
def test_precisions_share_the_weights(shipped: Bundle, component: str) -> None:
    """Each byte is there for a tensor, none twice, and float16 adds next to nothing."""
    wide, narrow = (places_of(shipped, component, precision) for precision in ("float32", "float16"))
    data = shipped.component(component).graph(next(iter(shipped.component(component).graphs))).parent / "weights.bin"
    content = data.read_bytes()
    places = sorted(wide | narrow)
    assert all(start + length <= after for (start, length), (after, _) in pairwise(places))
    assert sum(length for _, length in places) > 0.999 * len(content)
    parts = [content[start : start + length] for start, length in places]
    assert len(set(parts)) == len(parts)
    assert sum(length for _, length in narrow - wide) < 0.03 * len(content)


class LayerNormalization(OpRun):
    """As it is defined: mean and variance in float32 (`stash_type` 1), then scale and bias in the input's type. That of
    `onnx.reference` takes them in the input's type, where squares overflow."""

    def _run(
        self, x: Any, scale: Any, bias: Any = None, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
    ) -> Any:
        assert stash_type == FLOAT
        assert axis in (-1, x.ndim - 1)
        wide = x.astype(np.float32)
        apart = wide - wide.mean(axis=-1, keepdims=True)
        spread = np.sqrt((apart * apart).mean(axis=-1, keepdims=True) + np.float32(epsilon))
        y = (apart / spread).astype(x.dtype) * scale
        return (y if bias is None else y + bias,)


class Rounding:
    """A graph run by numpy, every operator rounded to its type: ONNX Runtime's CPU kernels round few of them."""

    provider = device = "cpu"

    def __init__(self, path: Path) -> None:
        with open_session(path, device="cpu") as session:
            self.inputs, self.outputs = session.inputs, session.outputs
        self.evaluator = ReferenceEvaluator(onnx.load(path), new_ops=[LayerNormalization])

    def run(self, feeds: Any, *, into: Any = None) -> dict[str, np.ndarray]:
        given = {name: value.numpy() if isinstance(value, Buffer) else value for name, value in feeds.items()}
        with np.errstate(over="ignore"):
            results = dict(zip(self.outputs, self.evaluator.run(None, given), strict=True))
        for name, buffer in (into or {}).items():
            buffer.write(results.pop(name))
        return results

    def buffer(self, shape: Any, dtype: Any = np.float32) -> Buffer:
        return Buffer.on_host(shape, np.dtype(dtype))

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("frames", "rounding"), [(12, False), (3, True)])
def test_masks_are_those_of_float32(shipped: Bundle, frames: int, rounding: bool) -> None:
    scene = make_scene(5, num_frames=frames)
    with Sam2Graphs.open(shipped.component("sam2"), "cpu") as graphs:
        full = track_scene(graphs, scene)
    component = shipped.component("sam2", "float16")
    with Sam2Graphs.open(component, "cpu") as graphs:
        if rounding:
            names = ("image_encoder", "mask_prompt", "memory_encoder", "track")
            graphs._sessions.update({name: Rounding(component.graph(name)) for name in names})
        half = track_scene(graphs, scene)
    assert full[0].any(axis=(1, 2)).sum() >= 2
    assert overlaps(full, half).mean() > 0.97
