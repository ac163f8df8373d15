"""Export of SAM 2: the nano graphs against the official modules, along every dynamic axis; weights that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="export needs the export environment")
pytest.importorskip("sam2", reason="export needs the export environment")
onnx = pytest.importorskip("onnx", reason="export needs the export environment")

from alref_edge.errors import EngineError, InputError  # noqa: E402
from export.bundle import ComponentSpec  # noqa: E402
from export.graph_check import ExportedGraph  # noqa: E402
from export.sam2 import build_model, export_sam2, reference, save_seeded_checkpoint  # noqa: E402
from export.sam2.build import read_checkpoint  # noqa: E402
from export.sam2.checks import (  # noqa: E402
    ABSOLUTE,
    BFLOAT16,
    RELATIVE,
    check,
    check_float16,
    check_graphs,
    example_runs,
)
from export.sam2.exporter import write_graph  # noqa: E402
from export.sam2.graphs import FORMS, graphs_of  # noqa: E402
from export.sam2.image_encoder import ImageEncoder  # noqa: E402
from export.sam2.variants import VARIANTS, model_config  # noqa: E402
from tests.export.graphs import RESIZING  # noqa: E402

VARIANT, SEED = "sam2.1_nano", 3

SCORE_BIAS = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
# objects, past frames (True where prompted), frame, frames of the video, reverse
TRACKED = [
    (1, {4: True}, 5, 30, False),
    (3, {0: True, 7: False, 8: False, 9: False}, 10, 30, False),
    (2, {12: True, 3: True, 5: False, 4: False}, 8, 30, False),
    (2, {12: True, 3: True, 11: False}, 10, 12, True),
    (2, {0: True, **dict.fromkeys(range(14, 20), False)}, 20, 40, False),
]


def track_officially(model: Any, features: Any, case: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    batch, frames, frame, num_frames, reverse = case
    past = past_of(model, batch, frames, seed=batch + frame)
    feeds = {**features, **reference.track_feeds(model, past, frame, num_frames, reverse=reverse)}
    return feeds, reference.track(model, features, past, frame, num_frames, reverse=reverse)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose object scores lie on both sides of zero over TRACKED: absent objects alone would prove little."""
    path = tmp_path_factory.mktemp("weights") / "nano.pt"
    model = build_model(VARIANT, seed=SEED)
    features = reference.image_encoder(model, noise(1))
    scores = np.sort(
        [score for case in TRACKED for score in track_officially(model, features, case)[1]["object_score"][:, 0]]
    )
    middle = len(scores) // 2
    assert scores[middle] - scores[middle - 1] > 1e-3
    state = model.state_dict()
    state[SCORE_BIAS] -= float(scores[middle] + scores[middle - 1]) / 2
    torch.save({"model": state}, path)
    return path


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return build_model(VARIANT, checkpoint)


@pytest.fixture(scope="module")
def component(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> ComponentSpec:
    precisions = ("float32", "float16")
    return export_sam2(
        VARIANT, tmp_path_factory.mktemp("sam2"), checkpoint=checkpoint, precisions=precisions, tracked=False
    )


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, 256, 256)).astype(np.float32)


@pytest.fixture(scope="module")
def features(model: Any) -> dict[str, np.ndarray]:
    return reference.image_encoder(model, noise(1))


@pytest.fixture(scope="module", params=FORMS)
def run(component: ComponentSpec, request: pytest.FixtureRequest) -> Iterator[Any]:
    import onnxruntime

    graphs = component.forms[request.param]["float32"].graphs

    sessions: dict[str, Any] = {}

    def call(name: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if name not in sessions:
            sessions[name] = onnxruntime.InferenceSession(graphs[name], providers=["CPUExecutionProvider"])
        session = sessions[name]
        wanted = [each.name for each in session.get_inputs()]
        values = session.run(None, {key: feeds[key] for key in wanted})
        return dict(zip([each.name for each in session.get_outputs()], values, strict=True))

    yield call
    sessions.clear()


def close(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].shape == value.shape, name
        limit = max(ABSOLUTE, RELATIVE * float(value.std()))
        allowed = limit + (BFLOAT16 * np.abs(value) if name == "memory" else 0.0)
        assert np.all(np.abs(got[name] - value) <= allowed), name


def past_of(model: Any, batch: int, frames: dict[int, bool], seed: int) -> list[reference.Moment]:
    generator = torch.Generator().manual_seed(seed)
    side = model.sam_image_embedding_size
    return [
        reference.Moment(
            frame,
            conditioning,
            torch.randn(batch, model.mem_dim, side, side, generator=generator).to(torch.bfloat16),
            torch.randn(batch, model.hidden_dim, generator=generator),
        )
        for frame, conditioning in frames.items()
    ]


def test_component_tells_the_runtime_what_it_needs(component: ComponentSpec) -> None:
    assert component.name == "sam2"
    assert component.variant == VARIANT
    assert component.source["checkpoint"] == "nano.pt"
    assert set(component.float32.graphs) == {"image_encoder", "track", "prompt", "mask_prompt", "memory_encoder"}
    assert set(component.float32.tolerances) == set(component.float32.graphs)
    assert component.config["image_size"] == 256
    assert component.config["pointer_tpos"] is True


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_graphs_are_single_files_of_the_pinned_versions(component: ComponentSpec, precision: str, form: str) -> None:
    for name, path in component.forms[form][precision].graphs.items():
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model)
        fused = {"com.microsoft": 1} if form == "cuda" and name not in RESIZING else {}
        assert {each.domain: each.version for each in model.opset_import} == {"": 18, **fused}
        assert model.ir_version <= 10
        assert all(each.data_location != onnx.TensorProto.EXTERNAL for each in model.graph.initializer)


@pytest.mark.parametrize("form", FORMS)
def test_float16_graphs_have_the_names_of_the_float32_ones_and_hand_on_float16(
    component: ComponentSpec, form: str
) -> None:
    narrow = component.forms[form]["float16"]
    assert set(narrow.graphs) - RESIZING == set(narrow.tolerances) == set(component.float32.graphs)
    for name in narrow.tolerances:
        path = narrow.graphs[name]
        ours, theirs = (onnx.load(each).graph for each in (path, component.float32.graphs[name]))
        for half, full in zip((*ours.input, *ours.output), (*theirs.input, *theirs.output), strict=True):
            assert half.name == full.name
            given = half.name in {"embed", "feat_s0", "feat_s1", "bank", "memory"}
            wanted = onnx.TensorProto.FLOAT16 if given else full.type.tensor_type.elem_type
            assert half.type.tensor_type.elem_type == wanted, half.name


def test_a_check_finds_a_float16_graph_that_is_far_off(component: ComponentSpec, model: Any, tmp_path: Path) -> None:
    narrow = component.forms["standard"]["float16"].graphs
    wrong = onnx.load(narrow["memory_encoder"])
    (last,) = (each for each in wrong.graph.initializer if "encoder.out_proj.weight" in each.name)
    last.raw_data = (np.frombuffer(last.raw_data, np.float16) * np.float16(1.5)).tobytes()
    onnx.save(wrong, tmp_path / "memory_encoder.onnx")
    with pytest.raises(EngineError, match=r"memory differs from the module.*root mean square"):
        check_float16(
            graphs_of(model), {**narrow, "memory_encoder": tmp_path / "memory_encoder.onnx"}, example_runs(model)
        )


@pytest.mark.parametrize("case", TRACKED)
def test_track(run: Any, model: Any, features: Any, case: Any) -> None:
    feeds, wanted = track_officially(model, features, case)
    got = run("track", feeds)
    close(got, wanted)
    rounded = torch.from_numpy(got["memory"]).to(torch.bfloat16).float().numpy()
    assert np.array_equal(got["memory"], rounded)


def test_tracked_objects_are_present_and_absent_and_their_masks_vary(run: Any, model: Any, features: Any) -> None:
    outputs = [run("track", track_officially(model, features, case)[0]) for case in TRACKED]
    present = np.concatenate([each["object_score"][:, 0] > 0 for each in outputs])
    masks = np.concatenate([each["low_res"] for each in outputs])
    assert present.any()
    assert not present.all()
    assert (masks[~present] == -1024).all()
    assert all(0.02 < (mask > 0).mean() < 0.98 for mask in masks[present])


def test_track_depends_on_memory_pointers_and_their_positions(run: Any, model: Any, features: Any) -> None:
    past = past_of(model, 1, {0: True, 9: False}, seed=3)
    feeds = {**features, **reference.track_feeds(model, past, 10, 30)}
    base = run("track", feeds)["object_score"]
    for name in ("bank", "pointers", "pointer_pos"):
        other = run("track", {**feeds, name: feeds[name] * 0.5})["object_score"]
        assert np.abs(other - base).max() > 1e-5, name


def test_track_without_pointers_and_with_slots_in_any_order(run: Any, model: Any, features: Any) -> None:
    past = past_of(model, 2, {0: True, 8: False, 9: False}, seed=4)
    feeds = {**features, **reference.track_feeds(model, past, 10, 30)}
    order = [2, 0, 1]
    swapped = {**feeds, "slots": feeds["slots"][:, order], "tpos": feeds["tpos"][:, order]}
    close(run("track", swapped), run("track", feeds))
    none = {**feeds, "pointers": feeds["pointers"][:, :0], "pointer_pos": feeds["pointer_pos"][:, :0]}
    got = run("track", none)
    assert all(np.isfinite(value).all() for value in got.values())


@pytest.mark.parametrize(("batch", "points", "masked"), [(1, 1, False), (2, 3, True), (3, 2, False), (1, 5, True)])
def test_prompt(run: Any, model: Any, features: Any, batch: int, points: int, masked: bool) -> None:
    rng = np.random.default_rng(points)
    coords = rng.uniform(0, 256, (batch, points, 2)).astype(np.float32)
    labels = rng.integers(0, 4, (batch, points)).astype(np.int32)
    mask = rng.standard_normal((batch, 1, 64, 64)).astype(np.float32) * 5
    feeds = {
        **features,
        "point_coords": np.concatenate((coords, np.zeros((batch, 1, 2), np.float32)), axis=1),
        "point_labels": np.concatenate((labels, np.full((batch, 1), -1, np.int32)), axis=1),
        "mask_input": mask,
        "has_mask": np.full((batch, 1), float(masked), np.float32),
    }
    close(run("prompt", feeds), reference.prompt(model, features, coords, labels, mask if masked else None))


def test_prompt_of_a_mask_alone(run: Any, model: Any, features: Any) -> None:
    mask = np.random.default_rng(2).standard_normal((2, 1, 64, 64)).astype(np.float32)
    feeds = {
        **features,
        "point_coords": np.zeros((2, 0, 2), np.float32),
        "point_labels": np.zeros((2, 0), np.int32),
        "mask_input": mask,
        "has_mask": np.ones((2, 1), np.float32),
    }
    close(run("prompt", feeds), reference.prompt(model, features, None, None, mask))


def test_mask_prompt_and_its_memory(run: Any, model: Any, features: Any) -> None:
    mask = np.zeros((3, 1, 256, 256), np.float32)
    mask[0, 0, 40:171, 13:200] = 1
    mask[1, 0, :77, 100:] = 1  # touches two borders; the third stays empty
    wanted = reference.mask_prompt(model, features, mask)
    got = run("mask_prompt", {**features, "mask": mask})
    close(got, wanted)
    assert got["object_score"].ravel().tolist() == [10.0, 10.0, -10.0]
    given = {"low_res": wanted["low_res"], "object_score": wanted["object_score"]}
    close(
        run("memory_encoder", {"embed": features["embed"], **given}), reference.memory_encoder(model, features, **given)
    )


def test_sam2_of_the_first_family_has_no_pointer_positions() -> None:
    assert "pointer_pos" not in graphs_of(build_model("sam2_nano", seed=12))["track"].inputs


def test_windows_that_need_padding(tmp_path: Path) -> None:
    config = model_config(VARIANT, video_policy=True)
    config["image_encoder"]["trunk"].update(window_spec=[8, 4, 14, 7], global_att_blocks=[5])
    from hydra.utils import instantiate

    from export.sam2.seeding import seed_weights

    padded = instantiate(config, _recursive_=True)
    seed_weights(padded, 0)
    padded.eval().requires_grad_(False)
    image = noise(0)
    wanted = reference.image_encoder(padded, image)
    values = ImageEncoder(padded)(torch.from_numpy(image))
    close(dict(zip(("embed", "feat_s0", "feat_s1"), (value.numpy() for value in values), strict=True)), wanted)
    write_graph(graphs_of(padded, "cuda")["image_encoder"], tmp_path / "fused.onnx")
    fused = ExportedGraph(tmp_path / "fused.onnx", "fused", ["image"], list(wanted))
    close(fused.run({"image": image}, wanted), wanted)


def test_a_check_finds_a_wrong_graph(component: ComponentSpec, model: Any, tmp_path: Path) -> None:
    wrong = onnx.load(component.float32.graphs["memory_encoder"])
    largest = max(wrong.graph.initializer, key=lambda each: len(each.raw_data))
    largest.raw_data = (np.frombuffer(largest.raw_data, np.float32) * 1.2).astype(np.float32).tobytes()
    onnx.save(wrong, tmp_path / "memory_encoder.onnx")
    paths = {**component.float32.graphs, "memory_encoder": tmp_path / "memory_encoder.onnx"}
    with pytest.raises(EngineError, match="memory differs from the module"):
        check_graphs(model, graphs_of(model), paths)


def test_a_check_finds_swapped_outputs(component: ComponentSpec, model: Any) -> None:
    graph = graphs_of(model)["prompt"]
    with pytest.raises(EngineError, match="names differ"):
        check(graph, component.float32.graphs["mask_prompt"], {}, {})


def test_official_variants_build_from_their_yaml() -> None:
    assert len(VARIANTS) == 10
    for name in VARIANTS:
        config = model_config(name)
        assert config["num_maskmem"] == 7
        assert bool(config.get("no_obj_embed_spatial")) is name.startswith("sam2.1_")


def test_nano_is_small(model: Any) -> None:
    assert sum(each.numel() for each in model.parameters()) <= 900_000


def test_checkpoints_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "nano.pt"
    save_seeded_checkpoint(VARIANT, SEED, path)
    loaded = build_model(VARIANT, path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in build_model(VARIANT, seed=SEED).state_dict().items())


def test_seeds_differ() -> None:
    one, other = (build_model(VARIANT, seed=seed).state_dict() for seed in (0, 1))
    assert not torch.equal(
        one["memory_attention.layers.0.linear1.weight"], other["memory_attention.layers.0.linear1.weight"]
    )


def _zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def _noise(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 not really a checkpoint" * 40)


def _pickled_code(path: Path) -> None:
    torch.save({"model": print}, path)


def _no_model(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def _truncated(path: Path) -> None:
    save_seeded_checkpoint(VARIANT, SEED, path)
    path.write_bytes(path.read_bytes()[:-20_000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "There is no checkpoint"),
        (_zero_bytes, "not a readable checkpoint"),
        (_noise, "not a readable checkpoint"),
        (_pickled_code, "not a"),
        (_no_model, "not an official SAM 2 checkpoint"),
        (_truncated, "not a readable checkpoint"),
    ],
)
def test_bad_checkpoints(make: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    make(path)
    with pytest.raises(InputError, match=message) as error:
        read_checkpoint(path)
    assert error.value.mend


def test_a_checkpoint_of_another_variant_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    save_seeded_checkpoint("sam2_nano", 0, path)
    with pytest.raises(InputError, match=r"does not hold the weights of sam2\.1_nano.*missing") as error:
        build_model(VARIANT, path)
    assert "no_obj_embed_spatial" in str(error.value) or "obj_ptr_tpos_proj" in str(error.value)


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("sam2.1_huge", {"seed": 0}, "There is no SAM 2 variant"),
        (VARIANT, {}, "a checkpoint or from a seed"),
        (VARIANT, {"checkpoint": Path("x.pt"), "seed": 0}, "a checkpoint or from a seed"),
        (VARIANT, {"seed": 0, "precisions": ("float8",)}, "no such precision"),
    ],
)
def test_bad_requests(variant: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export_sam2(variant, tmp_path, **options)
