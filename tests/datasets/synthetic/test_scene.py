"""Scenes: the same everywhere, exact, and their sentences true of one object alone."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np
import pytest

from alref_edge.datasets.synthetic import COLOURS, KINDS, SHAPES, SIZES, Scene, SceneObject, make_scene
from alref_edge.errors import InputError
from tests.datasets.synthetic.views import pixels_tn

SEEDS = range(60)

FRAMES_SHA256 = "933d33a7f4ae1e16"
TRUTH_SHA256 = "3a15957f32915898"


@dataclass
class Watched:
    """A scene and what is seen of it."""

    scene: Scene
    pixels_tn: np.ndarray

    @property
    def shares_tn(self) -> np.ndarray:
        """Share of each object that is seen in each frame."""
        whole = np.array([(each.sprite_alpha >= 128).sum() for each in self.scene.objects])
        return self.pixels_tn / whole


@pytest.fixture(scope="module")
def watched() -> list[Watched]:
    scenes = [make_scene(seed) for seed in SEEDS]
    return [Watched(scene, pixels_tn(scene)) for scene in scenes]


def test_a_scene_is_the_same_for_ever() -> None:
    """The stored hashes change only if scenes do, and then every figure measured on them is void."""
    scene = make_scene(7, width=128, height=96, num_frames=8)
    frames, truth = hashlib.sha256(), hashlib.sha256()
    for index in range(8):
        frames.update(scene.frame(index).tobytes())
        truth.update(scene.masks(index).tobytes())
    for each in scene.expressions:
        truth.update(f"{each.text}|{each.kind}|{each.target}".encode())
    assert truth.hexdigest()[:16] == TRUTH_SHA256
    assert frames.hexdigest()[:16] == FRAMES_SHA256


def test_seeds_make_different_scenes() -> None:
    frames = {make_scene(seed, 128, 96, 2).frame(0).tobytes() for seed in range(20)}
    assert len(frames) == 20


def test_masks_boxes_and_labels_agree() -> None:
    unseen = 0
    for seed in range(12):
        scene = make_scene(seed, width=160, height=120, num_frames=16)
        for index in range(0, 16, 5):
            masks, boxes, labels = scene.masks(index), scene.boxes(index), scene.labels(index)
            assert masks.dtype == np.bool_
            assert masks.shape == (len(scene.objects), 120, 160)
            assert boxes.dtype == np.float32
            assert masks.sum(axis=0).max() <= 1
            assert ((labels == -1) == ~masks.any(axis=0)).all()
            for number, mask in enumerate(masks):
                assert (labels[mask] == number).all()
                y, x = np.nonzero(mask)
                unseen += not len(x)
                expected = [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [np.nan] * 4
                np.testing.assert_array_equal(boxes[number], np.array(expected, np.float32))
    assert unseen


def test_masks_lie_on_what_is_drawn() -> None:
    """Inside its mask an object has its colour, and just outside it has not."""
    compared = 0
    for seed in range(10):
        scene = make_scene(seed)
        frame, masks = scene.frame(20).astype(int), scene.masks(20)
        for each, mask in zip(scene.objects, masks, strict=True):
            if mask.sum() > 300:
                compared += 1
                off = np.abs(frame - COLOURS[each.colour]).max(axis=-1)
                ring = np.zeros_like(mask)
                for shift, axis in ((4, 0), (-4, 0), (4, 1), (-4, 1)):
                    ring |= np.roll(mask, shift, axis)
                ring &= ~masks.any(axis=0)
                assert np.median(off[mask]) < 45, (seed, each)
                assert np.median(off[ring]) > 60, (seed, each)
    assert compared > 20


def test_frames_move_and_have_texture() -> None:
    scene = make_scene(3)
    first, last = scene.frame(0), scene.frame(39)
    assert first.shape == (256, 256, 3)
    assert first.dtype == np.uint8
    wall = ~(scene.masks(0).any(axis=0) | scene.masks(39).any(axis=0))
    assert first[wall].std(axis=0).min() > 8
    assert (first[wall] != last[wall]).mean() > 0.5


def test_every_word_occurs() -> None:
    objects = [each for seed in range(100) for each in make_scene(seed, num_frames=2).objects]
    assert {each.shape for each in objects} == set(SHAPES)
    assert {each.colour for each in objects} == set(COLOURS)
    assert {each.size for each in objects} == set(SIZES)
    assert (len(SHAPES), len(COLOURS), len(SIZES)) >= (6, 8, 3)


def test_sizes_differ_in_pixels() -> None:
    areas: dict[str, list[int]] = {size: [] for size in SIZES}
    for seed in range(40):
        for each in make_scene(seed, num_frames=2).objects:
            if each.shape == "square":
                areas[each.size].append(int((each.sprite_alpha >= 128).sum()))
    assert max(areas["small"]) < min(areas["medium"])
    assert max(areas["medium"]) < min(areas["large"])


def test_scenes_have_what_makes_them_hard(watched: list[Watched]) -> None:
    """Occlusion, leaving and entering really occur, and most scenes hold what could be taken for the target."""
    occluded = entered = left = alike = 0
    for each in watched:
        scene, shares = each.scene, each.shares_tn
        assert 2 <= len(scene.objects) <= 5
        for number, one in enumerate(scene.objects):
            corner = np.array([scene.width, scene.height]) - one.radius
            inside = ((one.centres_t2 >= one.radius) & (one.centres_t2 < corner)).all(axis=1)
            occluded += bool((inside & (shares[:, number] < 0.7)).any())
            entered += shares[0, number] == 0 and shares[:, number].max() > 0.5
            left += shares[-1, number] == 0 and shares[:, number].max() > 0.5
        pairs = [(a, b) for a in scene.objects for b in scene.objects if a is not b]
        alike += any(a.shape == b.shape or a.colour == b.colour for a, b in pairs)
    assert occluded >= 20
    assert entered >= 2
    assert left >= 10
    assert alike >= 0.7 * len(watched)


def test_what_a_sentence_means_is_in_view(watched: list[Watched]) -> None:
    for each in watched:
        for expression in each.scene.expressions:
            assert (each.shares_tn[:, expression.target] > 1 / 3).mean() >= 0.5, (each.scene.seed, expression)


# A reader of the sentences that shares nothing with their writer.
_NOUN = (
    rf"the(?: (?P<size{{0}}>{'|'.join(SIZES)}))?(?: (?P<colour{{0}}>{'|'.join(COLOURS)}))?"
    rf" (?P<shape{{0}}>{'|'.join(SHAPES)}|one)"
)
_RELATIONS = {
    "left of": (0, -1),
    "to the left of": (0, -1),
    "right of": (0, 1),
    "to the right of": (0, 1),
    "above": (1, -1),
    "below": (1, 1),
}
_MOTIONS = {
    "that stands still": "still",
    "that does not move": "still",
    "that moves left": "left",
    "moving to the left": "left",
    "that moves right": "right",
    "moving to the right": "right",
    "that moves up": "up",
    "moving up": "up",
    "that moves down": "down",
    "moving down": "down",
    "that swings back and forth": "swing",
}
_SENTENCE = re.compile(
    f"{_NOUN.format(1)}(?: (?P<motion>{'|'.join(_MOTIONS)})| (?P<relation>{'|'.join(_RELATIONS)}) {_NOUN.format(2)})?"
)


def motion_of(each: SceneObject) -> str:
    """What an object does, from its track alone."""
    track = each.centres_t2.astype(float)
    spread = np.ptp(track, axis=0)
    if spread.max() <= 1:
        return "still"
    axis = int(spread[1] > spread[0])
    steps = np.diff(track[:, axis])
    forth, back = (steps > 0).sum(), (steps < 0).sum()
    if min(forth, back) > 0.1 * (forth + back):
        return "swing"
    return (("left", "right"), ("up", "down"))[axis][int(forth > back)]


def meant_by(text: str, watched: Watched) -> tuple[str, list[int]]:
    """The kind of a sentence, and the numbers of all objects that it is true of."""
    match = _SENTENCE.fullmatch(text)
    assert match, text
    objects = watched.scene.objects

    def fits(each: SceneObject, noun: int) -> bool:
        return all(match[f"{name}{noun}"] in (None, "one", getattr(each, name)) for name in ("size", "colour", "shape"))

    candidates = [number for number, each in enumerate(objects) if fits(each, 1)]
    if match["motion"]:
        return "motion", [number for number in candidates if motion_of(objects[number]) == _MOTIONS[match["motion"]]]
    if not match["relation"]:
        return "appearance", candidates
    (reference,) = (number for number, each in enumerate(objects) if fits(each, 2))
    axis, sign = _RELATIONS[match["relation"]]
    meant = []
    for number in candidates:
        both = (watched.pixels_tn[:, [number, reference]] > 0).all(axis=1)
        gaps = sign * (objects[number].centres_t2[both, axis] - objects[reference].centres_t2[both, axis])
        share = (gaps > 0).mean() if len(gaps) else 0.5
        assert share <= 0.2 or share >= 0.8 or number == reference, f"{text}: neither here nor there"
        if number != reference and share >= 0.8:
            meant.append(number)
    return "relation", meant


def test_a_sentence_is_true_of_its_target_alone(watched: list[Watched]) -> None:
    count = dict.fromkeys(KINDS, 0)
    for each in watched:
        for expression in each.scene.expressions:
            kind, meant = meant_by(expression.text, each)
            assert (kind, meant) == (expression.kind, [expression.target]), (each.scene.seed, expression)
            count[kind] += 1
    assert min(count.values()) >= 15


def test_sentences_are_needed(watched: list[Watched]) -> None:
    """In nearly every scene some target shares its shape with another object, so that a sentence must say more."""
    needed = sum(
        any(
            sum(other.shape == each.scene.objects[expression.target].shape for other in each.scene.objects) > 1
            for expression in each.scene.expressions
        )
        for each in watched
    )
    assert needed >= 0.5 * len(watched)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 0, "width": 95},
        {"seed": 0, "height": 10},
        {"seed": 0, "num_frames": 0},
        {"seed": 0, "fps": 0},
        {"seed": 0, "objects": (3, 2)},
        {"seed": 0, "objects": (0, 2)},
    ],
    ids=str,
)
def test_what_makes_no_scene_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="no such scene"):
        make_scene(**wrong)


@pytest.mark.parametrize("index", [-1, 40])
def test_a_frame_that_is_not_there_is_refused(index: int) -> None:
    scene = make_scene(0)
    for read in (scene.frame, scene.labels, scene.masks, scene.boxes):
        with pytest.raises(InputError, match="no such frame"):
            read(index)
