"""Expressions: sentences that are true of one object of a scene, by how it looks, where it is or what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from alref_edge.datasets.synthetic.objects import SceneObject

KINDS = ("appearance", "relation", "motion")

MOTION_WORDS = {
    "still": ("that stands still", "that does not move"),
    "left": ("that moves left", "moving to the left"),
    "right": ("that moves right", "moving to the right"),
    "up": ("that moves up", "moving up"),
    "down": ("that moves down", "moving down"),
    "swing": ("that swings back and forth",),
}
RELATION_WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below",),
}
# Pixels that lie between two middles, at least, where a relation is said to hold.
_APART = 12
# Share of the frames in which a relation holds for the target, and does not for what could be taken for it.
_MOSTLY = 0.85
_EACH = 3


@dataclass(frozen=True)
class Expression:
    """A sentence about a scene.

    Attributes:
        text: the sentence.
        kind: one of `KINDS`: what it takes to understand it.
        target: number of the object that it means.
    """

    text: str
    kind: str
    target: int


def describe(
    generator: np.random.Generator, objects: Sequence[SceneObject], width: int, height: int
) -> tuple[Expression, ...]:
    """Up to three expressions of each kind, of different objects first."""
    found: list[Expression] = []
    for kind, candidates in (
        ("appearance", list(_appearances(objects))),
        ("relation", list(_relations(objects, width, height))),
        ("motion", list(_motions(objects))),
    ):
        order = generator.permutation(len(candidates))
        chosen: dict[int, list[str]] = {}
        for index in order:
            target, texts = candidates[index]
            chosen.setdefault(target, []).append(str(generator.choice(list(texts))))
        targets = list(chosen)
        found += [Expression(chosen[target][0], kind, target) for target in targets[:_EACH]]
    return tuple(found)


def names(each: SceneObject) -> Iterator[tuple[Callable[[SceneObject], bool], str]]:
    """Phrases for an object, from full to short, each with what tells whether it fits another object too."""
    attributes = ("size", "colour", "shape")
    for count in (3, 2, 1):
        for chosen in combinations(attributes, count):
            words = [getattr(each, name) for name in chosen]
            if "shape" not in chosen:
                words.append("one")
            values = {name: getattr(each, name) for name in chosen}

            def fits(other: SceneObject, values: dict[str, str] = values) -> bool:
                return all(getattr(other, name) == value for name, value in values.items())

            yield fits, "the " + " ".join(words)


def _appearances(objects: Sequence[SceneObject]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Every phrase that fits one object alone."""
    for target, each in enumerate(objects):
        for fits, phrase in names(each):
            if sum(map(fits, objects)) == 1:
                yield target, (phrase,)


def _relations(objects: Sequence[SceneObject], width: int, height: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """ "The circle left of the square": circles that are not left of it are there too, and one square alone."""
    holds = _holding(objects, width, height)
    known = [(other, phrase) for other, (phrase,) in _appearances(objects) if not phrase.endswith(" one")]
    for target in range(len(objects)):
        for phrase, rivals in _ambiguous(objects, target):
            for other, reference in known:
                if other == target or other in rivals:
                    continue
                for relation, words in RELATION_WORDS.items():
                    if holds(target, other, relation, _APART) >= _MOSTLY and all(
                        holds(rival, other, relation, 0) <= 1 - _MOSTLY for rival in rivals
                    ):
                        yield target, tuple(f"{phrase} {word} {reference}" for word in words)


def _motions(objects: Sequence[SceneObject]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """ "The square that moves right", among squares that do not; "the one that stands still", among all."""
    for target, each in enumerate(objects):
        if sum(other.motion == each.motion for other in objects) == 1:
            yield target, tuple(f"the one {words}" for words in MOTION_WORDS[each.motion])
        for phrase, rivals in _ambiguous(objects, target):
            if all(objects[rival].motion != each.motion for rival in rivals):
                yield target, tuple(f"{phrase} {words}" for words in MOTION_WORDS[each.motion])


def _ambiguous(objects: Sequence[SceneObject], target: int) -> Iterator[tuple[str, list[int]]]:
    """Phrases with a shape that fit the target and others, with the others' numbers."""
    for fits, phrase in names(objects[target]):
        rivals = [number for number, other in enumerate(objects) if number != target and fits(other)]
        if rivals and not phrase.endswith(" one"):
            yield phrase, rivals


def _holding(objects: Sequence[SceneObject], width: int, height: int) -> Callable[[int, int, str, int], float]:
    """The share of the frames with both in the picture in which one object is left of (...) another by some pixels."""
    paths = [each.centres_t2 for each in objects]
    inside = [((path >= 0) & (path < (width, height))).all(axis=1) for path in paths]

    def holds(one: int, other: int, relation: str, apart: int) -> float:
        both = inside[one] & inside[other]
        axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[relation]
        gaps = sign * (paths[one][both, axis] - paths[other][both, axis])
        return float((gaps >= apart).mean()) if len(gaps) else 0.5

    return holds
