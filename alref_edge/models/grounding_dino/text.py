"""Captions as Grounding DINO reads them, and phrases as it answers (official `bertwarper.py`, `util/inference.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from alref_edge.bundle.configs import GroundingDinoConfig
from alref_edge.bundle.files import OpenFile, read_file
from alref_edge.errors import BundleError, InputError, quoted

CLS, SEP, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
DELIMITERS = (CLS, SEP, ".", "?")
# From here on the official get_phrases_from_posmap takes no token into a phrase.
_PHRASE_END = 255
# How transformers' clean_up_tokenization, which the official tokenizer's decode ends with, closes up words.
_CLEAN_UP = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'")),
    *((" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)


@dataclass(frozen=True)
class CaptionTokens:
    """A caption of T tokens, [CLS] and [SEP] among them.

    Attributes:
        caption: the caption as it was tokenised: lower case, ending in a period.
        input_ids: int64 `[1, T]`.
        position_ids: int64 `[1, T]`, starting again at 0 in every sub-sentence.
        attention_mask: bool `[1, T, T]`, True where a token sees another: those of its own sub-sentence.
    """

    caption: str
    input_ids: np.ndarray
    position_ids: np.ndarray
    attention_mask: np.ndarray

    def __len__(self) -> int:
        return int(self.input_ids.shape[1])


def preprocess_caption(caption: str) -> str:
    """The caption in lower case, without space around it, ending in a period."""
    caption = caption.lower().strip()
    return caption if caption.endswith(".") else caption + "."


def sub_sentences(input_ids: np.ndarray, delimiter_ids: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of tokens that see each other, and the positions in them.

    A sub-sentence ends at a delimiter and includes it; the first and the last token stand alone. This is the official
    `generate_masks_with_special_tokens_and_transfer_map`.

    Args:
        input_ids: int64 `[1, T]`.
        delimiter_ids: ids of [CLS], [SEP], the period and the question mark.

    Returns:
        The attention mask, bool `[1, T, T]`, and the position ids, int64 `[1, T]`.
    """
    count = input_ids.shape[1]
    mask_tt = np.eye(count, dtype=bool)
    positions_t = np.zeros(count, np.int64)
    previous = 0
    for column in np.flatnonzero(np.isin(input_ids[0], delimiter_ids)):
        if 0 < column < count - 1:
            block = slice(previous + 1, column + 1)
            mask_tt[block, block] = True
            positions_t[block] = np.arange(column - previous)
        previous = int(column)
    return mask_tt[None], positions_t[None]


class CaptionTokenizer:
    """WordPiece with the vocabulary of the bundle, as `BertTokenizerFast` has it for lower-case models.

    Args:
        vocab: a `vocab.txt`, one token a line.
        max_text_len: most tokens that a caption may have, [CLS] and [SEP] counted.

    Raises:
        BundleError: the vocabulary cannot be read, or lacks a token that captions need.
    """

    def __init__(self, vocab: Path | OpenFile, *, max_text_len: int = 256) -> None:
        self.max_text_len = max_text_len
        ids = _read_vocabulary(vocab)
        self.delimiter_ids = tuple(ids[token] for token in DELIMITERS)
        self._meaningless = {*self.delimiter_ids, ids[UNKNOWN]}
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=100))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.BertProcessing((SEP, ids[SEP]), (CLS, ids[CLS]))
        tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
        self._tokenizer = tokenizer

    def encode(self, caption: str) -> CaptionTokens:
        """Tokenise a caption; its sub-sentences are parted by periods or question marks.

        Raises:
            InputError: the caption is empty, is no valid text, has no word that the vocabulary knows, or is longer than
                `max_text_len` tokens (the official code cuts its end off without a word).
        """
        text = preprocess_caption(caption)
        if not text.strip(". ?"):
            raise InputError("The sentence is empty.", got=quoted(caption), mend="say in words what to look for.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                "The sentence is not valid UTF-8 text.", got=quoted(caption), mend="give it in UTF-8."
            ) from error
        ids = self._tokenizer.encode(text).ids
        if len(ids) > self.max_text_len:
            raise InputError(
                "The sentence is too long.",
                expected=f"at most {self.max_text_len} tokens, [CLS], [SEP] and the last period among them",
                got=f"{len(ids)} tokens in {quoted(caption)}",
                mend="shorten it, or split it into several sentences.",
            )
        if self._meaningless.issuperset(ids):
            raise InputError(
                "No word of the sentence is known to the text encoder.",
                expected="words of the bundle's vocabulary, which is English",
                got=quoted(caption),
                mend="translate the sentence into English.",
            )
        input_ids = np.asarray([ids], np.int64)
        attention_mask, position_ids = sub_sentences(input_ids, self.delimiter_ids)
        return CaptionTokens(text, input_ids, position_ids, attention_mask)

    def phrase(self, tokens: CaptionTokens, chosen: np.ndarray) -> str:
        """The words of a caption that a box answers to.

        As the official repository's `get_phrases_from_posmap` followed by `predict`: the first token and those from 255
        on are left out, periods are removed; a chosen [SEP] stays. (The release 0.4.0 keeps [CLS] as well.)

        Args:
            tokens: the caption.
            chosen: bool `[>= T]`, True for every token whose score is above the text threshold.
        """
        chosen = chosen[1 : min(len(tokens), _PHRASE_END)]
        ids = tokens.input_ids[0, 1 : len(chosen) + 1][chosen]
        phrase = str(self._tokenizer.decode(ids.tolist(), skip_special_tokens=False))
        for apart, together in _CLEAN_UP:
            phrase = phrase.replace(apart, together)
        return phrase.replace(".", "")


def _read_vocabulary(vocab: Path | OpenFile) -> dict[str, int]:
    try:
        text = read_file(vocab, GroundingDinoConfig.files["vocab"]).decode()
        lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(
            f"The vocabulary {vocab.name} cannot be read.", got=str(error), mend="export the bundle again."
        ) from error
    ids = {token: index for index, token in enumerate(lines)}
    missing = [token for token in (*DELIMITERS, UNKNOWN) if token not in ids]
    if missing:
        raise BundleError(
            f"The vocabulary {vocab.name} lacks tokens that captions need.",
            expected=", ".join((*DELIMITERS, UNKNOWN)),
            got=f"none of {', '.join(missing)}",
            mend="export the bundle again from the text encoder's own vocab.txt.",
        )
    return ids
