"""What an LLM wrote: read if it is JSON of the schema, refused with a sentence that says why if not."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest

from alref_edge.mllm.answers import (
    EMPTY,
    ENDLESS,
    MOST_CHARACTERS,
    NO_JSON,
    OTHER_FORM,
    TOO_LONG,
    UnusableError,
    check,
    read_answer,
    without_thoughts,
)

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
def test_a_complete_object_is_taken_whatever_stands_around_it(text: str) -> None:
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
        (with_(choice=2.5), '"choice" is not of the type integer'),
        (with_(choice="2.0"), '"choice" is not of the type integer'),
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


DRAFT = with_(scene="a draft", choice=1)


@pytest.mark.parametrize(
    "text",
    [
        f"<think>perhaps {DRAFT}? No.</think>{TEXT_OF_GOOD}",
        f'<think>{{"choice": 1}}?</think>{TEXT_OF_GOOD}',
        f"perhaps {DRAFT}? No.</think>\n\n{TEXT_OF_GOOD}",  # the template opened the thoughts
        f'<think>{{ maybe, he said "so </think>```json\n{TEXT_OF_GOOD}\n``` Done.',
        f"<think>\n\n</think>\n\n{TEXT_OF_GOOD} as asked {{or not}}.",
        f"<THINKING>{DRAFT}</THINKING><answer>{TEXT_OF_GOOD}</answer>",
        f"<seed:think>{DRAFT}</seed:think>{TEXT_OF_GOOD}",
        f"[THINK]{DRAFT}[/THINK]{TEXT_OF_GOOD}",
        f"◁think▷{DRAFT}◁/think▷{TEXT_OF_GOOD}",
        f"<|START_THINKING|>{DRAFT}<|END_THINKING|>{TEXT_OF_GOOD}",
        f"<|channel>thought\n{DRAFT}<channel|>{TEXT_OF_GOOD}",
        "<|channel|>analysis<|message|>I see."
        f"{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{TEXT_OF_GOOD}<|return|>",
        f"analysisWe need {DRAFT}assistantfinal{TEXT_OF_GOOD}",
        f"Here is my thought process: {DRAFT} Here is my response: {TEXT_OF_GOOD}",
        f"{DRAFT} No, on second thought: {TEXT_OF_GOOD}",
        f'{{"choice": 1}} {TEXT_OF_GOOD} {{"choice": 3}} {{}}',
        f"{TEXT_OF_GOOD} {with_(choice=9)}",
        f"{TEXT_OF_GOOD}<think>was that right? {DRAFT}",
        "{" * (MOST_CHARACTERS - len(TEXT_OF_GOOD)) + TEXT_OF_GOOD,
        '{"a":' * 10_000 + TEXT_OF_GOOD,
        TEXT_OF_GOOD + "{" * (MOST_CHARACTERS - len(TEXT_OF_GOOD)),
        TEXT_OF_GOOD.replace("2}", "2.0}"),
        TEXT_OF_GOOD.replace("2}", "2e0}"),
        TEXT_OF_GOOD.replace("2}", "0.2e1 }"),
    ],
)
def test_the_last_object_of_the_schema_counts_and_none_among_thoughts(text: str) -> None:
    answer = read_answer(text, SCHEMA)
    assert answer == GOOD
    assert isinstance(answer["choice"], int)


def test_marks_of_thoughts_inside_of_an_object_are_words() -> None:
    answer = {**GOOD, "scene": "</think> <think>"}
    assert read_answer(json.dumps(answer), SCHEMA) == answer
    assert read_answer(f"<think>{DRAFT}</think>{json.dumps(answer)}", SCHEMA) == answer


def test_an_object_inside_of_another_is_a_part_of_it() -> None:
    schema = {"type": "object", "properties": {"choice": BOX}, "required": ["choice"]}
    assert read_answer('{"choice": 1, "more": {"choice": 2}}', schema)["choice"] == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", EMPTY),
        ("I cannot help with that.", NO_JSON),
        (f"<think>{DRAFT}", ENDLESS),
        (f"<think>so {TEXT_OF_GOOD} it is", ENDLESS),
        (f"<|channel|>analysis<|message|>{DRAFT}", ENDLESS),
        (f"<think>{TEXT_OF_GOOD}</think>\n", EMPTY),
        (f"<think>{TEXT_OF_GOOD}</think>That is all.", NO_JSON),
        (f"<think>{TEXT_OF_GOOD}</think>{with_(choice=9)}", OTHER_FORM),
        ('{"choice": NaN}', OTHER_FORM),
        ("x" * (MOST_CHARACTERS + 1), TOO_LONG),
    ],
)
def test_why_an_answer_is_unusable_is_said_for_a_person_too(text: str, reason: str) -> None:
    with pytest.raises(UnusableError) as caught:
        read_answer(text, SCHEMA)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "piece", ["{", '{"', '{"a":', '{"k":[0,0,', "{}", '\\"{"', "<think>", "</think>", '{"a":NaN,', "["]
)
def test_hostile_answers_take_no_longer_than_long_ones(piece: str) -> None:
    hostile = piece * (90_000 // len(piece))
    began = time.process_time()
    for text in (hostile, TEXT_OF_GOOD + hostile, hostile + TEXT_OF_GOOD):
        with suppress(UnusableError):
            read_answer(text, SCHEMA)
    assert time.process_time() - began < 4


def test_thoughts_are_left_out_of_what_is_quoted() -> None:
    assert without_thoughts("<think>no, {}</think> The second. ") == "The second."
    assert without_thoughts("<think>endless") == ""
    assert without_thoughts('{"a": "</think>"}') == '{"a": "</think>"}'
