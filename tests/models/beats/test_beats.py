"""The tagger around its graph: labels, ranks, Silence, filter banks, bad sounds, bad components."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alref_edge.bundle import Component
from alref_edge.errors import AlrefError, BundleError, CapacityError, InputError
from alref_edge.models.audio import kaldi_fbank
from alref_edge.models.beats import Beats, union_of_tags
from alref_edge.types import Tag

onnx = pytest.importorskip("onnx")

LABELS = [["/m/hum", "Hum"], ["/m/028v0c", "Silence"], ["/m/b", "Bell"], ["/m/a", "Another bell"], ["/m/hiss", "Hiss"]]
CONFIG: dict[str, Any] = {
    "labels": 5,
    "silence": 1,
    "mel_bins": 128,
    "patch_frames": 16,
    "fbank_mean": 15.41663,
    "fbank_std": 6.55582,
}
# Hum hears the low bins, Hiss the high ones, the bells nothing in particular; Silence is always the likeliest.
GRAPH = """<ir_version: 10, opset_import: ["": 18]>
tagger (float[1,frames,128] fbank) => (float[1,5] probabilities)
{
    mean = ReduceMean<keepdims=0>(fbank, axis)
    logits = MatMul(mean, weight)
    raised = Add(logits, offset)
    probabilities = Sigmoid(raised)
}"""


@pytest.fixture(scope="module")
def component(tmp_path_factory: pytest.TempPathFactory) -> Component:
    folder = tmp_path_factory.mktemp("beats")
    model = onnx.parser.parse_model(GRAPH)
    weight = np.zeros((128, 5), np.float32)
    weight[:40, 0] = weight[88:, 4] = 1 / 40
    arrays = {"axis": np.array([1]), "weight": weight, "offset": np.array([0, 9, -5, -5, 0], np.float32)}
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, folder / "tagger.onnx")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    return Component(
        name="beats_as2m",
        kind="beats",
        variant="as2m",
        form="standard",
        precision="float32",
        config=CONFIG,
        graphs={"tagger": folder / "tagger.onnx"},
        files={"labels": folder / "labels.json"},
        tolerances={},
    )


@pytest.fixture(scope="module")
def beats(component: Component) -> Iterator[Beats]:
    with Beats.from_component(component, "cpu") as beats:
        yield beats


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(round(16_000 * seconds)) / 16_000
    return (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def test_the_likeliest_come_first_and_silence_is_not_among_them(beats: Beats) -> None:
    low, high = beats.tag(tone(150)), beats.tag(tone(6000))
    assert [tag.name for tag in low] == ["Hum", "Hiss", "Bell", "Another bell", "Silence"]
    assert [tag.name for tag in high] == ["Hiss", "Hum", "Bell", "Another bell", "Silence"]
    assert (low[0].id, low[4].probability) == ("/m/hum", 0.0)
    assert low[0].probability > high[1].probability
    assert low[2].probability == low[3].probability  # equal ones in the order of the outputs
    assert beats.tag(tone(150), top=2) == low[:2]


def test_the_network_s_own_answer_has_silence(beats: Beats) -> None:
    probabilities = beats.probabilities(tone(150))
    assert (probabilities.shape, probabilities.dtype) == ((5,), np.float32)
    assert probabilities.argmax() == 1
    assert beats.tag(tone(150))[0].probability == pytest.approx(float(probabilities[0]))
    assert beats.provider == "CPUExecutionProvider"


def test_without_a_silence_nothing_is_suppressed(component: Component) -> None:
    with Beats.from_component(replace(component, config={**CONFIG, "silence": None}), "cpu") as beats:
        assert beats.tag(tone(150), top=1)[0].name == "Silence"


def test_filter_banks_are_scaled_as_the_official_ones(beats: Beats) -> None:
    wave = np.random.default_rng(0).standard_normal(4000).astype(np.float32) / 10
    fbank = beats.fbank(wave)
    raw = kaldi_fbank(wave * 32768, mel_bins=128, window="povey")
    assert (fbank.shape, fbank.dtype) == ((23, 128), np.float32)
    np.testing.assert_allclose(fbank, (raw - 15.41663) / 13.11164, atol=1e-6)
    heard = raw.min(axis=0) > 0  # bins narrower than the spectrum's lines hear none
    assert heard.sum() > 120
    np.testing.assert_allclose((beats.fbank(wave / 2) - fbank)[:, heard], -np.log(4) / 13.11164, atol=1e-4)
    assert -1 < fbank.mean() < 1


def test_sounds_of_every_length_from_a_patch_on(beats: Beats) -> None:
    assert beats.shortest == 2800
    assert beats.fbank(tone(300)[:2800]).shape == (16, 128)
    assert len(beats.tag(tone(300)[:2800])) == 5
    assert len(beats.tag(tone(300, 10.24).astype(np.float64))) == 5


BAD_SOUNDS: dict[str, tuple[np.ndarray, type[AlrefError], str]] = {
    "too short": (np.zeros(2799, np.float32), InputError, "2800 samples"),
    "empty": (np.zeros(0, np.float32), InputError, "2800 samples"),
    "too long": (np.zeros(60 * 16_000 + 1, np.float32), CapacityError, "in windows"),
    "stereo": (np.zeros((2, 16_000), np.float32), InputError, "mono"),
    "integers": (np.zeros(16_000, np.int16), InputError, "float32"),
    "not a number": (np.full(16_000, np.nan, np.float32), InputError, "finite"),
    "infinite": (np.full(16_000, np.inf, np.float32), InputError, "finite"),
}


@pytest.mark.parametrize(("wave", "error", "message"), BAD_SOUNDS.values(), ids=BAD_SOUNDS)
def test_bad_sounds_are_refused(beats: Beats, wave: np.ndarray, error: type[AlrefError], message: str) -> None:
    with pytest.raises(error, match=message):
        beats.tag(wave)


@pytest.mark.parametrize("top", [0, -1, 6])
def test_there_are_only_so_many_labels(beats: Beats, top: int) -> None:
    with pytest.raises(InputError, match="1 to 5"):
        beats.tag(tone(150), top=top)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "yamnet"}, "is no BEATs"),
        ({"config": {key: CONFIG[key] for key in CONFIG if key != "fbank_std"}}, "incomplete"),
        ({"config": {**CONFIG, "silence": 5}}, "labels are not those"),
        ({"config": {**CONFIG, "silence": "Silence"}}, "incomplete"),
        ({"graphs": {}}, "no graph 'tagger'"),
        ({"files": {}}, "no file 'labels'"),
    ],
)
def test_bad_components_are_refused(component: Component, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Beats.from_component(replace(component, **change), "cpu")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[["a", "b", "c"]]', '[["a", 1]]', json.dumps(LABELS[:4])])
def test_bad_labels_are_refused(component: Component, tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(BundleError, match="labels"):
        Beats.from_component(replace(component, files={"labels": tmp_path / "labels.json"}), "cpu")


def test_the_union_keeps_the_first_order_and_the_higher_probability() -> None:
    first = (Tag("/m/d", "Dog", 0.8), Tag("/m/b", "Bark", 0.5), Tag("/m/a", "Animal", 0.4))
    second = (Tag("/m/b", "Bark", 0.7), Tag("/m/c", "Cat", 0.6), Tag("/m/d", "Dog", 0.1))
    assert union_of_tags(first, second) == (first[0], second[0], first[2], second[1])
    assert [tag.name for tag in union_of_tags(second, first)] == ["Bark", "Cat", "Dog", "Animal"]
    assert union_of_tags(first) == first
    assert union_of_tags() == ()
