"""Texts as CLIP's text encoders read them: byte-pair encoding, as transformers' `CLIPTokenizer` has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from alref_edge.bundle.configs import LanguageBindConfig
from alref_edge.bundle.files import OpenFile, read_file
from alref_edge.errors import BundleError, InputError

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
_Ids = dict[str, Annotated[int, msgspec.Meta(ge=0, lt=1 << 24)]]
_PIECES = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


class ClipTokenizer:
    """Byte-pair encoding with the vocabulary and merges of the bundle. Words of it in capitals are made small.

    Args:
        vocab: a `vocab.json`, token to id.
        merges: a `merges.txt`, one pair a line, the first merged first; lines that begin with "#version" are skipped.
        context_length: most tokens of a text, start and end among them.

    Raises:
        BundleError: a file cannot be read, the end of text is not the highest id (the text towers look for that), or
            the merges do not fit the vocabulary.
    """

    def __init__(self, vocab: Path | OpenFile, merges: Path | OpenFile, *, context_length: int = 77) -> None:
        self.context_length = context_length
        try:
            most = LanguageBindConfig.files
            ids = msgspec.json.decode(read_file(vocab, most["vocab"]), type=_Ids)
            lines = read_file(merges, most["merges"]).decode().splitlines()
            pairs = [(left, right) for left, right in (line.split() for line in lines if _is_merge(line))]
            self._start, self.end = ids[START], ids[END]
            if self.end != max(ids.values()):
                raise ValueError(f"{END} is {self.end} of {max(ids.values())}")
            tokenizer = Tokenizer(models.BPE(ids, pairs, end_of_word_suffix=WORD_END, unk_token=END))
        except Exception as error:  # tokenizers raises plain exceptions
            raise BundleError(
                f"{vocab.name} and {merges.name} are no vocabulary of CLIP.",
                expected=f"{START} and {END}, the highest id, among the tokens, and merges of such",
                got=f"{type(error).__name__}: {error}",
                mend="export the bundle again from the model's own files.",
            ) from error
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}", special_tokens=[(START, self._start), (END, self.end)]
        )
        tokenizer.enable_truncation(context_length)
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Tokenise texts.

        The towers are causal and read the first end of text, so what follows it changes nothing: rows are as long as
        the longest text needs, not `context_length`. A text that is too long loses its end, as in the official code.

        Returns:
            int64 `[texts, T]`, T at most `context_length`, short rows filled up with the end of text.

        Raises:
            InputError: there is no text, or one is empty or not valid.
        """
        if not texts:
            raise InputError("There is no text to encode.", expected="at least one")
        for text in texts:
            _check(text)
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        input_ids = np.full((len(rows), max(map(len, rows))), self.end, np.int64)
        for ids, row in zip(rows, input_ids, strict=True):
            row[: len(ids)] = ids
        return input_ids


def _is_merge(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#version")


def _check(text: str) -> None:
    if not text.strip():
        raise InputError("A text is empty.", got=repr(text), mend="say in words what is to be heard.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("A text is not valid UTF-8.", got=repr(text), mend="give it in UTF-8.") from error
