"""YAMNet at run time: real sound through a bundle's graph, beside the Keras graph in plain numpy."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alref_edge.bundle import Bundle
from alref_edge.errors import BundleError, InputError
from alref_edge.models.yamnet import YamNet
from alref_edge.models.yamnet.network import _BATCH
from tests.models.yamnet import keras_graph

pytest.importorskip("torch", reason="graphs are made in the export environment")
pytest.importorskip("h5py")

from export.bundle import add_to_bundle
from export.yamnet import export_yamnet, save_seeded_checkpoint

NAMES = ("flute", "reed", "bell", "siren, loud", "shaker", "heartbeat", "silence")


def tones(seconds: float, *hertz: float) -> np.ndarray:
    """float32 [samples]: one tone after another, equally long."""
    time = np.arange(round(seconds * 16000)) / 16000
    pitch = np.array(hertz)[np.minimum((time * len(hertz) / seconds).astype(int), len(hertz) - 1)]
    return (0.3 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_seeded_checkpoint("nano", 0, tmp_path_factory.mktemp("weights") / "yamnet.h5")


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    rows = [f'{index},/m/{index},"{name}"' for index, name in enumerate(NAMES)]
    (folder / "map.csv").write_text("\n".join(["index,mid,display_name", *rows]))
    component = export_yamnet("nano", folder / "made", checkpoint=checkpoint, class_map=folder / "map.csv")
    return add_to_bundle(folder / "bundle", component)


@pytest.fixture(scope="module")
def yamnet(bundle: Bundle) -> Iterator[YamNet]:
    with YamNet.from_component(bundle.component("yamnet"), "cpu") as network:
        yield network


def test_real_sound_is_what_the_keras_graph_makes_of_it(media: Path, checkpoint: Path, yamnet: YamNet) -> None:
    with wave.open(str(media / "audio_0.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    got = yamnet.frames(sound)
    scores, features = keras_graph.yamnet(checkpoint, keras_graph.log_mel_patches(sound))
    assert got.scores_nc.shape == scores.shape == (len(got), 7)
    assert np.abs(got.scores_nc - scores).max() < 1e-4
    assert np.abs(got.features_nd - features).max() < 1e-4 * max(1, np.abs(features).max())
    assert scores.std(axis=0).max() > 0.01  # frames differ, or nothing was shown


@pytest.mark.parametrize("seconds", [0.1, 0.975, 1.0, 1.455, 1.456])
def test_short_sounds_are_padded_as_the_official_code_pads(seconds: float, checkpoint: Path, yamnet: YamNet) -> None:
    sound = tones(seconds, 300, 2500)
    scores, _ = keras_graph.yamnet(checkpoint, keras_graph.log_mel_patches(sound))
    got = yamnet.frames(sound)
    assert got.scores_nc.shape == scores.shape
    assert np.abs(got.scores_nc - scores).max() < 1e-4


def test_long_sounds_go_through_in_batches_and_any_hop_is_taken(yamnet: YamNet) -> None:
    sound = tones(40, 200, 400, 800, 1600, 3200)
    whole = yamnet.frames(sound, hop_s=0.975)
    assert len(whole) == 42 > _BATCH
    for index in (0, _BATCH - 1, _BATCH, 40):
        alone = yamnet.features(sound[index * 15600 :][:15600])
        assert np.abs(alone[0] - whole.features_nd[index]).max() < 1e-4
    assert np.array_equal(yamnet.features(sound, hop_s=0.975), whole.features_nd)


def test_labels_come_from_the_bundle(yamnet: YamNet) -> None:
    assert yamnet.labels == NAMES


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(0, np.float32),
        np.zeros((16000, 2), np.float32),
        np.zeros(16000, np.int16),
        np.full(16000, np.nan, np.float32),
    ],
    ids=["empty", "stereo", "integers", "no numbers"],
)
def test_what_is_no_sound_is_refused(yamnet: YamNet, sound: np.ndarray) -> None:
    with pytest.raises(InputError):
        yamnet.frames(sound)


def test_a_component_of_another_kind_is_refused(bundle: Bundle) -> None:
    component = bundle.component("yamnet")
    object.__setattr__(component, "config", {"patch_frames": 64, "mel_bands": 64})
    with pytest.raises(BundleError, match="another kind"):
        YamNet.from_component(component, "cpu")
    component = bundle.component("yamnet")
    object.__setattr__(component, "graphs", {})
    with pytest.raises(BundleError, match="no graph 'yamnet'"):
        YamNet.from_component(component, "cpu")
