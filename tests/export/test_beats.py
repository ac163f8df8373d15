"""BEATs' export: the model against its formulas and the official answers, checkpoints, labels, graphs, bundles."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alref_edge.bundle.manifest import FORMS
from alref_edge.errors import EngineError, InputError

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from alref_edge.models.beats import Beats  # noqa: E402
from export.beats import NANO, BeatsConfig, Checkpoint, build_model, load_checkpoint, seeded_checkpoint  # noqa: E402
from export.beats.exporter import (  # noqa: E402
    TOLERANCES,
    check_graph,
    example_fbank,
    example_runs,
    export_beats,
    write_graph,
)
from export.beats.labels import named_labels, silence_of  # noqa: E402
from export.beats.model import BeatsModel, bucket_table  # noqa: E402
from export.bundle import ComponentSpec, add_to_bundle  # noqa: E402
from export.precision import element_types  # noqa: E402
from tests.export.graphs import attentions, nodes_that_run, operators  # noqa: E402

# What the official module answers on the nano's weights of seed 0 and `example_fbank(frames)`.
OFFICIAL = {
    16: "10975 40335 95111 92227 25116 58504 73017 97736 01309 09197 23455 62897",
    298: "25496 75846 85040 95055 11505 66430 70547 95871 15214 14016 27260 55536",
    998: "28374 61700 86535 92691 09072 75039 56229 96783 08644 24429 22035 33081",
}
# SHA-256 of the official `_relative_positions_bucket` of -4000 to 4000, by buckets and largest distance.
OFFICIAL_BUCKETS = {
    (320, 800): "37dc2b92d302fd9c5d9b4e5a769ad22db83cd9c24fceac331fa886feecffe2e8",
    (64, 200): "25a5763382667f75b3b231c7d26ca5a68149553c15e7d97763d71200a66aca6c",
    (320, 1280): "54368eff5a3958067abf19724b59f09fe057fb570bfec9f5fc7632766fe181f0",
}
IDS = ("/m/09x0r", "/m/028v0c", "/t/dd00012", "bell")
ONTOLOGY = [
    {"id": "/t/dd00012", "name": "Human group actions"},
    {"id": "/m/09x0r", "name": "Speech"},
    {"id": "/m/028v0c", "name": "Silence"},
]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return seeded_checkpoint(NANO, 0)


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> BeatsModel:
    return build_model(checkpoint)


@pytest.fixture(scope="module")
def path(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(tmp_path_factory.mktemp("weights") / "nano.pt")


@pytest.fixture(scope="module")
def component(path: Path, tmp_path_factory: pytest.TempPathFactory) -> ComponentSpec:
    folder = tmp_path_factory.mktemp("export")
    return export_beats("as2m_nano", folder, checkpoint=path, precisions=("float32", "float16"))


@pytest.fixture(scope="module")
def ontology(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("names") / "ontology.json"
    path.write_text(json.dumps(ONTOLOGY))
    return path


@pytest.fixture(scope="module")
def four(checkpoint: Checkpoint, ontology: Path, tmp_path_factory: pytest.TempPathFactory) -> ComponentSpec:
    """A checkpoint of four labels, half of its weights float16, its `label_dict` out of order."""
    folder = tmp_path_factory.mktemp("four")
    content = {
        "cfg": replace(NANO, predictor_class=4).to_official(),
        "model": {
            name: value[:4].half() if name.startswith("predictor") else value
            for name, value in checkpoint.weights.items()
        },
        "label_dict": {index: IDS[index] for index in (2, 0, 3, 1)},
    }
    torch.save(content, folder / "four.pt")
    return export_beats("as20k_nano", folder / "made", checkpoint=folder / "four.pt", ontology=ontology)


def answer(model: BeatsModel, fbank: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(fbank)).numpy()[0]


def test_nano_is_small(checkpoint: Checkpoint) -> None:
    assert 150_000 < sum(each.numel() for each in build_model(checkpoint).parameters()) < 300_000


@pytest.mark.parametrize("frames", OFFICIAL)
def test_the_model_answers_as_the_official_one(model: BeatsModel, frames: int) -> None:
    official = np.array(OFFICIAL[frames].split(), float) / 1e5
    assert official.std() > 0.2, "the answers are trivial"
    np.testing.assert_allclose(answer(model, example_fbank(frames)), official, atol=5e-5)


@pytest.mark.parametrize(("buckets", "distance"), OFFICIAL_BUCKETS)
def test_buckets_are_the_official_ones_at_every_distance(buckets: int, distance: int) -> None:
    every = bucket_table(buckets, distance)[torch.arange(-4000, 4001).clamp(-distance, distance) + distance]
    digest = hashlib.sha256(every.numpy().astype("<i8").tobytes()).hexdigest()
    assert digest == OFFICIAL_BUCKETS[buckets, distance]


VARIATIONS = {
    "nano": NANO,
    "norms first": replace(NANO, deep_norm=False, layer_norm_first=True),
    "no gates, odd taps": replace(NANO, gru_rel_pos=False, conv_pos=31, deep_norm=False),
    "no distances": replace(NANO, relative_position_embedding=False, gru_rel_pos=False, activation_fn="relu"),
    "no projection": replace(NANO, embed_dim=64, conv_bias=True),
}


@pytest.mark.parametrize("config", VARIATIONS.values(), ids=VARIATIONS)
@pytest.mark.parametrize("frames", [16, 47, 130])
def test_the_model_follows_its_formulas(config: BeatsConfig, frames: int) -> None:
    made = seeded_checkpoint(config, 1)
    fbank = example_fbank(frames)
    np.testing.assert_allclose(answer(build_model(made), fbank), plain_beats(made, fbank[0]), atol=2e-6)


PARTS = (
    "post_extract_proj.bias",
    "encoder.pos_conv.0.weight_g",
    "encoder.pos_conv.0.bias",
    "encoder.layer_norm.weight",
    "relative_attention_bias.weight",
    "layers.3.self_attn.grep_a",
    "layers.2.self_attn.grep_linear.weight",
    "layers.2.self_attn.grep_linear.bias",
    "layers.1.self_attn.q_proj.bias",
    "layers.3.final_layer_norm.bias",
    "predictor.bias",
)


@pytest.mark.parametrize("part", PARTS)
def test_no_part_is_without_effect(checkpoint: Checkpoint, model: BeatsModel, part: str) -> None:
    moved = {name: 1.5 * value + 0.3 if name.endswith(part) else value for name, value in checkpoint.weights.items()}
    fbank = example_fbank(298)
    other = answer(build_model(replace(checkpoint, weights=moved)), fbank)
    assert np.abs(other - answer(model, fbank)).max() > 1e-3


def test_answers_vary_with_the_sound(model: BeatsModel) -> None:
    fbank = example_fbank(298)
    for other in (fbank[:, ::-1].copy(), fbank[:, :, ::-1].copy(), np.roll(fbank, 64, axis=1), 0 * fbank):
        assert np.abs(answer(model, other) - answer(model, fbank)).max() > 0.01


@pytest.mark.parametrize("form", FORMS)
def test_the_graph_takes_every_length(component: ComponentSpec, model: BeatsModel, form: str) -> None:
    lengths = (*range(16, 80, 7), 255, 256, 700, 1601)  # tokens nearer and further than the largest distance
    graph = component.forms[form]["float32"].graphs["tagger"]
    assert check_graph(graph, example_runs(model, lengths), 1e-4) < 5e-6


@pytest.mark.parametrize("config", list(VARIATIONS.values())[1:4], ids=list(VARIATIONS)[1:4])
def test_the_fused_form_follows_the_model(config: BeatsConfig, tmp_path: Path) -> None:
    model = build_model(seeded_checkpoint(config, 1))
    graph = write_graph(model, tmp_path / "tagger.onnx", "cuda")
    assert check_graph(graph, example_runs(model, (16, 47, 130)), 1e-4) < 5e-6


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_attention_is_one_operator(component: ComponentSpec, precision: str, tmp_path: Path) -> None:
    plain, fused = (component.forms[form][precision].graphs["tagger"] for form in FORMS)
    assert attentions(fused) == NANO.encoder_layers
    assert operators(fused)["Softmax"] == 0
    assert operators(fused)["LayerNormalization"] == 2  # of patches, and before the layers
    assert nodes_that_run(fused, tmp_path) < 0.7 * nodes_that_run(plain, tmp_path)


def test_a_graph_of_other_weights_is_refused(component: ComponentSpec, checkpoint: Checkpoint) -> None:
    name = "encoder.layers.3.self_attn.grep_a"
    other = build_model(replace(checkpoint, weights={**checkpoint.weights, name: checkpoint.weights[name] + 0.5}))
    with pytest.raises(EngineError, match="differs"):
        check_graph(component.float32.graphs["tagger"], example_runs(other, (98,)), TOLERANCES["float32"])


def test_float16_keeps_the_attention_of_distances_wide(component: ComponentSpec) -> None:
    narrow = onnx.load(component.forms["standard"]["float16"].graphs["tagger"])
    types = element_types(narrow)
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    read = {kind: [types[n.input[0]] for n in narrow.graph.node if n.op_type == kind] for kind in ("Softmax", "MatMul")}
    assert read["Softmax"] == [full] * NANO.encoder_layers
    assert read["MatMul"].count(half) > 6 * NANO.encoder_layers
    assert component.forms["standard"]["float16"].tolerances == {"tagger": TOLERANCES["float16"]}


def test_both_training_sets_lie_in_one_bundle_and_tag(
    component: ComponentSpec, four: ComponentSpec, tmp_path: Path
) -> None:
    root = tmp_path / "bundle"
    for made in (four, component):
        copied = {key: Path(shutil.copy(path, tmp_path)) for key, path in {**made.float32.graphs, **made.files}.items()}
        precisions = {"float32": replace(made.float32, graphs={"tagger": copied["tagger"]})}
        bundle = add_to_bundle(root, replace(made, forms={"standard": precisions}, files={"labels": copied["labels"]}))
    assert set(bundle.manifest.components) == {"beats_as20k", "beats_as2m"}
    assert bundle.manifest.components["beats_as2m"].source["checkpoint"] == "nano.pt"
    wave = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) / 10
    tags = {}
    for name in bundle.manifest.components:
        part = bundle.component(name)
        assert part.kind == "beats"
        with Beats.from_component(part, "cpu") as beats:
            tags[name] = [tag.name for tag in beats.tag(wave, top=4)]
    assert sorted(tags["beats_as20k"]) == ["Human group actions", "Silence", "Speech", "bell"]
    assert tags["beats_as20k"][-1] == "Silence"
    assert all(name.startswith("sound ") for name in tags["beats_as2m"])


def test_a_checkpoint_is_read_as_it_was_written(checkpoint: Checkpoint, path: Path) -> None:
    read = load_checkpoint(path)
    assert (read.config, read.labels) == (checkpoint.config, checkpoint.labels)
    assert all(torch.equal(read.weights[name], value) for name, value in checkpoint.weights.items())
    assert sum(name.endswith("relative_attention_bias.weight") for name in read.weights) == NANO.encoder_layers


def test_labels_keep_the_order_of_the_outputs(four: ComponentSpec, component: ComponentSpec) -> None:
    labels = json.loads(four.files["labels"].read_text())
    assert labels == [
        list(pair) for pair in zip(IDS, ("Speech", "Silence", "Human group actions", "bell"), strict=True)
    ]
    assert (four.config["labels"], four.config["silence"], four.name) == (4, 1, "beats_as20k")
    assert (component.config["labels"], component.config["silence"], component.name) == (12, 11, "beats_as2m")


def test_a_pickle_that_runs_code_is_refused_and_can_be_mended(checkpoint: Checkpoint, tmp_path: Path) -> None:
    unsafe, mended = tmp_path / "unsafe.pt", tmp_path / "mended.pt"
    labels = dict(enumerate(checkpoint.labels))
    cfg = Namespace(**checkpoint.config.to_official())
    torch.save({"cfg": cfg, "model": dict(checkpoint.weights), "label_dict": labels}, unsafe)
    with pytest.raises(InputError, match="wants to run code") as caught:
        load_checkpoint(unsafe)
    assert "Namespace" in str(caught.value.got)
    advice = str(caught.value.mend).split("`")[1]
    exec(advice, {"torch": torch, "PATH": unsafe, "NEW": mended})
    assert load_checkpoint(mended).config == checkpoint.config


BROKEN = {
    "pre-trained": (lambda c: c["cfg"].update(finetuned_model=False), "pre-trained only"),
    "no labels": (lambda c: c.pop("label_dict"), "no fine-tuned BEATs"),
    "a label missing": (lambda c: c["label_dict"].pop(3), "label_dict does not fit"),
    "a weight missing": (lambda c: c["model"].pop("predictor.bias"), "weights are not those"),
    "a weight too many": (lambda c: c["model"].update(extra=torch.zeros(1)), "weights are not those"),
    "another shape": (lambda c: c["cfg"].update(encoder_ffn_embed_dim=128), "weights are not those"),
    "another activation": (lambda c: c["cfg"].update(activation_fn="glu"), "no BEATs of such a configuration"),
    "heads that do not fit": (lambda c: c["cfg"].update(encoder_attention_heads=5), "no BEATs of such"),
    "unlike tables": (
        lambda c: c["model"].update({"encoder.layers.1.self_attn.relative_attention_bias.weight": torch.zeros(64, 4)}),
        "relative_attention_bias differ",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_checkpoint_is_refused(path: Path, tmp_path: Path, spoil: object, message: str) -> None:
    content = torch.load(path, weights_only=True)
    assert callable(spoil)
    spoil(content)
    torch.save(content, tmp_path / "broken.pt")
    with pytest.raises(InputError, match=message):
        build_model(load_checkpoint(tmp_path / "broken.pt"))


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:5000])
    for name in ("text.pt", "cut.pt", "none.pt"):
        with pytest.raises(InputError, match="read"):
            load_checkpoint(tmp_path / name)


def test_names_come_from_the_ontology(ontology: Path, tmp_path: Path) -> None:
    labels = named_labels(IDS, ontology)
    assert silence_of(labels) == 1
    assert named_labels(("bell", "drum"), None) == (("bell", "bell"), ("drum", "drum"))
    assert silence_of(named_labels(("bell",), None)) is None
    with pytest.raises(InputError, match="no names without the ontology"):
        named_labels(IDS, None)
    with pytest.raises(InputError, match="lacks labels"):
        named_labels((*IDS, "/m/0bt9lr"), ontology)
    with pytest.raises(InputError, match="one name"):
        named_labels((*IDS, "Speech"), ontology)
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="cannot be read as an ontology"):
        named_labels(IDS, tmp_path / "other.json")


def test_an_export_needs_one_source_and_a_known_size(path: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no BEATs 'as5m'"):
        export_beats("as5m", tmp_path, seed=0)
    with pytest.raises(InputError, match="checkpoint or from a seed"):
        export_beats("as2m_nano", tmp_path)
    with pytest.raises(InputError, match="checkpoint or from a seed"):
        export_beats("as2m_nano", tmp_path, checkpoint=path, seed=0)
    wider = seeded_checkpoint(replace(NANO, encoder_embed_dim=128), 0).save(tmp_path / "wide.pt")
    with pytest.raises(InputError, match="not of the size"):
        export_beats("as2m_nano", tmp_path, checkpoint=wider)


def plain_beats(checkpoint: Checkpoint, fbank_t128: np.ndarray) -> np.ndarray:
    """BEATs by its formulas in float64, one token, head and distance at a time where that is the clearest."""
    config = checkpoint.config
    weights = {name: value.double().numpy() for name, value in checkpoint.weights.items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    size = config.input_patch_size
    patches = [
        fbank_t128[size * row : size * (row + 1), size * column : size * (column + 1)].ravel()
        for row in range(len(fbank_t128) // size)
        for column in range(128 // size)
    ]
    x = np.array(patches, np.float64) @ weights["patch_embedding.weight"].reshape(config.embed_dim, -1).T
    x = norm("layer_norm", x + weights.get("patch_embedding.bias", 0))
    x = linear("post_extract_proj", x) if "post_extract_proj.weight" in weights else x

    taps, width = config.conv_pos, x.shape[1]
    direction = weights["encoder.pos_conv.0.weight_v"]
    kernel = weights["encoder.pos_conv.0.weight_g"] * direction / np.sqrt((direction**2).sum((0, 1), keepdims=True))
    padded = np.pad(x, ((taps // 2, taps // 2), (0, 0)))
    each = width // config.conv_pos_groups
    convolved = np.tile(weights["encoder.pos_conv.0.bias"], (len(x), 1))
    for group in range(config.conv_pos_groups):
        channels = slice(group * each, (group + 1) * each)
        for place in range(len(x)):
            convolved[place, channels] += np.einsum(
                "ki,oik->o", padded[place : place + taps, channels], kernel[channels]
            )
    x = x + gelu(convolved)
    x = x if config.layer_norm_first else norm("encoder.layer_norm", x)

    half, exact = config.num_buckets // 2, config.num_buckets // 4
    length, heads, head_dim = len(x), config.encoder_attention_heads, config.head_dim
    bucket = np.empty((length, length), int)
    for query in range(length):
        for key in range(length):
            far = abs(key - query)
            if far >= exact:
                share = math.log(far / exact) / math.log(config.max_distance / exact)
                far = min(half - 1, exact + int(share * (half - exact)))
            bucket[query, key] = far + (half if key > query else 0)

    for layer in range(config.encoder_layers):
        name = f"encoder.layers.{layer}"
        attention = f"{name}.self_attn"
        y = norm(f"{attention}_layer_norm", x) if config.layer_norm_first else x
        query, key, value = (linear(f"{attention}.{part}_proj", y) for part in "qkv")
        mixed = np.empty_like(x)
        for head in range(heads):
            part = slice(head * head_dim, (head + 1) * head_dim)
            logits = query[:, part] @ key[:, part].T / math.sqrt(head_dim)
            if config.relative_position_embedding:
                bias = weights[f"{attention}.relative_attention_bias.weight"][bucket, head]
                if config.gru_rel_pos:
                    gates = linear(f"{attention}.grep_linear", query[:, part])
                    update, reset = sigmoid(gates[:, :4].sum(1)), sigmoid(gates[:, 4:].sum(1))
                    scale = weights[f"{attention}.grep_a"].ravel()[head]
                    bias = bias * (update * (reset * scale - 1) + 2)[:, None]
                logits = logits + bias
            shares = np.exp(logits - logits.max(1, keepdims=True))
            mixed[:, part] = shares / shares.sum(1, keepdims=True) @ value[:, part]
        mixed = linear(f"{attention}.out_proj", mixed)
        act = gelu if config.activation_fn == "gelu" else lambda x: np.maximum(x, 0)
        if config.layer_norm_first:
            x = x + mixed
            x = x + linear(f"{name}.fc2", act(linear(f"{name}.fc1", norm(f"{name}.final_layer_norm", x))))
        else:
            alpha = (2 * config.encoder_layers) ** 0.25 if config.deep_norm else 1
            x = norm(f"{attention}_layer_norm", alpha * x + mixed)
            x = norm(f"{name}.final_layer_norm", alpha * x + linear(f"{name}.fc2", act(linear(f"{name}.fc1", x))))
    x = norm("encoder.layer_norm", x) if config.layer_norm_first else x
    return sigmoid(linear("predictor", x).mean(axis=0))
