"""The nano MLLM's tokens: bytes, whole words of its small world, pieces of its answers, and paragraphs of the prompts.

Every fixed paragraph of the shipped templates is one token, so that a prompt costs about twenty. A template that
changes keeps its tokens' numbers: `python -m export.nano mllm_folder` writes the tokenizer anew, and the weights stay.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import chain

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from alref_edge.datasets.synthetic import COLOURS, SHAPES, SIZES
from alref_edge.datasets.synthetic.words import MOTION_WORDS, RELATION_WORDS
from alref_edge.mllm.templates import PLACEHOLDERS, Templates

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ['image', 'image_url'] %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BEFORE_IMAGE, AFTER_IMAGE = "<|im_start|>user\n<|vision_start|>", "<|vision_end|>"
AFTER_PROMPT, AFTER_ANSWER = "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"

VOCABULARY = 448
PLACE_COUNT = 16
_PARAGRAPHS = 40
_SHORTEST_PARAGRAPH = 12
_JSON = (
    '{"video":"',
    '","object":"',
    '","frame":',
    '{"scene":"',
    '","boxes":["',
    '","',
    '"],"subject":"',
    '","match":"',
    '","choice":',
    '","sounds":"',
    '","objects":[',
    '{"category":"',
    "},",
    "}]}",
    ", proposed for",
    " (green",
    " (magenta",
    " (orange",
    "), ",
)


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer; texts that hold none of its words are spelled out in bytes."""
    pieces, paragraphs = _pieces(), _paragraphs()
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = list(SPECIALS) + sorted(pre_tokenizers.ByteLevel.alphabet())
    words += [spell.pre_tokenize_str(piece)[0][0] for piece in pieces]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    exact = "|".join(re.escape(piece) for piece in sorted(_JSON, key=len, reverse=True))
    split = pre_tokenizers.Split(Regex(rf"{exact}| ?[xy]\d+| ?[A-Za-z]+| ?\d|\s|."), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, spell])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in SPECIALS])
    made.add_tokens([AddedToken(each, normalized=False) for each in paragraphs])
    if made.get_vocab_size() > VOCABULARY or len(paragraphs) > _PARAGRAPHS:
        raise ValueError(f"{made.get_vocab_size()} tokens, {len(paragraphs)} of them paragraphs: too many")
    return made


def encode(text: str) -> list[int]:
    """Tokens of a text."""
    return list(tokenizer().encode(text, add_special_tokens=False).ids)


def decode(ids: list[int]) -> str:
    """The text of tokens."""
    return str(tokenizer().decode(ids, skip_special_tokens=False))


def special(text: str) -> int:
    """The number of a special token, or of a text of one token.

    Raises:
        ValueError: it is more than one.
    """
    (number,) = encode(text)
    return number


def _pieces() -> list[str]:
    looks = [*SHAPES, *COLOURS, *SIZES, "one"]
    sentence = " ".join(chain(*MOTION_WORDS.values(), *RELATION_WORDS.values(), ["the"])).split()
    answer = ["swing", "out", "nothing", "yes", "no", "frame", "in", "user", "assistant"]
    words = list(dict.fromkeys([*looks, *sentence, *answer]))
    starts = [*looks, "the", "nothing", "frame", "user", "assistant", "yes", "no"]
    digits = [f" {digit}" for digit in range(10)]
    places = [f" {axis}{place}" for axis in "xy" for place in range(PLACE_COUNT)]
    return [*_JSON, *(f" {word}" for word in words), *starts, *digits, *places, *(each[1:] for each in places)]


def _paragraphs() -> list[str]:
    """What stands between the placeholders of the shipped templates, but for a few letters."""
    templates = Templates.load()
    texts = (templates.texts[name] for name in PLACEHOLDERS)
    parts = chain(*(re.split(r"\$\w+", text) for text in texts))
    return list(dict.fromkeys(part for part in parts if len(part) >= _SHORTEST_PARAGRAPH))
