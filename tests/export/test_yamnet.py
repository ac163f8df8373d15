"""YAMNet's export: the Keras file, the graph beside the Keras graph in numpy, and training's way back into a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alref_edge.errors import EngineError, InputError

torch = pytest.importorskip("torch")
h5py = pytest.importorskip("h5py")

import onnxruntime  # noqa: E402

from export.bundle import ComponentSpec  # noqa: E402
from export.yamnet import VARIANTS, export_yamnet, read_weights, save_seeded_checkpoint, write_weights  # noqa: E402
from export.yamnet.exporter import check, example_run  # noqa: E402
from export.yamnet.keras_file import seeded_weights, weight_shapes  # noqa: E402
from export.yamnet.model import build_model, weights_of  # noqa: E402
from tests.models.yamnet import keras_graph  # noqa: E402

NANO, OFFICIAL = VARIANTS["nano"], VARIANTS["yamnet"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_seeded_checkpoint("nano", 3, tmp_path_factory.mktemp("weights") / "yamnet.h5")


@pytest.fixture(scope="module")
def component(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ComponentSpec:
    folder = tmp_path_factory.mktemp("export")
    return export_yamnet("nano", folder, checkpoint=checkpoint, precisions=("float32", "float16"))


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> tuple[ComponentSpec, Path]:
    """The full size, of a seed, and its file."""
    folder = tmp_path_factory.mktemp("official")
    path = save_seeded_checkpoint("yamnet", 1, folder / "yamnet.h5")
    return export_yamnet("yamnet", folder / "out", checkpoint=path), path


def run(path: Path, patches: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [np.asarray(each) for each in session.run(["scores", "features"], {"patches": patches})]


def test_sizes_are_the_official_ones() -> None:
    """README.md: 3.7 M weights, 96x64 patches to 1024 features and 521 scores, 69.2 M multiplies."""
    shapes = weight_shapes(OFFICIAL)
    assert len(shapes) == 4 * 27 + 2
    assert 3.7e6 < sum(int(np.prod(shape)) for shape in shapes.values()) < 3.8e6
    assert shapes["layer1/conv/kernel"] == (3, 3, 1, 32)
    assert shapes["layer14/depthwise_conv/depthwise_kernel"] == (3, 3, 1024, 1)
    assert shapes["layer14/pointwise_conv/kernel"] == (1, 1, 1024, 1024)
    assert shapes["layer7/depthwise_conv/bn/moving_variance"] == (256,)
    assert shapes["logits/kernel"] == (1024, 521)
    area, multiplies = 96 * 64, 1024 * 521
    for layer in OFFICIAL.convolutions:
        area //= layer.stride**2
        multiplies += area * layer.kernel**2 * layer.outputs * (1 if layer.depthwise else layer.inputs)
    assert multiplies == pytest.approx(69.2e6, rel=0.005)


def test_the_file_has_the_official_layout(checkpoint: Path) -> None:
    found = {}
    with h5py.File(checkpoint) as file:
        file.visititems(lambda name, item: found.update({name: item.shape}) if isinstance(item, h5py.Dataset) else None)
        layers = list(np.char.decode(file.attrs["layer_names"].astype("S")))
    expected = [
        "layer1/conv/layer1/conv/kernel:0",
        *(f"layer1/conv/bn/layer1/conv/bn/{name}:0" for name in ("beta", "moving_mean", "moving_variance")),
    ]
    for number in range(2, 15):
        for kind, kernel in (("depthwise_conv", "depthwise_kernel"), ("pointwise_conv", "kernel")):
            layer = f"layer{number}/{kind}"
            expected.append(f"{layer}/{layer}/{kernel}:0")
            expected += [f"{layer}/bn/{layer}/bn/{name}:0" for name in ("beta", "moving_mean", "moving_variance")]
    assert set(found) == {*expected, "logits/logits/kernel:0", "logits/logits/bias:0"}
    assert layers[:3] == ["layer1/conv", "layer1/conv/bn", "layer2/depthwise_conv"]
    assert layers[-1] == "logits"


def check_beside_keras(component: ComponentSpec, path: Path) -> None:
    config = VARIANTS[component.variant]
    patches = example_run(build_model(config, read_weights(path, config))).patches_ntm
    scores, features = run(component.float32.graphs["yamnet"], patches)
    wanted_scores, wanted_features = keras_graph.yamnet(path, patches)
    assert scores.shape == (5, config.classes)
    assert np.abs(scores - wanted_scores).max() < 1e-4
    assert np.abs(features - wanted_features).max() < 1e-4 * max(1.0, float(wanted_features.max()))
    assert wanted_scores.std(axis=0).mean() > 0.02
    assert component.source["checkpoint"] == "yamnet.h5"


def test_the_nano_graph_is_the_keras_graph(component: ComponentSpec, checkpoint: Path) -> None:
    check_beside_keras(component, checkpoint)


def test_the_official_graph_is_the_keras_graph(official: tuple[ComponentSpec, Path]) -> None:
    check_beside_keras(*official)


def test_float16_is_near(component: ComponentSpec, checkpoint: Path) -> None:
    patches = example_run(build_model(NANO, read_weights(checkpoint, NANO))).patches_ntm
    wide, narrow = (run(component.forms["standard"][each].graphs["yamnet"], patches) for each in ("float32", "float16"))
    assert np.abs(wide[0] - narrow[0]).max() < 0.02
    assert not np.array_equal(wide[0], narrow[0])


def test_a_seed_makes_the_same_weights_and_another_seed_others() -> None:
    one, again, other = (seeded_weights(NANO, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not any(np.array_equal(one[name], other[name]) for name in one)


def test_weights_come_back_from_the_module(checkpoint: Path) -> None:
    weights = read_weights(checkpoint, NANO)
    back = weights_of(build_model(NANO, weights))
    assert list(back) == list(weights)
    assert all(np.array_equal(back[name], weights[name]) for name in weights)


def test_a_graph_of_other_weights_is_refused(component: ComponentSpec) -> None:
    run = example_run(build_model(NANO, seeded_weights(NANO, 0)))
    with pytest.raises(EngineError, match="differ"):
        check(component.float32.graphs["yamnet"], run, 1e-4)


def test_training_moves_weights_and_statistics_and_is_saved(checkpoint: Path, tmp_path: Path) -> None:
    model = build_model(NANO, read_weights(checkpoint, NANO)).train()
    patches = torch.from_numpy(example_run(model).patches_ntm)
    wanted = torch.eye(7)[:5]
    model.train()
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model.logits(patches)[0], wanted)
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for value, slope in zip(model.parameters(), slopes, strict=True):
                value.sub_(1e-4 * slope)
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    path = write_weights(tmp_path / "trained.h5", weights_of(model))
    before, after = read_weights(checkpoint, NANO), read_weights(path, NANO)
    assert not any(np.array_equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        scores = model.eval()(patches)[0].numpy()
    assert np.abs(scores - keras_graph.yamnet(path, patches.numpy())[0]).max() < 1e-4


def test_any_name_of_the_classifier_will_do(checkpoint: Path, tmp_path: Path) -> None:
    weights = read_weights(checkpoint, NANO)
    renamed = {name.replace("logits", "dense_1"): value for name, value in weights.items()}
    again = read_weights(write_weights(tmp_path / "dense.h5", renamed), NANO)
    assert all(np.array_equal(again[name], weights[name]) for name in weights)


def _without(name: str) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        del file[name]

    return change


def _attribute(group: str, name: str, value: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        file[group].attrs[name] = value

    return change


def _value(name: str, value: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        shape = file[name].shape if np.ndim(value) == 0 else np.shape(value)
        del file[name]
        file[name] = np.broadcast_to(np.asarray(value, np.float32), shape)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("layer3/depthwise_conv/bn"), "not a file of Keras weights"),
        (_attribute("/", "layer_names", [b"layer1/conv"]), "does not hold this variant's weights"),
        (_attribute("logits", "weight_names", [b"logits/kernel:0"]), "1 differ"),
        (_attribute("logits", "weight_names", [b"logits", b"logits/bias:0"]), "not a file of Keras weights"),
        (_value("logits/logits/bias:0", np.zeros(9)), "1 differ"),
        (_value("layer1/conv/layer1/conv/kernel:0", np.nan), "no trained network"),
        (_value("layer2/pointwise_conv/bn/layer2/pointwise_conv/bn/moving_variance:0", -1), "no trained network"),
    ],
)
def test_files_that_are_not_yamnets_are_refused(
    checkpoint: Path, tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    path = tmp_path / "yamnet.h5"
    path.write_bytes(checkpoint.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=message):
        read_weights(path, NANO)


def test_other_variants_and_other_formats_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not hold this variant's weights"):
        export_yamnet("yamnet", tmp_path, checkpoint=checkpoint)
    with pytest.raises(InputError, match="no such variant"):
        export_yamnet("tiny", tmp_path, seed=0)
    (tmp_path / "yamnet.h5").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="not a file of Keras weights"):
        export_yamnet("nano", tmp_path, checkpoint=tmp_path / "yamnet.h5")
    with h5py.File(tmp_path / "keras3.weights.h5", "w") as file:
        file.create_group("layers/conv2d/vars")
    with pytest.raises(InputError, match="not a file of Keras weights"):
        read_weights(tmp_path / "keras3.weights.h5", NANO)


@pytest.mark.parametrize(
    "text",
    ["", "index,mid\n0,/m/0\n", "index,mid,display_name\n0,/m/0,flute\n", "index,mid,display_name\nx,/m/0,flute\n"],
    ids=["empty", "no names", "too few", "no numbers"],
)
def test_a_wrong_map_of_classes_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "map.csv").write_text(text)
    with pytest.raises(InputError, match=r"map of classes|name these classes"):
        export_yamnet("nano", tmp_path / "out", seed=0, class_map=tmp_path / "map.csv")
