"""Grounding DINO's export: the nano model end to end, its weights' ways in, and the graphs' form."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alref_edge.bundle.manifest import FORMS
from alref_edge.errors import EngineError, InputError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from PIL import Image  # noqa: E402

from alref_edge.models.grounding_dino.geometry import backbone_tables, decoder_tables  # noqa: E402
from alref_edge.models.grounding_dino.preprocess import normalise  # noqa: E402
from alref_edge.models.grounding_dino.text import CaptionTokenizer  # noqa: E402
from export.bundle import ComponentSpec, GraphSet, add_to_bundle  # noqa: E402
from export.grounding_dino import export_grounding_dino, official_config, save_seeded_checkpoint  # noqa: E402
from export.grounding_dino.checkpoint import (  # noqa: E402
    build_model,
    key_map,
    load_folder,
    load_official,
    to_official,
    to_transformers,
)
from export.grounding_dino.configs import MEAN, STD, transformers_config  # noqa: E402
from export.grounding_dino.exporter import TOLERANCES, example_image, match_detections, verify  # noqa: E402
from export.grounding_dino.reference import run_reference  # noqa: E402
from export.grounding_dino.seeding import parameters, seeded_weights  # noqa: E402
from export.grounding_dino.vocabulary import make_vocabulary, read_vocabulary, write_vocabulary  # noqa: E402
from export.precision import element_types  # noqa: E402
from tests.export.graphs import attentions, nodes_that_run, operators, stored  # noqa: E402

SEED = 0
OPSETS = {"standard": {"": 18}, "cuda": {"": 18, "com.microsoft": 1}}
GRAPHS = ("backbone", "text_encoder", "decoder")


@pytest.fixture(scope="module")
def config() -> Any:
    return transformers_config("nano")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_seeded_checkpoint("nano", SEED, tmp_path_factory.mktemp("weights") / "nano.pth")


@pytest.fixture(scope="module")
def weights(checkpoint: Path, config: Any) -> dict[str, Any]:
    return load_official(checkpoint, config)


@pytest.fixture(scope="module")
def model(weights: dict[str, Any], config: Any) -> Any:
    return build_model(config, weights)


@pytest.fixture(scope="module")
def component(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ComponentSpec:
    folder = tmp_path_factory.mktemp("export")
    vocab = write_vocabulary(folder / "made.txt", official_config("nano")["bert"]["vocab_size"])
    precisions = ("float32", "float16")
    return export_grounding_dino("nano", folder / "out", checkpoint=checkpoint, vocab=vocab, precisions=precisions)


@pytest.fixture(scope="module")
def tokenizer(component: ComponentSpec) -> CaptionTokenizer:
    return CaptionTokenizer(component.files["vocab"])


def _detect(
    component: ComponentSpec, tokenizer: CaptionTokenizer, image: np.ndarray, caption: str, form: str = "standard"
) -> dict[str, Any]:
    graphs = component.forms[form]["float32"].graphs
    sessions = {name: onnxruntime.InferenceSession(graphs[name]) for name in GRAPHS}
    tokens = tokenizer.encode(caption)
    size = image.shape[2:]
    text = {"position_ids": tokens.position_ids, "attention_mask": tokens.attention_mask}
    (features,) = sessions["backbone"].run(None, {"image": image, **backbone_tables(*size, component.config)})
    (text_features,) = sessions["text_encoder"].run(None, {"input_ids": tokens.input_ids, **text})
    tables = decoder_tables(*size, component.config)
    feeds = {"features": features, "text_features": text_features, **text, **tables}
    logits, boxes = sessions["decoder"].run(None, feeds)
    return {"logits": logits, "boxes": boxes, "ids": tokens.input_ids}


def test_nano_is_small(weights: dict[str, Any]) -> None:
    assert 1_000_000 < parameters(weights) < 1_400_000


@pytest.mark.parametrize(
    ("size", "caption"),
    [
        ((240, 320), "the dog."),
        ((333, 500), "a cat. a dog next to the red car. person? lamp. two small birds. the bed"),
        ((65, 97), "dog"),
        ((91, 147), "a person on the left. cat"),
        ((49, 224), "the black cat behind the sofa and the white lamp on the wall"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_graphs_match_the_model_at_any_size_and_caption(
    component: ComponentSpec, model: Any, tokenizer: CaptionTokenizer, size: tuple[int, int], caption: str, form: str
) -> None:
    image = example_image(*size)
    got = _detect(component, tokenizer, image, caption, form)
    expected = run_reference(model, image, got["ids"], tokenizer.delimiter_ids)
    assert got["logits"].shape == (1, model.config.num_queries, got["ids"].shape[1])
    count, boxes, scores = match_detections(got, expected, threshold=0.02)
    assert count > 10
    assert boxes < 1e-4
    assert scores < 1e-3
    # One wrong token or pixel would show: the same model half a patch off is far away.
    other = run_reference(model, np.roll(image, 2, axis=3), got["ids"], tokenizer.delimiter_ids)
    assert max(match_detections(got, other, threshold=0.02)[1:]) > 1e-2


def test_detections_on_a_real_image_are_not_trivial(
    component: ComponentSpec, tokenizer: CaptionTokenizer, media: Path
) -> None:
    image = Image.open(media / "cat_dog.jpeg").convert("RGB").resize((427, 320))
    pixels = normalise(np.asarray(image), MEAN, STD)
    scores = []
    for caption in ("the dog.", "a black cat. the wooden chair", "window. door. the bed, with a white pillow. lamp"):
        found = _detect(component, tokenizer, pixels, caption)
        best = 1 / (1 + np.exp(-found["logits"][0].max(axis=-1)))
        confident = best > 0.25
        assert 5 <= confident.sum() < len(best)
        spread = found["boxes"][0][confident].std(axis=0)
        assert spread[:2].min() > 0.05
        assert spread[2:].min() > 1e-3
        scores.append(np.sort(best))
    assert np.abs(scores[0] - scores[1]).max() > 0.05


def test_verify_refuses_a_graph_of_other_weights(
    component: ComponentSpec, weights: dict[str, Any], config: Any, tokenizer: CaptionTokenizer
) -> None:
    name = "model.encoder.layers.1.deformable_layer.self_attn.attention_weights.bias"
    other = build_model(config, {**weights, name: weights[name] + torch.linspace(0, 1, len(weights[name]))})
    with pytest.raises(EngineError, match="differ"):
        verify(other, component.float32.graphs, component.config, tokenizer, ((65, 97),))


def test_component_says_what_the_runtime_needs(component: ComponentSpec) -> None:
    assert set(component.float32.graphs) == set(GRAPHS) == set(component.float32.tolerances)
    assert component.float32.tolerances == TOLERANCES
    assert component.source["checkpoint"] == "nano.pth"
    assert component.config["d_model"] == 64
    assert component.config["num_queries"] == official_config("nano")["args"]["num_queries"]
    assert (component.config["resize_short"], component.config["resize_long"]) == official_config("nano")["resize"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_are_plain_opset_18(component: ComponentSpec, name: str, precision: str, form: str) -> None:
    graph = onnx.load(component.forms[form][precision].graphs[name])
    onnx.checker.check_model(graph, full_check=form == "standard")
    assert graph.ir_version <= 10
    assert {each.domain: each.version for each in graph.opset_import} == OPSETS[form]
    kinds = {node.op_type for node in graph.graph.node}
    assert not kinds & {"If", "Loop", "Scan", "NonZero", "SequenceEmpty", "SplitToSequence", "ScatterND"}
    for node in graph.graph.node:
        if node.op_type == "GridSample":
            assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}["mode"] == b"bilinear"
    contents = [
        (tuple(tensor.dims), tensor.data_type, onnx.numpy_helper.to_array(tensor).tobytes())
        for tensor in graph.graph.initializer
    ]
    assert len(contents) == len(set(contents))
    assert not [tensor for tensor in graph.graph.initializer if tensor.external_data]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_attention_is_one_operator(component: ComponentSpec, precision: str, tmp_path: Path) -> None:
    plain, fused = (component.forms[form][precision].graphs for form in FORMS)
    args, swin = official_config("nano")["args"], official_config("nano")["swin"]
    layers, bert = (args["enc_layers"], args["dec_layers"]), official_config("nano")["bert"]["num_hidden_layers"]
    wanted = {"backbone": sum(swin["depths"]), "text_encoder": bert, "decoder": layers[0] + 2 * layers[1]}
    assert set(fused) == {*GRAPHS, "preprocess", "preprocess_tall"}
    assert {name: attentions(fused[name]) for name in GRAPHS} == wanted
    # What is left has no queries and keys: fusion, which is on the text's side, and the shares of sampled places.
    assert {name: operators(fused[name])["Softmax"] for name in GRAPHS} == {
        "backbone": 0,
        "text_encoder": 0,
        "decoder": 3 * layers[0] + layers[1],
    }
    for name in GRAPHS:
        assert operators(fused[name]).total() < operators(plain[name]).total()
        assert nodes_that_run(fused[name], tmp_path) < nodes_that_run(plain[name], tmp_path)
    # The other norms follow no sum: those of patches, of merged ones, and of each stage's first block.
    assert operators(fused["backbone"])["LayerNormalization"] == 1 + len(swin["depths"]) + 3
    assert operators(fused["text_encoder"])["LayerNormalization"] == 1


def test_sampled_values_are_cast_once(component: ComponentSpec) -> None:
    """Sampling is float32 on CUDA: of each layer, values, offsets and shares are cast to it, and the sum back."""
    narrow = onnx.load(component.forms["cuda"]["float16"].graphs["decoder"])
    types = element_types(narrow)
    made = {name: node for node in narrow.graph.node for name in node.output}
    samples = [node for node in narrow.graph.node if node.op_type == "GridSample"]
    assert len(samples) == 4 * 4
    for node in samples:
        assert [types[name] for name in node.input] == [onnx.TensorProto.FLOAT] * 2
        assert not {made[name].op_type for name in node.input} & {"Cast"}


def test_forms_share_their_weights(component: ComponentSpec, tmp_path: Path) -> None:
    copied = {
        form: {
            precision: GraphSet(
                {name: Path(shutil.copy(path, tmp_path)) for name, path in made.graphs.items()}, made.tolerances
            )
            for precision, made in sets.items()
        }
        for form, sets in component.forms.items()
    }
    vocab = {"vocab": Path(shutil.copy(component.files["vocab"], tmp_path))}
    bundle = add_to_bundle(tmp_path / "bundle", replace(component, forms=copied, files=vocab))
    plain, both = (
        stored(
            path
            for form in forms
            for precision in ("float32", "float16")
            for path in bundle.component("grounding_dino", precision, (form,)).graphs.values()
        )
        for forms in (FORMS[:1], FORMS)
    )
    assert sum(length for _, length in both) < 1.01 * sum(length for _, length in plain)


def test_official_names_and_back(weights: dict[str, Any], config: Any) -> None:
    official = to_official(weights, config)
    back = to_transformers(official, config)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    trained = {f"module.{name}": value for name, value in official.items()}
    trained["module.label_enc.weight"] = torch.zeros(3, 3)
    trained["module.bert.embeddings.position_ids"] = torch.zeros(1, 256)
    bare = {name.removeprefix("module."): value for name, value in trained.items()}
    assert to_transformers(bare, config).keys() == weights.keys()


def test_a_checkpoint_with_the_prefix_of_training_is_read(weights: dict[str, Any], config: Any, tmp_path: Path) -> None:
    official = to_official(weights, config)
    torch.save({"model": {f"module.{name}": value for name, value in official.items()}}, tmp_path / "a.pth")
    assert load_official(tmp_path / "a.pth", config).keys() == weights.keys()


def _without(weights: dict[str, Any]) -> None:
    del weights["transformer.encoder.fusion_layers.1.gamma_v"]


def _unknown(weights: dict[str, Any]) -> None:
    weights["transformer.encoder.layers.9.norm1.weight"] = torch.zeros(64)


def _reshaped(weights: dict[str, Any]) -> None:
    weights["feat_map.weight"] = torch.zeros(64, 63)


def _unshared(weights: dict[str, Any]) -> None:
    weights["bbox_embed.1.layers.0.bias"] = weights["bbox_embed.1.layers.0.bias"] + 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without, "fusion_layers.1.gamma_v"),
        (_unknown, "layers.9.norm1.weight"),
        (_reshaped, "feat_map.weight"),
        (_unshared, "bbox_embed.1.layers.0.bias"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    weights: dict[str, Any], config: Any, spoil: Any, message: str
) -> None:
    official = to_official(weights, config)
    spoil(official)
    with pytest.raises(InputError, match=message):
        to_transformers(official, config)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", {"weights": {}}, ["model"]])
def test_a_file_that_is_no_checkpoint_is_refused(config: Any, tmp_path: Path, content: object) -> None:
    path = tmp_path / "bad.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=r"bad\.pth"):
        load_official(path, config)


def test_every_official_name_maps_to_weights_of_the_model(weights: dict[str, Any], config: Any) -> None:
    names = {name for targets in key_map(config).values() for name in targets}
    assert names == set(weights)


def test_a_transformers_folder_gives_the_same_model(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = load_folder(tmp_path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items() if name in loaded)
    assert "bbox_embed.0.layers.2.weight" in loaded


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as a transformers folder"):
        load_folder(tmp_path)


def test_one_source_of_weights_is_wanted(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(InputError, match="one source"):
        export_grounding_dino("nano", tmp_path)
    with pytest.raises(InputError, match="one source"):
        export_grounding_dino("nano", tmp_path, checkpoint=checkpoint, seed=1)
    with pytest.raises(InputError, match="no vocabulary"):
        export_grounding_dino("nano", tmp_path, checkpoint=checkpoint)
    with pytest.raises(InputError, match="swin_l"):
        export_grounding_dino("swin_l", tmp_path, seed=1)


def test_seeds_are_deterministic_and_differ(config: Any) -> None:
    first, again, other = (seeded_weights(config, seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "enc_output.bias" not in name)


def test_made_up_vocabularies_hold_what_captions_need(tmp_path: Path) -> None:
    official = make_vocabulary(30522)
    assert [official[place] for place in (0, 100, 101, 102, 103, 1012, 1029)] == [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        *(".", "?"),
    ]
    for size in (640, 30522):
        vocabulary = make_vocabulary(size)
        assert len(vocabulary) == len(set(vocabulary)) == size
        tokens = CaptionTokenizer(write_vocabulary(tmp_path / f"{size}.txt", size)).encode("Xylophone, zqj!")
        assert vocabulary.index("[UNK]") not in tokens.input_ids
    with pytest.raises(InputError, match="too small"):
        make_vocabulary(100)
    with pytest.raises(InputError, match="does not fit"):
        read_vocabulary(tmp_path / "640.txt", 641)
    with pytest.raises(InputError, match="cannot be read"):
        read_vocabulary(tmp_path / "missing.txt", 640)
