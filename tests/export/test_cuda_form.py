"""The `cuda` form of the nano graphs, told without a GPU: operators have CUDA kernels, every attention is one node, and
tracking gives the same masks."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="export needs the export environment")
pytest.importorskip("sam2", reason="export needs the export environment")
onnx = pytest.importorskip("onnx", reason="export needs the export environment")
import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402

from alref_edge.bundle import Bundle  # noqa: E402
from alref_edge.datasets.synthetic import make_scene  # noqa: E402
from alref_edge.errors import EngineError  # noqa: E402
from alref_edge.models.sam2 import Sam2Graphs  # noqa: E402
from export.bundle import add_to_bundle  # noqa: E402
from export.cuda_kernels import placement_of  # noqa: E402
from export.precision import element_types  # noqa: E402
from export.sam2 import export_sam2  # noqa: E402
from export.sam2.acceptance import FRAMES, OfficialMasks  # noqa: E402
from export.sam2.build import build_model  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.export.graphs import RESIZING, attentions, operators  # noqa: E402
from tests.models.sam2.jobs import overlaps, track_scene  # noqa: E402

# Attentions of the official modules: blocks of the trunk; two of each layer of memory attention; seven of the decoder.
ATTENTIONS = {"image_encoder": 7, "track": 2 * 2 + 7, "prompt": 7, "mask_prompt": 7}
# Nodes after ONNX Runtime's own optimisation: about half of the standard form's 282, 587, 356, 289 and 80.
MOST_NODES = {"image_encoder": 130, "track": 310, "prompt": 170, "mask_prompt": 130, "memory_encoder": 70}
PRECISIONS = ("float32", "float16")
WEIGHTS = ROOT / "export" / "nano" / "weights" / "sam2.1_nano.pt"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The trained nano in the `cuda` form."""
    folder = tmp_path_factory.mktemp("cuda")
    made = export_sam2("sam2.1_nano", folder, checkpoint=WEIGHTS, precisions=PRECISIONS, forms=("cuda",))
    return add_to_bundle(folder / "bundle", made)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_operator_has_a_cuda_kernel_and_nothing_is_copied(exported: Bundle, precision: str) -> None:
    for name, path in exported.component("sam2", precision, forms=("cuda",)).graphs.items():
        placement = placement_of(onnx.load(path, load_external_data=False))
        assert placement.strayed == (), name
        assert set(placement.shapes) <= {"Shape", "Squeeze", "Reshape", "Concat", "Add", "Mul", "Div"}, name


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_attention_is_one_node(exported: Bundle, precision: str) -> None:
    for name, path in exported.component("sam2", precision, forms=("cuda",)).graphs.items():
        assert attentions(path) == ATTENTIONS.get(name, 0), name
        assert operators(path)["Softmax"] == 0, name


def test_graphs_are_short(exported: Bundle, tmp_path: Path) -> None:
    for name, path in exported.component("sam2", forms=("cuda",)).graphs.items():
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(tmp_path / path.name)
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(tmp_path / path.name, load_external_data=False).graph.node
        assert len(nodes) <= MOST_NODES.get(name, 40), name


@pytest.mark.parametrize(
    ("graph", "scores"), [("track", ("iou", "object_score")), ("prompt", ("ious", "object_score"))]
)
def test_scores_are_computed_at_full_width(exported: Bundle, graph: str, scores: tuple[str, ...]) -> None:
    """The policy of float16 knows the weights of heads though they are moved: the last products are float32."""
    model = onnx.load(exported.component("sam2", "float16", forms=("cuda",)).graph(graph), load_external_data=False)
    types, made = element_types(model), {name: node for node in model.graph.node for name in node.output}
    for name in scores:
        products, values = set(), [name]
        while values:
            node = made.get(values.pop())
            if node is not None and node.op_type == "MatMul":
                products.add(types[node.input[0]])
            elif node is not None:
                values += node.input
        assert products == {onnx.TensorProto.FLOAT}, name


def test_float16_is_accepted_by_the_masks_of_a_clip(exported: Bundle) -> None:
    sets = exported.manifest.components["sam2"].forms["cuda"]
    assert sets["float32"].least_iou is None
    assert 0.99 <= (sets["float16"].least_iou or 0) <= 1
    for name in RESIZING:
        assert sets["float32"].graphs[name] == sets["float16"].graphs[name]


def test_graphs_that_track_other_masks_are_refused(exported: Bundle) -> None:
    official = OfficialMasks(build_model("sam2.1_nano", WEIGHTS))
    component = exported.component("sam2", "float16", forms=("cuda",))
    assert official.least_iou(component) == exported.manifest.components["sam2"].forms["cuda"]["float16"].least_iou
    assert len({frame for _, frame in official.masks}) >= 30
    object_id, frame = 1, FRAMES - 2
    official.masks = {**official.masks, (object_id, frame): np.roll(official.masks[object_id, frame], 1, axis=1)}
    with pytest.raises(EngineError, match=f"track other masks.*of object {object_id} on frame {frame}"):
        official.least_iou(component)
    official.masks = {place: np.zeros_like(mask) for place, mask in official.masks.items()}
    with pytest.raises(EngineError, match="no such frame"):
        official.least_iou(component)


STRAY = """<ir_version: 10, opset_import: ["": 18]>
stray (float16[1,4,8,8] x, float[1,8,8,2] grid, int64[4] sizes) => (float16[I,J,K,L] y, int64[4] shape)
{
    wide = Cast<to = 1>(x)
    sampled = GridSample(wide, grid)
    halved = GridSample(x, grid)
    back = Cast<to = 10>(sampled)
    sum = Add(back, halved)
    shape = Shape(x)
    twice = Add(shape, shape)
    sized = Reshape(sum, sizes)
    gathered = Gather(sized, twice)
    unknown = Celu(gathered)
    y = Expand(unknown, twice)
}"""


def test_what_would_leave_the_gpu_is_found() -> None:
    model = onnx.parser.parse_model(STRAY)
    for node in model.graph.node:
        node.name = node.output[0]
    placement = placement_of(model)
    assert placement.shapes == {"Shape": 1, "Add": 1}
    assert placement.strayed == (
        "halved: no CUDA kernel takes FLOAT16 as input 0",
        "sized: input 1 is copied to the host",
        "gathered: input 1 is copied to the device",
        "unknown: no CUDA kernel is known of Celu",
        "shape: an output that comes of shapes",
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tracking_gives_the_masks_of_the_standard_form(exported: Bundle, precision: str) -> None:
    scene = make_scene(5, num_frames=12)
    masks = []
    for component in (
        Bundle.open().component("sam2", precision),
        exported.component("sam2", precision, forms=("cuda",)),
    ):
        with Sam2Graphs.open(component, "cpu") as graphs:
            masks.append(track_scene(graphs, scene))
    standard, cuda = masks
    assert standard[0].any(axis=(1, 2)).sum() >= 2
    found = overlaps(standard, cuda)
    assert found.min() >= (0.999 if precision == "float32" else 0.97), found
