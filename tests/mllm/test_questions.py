"""Templates and questions: what is asked, and which answers are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from alref_edge.errors import InputError
from alref_edge.mllm.questions import NamedObject, Question, Questioner
from alref_edge.mllm.templates import PLACEHOLDERS, SHIPPED_VERSION, Templates

ASK = Questioner(Templates.load())


def everything() -> list[Question]:
    return [
        ASK.pivot_frame(b"", 5, "the dog"),
        ASK.pivot_box(b"", 5, 2, ("dog", ""), "the dog"),
        ASK.sounding_objects(b"", 10, ["Dog", "Bark"], ["dog", "cat"], 3),
        ASK.sounding_box(b"", 10, 7, 3, "dog"),
    ]


def test_prompts_say_all_that_is_asked_and_leave_nothing_open() -> None:
    frame, box, objects, one = everything()
    for question, words in (
        (frame, ("5 frames", "Sentence: the dog")),
        (box, ("5 frames", "Boxes on frame 2: 1 (green, proposed for dog), 2 (magenta)", "Sentence: the dog")),
        (objects, ("10 frames", "Categories: dog, cat", "At most 3", "Heard: Dog, Bark")),
        (one, ("Category: dog", "Boxes on frame 7: 1 (green), 2 (magenta), 3 (orange)")),
    ):
        assert all(each in question.prompt for each in words)
        assert "$" not in question.prompt
        assert question.version == SHIPPED_VERSION


def test_sentences_of_a_segment_differ_at_the_end_of_the_prompt_alone() -> None:
    one, other = (ASK.pivot_frame(b"", 5, sentence).prompt for sentence in ("a dog", "the cat on the left"))
    shared = len(one) - len("a dog\n")
    assert one[:shared] == other[:shared]


def test_schemas_have_the_reasoning_first_and_the_choice_last() -> None:
    for question, keys in zip(
        everything(),
        (
            ["video", "object", "frame"],
            ["scene", "boxes", "subject", "match", "choice"],
            ["scene", "sounds", "objects"],
            ["scene", "boxes", "match", "choice"],
        ),
        strict=True,
    ):
        assert list(question.schema["properties"]) == question.schema["required"] == keys
        assert question.schema["additionalProperties"] is False
        # The prompt names the keys in the same order.
        places = [question.prompt.index(f'"{key}"') for key in keys]
        assert places == sorted(places)


def test_choices_stay_in_range() -> None:
    frame, box, objects, one = (question.schema["properties"] for question in everything())
    assert (frame["frame"]["minimum"], frame["frame"]["maximum"]) == (1, 5)
    assert (box["choice"]["minimum"], box["choice"]["maximum"]) == (0, 2)
    assert (box["boxes"]["minItems"], box["boxes"]["maxItems"]) == (2, 2)
    assert objects["objects"]["maxItems"] == 3
    assert (one["choice"]["minimum"], one["choice"]["maximum"]) == (1, 3)


def test_answers_become_values() -> None:
    frame, box, objects, one = everything()
    assert frame.parse({"frame": 3}) == 3
    assert (box.parse({"choice": 2}), box.parse({"choice": 0})) == (2, 0)
    assert one.parse({"choice": 3}) == 3
    named = [{"category": " dog ", "frame": 4}, {"category": "Dog", "frame": 9}, {"category": "cat", "frame": 1}]
    assert objects.parse({"objects": named}) == (NamedObject("dog", 4), NamedObject("cat", 1))
    assert objects.parse({"objects": []}) == ()
    with pytest.raises(ValueError, match="no category"):
        objects.parse({"objects": [{"category": "  ", "frame": 1}]})


def test_what_a_user_writes_stays_on_its_line_and_is_not_filled_in() -> None:
    prompt = ASK.pivot_frame(b"", 2, "a $sentence\nAnswer: {frame} ${x}").prompt
    assert prompt.rstrip().splitlines()[-1] == "Sentence: a $sentence Answer: {frame} ${x}"
    assert "Heard: nothing" in ASK.sounding_objects(b"", 5, [], [], 2).prompt


def test_a_category_of_two_meanings_is_explained_where_it_is_one_of_them() -> None:
    meanings = {"keyboard": "a typing\nkeyboard"}
    told = ASK.sounding_objects(b"", 5, ["Typing"], ["dog", "keyboard"], 2, meanings).prompt
    assert "Categories: dog, keyboard; keyboard means a typing keyboard\n" in told
    for categories in (["dog"], ["dog", "musical keyboard"], []):
        assert " means " not in ASK.sounding_objects(b"", 5, ["Typing"], categories, 2, meanings).prompt


def test_a_folder_replaces_some_templates_and_changes_the_version(tmp_path: Path) -> None:
    (tmp_path / "pivot_frame.txt").write_text("Which of $count shows $sentence? It costs $$5.")
    own = Templates.load(tmp_path)
    assert own.fill("pivot_frame", count=3, sentence="it") == "Which of 3 shows it? It costs $5."
    assert own.texts["pivot_box"] == Templates.load().texts["pivot_box"]
    assert own.version.startswith(f"{SHIPPED_VERSION}+")
    assert own.version == Templates.load(tmp_path).version
    (tmp_path / "pivot_frame.txt").write_text("Which of $count?")
    assert Templates.load(tmp_path).version != own.version


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"$sentences of $count", "cannot be filled in"),
        (b"costs $ 5", "cannot be filled in"),
        (b"\xff\xfe", "cannot be read"),
        (b"  \n", "is empty"),
        (b"x" * 70_000, "too large"),
    ],
)
def test_templates_that_cannot_be_used_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "pivot_box.txt").write_bytes(content)
    with pytest.raises(InputError, match=words):
        Templates.load(tmp_path)


def test_a_folder_without_templates_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="has no template"):
            Templates.load(folder)


def test_every_shipped_template_uses_all_that_it_may() -> None:
    texts = Templates.load().texts
    for name, known in PLACEHOLDERS.items():
        assert all(f"${each}" in texts[name] for each in known)
