"""Audio-visual segmentation: windows, silence, recorded answers on made clips of AVSBench, the default selector."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.bundle import Bundle
from alref_edge.datasets.synthetic import Scene, SceneSource, make_scene
from alref_edge.datasets.synthetic.layouts import write_dataset
from alref_edge.datasets.synthetic.sound import frame_of_second, make_sound
from alref_edge.datasets.synthetic.timbres import play
from alref_edge.errors import InputError, MediaError
from alref_edge.media import DAVIS_PALETTE, open_video
from alref_edge.pipeline import AvsRun, AvsSettings, Pipeline, ReplaySoundSelector, Setting
from alref_edge.pipeline.avs import keep_boxes
from alref_edge.pipeline.clock import Clock
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.selectors.base import SoundWindow
from alref_edge.pipeline.selectors.grounding import GroundingSoundSelector
from alref_edge.pipeline.selectors.sound_replay import STAGE_1, STAGE_2
from alref_edge.pipeline.silence import silent_seconds
from alref_edge.runtime import SessionOptions
from alref_edge.types import Detections, Tag
from tests.media.clips import make_clip
from tests.media.sounds import make_sound_file

RATE = 16_000
# Three shapes, one object each, in view all the time.
SEED = 1918
SHAPES = ("circle", "star", "square")


def test_windows_go_by_the_clock_of_the_frames() -> None:
    at_8_fps = Clock(np.arange(8 * 23) // 8)
    assert [(start, frames, len(shown)) for start, frames, shown in at_8_fps.windows(10)] == [
        (0, range(80), 10),
        (10, range(80, 160), 10),
        (20, range(160, 184), 3),
    ]
    assert next(at_8_fps.windows(10))[2] == tuple(range(7, 80, 8))  # the last frame of each second
    assert [shown for _, _, shown in Clock(np.arange(5)).windows(10)] == [(0, 1, 2, 3, 4)]
    # No frame in seconds 1 and 2: the one before stands for them. None at all from 10 to 19: no window.
    gaps = Clock(np.array([0, 0, 3, 21]))
    assert list(gaps.windows(10)) == [(0, range(3), (1, 1, 1, 2, 2, 2, 2, 2, 2, 2)), (20, range(3, 4), (3, 3))]


@pytest.mark.parametrize(
    ("frames", "fps", "seconds"), [(301, 30, 10), (314, 30, 10), (315, 30, 11), (1, 25, 1), (3, 1, 3)]
)
def test_a_few_frames_more_make_no_second(frames: int, fps: int, seconds: int) -> None:
    clock = Clock.of(SceneSource(make_scene(SEED, num_frames=frames, fps=fps)))
    assert clock.seconds == seconds
    assert sum(len(span) for _, span, _ in clock.windows(10)) == frames


def test_silence_is_told_second_by_second() -> None:
    wave = np.zeros(3 * RATE, np.float32)
    wave[RATE : 2 * RATE] = 0.1
    assert silent_seconds(wave, 4, -45.0) == (True, False, True, True)
    assert silent_seconds(wave, 4, -10.0) == (True, True, True, True)
    assert silent_seconds(wave, 4, None) == (False,) * 4
    assert silent_seconds(wave[:0], 2, None) == (True, True)
    assert silent_seconds(wave[RATE : RATE + 800], 2, -21.0) == (False, True)  # what is there of a second counts


def test_fewer_boxes_than_are_kept_stay_in_the_order_of_the_queries() -> None:
    scores = np.array([0.3, 0.9, 0.5, 0.7], np.float32)
    four = Detections(np.zeros((4, 4), np.float32), scores, ("a", "b", "c", "d"))
    assert keep_boxes(four, 3).phrases == ("b", "d", "c")
    assert keep_boxes(four[:3], 3).phrases == ("b", "c", "a")
    assert keep_boxes(four[:2], 3).phrases == ("a", "b")


@dataclass
class TruthDetector:
    """The boxes of some objects of a scene in place of Grounding DINO's."""

    scene: Scene
    boxes: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    provider: str = "truth"

    def encode_text(self, caption: str) -> str:
        return caption

    def encode_image(self, image: np.ndarray) -> int:
        """The frame that it is."""
        frames = range(self.scene.fps - 1, self.scene.num_frames, self.scene.fps)
        return min(frames, key=lambda index: float(np.abs(self.scene.frame(index).astype(int) - image).mean()))

    def detect(self, frame: int, caption: str, box_threshold: float, text_threshold: float) -> Detections:
        chosen = self.boxes.get(caption, ())
        boxes = self.scene.boxes(frame)[[number for number, _ in chosen]].reshape(-1, 4)
        return Detections(boxes, np.array([score for _, score in chosen], np.float32), (caption,) * len(chosen))

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Case:
    """A clip with recorded answers, and what follows from them by hand.

    Attributes:
        setting: of AVSBench.
        stage_1: the recorded text.
        stage_2: the recorded choice.
        boxes: by category, (object, score) in the order of the queries.
        heard: shapes that sound in each second.
        segments: recorded.
        pivots: by category, the second and the object from which it is tracked; None without a box.
        labels: names in each second.
        classes: of a class map, by category.
        beyond: categories whose recorded pivot lies beyond the clip.
    """

    setting: Setting
    stage_1: str
    stage_2: object
    boxes: Mapping[str, tuple[tuple[int, float], ...]]
    pivots: Mapping[str, tuple[int, int] | None]
    labels: tuple[tuple[str, ...], ...]
    heard: tuple[tuple[str, ...], ...] = (("circle",),) * 5
    segments: tuple[tuple[int, int], ...] = ((0, 5),)
    classes: Mapping[str, int] = field(default_factory=dict)
    beyond: tuple[str, ...] = ()


CIRCLE, SQUARE, STAR = ("circle",), ("square",), ("star",)
ONE = {"circle": ((0, 0.8),)}
EACH = {"circle": ((0, 0.8),), "star": ((1, 0.8),), "square": ((2, 0.8),)}
TURNS = (CIRCLE, CIRCLE, SQUARE, SQUARE, SQUARE)
CASES = {
    "one box": Case(Setting.S4, "{'circle': 2}", None, ONE, {"circle": (1, 0)}, (CIRCLE,) * 5),
    "two boxes, the second": Case(
        Setting.S4, "{'circle': 1}", 2, {"circle": ((0, 0.9), (1, 0.3))}, {"circle": (0, 1)}, (CIRCLE,) * 5
    ),
    "three boxes, counted by score": Case(
        Setting.S4,
        "{'circle': 1}",
        1,
        {"circle": ((0, 0.3), (1, 0.5), (2, 0.9))},
        {"circle": (0, 2)},
        (CIRCLE,) * 5,
    ),
    "box out of range": Case(
        Setting.S4, "{'circle': 1}", 5, {"circle": ((1, 0.3), (0, 0.9))}, {"circle": (0, 1)}, (CIRCLE,) * 5
    ),
    "no box": Case(Setting.S4, "{'circle': 3}", None, {}, {"circle": None}, (CIRCLE,) * 5),
    "pivot out of range": Case(
        Setting.S4, "{'circle': 9}", None, ONE, {"circle": (0, 0)}, (CIRCLE,) * 5, beyond=("circle",)
    ),
    "two categories where there is one": Case(
        Setting.S4, "{'square': 4, 'circle': 2}", None, EACH, {"square": (3, 2)}, (SQUARE,) * 5
    ),
    "one category": Case(
        Setting.MS3, "{'square': 5}", {}, EACH, {"square": (4, 2)}, (SQUARE,) * 5, TURNS, ((0, 2), (2, 5))
    ),
    "nothing": Case(Setting.MS3, "{}", {}, EACH, {}, ((),) * 5),
    "two categories by turns": Case(
        Setting.MS3,
        "{'circle': 1, 'square': 6}",
        {},
        EACH,
        {"circle": (0, 0), "square": (0, 2)},
        TURNS,
        TURNS,
        ((0, 2), (2, 5)),
        beyond=("square",),
    ),
    "three categories, the last label repeats": Case(
        Setting.MS3,
        "{'star': 1, 'circle': 2, 'square': 3}",
        {"square": 2},
        {**EACH, "square": ((0, 0.4), (2, 0.3))},
        {"star": (0, 1), "circle": (1, 0), "square": (2, 2)},
        (STAR, CIRCLE, SQUARE, SQUARE, SQUARE),
        (STAR, CIRCLE, SQUARE, SQUARE, SQUARE),
        ((0, 1), (1, 2), (2, 4)),
    ),
    "a label outside of the categories": Case(
        Setting.AVSS,
        "{'siren': 2, 'circle': 1}",
        {},
        {"siren": ((1, 0.8),), "circle": ((0, 0.8),)},
        {"siren": (1, 1), "circle": (0, 0)},
        (("siren",), ("siren",), CIRCLE, CIRCLE, CIRCLE),
        (STAR, STAR, CIRCLE, CIRCLE, CIRCLE),
        ((0, 2), (2, 5)),
        {"siren": 4, "circle": 1},
    ),
}


@pytest.fixture(scope="module")
def pipeline(nano_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.from_bundle(nano_bundle, device="cpu", threads=1) as made:
        yield made


@pytest.fixture(scope="module")
def scene() -> Scene:
    made = make_scene(SEED)
    assert tuple(each.shape for each in made.objects) == SHAPES
    return made


@pytest.fixture(scope="module")
def grounded(nano_bundle: Path, scene: Scene) -> Iterator[tuple[Pipeline, TruthDetector]]:
    """A pipeline whose detector finds what it is told to."""
    detector, bundle, options = TruthDetector(scene), Bundle.open(nano_bundle), SessionOptions(threads=1)
    with Pipeline(Networks(bundle, "cpu", options, instead={"grounding_dino": detector})) as made:
        yield made, detector


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Setting, Path]:
    """Frames of the scene, one a second, as each of the three datasets has them."""
    root = tmp_path_factory.mktemp("avsbench")
    frames = {}
    for setting, layout in ((Setting.S4, "s4"), (Setting.MS3, "ms3"), (Setting.AVSS, "avss")):
        write_dataset(root / layout, f"avsbench-{layout}", [SEED])
        (first,) = {*(root / layout).rglob("*_1.png"), *(root / layout).rglob("frames/0.jpg")} - set(
            (root / layout).rglob("gt_masks/**/*.png")
        )
        frames[setting] = first.parent
    return frames


def replayed(grounded: tuple[Pipeline, TruthDetector], frames: Path, case: Case, folder: Path) -> AvsRun:
    """A case run through the pipeline, from files."""
    pipeline, detector = grounded
    where = folder / case.setting.value
    where.mkdir()
    (where / STAGE_1).write_text(json.dumps({"clip": case.stage_1}))
    (where / STAGE_2).write_text(json.dumps({} if case.stage_2 is None else {"clip": case.stage_2}))
    (folder / "segments.json").write_text(json.dumps({"clip": case.segments}))
    make_sound_file(folder / "clip.wav", spoken(case.heard), RATE)
    selector = ReplaySoundSelector.from_folder(folder, case.setting, "clip", folder / "segments.json")
    settings = pipeline.avs_settings(case.setting.settings)
    detector.boxes = case.boxes
    return pipeline.avs(open_video(frames, fps=1), folder / "clip.wav", selector=selector, settings=settings)


def spoken(heard: tuple[tuple[str, ...], ...]) -> np.ndarray:
    """A sound in which some shapes sound in each second."""
    generator = np.random.default_rng(7)
    voices = {shape: play(generator, shape, len(heard) * RATE, 1.0) for shape in SHAPES}
    wave = np.zeros(len(heard) * RATE)
    for second, shapes in enumerate(heard):
        part = slice(second * RATE, (second + 1) * RATE)
        wave[part] = sum(0.1 * voices[shape][part] for shape in shapes)
    return wave


@pytest.mark.parametrize("name", CASES)
def test_recorded_answers_come_to_what_follows_by_hand(
    name: str,
    grounded: tuple[Pipeline, TruthDetector],
    scene: Scene,
    folders: dict[Setting, Path],
    tmp_path: Path,
) -> None:
    case = CASES[name]
    run = replayed(grounded, folders[case.setting], case, tmp_path)
    assert run.labels == case.labels
    assert {each.name: None if each.pivot is None else each.pivot.frame for each in run.windows[0].objects} == {
        name: None if pivot is None else pivot[0] for name, pivot in case.pivots.items()
    }
    for each in run:
        pivot = case.pivots[each.name]
        assert any("beyond the clip" in warning for warning in each.warnings) == (each.name in case.beyond)
        if pivot is None:
            assert not any(each.tracked(second).any() for second in range(5))
            assert each.warnings
            continue
        second, target = pivot
        frame = frame_of_second(scene, second)
        assert np.abs(each.pivots[0].box_xyxy - scene.boxes(frame)[target]).max() < 1e-3
        truth = scene.labels(frame) == target
        assert (each.tracked(second) & truth).sum() > 0.5 * (each.tracked(second) | truth).sum()
    tracked = {each.name: each for each in run}
    for second, names in enumerate(case.labels):
        merged, classes = np.zeros((256, 256), bool), np.zeros((256, 256), np.uint8)
        for label in names:
            merged |= tracked[label].tracked(second)
            classes[tracked[label].tracked(second)] = case.classes.get(label, 0)
        assert np.array_equal(run.mask(second), merged)
        if case.classes:
            assert np.array_equal(run.class_map(second), classes)
            assert run.class_of == case.classes


def test_later_labels_are_painted_over_earlier_ones(
    grounded: tuple[Pipeline, TruthDetector], folders: dict[Setting, Path], tmp_path: Path
) -> None:
    both = (("circle", "star"),) * 5
    boxes = {"circle": ((0, 0.8),), "star": ((0, 0.8),)}
    case = Case(Setting.AVSS, "{'circle': 1, 'star': 1}", {}, boxes, {}, both, both)
    run = replayed(grounded, folders[Setting.AVSS], case, tmp_path)
    assert run.labels == both
    assert run.mask(0).any()
    assert np.array_equal(run.class_map(0), np.where(run.mask(0), 4, 0))


def test_a_longer_video_goes_by_windows(pipeline: Pipeline) -> None:
    scene = make_scene(SEED, num_frames=24, fps=2)
    wave = np.concatenate([spoken((CIRCLE,) * 10), np.zeros(RATE), spoken((STAR,))])
    settings = pipeline.avs_settings(AvsSettings()).changed({"window_s": 10})
    run = pipeline.avs(SceneSource(scene), wave.astype(np.float32), settings=settings)
    assert [(heard.start_s, heard.frames) for heard in run.windows] == [(0, range(20)), (10, range(20, 24))]
    assert run.labels[10] == ()
    assert not run.mask(20).any()
    assert run.windows[1].silent == (True, False)
    assert "circle" in run.labels[0]
    assert "star" in run.labels[11]
    assert "star" not in run.labels[0]
    star = next(each for each in run if each.name == "star")
    assert star.seconds == (11,)
    assert not star.mask(19).any()
    assert star.mask(23).any()


def test_without_an_llm_tags_become_categories_that_are_seen(pipeline: Pipeline) -> None:
    scores = {"circle": (0.3, 0.6, 0.6), "square": (0.0, 0.0, 0.0), "star": (0.5, 0.4, 0.2)}
    tags = (Tag("1", "Siren", 0.9), Tag("2", "Reed", 0.8), Tag("3", "Flute", 0.7), Tag("4", "Bell", 0.1))

    def ground(second: int, name: str) -> Detections:
        score = scores[name][second]
        count = int(score > 0)
        return Detections(np.zeros((count, 4), np.float32), np.full(count, score, np.float32), (name,) * count)

    window = SoundWindow(0, 0, (0, 1, 2), {}, lambda: tags)
    choices = pipeline.avs_settings().categories
    selector = GroundingSoundSelector(pipeline.networks.sound_text_matcher.nearest, choices, tag_threshold=0.5)
    assert [(each.name, each.pivot) for each in selector.categories(window, ground)] == [("star", 1), ("circle", 2)]
    told: list[tuple[str, int, int]] = []
    watched = SoundWindow(0, 0, (0, 1, 2), {}, lambda: tags, report=lambda *progress: told.append(progress))
    selector.categories(watched, ground)
    assert told == [("ground", done, 9) for done in range(1, 10)]
    two = Detections(np.zeros((2, 4), np.float32), np.array([0.3, 0.4], np.float32), ("a", "b"))
    assert selector.box(window, selector.categories(window, ground)[0], two) == 1


def test_a_video_without_sound_and_a_folder_without_a_file_are_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="holds no sound"):
        pipeline.avs(make_clip(tmp_path / "mute.mp4"))
    (tmp_path / "frames").mkdir()
    Image.fromarray(np.tile(DAVIS_PALETTE[:64, None], (1, 64, 1))).save(tmp_path / "frames" / "0.png")
    with pytest.raises(MediaError, match=r"has no sound of its own.*--audio FILE"):
        pipeline.avs(tmp_path / "frames")


def test_frames_in_memory_sound_as_the_video_that_they_are(pipeline: Pipeline, scene: Scene) -> None:
    wave = spoken((CIRCLE,) * 5)
    frames = [scene.frame(frame) for frame in range(scene.num_frames)]
    expected = pipeline.avs(SceneSource(scene), wave)
    assert len(expected)
    for video in (np.stack(frames), iter(frames)):
        run = pipeline.avs(video, wave, fps=scene.fps)
        assert run.labels == expected.labels
        for frame in range(scene.num_frames):
            np.testing.assert_array_equal(run.mask(frame), expected.mask(frame))
    with pytest.raises(MediaError, match=r"no sound of its own.*`sound`"):
        pipeline.avs(np.stack(frames))


def test_rvos_and_avs_have_the_same_options_in_the_same_order() -> None:
    options = {
        call.__name__: [
            name
            for name, each in inspect.signature(call).parameters.items()
            if each.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        for call in (Pipeline.rvos, Pipeline.rvos_many, Pipeline.avs)
    }
    assert options["rvos"] == options["rvos_many"]
    assert options["rvos"] == [name for name in options["avs"] if name != "audio_limits"]


def test_answers_of_another_clip_or_a_longer_video_are_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    where = tmp_path / "ms3"
    where.mkdir()
    (where / STAGE_1).write_text(json.dumps({"clip": "{'circle': 1}"}))
    (where / STAGE_2).write_text("{}")
    with pytest.raises(InputError, match="No answer was recorded for the clip 'other'"):
        ReplaySoundSelector.from_folder(tmp_path, "ms3", "other")
    selector = ReplaySoundSelector.from_folder(tmp_path, "ms3", "clip")
    scene = make_scene(SEED, num_frames=24, fps=2)
    wave = make_sound(scene).wave_16khz
    for video in (scene, make_scene(SEED, num_frames=8)):
        with pytest.raises(InputError, match=r"not as long as the clips.*--fps 1"):
            pipeline.avs(SceneSource(video), wave, selector=selector, settings=Setting.MS3.settings)


def test_masks_are_given_back_and_frames_are_checked(pipeline: Pipeline, scene: Scene) -> None:
    with pipeline.avs(SceneSource(scene), spoken((CIRCLE,) * 5)) as run:
        assert run.mask(0).shape == run.class_map(39).shape == (256, 256)
        for frame in (-1, 40):
            with pytest.raises(InputError, match="no such frame"):
                run.class_map(frame)
            with pytest.raises(InputError, match="no such frame"):
                run.mask(frame)
    with pytest.raises(InputError, match="given back"):
        run.mask(0)


@pytest.mark.parametrize(
    "change",
    [
        {"window_s": 0},
        {"window_s": 61},
        {"categories": "circle"},
        {"categories": ("a", "a")},
        {"taggers": ("",)},
        {"silence_db": 3},
        {"max_categories": 0},
        {"separator": ""},
        {"segment_feature": "pitch"},
        {"tag_threshold": 1.5},
        {"taggers": ()},
        {"categories": 5},
        {"synonyms": "abc"},
        {"synonyms": {"dog": 3}},
        {"separator": 5},
        {"segment_hop_s": "x"},
        {"segment_threshold": None},
        {"tag_whole_clips": "no"},
        {"by_second": 0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        AvsSettings().changed(change)
