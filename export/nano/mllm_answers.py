"""Questions about a scene in the words of the shipped templates, and the answers that are true, reasoning first.

The reasoning is short and of a fixed form, so that a small model can follow it: where the object is that the sentence
names by its looks alone; of each box its place and what it holds, each word of the sentence beside what the box has for
it, whether the two agree, and so whether it is the one; then what all boxes come to, and the choice. What is compared
stands side by side: to compare from afar takes a small model much longer to learn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from alref_edge.datasets.synthetic import COLOURS, SHAPES, SIZES, Expression, SceneObject
from alref_edge.datasets.synthetic.words import MOTION_WORDS, RELATION_WORDS
from alref_edge.mllm.questions import Questioner
from alref_edge.mllm.templates import Templates
from export.nano.mllm_dense import Proposals, place_of
from export.nano.mllm_scenes import FRAMES, Truth

_SEEN = 60
_MOST_SEEN = 0.9
_AXES = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}
_MOTION_OF = {words: motion for motion, each in MOTION_WORDS.items() for words in each}
_RELATION_OF = {words: relation for relation, each in RELATION_WORDS.items() for words in each}


@dataclass(frozen=True)
class Exercise:
    """A question and its true answer.

    Attributes:
        prompt: as the client sends it.
        answer: JSON without spaces between its parts, as the server's grammar has it.
        kind: of the sentence.
        choice: the number that the answer ends with.
    """

    prompt: str
    answer: str
    kind: str
    choice: int


@dataclass(frozen=True)
class Parsed:
    """A sentence in parts.

    Attributes:
        phrase: words for the main object, without "the".
        motion: what it does, if that is said.
        relation, reference: how it stands to another object, and words for that one.
    """

    phrase: tuple[str, ...]
    motion: str | None = None
    relation: str | None = None
    reference: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """ "circle, above red square": the sentence in the words of the answers."""
        said = " ".join(self.phrase)
        if self.relation is not None:
            said += f", {self.relation} {' '.join(self.reference)}"
        return said if self.motion is None else f"{said}, {self.motion}"


def parse(sentence: str) -> Parsed:
    """The parts of a sentence about a generated scene.

    Raises:
        ValueError: it is none.
    """
    motions = "|".join(map(re.escape, _MOTION_OF))
    relations = "|".join(sorted(map(re.escape, _RELATION_OF), key=len, reverse=True))
    looks = "|".join([*SIZES, *COLOURS, *SHAPES, "one"])
    noun = rf"the ((?:{looks})(?: (?:{looks}))*)"
    found = re.fullmatch(rf"{noun}(?: ({motions}))?|{noun} ({relations}) {noun}", sentence)
    if found is None:
        raise ValueError(f"{sentence!r} is no sentence about a generated scene")
    alone, motion, phrase, relation, reference = found.groups()
    if alone is not None:
        return Parsed(tuple(alone.split()), _MOTION_OF.get(motion))
    return Parsed(tuple(phrase.split()), None, _RELATION_OF[relation], tuple(reference.split()))


def box_exercise(
    generator: np.random.Generator, truth: Truth, proposals: Proposals, expression: Expression
) -> Exercise:
    """The question which of the boxes a sentence is about."""
    parsed, frame = parse(expression.text), proposals.frame
    owners = list(proposals.owners)
    choice = owners.index(expression.target) + 1 if expression.target in owners else 0
    boxes, matches = [], []
    sought = _sought(truth, parsed, expression.target, frame)
    for index, (box, owner) in enumerate(zip(proposals.boxes_n4, owners, strict=True), 1):
        held = None if owner < 0 else truth.objects[owner]
        place = place_of(box if held is None else truth.boxes_tn4[frame, owner])
        checks = [_compare(word, held) for word in (*parsed.phrase, parsed.motion) if word not in ("one", None)]
        if parsed.relation is not None:
            rival = owner >= 0 and owner != expression.target and all(right for _, right in checks)
            told, lies = _lies(parsed.relation, place, sought)
            checks.append((told, owner >= 0 and not rival and (lies or owner == expression.target)))
        verdict = _yes(all(right for _, right in checks))
        told = " ".join(f"{text} {_yes(right)}" for text, right in checks)
        x, y = place
        boxes.append(f"{index} x{x} y{y} {'nothing' if held is None else _looks(held)}, {told}, {verdict}")
        matches.append(f"{index} {verdict}")
    scene = f"frame {frame + 1}"
    if sought is not None:
        scene += ", {} x{} y{}".format(" ".join(parsed.reference or parsed.phrase), *sought)
    answer = (
        f'{{"scene":"{scene}","boxes":["' + '","'.join(boxes) + f'"],"subject":"{parsed.text}",'
        f'"match":"{", ".join(matches)}","choice":{choice}}}'
    )
    phrases = [_proposed(generator, expression.text) for _ in owners]
    question = _questioner().pivot_box(b"", len(FRAMES), frame + 1, phrases, expression.text)
    return Exercise(question.prompt, answer, expression.kind, choice)


def frame_exercise(truth: Truth, expression: Expression) -> Exercise:
    """The question which frame shows the object of a sentence best: the first that shows nearly as much as any."""
    parsed = parse(expression.text)
    target, pixels_t = expression.target, truth.pixels_tn[:, expression.target]
    first = {number: _first_seen(truth, number) for number in range(len(truth.objects))}
    order = sorted(
        (when, *place_of(truth.boxes_tn4[when, n])[::-1], n) for n, when in first.items() if when is not None
    )
    video = ", ".join(_looks(truth.objects[number]) for *_, number in order)
    subject, reference = parsed.text, _reference(truth, parsed)
    shown = None if reference is None else first[reference]
    if reference is not None and shown is not None:
        subject += " x{} y{}".format(*place_of(truth.boxes_tn4[shown, reference]))
    whole_t = pixels_t >= _MOST_SEEN * pixels_t.max()
    places = [
        "{} x{} y{} {}".format(index + 1, *place_of(truth.boxes_tn4[index, target]), _yes(whole_t[index]))
        if pixels_t[index] >= _SEEN
        else f"{index + 1} out"
        for index in range(len(FRAMES))
    ]
    choice = int(whole_t.argmax()) + 1
    told = f"{subject}: {_looks(truth.objects[target])}: {', '.join(places)}"
    answer = f'{{"video":"{video}","object":"{told}","frame":{choice}}}'
    question = _questioner().pivot_frame(b"", len(FRAMES), expression.text)
    return Exercise(question.prompt, answer, expression.kind, choice)


@cache
def _questioner() -> Questioner:
    return Questioner(Templates.load())


def _looks(each: SceneObject) -> str:
    return f"{each.size} {each.colour} {each.shape} {each.motion}"


def _sought(truth: Truth, parsed: Parsed, target: int, frame: int) -> tuple[int, int] | None:
    """Where the object is that the words of the sentence alone tell from all others; none for a motion."""
    number = _reference(truth, parsed) if parsed.relation is not None else target
    shown = None if number is None or parsed.motion is not None else _frame_of(truth, number, frame)
    return None if shown is None else place_of(truth.boxes_tn4[shown, number])


def _compare(word: str | None, held: SceneObject | None) -> tuple[str, bool]:
    """ "circle square", and whether that is the same: a word of the sentence and what a box has in its place."""
    kinds = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "motion": MOTION_WORDS}
    kind = next(name for name, words in kinds.items() if word in words)
    own = "nothing" if held is None else getattr(held, kind)
    return f"{word} {own}", own == word


def _lies(relation: str, place: tuple[int, int], other: tuple[int, int] | None) -> tuple[str, bool]:
    """ "left x4 x9", and whether that is so: places of a box and of the object that it should be left of."""
    axis, sign = _AXES[relation]
    letter = "xy"[axis]
    if other is None:
        return f"{relation} {letter}{place[axis]} out", False
    return f"{relation} {letter}{place[axis]} {letter}{other[axis]}", sign * (place[axis] - other[axis]) > 0


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _fits(each: SceneObject, phrase: Sequence[str]) -> bool:
    """Whether an object is what a phrase says."""
    return all(_compare(word, each)[1] for word in phrase if word != "one")


def _reference(truth: Truth, parsed: Parsed) -> int | None:
    """Number of the object that another is said to be left of (...); the only one that its words fit."""
    if parsed.relation is None:
        return None
    return next(n for n, each in enumerate(truth.objects) if _fits(each, parsed.reference))


def _first_seen(truth: Truth, number: int) -> int | None:
    frames = np.flatnonzero(truth.pixels_tn[:, number] >= _SEEN)
    return int(frames[0]) if len(frames) else None


def _frame_of(truth: Truth, number: int, frame: int) -> int | None:
    """The frame nearest to one that shows an object."""
    frames = np.flatnonzero(truth.pixels_tn[:, number] >= _SEEN)
    return int(min(frames, key=lambda each: abs(each - frame))) if len(frames) else None


def _proposed(generator: np.random.Generator, sentence: str) -> str:
    """Words of the sentence for which a box may have been proposed."""
    words = sentence.split()
    share = generator.choice([0.0, 0.3, 0.6])
    return " ".join(word for word in words if generator.random() < share)
