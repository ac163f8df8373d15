"""What an LLM wrote, held against the schema of the question: the value it chose, or what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from alref_edge.mllm.thoughts import spoken

Answer = TypeVar("Answer")

MOST_CHARACTERS = 100_000
_MOST_STARTS = 2000
_MOST_READ = 20 * MOST_CHARACTERS
_BEGINNING = re.compile(r'\{\s*["}]')

EMPTY = "an empty answer"
TOO_LONG = "an answer that is far too long"
NO_JSON = "no JSON in the answer"
ENDLESS = "thoughts without an end, and no answer"
OTHER_FORM = "JSON that is not as asked"
OUT_OF_PLACE = "an empty answer: what there is stands in the reasoning field, and is not as asked"


class UnusableError(ValueError):
    """An answer that cannot be used; the message says why in words that the LLM can act upon.

    Attributes:
        reason: the same for a person, in words that are equal for all answers of the kind.
    """

    def __init__(self, problem: str, reason: str = OTHER_FORM) -> None:
        super().__init__(problem)
        self.reason = reason


@dataclass(frozen=True)
class Reply(Generic[Answer]):
    """What became of one question.

    Attributes:
        answer: what the question's `parse` made of it; None if it is unusable.
        text: what the LLM wrote last.
        problem: why it is unusable, even after the repair attempt, in words for the LLM; None if it is usable. An
            answer may be None itself, so this tells, not `answer`.
        reason: the same for a person, in words that are equal for all answers of the kind.
        cached: whether no request was made for it: it was known, or just being asked by another thread.
        repaired: whether only the repair attempt made it usable.
        retries: how often a request was sent again because the server or the connection failed.
        prompt_tokens, completion_tokens: as the server counted them, over all its requests; 0 if cached.
        seconds: what the answered requests took, without queue and retries; 0 if cached.
    """

    answer: Answer | None
    text: str
    problem: str | None = None
    reason: str | None = None
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
    """The last JSON object in a text that follows a schema: whatever stands around it, and not among thoughts.

    A number of the value of an integer is one (4.0, 4e0); a string of digits is none, since `"4"` may as well have been
    `"4 or 5"`, and the repair attempt settles it. An object inside of another is a part of that. The time taken grows
    with the text's length alone: should it hold thousands of braces, those nearest to its end are looked at.

    Args:
        text: what the LLM wrote.
        schema: JSON schema of an object; see `check`.

    Raises:
        UnusableError: there is none; or if there are others, what is wrong with the last one: it is no strict JSON (a
            key twice, NaN), or not of the schema.
    """
    if not text.strip():
        raise UnusableError("the answer is empty", EMPTY)
    if len(text) > MOST_CHARACTERS:
        raise UnusableError("the answer is far too long", TOO_LONG)
    objects = _objects(text)
    said, ends = spoken(text, [(start, end) for start, end, _ in objects])
    wrong: ValueError | None = None
    for start, _, found in objects:
        if said[start] == "{":
            try:
                if isinstance(found, ValueError):
                    raise found
                check(found, schema, "the answer")
                return found
            except ValueError as error:
                wrong = wrong or error
    if wrong is not None:
        raise UnusableError(str(wrong)) from wrong
    if not ends:
        raise UnusableError("the thoughts have no end, and no answer follows; think less, and answer", ENDLESS)
    if not said.strip():
        raise UnusableError("the answer is empty: nothing follows the thoughts", EMPTY)
    raise UnusableError("the answer holds no complete JSON object", NO_JSON)


def without_thoughts(text: str) -> str:
    """What an LLM wrote but for its thoughts; "" if there is nothing else."""
    return spoken(text, [(start, end) for start, end, _ in _objects(text)])[0].strip()


def check(value: object, schema: Mapping[str, Any], name: str) -> None:
    """Holds a JSON value against the part of JSON Schema that questions use.

    That part is: `type` (object, array, string, integer, boolean), `properties`, `required`, `items`, `minItems`,
    `additionalProperties: false`, `maxItems`, `minimum`, `maximum`, `minLength`, `maxLength`. Other keywords are not
    looked at.

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
    elif not (isinstance(value, bool) and kind == "boolean") and kind is not None:
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


def _objects(text: str) -> list[tuple[int, int, dict[str, Any] | ValueError]]:
    """Where the outermost objects begin and end, and each as a value or what is wrong with it; the last one first.

    Braces are tried from the end on, so that what is left out where there are too many of them is far from the answer.
    """
    found: list[tuple[int, int, dict[str, Any] | ValueError]] = []
    start, tried, read = len(text), 0, 0
    while tried < _MOST_STARTS and read < _MOST_READ and (start := text.rfind("{", 0, start)) >= 0:
        if not _BEGINNING.match(text, start):
            continue
        end, value = _object_at(text, start)
        tried, read = tried + 1, read + end - start
        if value is not None:
            while found and found[-1][0] < end:  # a part of this one
                found.pop()
            found.append((start, end, value))
    return found


def _object_at(text: str, start: int) -> tuple[int, dict[str, Any] | ValueError | None]:
    """How far the object that begins at a brace could be read, and it; None if it is no whole one, or nested too deep.

    Where it is no strict JSON, what is wrong with it instead.
    """
    wrong: list[str] = []
    decoder = json.JSONDecoder(
        object_pairs_hook=partial(_unique, wrong),
        parse_constant=partial(_constant, wrong),
        parse_int=partial(_integer, wrong),
        parse_float=_number,
        strict=False,  # control characters inside texts harm nothing, and grammars of servers let them pass
    )
    try:
        value, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        return max(error.pos, start + 1), None
    except RecursionError:
        return min(start + _MOST_READ // 100, len(text)), None
    return end, ValueError(f"the answer has {wrong[0]}") if wrong else value


def _unique(wrong: list[str], pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, each in pairs:
        if name in value:
            wrong.append(f"{_quoted([name])} twice")
        value[name] = each
    return value


def _constant(wrong: list[str], name: str) -> None:
    wrong.append(f"{name}, which is no JSON")


def _integer(wrong: list[str], digits: str) -> int:
    if len(digits) > 20:
        wrong.append("a number with too many digits")
        return 0
    return int(digits)


def _number(digits: str) -> int | float:
    """A number with a fraction or an exponent; an integer where it is one."""
    value = float(digits)
    return int(value) if value.is_integer() else value


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name[:40]}"' for name in names[:10])
