"""What an LLM wrote: read if it is JSON of the schema, refused with a sentence that says why if not."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from alref_edge.mllm.answers import MOST_CHARACTERS, check, read_answer

BOX = {"type": "integer", "minimum": 0, "maximum": 3}
TEXT = {"type": "string", "maxLength": 20}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "scene": TEXT,
        "boxes": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 2},
        "choice": BOX,
    },
    "required": ["scene", "boxes", "choice"],
    "additionalProperties": False,
}
GOOD = {"scene": "a {cat}", "boxes": ["grey"], "choice": 2}
TEXT_OF_GOOD = json.dumps(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        TEXT_OF_GOOD,
        f"```json\n{TEXT_OF_GOOD}\n```",
        f"Step 1: I look at it. My answer is {TEXT_OF_GOOD} as asked.",
        f"In {{braces}}, and {{ more: {TEXT_OF_GOOD}",
        f'{TEXT_OF_GOOD}\n{{"choice": 3}}',
        f"\ufeff{TEXT_OF_GOOD}",
        json.dumps(GOOD, indent=4),
    ],
)
def test_the_first_complete_object_is_taken_whatever_stands_around_it(text: str) -> None:
    assert read_answer(text, SCHEMA) == GOOD


def with_(**parts: object) -> str:
    return json.dumps({**GOOD, **parts})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("The second box.", "no complete JSON object"),
        ("2", "no complete JSON object"),
        ('["scene", 2]', "no complete JSON object"),
        (TEXT_OF_GOOD[:-1], "no complete JSON object"),
        ("{" * 5000, "no complete JSON object"),
        (TEXT_OF_GOOD.replace('"', "'"), "no complete JSON object"),
        (f"{' ' * MOST_CHARACTERS}{TEXT_OF_GOOD}", "far too long"),
        ('{"a":' * 90_00 + "1" + "}" * 90_00, "nested too deep|lacks"),
        ('{"scene": "a", "boxes": ["b"], "choice": 1, "choice": 2}', '"choice" twice'),
        ('{"scene": "a", "boxes": ["b"], "choice": NaN}', "NaN, which is no JSON"),
        ('{"scene": "a", "boxes": ["b"], "choice": -Infinity}', "Infinity, which is no JSON"),
        (f'{{"scene": "a", "boxes": ["b"], "choice": {"9" * 6000}}}', "too many digits"),
        ('{"scene": "a", "boxes": ["b"], "choice": 1e999}', '"choice" is not of the type integer'),
        (with_(choice=2.0), '"choice" is not of the type integer'),
        (with_(choice="2"), '"choice" is not of the type integer'),
        (with_(choice=True), '"choice" is not of the type integer'),
        (with_(choice=None), '"choice" is not of the type integer'),
        (with_(choice=4), '"choice" must be at least 0 and at most 3, not 4'),
        (with_(choice=-1), '"choice" must be at least 0 and at most 3, not -1'),
        (with_(choice=10**18), "not far outside"),
        (with_(scene=7), '"scene" is not of the type string'),
        (with_(scene="x" * 21), 'number of letters of "scene" must be at most 20, not 21'),
        (with_(boxes="grey"), '"boxes" is not of the type array'),
        (with_(boxes=[]), 'number of items of "boxes" must be at least 1 and at most 2, not 0'),
        (with_(boxes=["a", "b", "c"]), "at most 2, not 3"),
        (with_(boxes=["a", 3]), 'item 2 of "boxes" is not of the type string'),
        (with_(more=1), 'must not have "more"'),
        ('{"scene": "a"}', 'lacks "boxes", "choice"'),
        ("{}", 'lacks "scene", "boxes", "choice"'),
    ],
)
def test_what_is_unusable_is_said(text: str, problem: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=problem) as caught:
        read_answer(text, SCHEMA)
    assert len(str(caught.value)) < 500
    assert time.monotonic() - began < 1


def test_control_characters_inside_texts_are_let_pass() -> None:
    assert read_answer(TEXT_OF_GOOD.replace("grey", "grey\n\x08\x00cat"), SCHEMA)["boxes"] == ["grey\n\x08\x00cat"]


def test_the_problem_names_the_part_of_a_nested_object() -> None:
    schema = {"type": "object", "properties": {"objects": {"type": "array", "items": SCHEMA}}}
    with pytest.raises(ValueError, match='"choice" of item 2 of "objects" must be'):
        read_answer(json.dumps({"objects": [GOOD, {**GOOD, "choice": 9}]}), schema)


def test_limits_are_inclusive() -> None:
    for choice in (0, 3):
        assert read_answer(with_(choice=choice), SCHEMA)["choice"] == choice
    assert read_answer(with_(scene="x" * 20, boxes=["a", "b"]), SCHEMA)["boxes"] == ["a", "b"]


def test_without_a_type_anything_goes() -> None:
    check({"a": [1, None]}, {}, "it")
