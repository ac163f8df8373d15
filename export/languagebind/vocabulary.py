"""Byte-pair vocabularies of CLIP: read from an official folder, or made up for seeded models."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from alref_edge.errors import BundleError, InputError
from alref_edge.models.languagebind.text import END, START, WORD_END, ClipTokenizer

VOCAB, MERGES = "vocab.json", "merges.txt"
# What sounds in AVSBench, the synonyms of it, what the synthetic scenes are made of, and words around them.
_WORDS = """
accordion airplane axe baby bassoon bell bird boat boy bus car cat cello clarinet clipper clock dog donkey drum duck
elephant emergency erhu flute frying pan food girl goose guitar gun guzheng hair dryer handpan harmonica harp
helicopter hen horse keyboard leopard lion man marimba missile rocket motorcycle mower parrot piano pig pipa saw
saxophone sheep sitar sorna squirrel tabla tank tiger tractor train trombone truck trumpet tuba ukulele utv vacuum
cleaner violin wolf woman ambulance race racing lawn cap gun barking meow shot singing speech speaking talking laughing
crying playing running engine siren whistle horn chirping roaring howling music noise silence sound sounds water wind
rain thunder people child male female speech circle square triangle rectangle star ring cross diamond hexagon pentagon
ellipse shape object red orange yellow green blue purple violet pink brown black white grey small medium large the a an
of on in and with by is are no not two three
"""


def read_vocabulary(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Token to id, and the merges as the lines of a `merges.txt`, of a folder with these files or a `tokenizer.json`.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    try:
        if (folder / VOCAB).is_file():
            vocab = json.loads((folder / VOCAB).read_text(encoding="utf-8"))
            lines = (folder / MERGES).read_text(encoding="utf-8").splitlines()
            return vocab, [line for line in lines if line.strip() and not line.startswith("#version")]
        content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        model, added = content["model"], content.get("added_tokens", [])
        vocab = {**model["vocab"], **{each["content"]: each["id"] for each in added}}
        return vocab, [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The vocabulary in {folder} cannot be read: {type(error).__name__}: {error}.",
            expected="vocab.json and merges.txt, or tokenizer.json",
        ) from error


def write_vocabulary(vocab: dict[str, int], merges: list[str], folder: Path) -> tuple[Path, Path]:
    """Write `vocab.json` and `merges.txt`, and check that they make a tokenizer.

    Raises:
        InputError: they do not.
    """
    (folder / VOCAB).write_text(json.dumps(vocab, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    (folder / MERGES).write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    try:
        ClipTokenizer(folder / VOCAB, folder / MERGES)
    except BundleError as error:
        raise InputError(error.message, expected=error.expected, got=error.got) from error
    return folder / VOCAB, folder / MERGES


def make_vocabulary(size: int) -> tuple[dict[str, int], list[str]]:
    """A deterministic vocabulary that spells anything: every byte, alone and at a word's end, and words learned whole.

    Args:
        size: tokens, the start and the end of text being the last two, as in CLIP's own 49,408.

    Raises:
        InputError: `size` does not hold the bytes.
    """
    letters = list(_byte_letters())
    tokens = [*letters, *(letter + WORD_END for letter in letters)]
    if size < len(tokens) + 2:
        raise InputError("The vocabulary is too small.", expected=f"at least {len(tokens) + 2}", got=size)
    merges = _learn(sorted(set(_WORDS.split())), size - 2 - len(tokens))
    tokens += ["".join(pair) for pair in merges]
    tokens += [f"[unused{index}]" for index in range(size - 2 - len(tokens))]
    return {token: index for index, token in enumerate([*tokens, START, END])}, [" ".join(pair) for pair in merges]


def _learn(words: list[str], most: int) -> list[tuple[str, str]]:
    """Merges of the most frequent neighbours, of equals the first by name, until every word is one token."""
    spelled = [(*word[:-1], word[-1] + WORD_END) for word in words]
    merges: list[tuple[str, str]] = []
    while len(merges) < most:
        pairs = Counter(pair for word in spelled for pair in pairwise(word))
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = [_merged(word, best) for word in spelled]
    return merges


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    made: list[str] = []
    for symbol in word:
        if made and (made[-1], symbol) == pair:
            made[-1] += symbol
        else:
            made.append(symbol)
    return tuple(made)


def _byte_letters() -> list[str]:
    """The letter that stands for each byte: itself where it can be seen, else one from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return [*map(chr, seen), *(chr(256 + index) for index in range(len(hidden)))]
