"""Bundles without their weights, and random weights in their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from alref_edge.bundle import Bundle
from alref_edge.errors import InputError
from alref_edge.models.grounding_dino import GroundingDino
from alref_edge.models.sam2 import Sam2VideoTracker
from alref_edge.runtime import open_session
from benchmarks.fill import KEPT, fill, is_filled, is_skeleton, regions_of
from benchmarks.gpu.part_graphs import made_feeds
from benchmarks.gpu.subject import drawn_frames
from benchmarks.skeleton import strip
from export.weights import share_weights


@pytest.fixture(scope="module")
def skeleton(nano_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("skeleton") / "nano"
    strip(nano_bundle, out)
    return out


@pytest.fixture(scope="module")
def filled(skeleton: Path) -> Bundle:
    return fill(skeleton, skeleton.with_name("filled"))


def test_a_skeleton_has_no_weights(skeleton: Path, nano_bundle: Path) -> None:
    assert is_skeleton(skeleton)
    assert not is_skeleton(nano_bundle)
    assert not list(skeleton.rglob("weights.bin"))
    kept = sum(path.stat().st_size for path in skeleton.rglob(f"*{KEPT}"))
    weights = sum(path.stat().st_size for path in nano_bundle.rglob("weights.bin"))
    assert kept < weights / 100
    for graph in nano_bundle.rglob("*.onnx"):
        assert (skeleton / graph.relative_to(nano_bundle)).read_bytes() == graph.read_bytes()


def test_what_was_filled_is_a_bundle_that_says_so(skeleton: Path, filled: Bundle, nano_bundle: Path) -> None:
    trained = Bundle.open(nano_bundle)
    assert not filled.manifest.trained
    assert "random weights" in filled.manifest.notes
    assert is_filled(skeleton, filled.root)
    assert not is_filled(skeleton, nano_bundle)
    assert filled.manifest.components.keys() == trained.manifest.components.keys()
    for name in trained.manifest.components:
        mine, theirs = ((each.root / name / "weights.bin").read_bytes() for each in (filled, trained))
        assert len(mine) == len(theirs)
        assert mine != theirs


def test_the_same_seed_gives_the_same_bundle(skeleton: Path, filled: Bundle, tmp_path: Path) -> None:
    assert fill(skeleton, tmp_path / "again").sha256 == filled.sha256
    assert fill(skeleton, tmp_path / "other", seed=1).sha256 != filled.sha256


def test_whole_numbers_and_what_indexes_stay(filled: Bundle, nano_bundle: Path) -> None:
    counted = 0
    for file, regions in regions_of(nano_bundle, Bundle.open(nano_bundle).manifest.files).items():
        mine, theirs = ((root / file).read_bytes() for root in (filled.root, nano_bundle))
        for region in regions.values():
            if region.role == "fixed":
                counted += 1
                end = region.offset + region.length
                assert mine[region.offset : end] == theirs[region.offset : end]
    assert counted


def test_weights_have_the_scale_of_their_use(filled: Bundle) -> None:
    held = {"matrix": [], "scale": [], "shift": []}  # type: dict[str, list[float]]
    for file, regions in regions_of(filled.root, filled.manifest.files).items():
        raw = (filled.root / file).read_bytes()
        for region in regions.values():
            values = np.frombuffer(raw, region.dtype, region.length // np.dtype(region.dtype).itemsize, region.offset)
            wide = values.astype(np.float64)
            if region.role == "matrix" and "pred_obj_score_head.layers.2" not in region.node and wide.size > 500:
                held["matrix"].append(float(wide.std() * region.fan_in**0.5))
            elif region.role == "scale":
                held["scale"].append(float(wide.mean()))
            elif region.role == "shift":
                held["shift"].append(float(np.abs(wide).max()))
    assert all(0.85 < each < 1.15 for each in held["matrix"])
    assert all(0.9 < each < 1.1 for each in held["scale"])
    assert all(each < 0.3 for each in held["shift"])
    assert min(map(len, held.values())) > 10


def test_a_norm_in_any_graph_gets_scales_near_one(filled: Bundle) -> None:
    """By their names in the graph, not by the roles that filled them."""
    path = filled.root / "sam2" / "image_encoder.onnx"
    model = onnx.load(str(path))
    made = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    sizes = [weights[made.get(node.input[1], node.input[1])] for node in norms]
    random = [scale.astype(np.float64) for scale in sizes if scale.nbytes >= 160]
    assert random
    assert all(abs(scale.mean() - 1) < 0.1 and scale.std() < 0.2 for scale in random)


def test_fused_operators_say_what_they_take(tmp_path: Path) -> None:
    """Weights may be stored narrower, moved, and scaled by constants on their way."""
    helper, width = onnx.helper, 128
    numbers = {name: np.ones(width, np.float32) for name in ("gamma", "beta", "sum_bias", "gelu_bias")}
    numbers |= {
        "qkv_bias": np.ones(3 * width, np.float32),
        "projection": np.ones((32, width), np.float32),
        "kernel": np.ones((width, 8, 3, 3), np.float32),
        "table": np.ones((9, width), np.float32),
        "order": np.arange(64),
        "twice": np.float32(2),
        "swapped": np.array([width, 32]),
    }
    fused = {"domain": "com.microsoft"}
    nodes = [
        helper.make_node(
            "SkipLayerNormalization", ["x", "x", "gamma", "beta", "sum_bias"], ["a"], name="norm", **fused
        ),
        helper.make_node("BiasGelu", ["a", "gelu_bias"], ["b"], name="gelu", **fused),
        helper.make_node("MultiHeadAttention", ["b", "b", "b", "qkv_bias"], ["c"], name="heads", num_heads=2, **fused),
        helper.make_node("Mul", ["projection", "twice"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "swapped"], ["moved"]),
        helper.make_node("MatMul", ["c", "moved"], ["d"], name="product"),
        helper.make_node("Conv", ["image", "kernel"], ["e"], name="convolution", pads=[1, 1, 1, 1]),
        helper.make_node("Gather", ["table", "order"], ["f"], name="look-up"),
    ]
    images = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 8, 4, 4])
    rows = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 5, width])
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "def"]
    # Equal ones would be stored once, and have all uses together.
    tensors = [
        onnx.numpy_helper.from_array(
            np.asarray(value if name in ("twice", "swapped", "order") else value + number), name
        )
        for number, (name, value) in enumerate(numbers.items())
    ]
    graph = helper.make_graph(nodes, "fused", [rows, images], outputs, tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "fused.onnx")
    share_weights([tmp_path / "fused.onnx"])
    (regions,) = regions_of(tmp_path, ["fused.onnx"]).values()
    assert {(region.node, region.role, region.fan_in) for region in regions.values()} == {
        ("norm", "scale", 1),
        ("norm", "shift", 1),
        ("gelu", "shift", 1),
        ("heads", "shift", 1),
        ("product", "matrix", width),
        ("convolution", "matrix", 72),
        ("look-up", "table", 1),
        ("", "fixed", 1),
    }


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize(("graph", "sizes"), [("image_encoder", {}), ("track", {"B": 2, "M": 7, "P": 16, "N": 14})])
def test_outputs_are_finite(filled: Bundle, precision: str, graph: str, sizes: dict[str, int]) -> None:
    with open_session(filled.component("sam2", precision).open_graph(graph), device="cpu") as session:
        outputs = session.run(made_feeds(session, sizes))
    for name, value in outputs.items():
        assert np.isfinite(value.astype(np.float32)).all(), name
        assert value.size == 1 or value.astype(np.float32).std() > 0 or graph == "track", name


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_grounding_answers(filled: Bundle, precision: str) -> None:
    component = filled.component("grounding_dino", precision)
    with GroundingDino.from_component(component, "cpu") as detector:
        image = detector.encode_image(drawn_frames()[0])
        logits, boxes = detector.predict_raw(image, detector.encode_text("a red square."))
    assert np.isfinite(logits).all()
    assert np.isfinite(boxes).all()
    assert logits.std() > 0


def test_tracking_runs(filled: Bundle) -> None:
    with Sam2VideoTracker.from_component(filled.component("sam2", "float32"), "cpu") as tracker:
        state = tracker.start(3, 540, 960)
        frames = drawn_frames()[:3]
        state.add_points_or_box(0, 0, frames[0], box=np.array([30, 30, 120, 120], np.float32))
        results = list(state.propagate(enumerate(frames)))
    assert len(results) == 3
    assert all(np.isfinite(result.low_res_nhw).all() for result in results)


def test_nothing_is_overwritten(skeleton: Path, nano_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    for write, source in ((strip, nano_bundle), (fill, skeleton)):
        with pytest.raises(InputError, match="already"):
            write(source, tmp_path / "there")
    assert (tmp_path / "there" / "file").read_text() == "mine"
