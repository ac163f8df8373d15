"""What an LLM says, without what it thinks: the switch, and the marks by which open models set off their thoughts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_TAGS = ("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "analysis", "scratchpad")
# How thoughts begin and end, as vLLM's reasoning parsers know it, and whether the end counts without a beginning: many
# chat templates open the thoughts themselves, as the last words of the prompt.
_MARKS = (
    *((f"(?i:<{tag}>)", f"(?i:</{tag}>)", True) for tag in (*_TAGS, "seed:think", "mm:think")),
    (r"\[THINK\]", r"\[/THINK\]", True),  # Mistral
    ("◁think▷", "◁/think▷", True),  # Kimi
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>", True),  # Cohere
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>", True),  # Apertus
    (r"<\|channel>thought", r"<channel\|>", True),  # Gemma 4
    (r"<\|channel\|>\s*(?:analysis|commentary)", r"<\|channel\|>\s*final", True),  # gpt-oss
    (r"\Aanalysis(?=[A-Z])", "assistantfinal", False),  # the same without its special tokens
    ("(?i:here(?:'s| is) my thought process:)", "(?i:here(?:'s| is) my response:)", False),  # Granite 3
)
_MARK = re.compile("|".join(f"(?P<open{n}>{begin})|(?P<close{n}>{end})" for n, (begin, end, _) in enumerate(_MARKS)))


def spoken(text: str, objects: Iterable[tuple[int, int]] = ()) -> tuple[str, bool]:
    """The text with spaces in place of its thoughts and their marks.

    Thoughts that are not closed go on to the end. Closed ones that were not opened go back to the beginning, if they
    are the first.

    Args:
        text: what the LLM wrote.
        objects: where JSON objects begin and end in it; a mark inside of one is a word of it.

    Returns:
        The text, as long as before, and whether its thoughts have an end.
    """
    words = _blanked(text, objects)
    thoughts: list[tuple[int, int]] = []
    family, since = "", 0
    for mark in _MARK.finditer(words):
        name = mark.lastgroup or ""
        if name.startswith("open") and not family:
            family, since = name.removeprefix("open"), mark.start()
        elif name.startswith("close"):
            closed = name.removeprefix("close")
            if closed == family or (not family and not thoughts and _MARKS[int(closed)][2]):
                thoughts.append((since, mark.end()))
                family = ""
    if family:
        thoughts.append((since, len(text)))
    return _blanked(text, thoughts), not family


def _blanked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with spaces in place of some spans."""
    parts, at = [], 0
    for start, end in sorted(spans):
        parts += [text[at:start], " " * (end - start)]
        at = end
    return "".join([*parts, text[at:]])


def thinking_switch(on: bool) -> dict[str, Any]:
    """What turns the thoughts of a model on or off: of its chat template, which ignores names that it does not have.

    `enable_thinking` is the name in Qwen3, GLM, Gemma 4 and others, `thinking` that in DeepSeek, Granite and Kimi.
    """
    return {"chat_template_kwargs": {"enable_thinking": on, "thinking": on}}
