"""LanguageBind at run time: sounds to pictures, texts to tokens, and labels by the nano model's graphs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alref_edge.bundle import Component
from alref_edge.errors import BundleError, CapacityError, InputError
from alref_edge.models.audio import kaldi_fbank
from alref_edge.models.languagebind import AudioFrontEnd, ClipTokenizer, LanguageBind, combine_labels
from alref_edge.models.languagebind.labels import phrase
from alref_edge.models.languagebind.preprocess import crop_starts
from export.languagebind.vocabulary import make_vocabulary, write_vocabulary

FRONT_END = AudioFrontEnd(sample_rate=16000, mel_bins=112, frames=1036, mean=-4.2677393, std=4.5689974)
LABELS = ("dog", "violin", "man")


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """A tone that wanders, and noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(16000 * seconds)) / 16000
    tone = np.sin(2 * np.pi * (rng.uniform(200, 2000) * time + 40 * np.sin(rng.uniform(1, 9) * time)))
    return (0.3 * tone + rng.uniform(0.01, 0.2) * rng.standard_normal(len(time))).astype(np.float32)


def sounds() -> list[np.ndarray]:
    """Noise, two tones and a sweep: sounds that even a model of random weights tells apart."""
    time = np.arange(48000) / 16000
    noise = 0.1 * np.random.default_rng(0).standard_normal(48000)
    waves = (noise, *(np.sin(2 * np.pi * hertz * time) for hertz in (440, 2000, 200 + 500 * time)))
    return [wave.astype(np.float32) for wave in waves]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_vocabulary(*make_vocabulary(1024), tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="module")
def tokenizer(vocabulary: tuple[Path, Path]) -> ClipTokenizer:
    return ClipTokenizer(*vocabulary)


@pytest.fixture(scope="module")
def component(tmp_path_factory: pytest.TempPathFactory) -> Component:
    pytest.importorskip("torch")
    from export.bundle import add_to_bundle
    from export.languagebind import export_languagebind

    folder = tmp_path_factory.mktemp("languagebind")
    return add_to_bundle(folder / "bundle", export_languagebind("nano", folder / "made", seed=0)).component(
        "languagebind"
    )


@pytest.fixture(scope="module")
def model(component: Component) -> Iterator[LanguageBind]:
    with LanguageBind.from_component(component, "cpu") as made:
        yield made


def test_combinations_come_as_the_official_code_has_them() -> None:
    expected = [(label,) for label in LABELS]
    for size in range(2, len(LABELS) + 1):
        expected += combinations(LABELS, size)
    assert combine_labels(LABELS) == expected
    assert combine_labels([]) == []
    assert phrase(("dog", "gun", "piano")) == "dog barking, gun shot, piano"
    assert phrase(("cat", "man"), separator="; ", synonyms={"man": "male speech"}) == "cat; male speech"


def test_too_many_labels_are_refused_before_they_are_combined() -> None:
    with pytest.raises(CapacityError, match="Expected: at most 10"):
        combine_labels([f"thing {index}" for index in range(40)])


@pytest.mark.parametrize(
    ("total", "starts"),
    # One beginning more than none: 2, 3, 4 and many of them, in three runs whose sizes differ by one at most.
    [(1037, (0, 1, 0)), (1038, (0, 1, 2)), (1039, (0, 2, 3)), (1040, (0, 2, 4)), (3106, (0, 691, 1381))],
)
def test_crops_begin_at_the_first_place_of_each_third(total: int, starts: tuple[int, int, int]) -> None:
    assert crop_starts(total, 1036) == starts


@pytest.mark.parametrize("seconds", [0.025, 0.5, 3.3, 10.374, 10.375, 10.385, 10.4, 12.345])
def test_pictures_are_the_official_ones(seconds: float) -> None:
    """The official `waveform2melspec`, step by step."""
    wave = sound(seconds)
    mel = kaldi_fbank(wave - wave.mean(), mel_bins=112, window="hanning", htk_compat=True)
    if len(mel) > 1036:
        ranges = np.array_split(list(range(len(mel) - 1036 + 1)), 3)
        firsts = [part[0] if len(part) else 0 for part in ranges]
        expected = np.stack([mel[first : first + 1036] for first in firsts])
    else:
        expected = np.stack([np.tile(mel, (1036 // len(mel) + 1, 1))[:1036]] * 3)
    expected = (expected.transpose(0, 2, 1) - -4.2677393) / (4.5689974 * 2)
    got = FRONT_END.picture(wave)
    assert got.dtype == np.float32
    assert got.shape == (3, 112, 1036)
    assert np.abs(got - expected).max() < 1e-3
    assert got.std() > 0.05
    alike = [np.array_equal(got[0], got[1]), np.array_equal(got[0], got[2])]
    assert alike == ([True, True] if seconds < 10.385 else [False, seconds < 10.39])


def test_an_offset_changes_nothing() -> None:
    wave = sound(1.0)
    assert np.abs(FRONT_END.picture(wave) - FRONT_END.picture(wave + np.float32(0.25))).max() < 1e-2


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.zeros(399, np.float32), "shorter than one frame"),
        (np.zeros(0, np.float32), "shorter than one frame"),
        (np.zeros(16000, np.int16), "wrong shape or type"),
        (np.zeros((16000, 2), np.float32), "wrong shape or type"),
        (np.full(16000, np.nan, np.float32), "no numbers"),
    ],
)
def test_what_is_no_sound_is_refused(wave: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FRONT_END.picture(wave)


@pytest.mark.parametrize(
    "change", [{"sample_rate": None}, {"frames": 0}, {"audio_std": 0}, {"audio_mean": "low"}, {"mel_bins": ...}]
)
def test_an_incomplete_configuration_is_refused(component: Component, change: dict[str, Any]) -> None:
    config = {key: value for key, value in {**component.config, **change}.items() if value is not ...}
    with pytest.raises(BundleError, match="configuration is incomplete"):
        LanguageBind.from_component(dataclasses.replace(component, config=config), "cpu")


@pytest.mark.parametrize("towers", [None, {}, {"image": "text"}, ["audio"]])
def test_a_configuration_without_text_tower_is_refused(component: Component, towers: Any) -> None:
    config = {**component.config, "text_towers": towers}
    with pytest.raises(BundleError, match="names no text tower"):
        LanguageBind.from_component(dataclasses.replace(component, config=config), "cpu")


def test_tokens_are_those_of_transformers(vocabulary: tuple[Path, Path], tokenizer: ClipTokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    official = transformers.CLIPTokenizer(str(vocabulary[0]), str(vocabulary[1]))
    texts = [
        "dog barking",
        "Emergency-Car; frying-food;  HAIR dryer",
        "a man's été, 3 cats' & 42 dogs!! they'll",
        "gun shot,\n\tvacuum-cleaner\u00a0x",
        "日本語 ünïcödé \u0065\u0301 😀...",
        "violin " * 100,
    ]
    for text in texts:
        expected = official(text, max_length=77, truncation=True)["input_ids"]
        assert tokenizer.encode([text])[0].tolist() == expected


def test_rows_are_as_long_as_the_longest_text(tokenizer: ClipTokenizer) -> None:
    start, end = 1022, 1023
    rows = tokenizer.encode(["dog", "dog barking, cat meow"])
    assert rows.dtype == np.int64
    assert rows.shape == (2, 7)
    assert rows[0].tolist() == [start, rows[0, 1], end, end, end, end, end]
    assert (rows[1] == end).tolist() == [False] * 6 + [True]
    assert tokenizer.encode(["piano " * 200]).shape == (1, 77)


@pytest.mark.parametrize(
    ("texts", "message"), [([], "no text"), (["dog", " "], "empty"), (["dog \ud800"], "not valid UTF-8")]
)
def test_what_is_no_text_is_refused(tokenizer: ClipTokenizer, texts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tokenizer.encode(texts)


@pytest.mark.parametrize(
    ("vocab", "merges"),
    [
        ("{", ""),
        ("[1]", ""),
        ('{"a": 0}', ""),
        ('{"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2}', ""),
        ('{"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}', "a b"),
        ('{"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}', "a b c"),
        ('{"a": "x", "<|startoftext|>": 1, "<|endoftext|>": 2}', ""),
    ],
)
def test_what_is_no_vocabulary_is_refused(tmp_path: Path, vocab: str, merges: str) -> None:
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(BundleError, match="no vocabulary of CLIP"):
        ClipTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_a_vocabulary_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no vocabulary of CLIP"):
        ClipTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_embeddings_have_length_1_and_do_not_depend_on_their_neighbours(model: LanguageBind) -> None:
    sounds = [sound(0.3 + 0.7 * seed, seed) for seed in range(6)]
    audio = model.embed_audio(sounds)
    assert audio.shape == (6, 64)
    assert audio.dtype == np.float32
    assert np.abs(np.linalg.norm(audio, axis=1) - 1).max() < 1e-5
    alone = np.concatenate([model.embed_audio([each]) for each in sounds])
    assert np.abs(audio - alone).max() < 1e-5
    texts = [" ".join(["dog", "violin", "man"][index % 3] for index in range(count)) for count in (5, 1, 90, 3) * 20]
    text = model.embed_text(texts)
    assert np.abs(text - np.concatenate([model.embed_text([each]) for each in texts[:4]] * 20)).max() < 1e-5
    for made in (audio, text[:4]):
        apart = 1 - made @ made.T
        assert apart[~np.eye(len(made), dtype=bool)].min() > 1e-3, "embeddings are trivial"


@pytest.mark.parametrize("separator", [", ", "; "])
def test_sounding_labels_are_those_of_the_official_code(model: LanguageBind, separator: str) -> None:
    """`avs/ms3/languagebind_stage.py` and `avs/avss/languagebind_stage_1.py`, with the model's own embeddings."""
    waves = sounds()
    labels = ["saxophone", "cat", "man", "horse"]
    told = {"dog": "dog barking", "cat": "cat meow", "gun": "gun shot"}
    plain = {value: key for key, value in told.items()}
    texts = [told.get(label, label) for label in labels]
    for size in range(2, len(labels) + 1):
        texts += [separator.join(each) for each in combinations(texts[: len(labels)], size)]
    similarity = model.embed_text(texts) @ model.embed_audio(waves).T
    expected = [tuple(plain.get(part, part) for part in texts[best].split(separator)) for best in similarity.argmax(0)]
    assert model.sounding(waves, labels, separator=separator) == expected
    assert len(set(expected)) > 1


def test_labels_come_back_as_they_were_given(model: LanguageBind) -> None:
    waves = sounds()
    labels = ["speech, male", "dog barking"]
    found = model.sounding(waves, labels, synonyms={"dog barking": "violin"})
    assert set(found) == {(labels[1],), tuple(labels)}
    plain = model.sounding(waves, ["speech, male", "violin"], synonyms={})
    assert [tuple("violin" if part == "dog barking" else part for part in each) for each in found] == plain


def test_the_nearest_category_is_that_of_the_official_code(model: LanguageBind) -> None:
    """`avs/avss/languagebind_stage_2.py`."""
    categories = ["dog", "violin", "emergency-car", "woman", "piano"]
    labels = ["puppy", "ambulance", "violin", "female singing", "puppy"]
    expected = []
    for label in labels:
        embeddings = model.embed_text([label, *categories], tower="image")
        expected.append(label if label in categories else categories[int((embeddings[0] @ embeddings[1:].T).argmax())])
    assert model.nearest(labels, categories) == expected
    assert model.nearest([], categories) == []
    assert model.nearest(["dog"], categories) == ["dog"]


def test_without_the_image_model_categories_are_compared_in_the_audio_models_space(component: Component) -> None:
    config = {**component.config, "text_towers": {"audio": "text"}}
    with LanguageBind.from_component(dataclasses.replace(component, config=config), "cpu") as model:
        assert model.towers == ("audio",)
        assert model.nearest(["puppy"], ["dog", "piano"])[0] in ("dog", "piano")
        with pytest.raises(InputError, match="no such text tower"):
            model.embed_text(["dog"], tower="image")


def test_bad_requests_are_refused(model: LanguageBind) -> None:
    with pytest.raises(InputError, match="no sound"):
        model.embed_audio([])
    with pytest.raises(InputError, match="no text"):
        model.sounding([sound(1.0)], [])
    with pytest.raises(InputError, match="no category"):
        model.nearest(["dog"], [])
    with pytest.raises(InputError, match="shorter than one frame"):
        model.sounding([sound(1.0), sound(0.01)], ["dog", "cat"])


def test_the_made_vocabulary_spells_every_byte(vocabulary: tuple[Path, Path]) -> None:
    ids = json.loads(vocabulary[0].read_text(encoding="utf-8"))
    assert sorted(ids.values()) == list(range(1024))
    tokenizer = ClipTokenizer(*vocabulary)
    text = "".join(chr(code) for code in range(33, 0x300))
    assert not (tokenizer.encode([text])[0, 1:-1] == ids["<|endoftext|>"]).any()
    assert tokenizer.encode(["saxophone"]).shape == (1, 3)
    with pytest.raises(InputError, match="too small"):
        make_vocabulary(500)
