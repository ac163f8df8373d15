"""What an LLM wrote, held against the schema of the question: the value it chose, or what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

Answer = TypeVar("Answer")

MOST_CHARACTERS = 100_000
_MOST_STARTS = 20


@dataclass(frozen=True)
class Reply(Generic[Answer]):
    """What became of one question.

    Attributes:
        answer: what the question's `parse` made of it; None if it is unusable.
        text: what the LLM wrote last.
        problem: why it is unusable, even after the repair attempt; None if it is usable. An answer may be None itself,
            so this tells, not `answer`.
        cached: whether no request was made for it: it was known, or just being asked by another thread.
        repaired: whether only the repair attempt made it usable.
        retries: how often a request was sent again because the server or the connection failed.
        prompt_tokens, completion_tokens: as the server counted them, over all its requests; 0 if cached.
        seconds: what the answered requests took, without queue and retries; 0 if cached.
    """

    answer: Answer | None
    text: str
    problem: str | None = None
    cached: bool = False
    repaired: bool = False
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    @property
    def usable(self) -> bool:
        """Whether `answer` is the LLM's."""
        return self.problem is None


def read_answer(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The first complete JSON object in a text, whatever stands around it, if it follows a schema.

    Args:
        text: what the LLM wrote.
        schema: JSON schema of an object; see `check`.

    Raises:
        ValueError: there is none, it is no strict JSON (a key twice, NaN, nested too deep), or not of the schema. Says
            what is wrong in words that the LLM can act upon.
    """
    if not text.strip():
        raise ValueError("the answer is empty")
    if len(text) > MOST_CHARACTERS:
        raise ValueError("the answer is far too long")
    start = -1
    for _ in range(_MOST_STARTS):
        start = text.find("{", start + 1)
        if start < 0:
            break
        found = _object_at(text, start)
        if found is not None:
            check(found, schema, "the answer")
            return found
    raise ValueError("the answer holds no complete JSON object")


def check(value: object, schema: Mapping[str, Any], name: str) -> None:
    """Holds a JSON value against the part of JSON Schema that questions use.

    That part is: `type` (object, array, string, integer), `properties`, `required`, `additionalProperties: false`,
    `items`, `minItems`, `maxItems`, `minimum`, `maximum`, `minLength`, `maxLength`. Other keywords are not looked at.

    Args:
        value: as `json` reads it.
        schema: what it should be.
        name: what it is called in the error.

    Raises:
        ValueError: it is something else; says what.
    """
    kind = schema.get("type")
    if isinstance(value, dict) and kind == "object":
        _check_object(value, schema, name)
    elif isinstance(value, list) and kind == "array":
        _check_range(len(value), schema.get("minItems"), schema.get("maxItems"), f"the number of items of {name}")
        for index, item in enumerate(value):
            check(item, schema.get("items", {}), f"item {index + 1} of {name}")
    elif isinstance(value, str) and kind == "string":
        _check_range(len(value), schema.get("minLength"), schema.get("maxLength"), f"the number of letters of {name}")
    elif isinstance(value, int) and not isinstance(value, bool) and kind == "integer":
        _check_range(value, schema.get("minimum"), schema.get("maximum"), name)
    elif kind is not None:
        raise ValueError(f"{name} is not of the type {kind}")


def _check_object(value: Mapping[str, Any], schema: Mapping[str, Any], name: str) -> None:
    properties = schema.get("properties", {})
    missing = [key for key in schema.get("required", ()) if key not in value]
    if missing:
        raise ValueError(f"{name} lacks {_quoted(missing)}")
    unknown = [key for key in value if key not in properties]
    if unknown and schema.get("additionalProperties") is False:
        raise ValueError(f"{name} must not have {_quoted(unknown)}")
    for key, part in properties.items():
        if key in value:
            check(value[key], part, f'"{key}"' if name == "the answer" else f'"{key}" of {name}')


def _check_range(number: int, low: int | None, high: int | None, name: str) -> None:
    if (low is not None and number < low) or (high is not None and number > high):
        limits = " and ".join(
            f"{word} {limit}" for word, limit in (("at least", low), ("at most", high)) if limit is not None
        )
        shown = number if abs(number) < 10**9 else "far outside"
        raise ValueError(f"{name} must be {limits}, not {shown}")


def _object_at(text: str, start: int) -> dict[str, Any] | None:
    """The object that begins at a brace; None if it is no whole one. Raises ValueError if it is no strict JSON."""
    try:
        value, _ = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError:
        return None
    except RecursionError as error:
        raise ValueError("the answer is nested too deep") from error
    return value if isinstance(value, dict) else None


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, each in pairs:
        if name in value:
            raise ValueError(f"the answer has {_quoted([name])} twice")
        value[name] = each
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the answer has {name}, which is no JSON")


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("the answer has a number with too many digits")
    return int(digits)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name[:40]}"' for name in names[:10])


# Control characters inside texts harm nothing, and grammars of servers let them pass.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_integer, strict=False
)
