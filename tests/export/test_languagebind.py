"""LanguageBind's export: towers beside transformers' CLIP, folders and what is wrong with them, low-rank updates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alref_edge.bundle.manifest import FORMS
from alref_edge.errors import EngineError, InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import onnx  # noqa: E402
import onnxruntime  # noqa: E402

from export.bundle import ComponentSpec, add_to_bundle  # noqa: E402
from export.languagebind import export_languagebind, official_config, save_seeded_folder  # noqa: E402
from export.languagebind.checkpoint import audio_tower, merge_lora, read_weights, text_tower  # noqa: E402
from export.languagebind.configs import audio_config, text_config  # noqa: E402
from export.languagebind.exporter import TOLERANCES, verify  # noqa: E402
from export.languagebind.modules import AudioTower, TextTower  # noqa: E402
from export.languagebind.seeding import seeded_weights  # noqa: E402
from export.precision import POLICIES  # noqa: E402
from export.torchvision_ops import declare_operators  # noqa: E402
from tests.export.graphs import attentions, nodes_that_run, operators  # noqa: E402

END = 1023
PRECISIONS = ("float32", "float16") if "languagebind" in POLICIES else ("float32",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An official folder of seeded weights, with low-rank updates."""
    return save_seeded_folder("nano", 3, tmp_path_factory.mktemp("folder"), lora_rank=2)


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same sizes, with a text tower that differs in one layer from the other folder's."""
    path = save_seeded_folder("nano", 3, tmp_path_factory.mktemp("other"))
    weights = read_weights(path / "pytorch_model.bin")
    weights["text_model.encoder.layers.1.mlp.fc1.weight"] *= 1.5
    torch.save(weights, path / "pytorch_model.bin")
    return path


@pytest.fixture(scope="module")
def component(folder: Path, other_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ComponentSpec:
    """Both folders in one component."""
    made = tmp_path_factory.mktemp("made")
    return export_languagebind("nano", made, folder=folder, image_folder=other_folder, precisions=PRECISIONS)


def run(path: Path, feed: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["embeddings"], {session.get_inputs()[0].name: feed})[0])


def test_sizes_are_the_official_ones() -> None:
    """ViT-L/14 on 112 x 1036: 593 positions, 1024 wide, 24 layers; CLIP-L's text tower; 768 of both."""
    config = official_config("vit_l14")
    audio, text = audio_config(config), text_config(config)
    with torch.device("meta"):
        towers = AudioTower(audio), TextTower(text)
        assert towers[0](torch.zeros(2, 3, 112, 1036)).shape == (2, 768)
        assert towers[1](torch.zeros(3, 77, dtype=torch.int64)).shape == (3, 768)
    assert audio.positions == 593
    sizes = [sum(value.numel() for value in tower.state_dict().values()) for tower in towers]
    # CLIP-L's image tower has 257 positions instead of 593.
    assert sizes == [303_966_208 + (593 - 257) * 1024, 123_650_304]


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_towers_are_transformers_clip(activation: str) -> None:
    """On square pictures, the only ones that it takes; its text tower is causal by its own."""
    declare_operators()
    config = official_config("nano")
    config["vision_config"] |= {"target_length": 112, "image_size": 112, "hidden_act": activation}
    config["text_config"] |= {"hidden_act": activation}
    weights = seeded_weights("nano", 0)
    name = "vision_model.embeddings.position_embedding.weight"
    weights[name] = weights[name][: 8 * 8 + 1].clone()
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config=config["text_config"], vision_config=config["vision_config"], projection_dim=64
        )
    ).eval()
    clip.load_state_dict(weights, strict=True)
    pictures = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    ids = torch.full((2, 77), END)
    ids[0, :4], ids[1, :9] = torch.tensor([END - 1, 5, 600, 7]), torch.tensor([END - 1, *range(8)])
    with torch.inference_mode():
        official = clip(input_ids=ids, pixel_values=pictures)
        audio = audio_tower(weights, audio_config(config))(pictures)
        text = text_tower(weights, text_config(config))(ids)
    assert (audio - official.image_embeds).abs().max() < 1e-5
    assert (text - official.text_embeds).abs().max() < 1e-5
    assert 1 - float(text[0] @ text[1]) > 0.01


@pytest.mark.parametrize("form", FORMS)
def test_texts_may_end_with_their_end(component: ComponentSpec, form: str) -> None:
    """What follows the end of text changes nothing, and a single text is as good as many."""
    graph = component.forms[form]["float32"].graphs["text"]
    rows = np.asarray([[END - 1, 5, 6, 7, END], [END - 1, 800, END, END, END]], np.int64)
    embeddings = run(graph, rows)
    longest = np.full((2, 77), END)
    longest[:, :5] = rows
    assert np.abs(run(graph, longest) - embeddings).max() < 1e-5
    noise = longest.copy()
    noise[:, 5:] = np.random.default_rng(0).integers(0, END - 1, (2, 72))
    assert np.abs(run(graph, noise) - embeddings).max() < 1e-5
    assert np.abs(run(graph, rows[1:, :3]) - embeddings[1:]).max() < 1e-5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_graphs_are_accepted_with_their_tolerance(component: ComponentSpec, precision: str, form: str) -> None:
    made = component.forms[form][precision]
    assert set(made.graphs) == {"audio", "text", "image_text"}
    assert set(made.tolerances.values()) == {TOLERANCES[precision]}
    for path in made.graphs.values():
        model = onnx.load(path)
        assert [each.version for each in model.opset_import if not each.domain] == [18]
        onnx.checker.check_model(model)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_attention_is_one_operator(component: ComponentSpec, precision: str, tmp_path: Path) -> None:
    plain, fused = (component.forms[form][precision].graphs for form in FORMS)
    for name, config in {"audio": "vision_config", "text": "text_config", "image_text": "text_config"}.items():
        layers = official_config("nano")[config]["num_hidden_layers"]
        assert attentions(fused[name]) == layers
        assert operators(fused[name])["Softmax"] == 0
        assert operators(fused[name])["SkipLayerNormalization"] == 2 * layers - 1
        assert nodes_that_run(fused[name], tmp_path) < 0.7 * nodes_that_run(plain[name], tmp_path)


def test_a_graph_of_other_weights_is_refused(component: ComponentSpec) -> None:
    weights = seeded_weights("nano", 4)
    module = text_tower(weights, text_config(official_config("nano")))
    example = np.asarray([[END - 1, 5, END]], np.int64)
    graphs = {"text": component.float32.graphs["text"]}
    with pytest.raises(EngineError, match="embeddings differs from the module"):
        verify({"text": module}, graphs, {"text": [example]}, TOLERANCES["float32"])
    with pytest.raises(EngineError, match="names differ"):
        verify({"audio": module}, {"audio": graphs["text"]}, {"audio": [example]}, 1.0)


def test_low_rank_updates_are_merged(folder: Path) -> None:
    """Each layer gives W x + alpha / r B (A x), whether the base is named as in old or new releases of peft."""
    weights = read_weights(folder / "pytorch_model.bin")
    name = "vision_model.encoder.base_model.model.layers.1.self_attn.v_proj"
    base, down, up = (weights[f"{name}.{part}.weight"] for part in ("base_layer", "lora_A.default", "lora_B.default"))
    x = torch.randn(64, generator=torch.Generator().manual_seed(0))
    merged = merge_lora(weights, 2.0)["vision_model.encoder.layers.1.self_attn.v_proj.weight"]
    assert (merged @ x - (base @ x + 2.0 * (up @ (down @ x)))).abs().max() < 1e-4
    assert (merged - base).abs().max() > 0.1
    old = {key.replace(".base_layer.", "."): value for key, value in weights.items()}
    assert old.keys() != weights.keys()
    config = audio_config(json.loads((folder / "config.json").read_text()))
    assert config.lora_scale == 2.0
    towers = [audio_tower(each, config).state_dict() for each in (weights, old)]
    assert all(torch.equal(value, towers[1][key]) for key, value in towers[0].items())


def test_equal_text_weights_are_stored_once(
    component: ComponentSpec, folder: Path, other_folder: Path, tmp_path: Path
) -> None:
    assert component.config["text_towers"] == {"audio": "text", "image": "image_text"}
    assert set(component.source) == {"checkpoint", "sha256", "image_checkpoint", "image_sha256"}
    same = export_languagebind("nano", tmp_path / "same", folder=folder, image_folder=folder)
    assert set(same.float32.graphs) == {"audio", "text"}
    assert same.config["text_towers"] == {"audio": "text", "image": "text"}
    two = export_languagebind("nano", tmp_path / "two", folder=folder, image_folder=other_folder)
    assert set(two.float32.graphs) == {"audio", "text", "image_text"}
    sizes = []
    for name, made in (("same", same), ("two", two)):
        add_to_bundle(tmp_path / "bundles" / name, made)
        sizes.append((tmp_path / "bundles" / name / "languagebind" / "weights.bin").stat().st_size)
    # One matrix of the two text towers differs.
    assert sizes[1] - sizes[0] == 64 * 192 * 4


def test_an_audio_folder_alone_has_one_text_tower(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "vocab.json").read_text())
    merges = (folder / "merges.txt").read_text().splitlines()[1:]
    alone = tmp_path / "alone"
    shutil.copytree(folder, alone)
    for name in ("vocab.json", "merges.txt"):
        (alone / name).unlink()
    (alone / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": content, "merges": [line.split() for line in merges]}})
    )
    made = export_languagebind("nano", tmp_path / "made", folder=alone)
    assert made.config["text_towers"] == {"audio": "text"}
    assert json.loads(made.files["vocab"].read_text()) == content
    assert made.files["merges"].read_text().splitlines()[1:] == merges


def _edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return edit


def _reweigh(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
        change(weights)
        torch.save(weights, folder / "pytorch_model.bin")

    return edit


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink(), (folder / name).write_bytes(content)][0]


_SCALE = "vision_model.post_layernorm.weight"
_DOWN = "vision_model.encoder.base_model.model.layers.0.self_attn.q_proj.lora_A.default.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
        (lambda folder: (folder / "pytorch_model.bin").unlink(), "has no weights"),
        (lambda folder: (folder / "merges.txt").unlink(), "vocabulary in .* cannot be read"),
        (_write("config.json", b"[]"), "is no configuration"),
        (_write("pytorch_model.bin", b"PK nothing"), "cannot be read as weights"),
        (_write("vocab.json", b'{"a": 0}'), "no vocabulary of CLIP"),
        (_edit(lambda config: config["vision_config"].pop("num_mel_bins")), "no configuration of LanguageBind-Audio"),
        (_edit(lambda config: config["vision_config"].update(add_time_attn=True)), "no configuration of"),
        (_edit(lambda config: config["vision_config"].update(hidden_act="relu")), "activation is not known"),
        (_edit(lambda config: config["vision_config"].update(num_hidden_layers=2)), "is no nano"),
        (_edit(lambda config: config["vision_config"].update(lora_r=0)), "low-rank update .* cannot be merged"),
        (_edit(lambda config: config.update(text_config=[1])), "text_config is malformed"),
        (_edit(lambda config: config.update(projection_dim=32)), "weights do not fit"),
        (_reweigh(lambda weights: weights.pop(_SCALE)), f"no {_SCALE}"),
        (_reweigh(lambda weights: weights.update({_SCALE: torch.ones(3)})), r"\(3,\) for \(64,\)"),
        (_reweigh(lambda weights: weights.update({"text_model.more": torch.ones(3)})), "unknown text_model.more"),
        (_reweigh(lambda weights: weights.pop(_DOWN.replace("_A", "_B"))), "cannot be merged"),
        (_reweigh(lambda weights: weights.update(step=3)), "something else than weights"),
    ],
)
def test_what_is_no_official_folder_is_refused(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoiled = tmp_path / "spoiled"
    shutil.copytree(folder, spoiled)
    spoil(spoiled)
    with pytest.raises(InputError, match=message):
        export_languagebind("nano", tmp_path / "made", folder=spoiled)


def test_folders_must_fit_each_other(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    vocab = json.loads((other / "vocab.json").read_text())
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (other / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(InputError, match="read texts differently"):
        export_languagebind("nano", tmp_path / "made", folder=folder, image_folder=other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one source of weights"),
        ({"seed": 0, "folder": Path("nowhere")}, "one source of weights"),
        ({"image_folder": Path("nowhere")}, "no audio tower"),
        ({"folder": Path("nowhere")}, "config.json cannot be read"),
        ({"seed": 0, "precisions": ("int4",)}, "no such precision"),
    ],
)
def test_bad_requests_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        export_languagebind("nano", tmp_path / "made", **options)
    with pytest.raises(InputError, match="no LanguageBind"):
        export_languagebind("huge", tmp_path / "made", seed=0)


def test_seeds_make_the_same_weights_again() -> None:
    one, same, other = (seeded_weights("nano", seed) for seed in (5, 5, 6))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one[_SCALE], other[_SCALE])
    with pytest.raises(InputError, match="no such rank"):
        save_seeded_folder("nano", 0, Path("nowhere"), lora_rank=-1)
