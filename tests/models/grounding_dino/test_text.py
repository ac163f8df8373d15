"""Captions and phrases; `test_detector.py` holds them against the official code's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alref_edge.errors import BundleError, InputError
from alref_edge.models.grounding_dino.text import CaptionTokenizer, preprocess_caption

WORDS = "the dog cat ##s man ' s isn t red - blue , left cafe 狗 3 5 ! play ##ing"
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "?", *WORDS.split()]


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(dict.fromkeys(VOCAB)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def tokenizer(vocab: Path) -> CaptionTokenizer:
    return CaptionTokenizer(vocab)


def _tokens(vocab: Path, ids: np.ndarray) -> list[str]:
    names = vocab.read_text(encoding="utf-8").split("\n")
    return [names[index] for index in ids[0]]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("  The Dog ", "the dog."),
        ("dog.", "dog."),
        ("dog. ", "dog."),
        ("dog?", "dog?."),
        ("DOG . CAT .", "dog . cat ."),
    ],
)
def test_captions_are_lower_case_and_end_in_a_period(caption: str, expected: str) -> None:
    assert preprocess_caption(caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("The dogs", "[CLS] the dog ##s . [SEP]"),
        ("playing cat? dog", "[CLS] play ##ing cat ? dog . [SEP]"),
        ("CAFÉ\tdog\x00s", "[CLS] cafe dog ##s . [SEP]"),
        ("red-blue, man's", "[CLS] red - blue , man ' s . [SEP]"),
        ("狗狗 dog", "[CLS] 狗 狗 dog . [SEP]"),
        ("a zebra dog", "[CLS] [UNK] [UNK] dog . [SEP]"),
        ("[SEP] dog", "[CLS] [UNK] [UNK] [UNK] dog . [SEP]"),
    ],
)
def test_word_pieces(tokenizer: CaptionTokenizer, vocab: Path, caption: str, expected: str) -> None:
    assert _tokens(vocab, tokenizer.encode(caption).input_ids) == expected.split()


def test_sub_sentences_see_themselves_alone_and_their_positions_start_again(tokenizer: CaptionTokenizer) -> None:
    tokens = tokenizer.encode("the dog. cat? red")  # [CLS] the dog . cat ? red . [SEP]
    assert tokens.position_ids.tolist() == [[0, 0, 1, 2, 0, 1, 0, 1, 0]]
    blocks = [0, 1, 1, 1, 2, 2, 3, 3, 4]
    expected = np.equal.outer(blocks, blocks)
    assert tokens.attention_mask.shape == (1, 9, 9)
    np.testing.assert_array_equal(tokens.attention_mask[0], expected)


@pytest.mark.parametrize("caption", ["the dog", "dog..cat ? red", "man's. . left", "3.5 dogs, isn't it?", "a café 狗!"])
def test_tokens_equal_those_of_transformers(tokenizer: CaptionTokenizer, vocab: Path, caption: str) -> None:
    transformers = pytest.importorskip("transformers")
    official = transformers.BertTokenizerFast(vocab=str(vocab), do_lower_case=True)
    expected = official(preprocess_caption(caption))["input_ids"]
    assert tokenizer.encode(caption).input_ids.tolist() == [expected]


@pytest.mark.parametrize(
    ("caption", "chosen", "phrase"),
    [
        ("the dogs. cat", [1, 2, 3], "the dogs"),
        ("the dogs. cat", [0, 1, 4, 5], "the cat"),
        ("the dog. cat", [2, 3, 4, 6], "dog cat [SEP]"),
        ("man's cat", [1, 2, 3, 4], "man's cat"),
        ("isn't red, blue", [1, 2, 3, 5, 6], "isn't, blue"),
        ("the dog", [], ""),
    ],
)
def test_phrases(tokenizer: CaptionTokenizer, caption: str, chosen: list[int], phrase: str) -> None:
    row = np.zeros(256, bool)
    row[chosen] = True
    assert tokenizer.phrase(tokenizer.encode(caption), row) == phrase


def test_phrases_end_before_token_255(tokenizer: CaptionTokenizer) -> None:
    tokens = tokenizer.encode("dog " * 253)
    assert len(tokens) == 256
    assert tokenizer.phrase(tokens, np.ones(256, bool)) == " ".join(["dog"] * 253)


@pytest.mark.parametrize(
    ("caption", "message", "mend"),
    [
        ("", "empty", "say in words"),
        (" \n . ", "empty", "say in words"),
        ("?", "empty", "say in words"),
        ("dog " * 255, "too long", "shorten"),
        ("собака бежит", "known to the text encoder", "English"),
        ("😀 . 😀", "known to the text encoder", "English"),
        ("dog \udcff", "UTF-8", "UTF-8"),
    ],
)
def test_bad_captions(tokenizer: CaptionTokenizer, caption: str, message: str, mend: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        tokenizer.encode(caption)
    assert mend in str(raised.value.mend)
    assert raised.value.exit_code == 2


def test_the_limit_is_the_models(vocab: Path) -> None:
    tokenizer = CaptionTokenizer(vocab, max_text_len=8)
    assert len(tokenizer.encode("dog dog dog dog dog")) == 8
    with pytest.raises(InputError, match="at most 8 tokens"):
        tokenizer.encode("dog dog dog dog dog dog")


def test_bad_vocabularies(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    with pytest.raises(BundleError, match="cannot be read"):
        CaptionTokenizer(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match="cannot be read"):
        CaptionTokenizer(path)
    path.write_text("[CLS]\n[SEP]\n.\n?\ndog\n")
    with pytest.raises(BundleError, match=r"\[UNK\]"):
        CaptionTokenizer(path)
