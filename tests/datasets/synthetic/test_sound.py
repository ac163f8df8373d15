"""Sound tracks: timbres that come apart, labels that say what is heard, and what is heard is in view."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from alref_edge.datasets.synthetic import COLOURS, SHAPES, SIZES, Scene, make_scene
from alref_edge.datasets.synthetic.sound import (
    MODES,
    SoundTrack,
    class_map,
    frame_of_second,
    has_single,
    make_sound,
    sounding_mask,
)
from alref_edge.datasets.synthetic.timbres import RATE, TIMBRES, pitch_of, play
from alref_edge.errors import InputError
from tests.datasets.synthetic.views import pixels_tn

SEEDS = range(50)


@dataclass
class Heard:
    """A scene, its sound, and how many pixels of each object are seen [seconds, frames, objects]."""

    scene: Scene
    sound: SoundTrack
    pixels_stn: np.ndarray


@pytest.fixture(scope="module")
def heard() -> list[Heard]:
    scenes = [make_scene(seed) for seed in SEEDS]
    return [
        Heard(scene, make_sound(scene), pixels_tn(scene).reshape(-1, scene.fps, len(scene.objects))) for scene in scenes
    ]


def decibels(wave: np.ndarray) -> float:
    """RMS relative to full scale."""
    return 20 * np.log10(max(float(np.sqrt(np.mean(wave.astype(np.float64) ** 2))), 1e-9))


def bands(wave: np.ndarray) -> np.ndarray:
    """What a simple ear makes of a second: level, spread, peak, floor and onsets of 30 bands, even on a log scale."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::200] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = np.unique(np.round(np.geomspace(1, 256, 31)).astype(int))
    levels = np.log(np.add.reduceat(power[:, :256], edges[:-1], axis=1) + 1e-4)
    onsets = np.maximum(np.diff(levels, axis=0), 0)
    return np.concatenate(
        [levels.mean(axis=0), levels.std(axis=0), levels.max(axis=0), levels.min(axis=0), onsets.mean(axis=0)]
    )


def mixture(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A second of up to three shapes, as `bands` hears it, and which they are."""
    present = np.zeros(len(TIMBRES))
    present[generator.choice(len(TIMBRES), int(generator.integers(0, 4)), replace=False)] = 1
    wave = np.zeros(RATE)
    for shape, yes in zip(TIMBRES, present, strict=True):
        if yes:
            colour, size = generator.choice(list(COLOURS)), generator.choice(list(SIZES))
            wave += 0.1 * play(generator, shape, RATE, pitch_of(generator, str(colour), str(size)))
    return bands(wave), present


def test_every_shape_has_a_timbre() -> None:
    assert set(TIMBRES) == set(SHAPES)


def test_a_voice_is_nearest_to_its_own_timbre() -> None:
    """The middles of the timbres, made of other voices, tell every voice's shape, whatever its pitch."""
    generator = np.random.default_rng(0)
    pitches = np.geomspace(0.68, 1.75, 12)
    voices = np.array([[bands(play(generator, shape, RATE, pitch)) for pitch in pitches] for shape in TIMBRES])
    voices /= voices.std(axis=(0, 1)) + 1e-6
    middles = voices[:, ::2].mean(axis=1)
    for number, shape in enumerate(TIMBRES):
        for voice in voices[number, 1::2]:
            assert np.argmin(np.linalg.norm(middles - voice, axis=1)) == number, shape


def test_mixtures_come_apart() -> None:
    """Even a linear rule on band levels hears which shapes are in a mixture of up to three."""
    generator = np.random.default_rng(1)
    features, truths = map(np.array, zip(*(mixture(generator) for _ in range(440)), strict=True))
    middle, spread = features[:360].mean(axis=0), features[:360].std(axis=0) + 1e-6
    scaled = np.pad((features - middle) / spread, ((0, 0), (0, 1)), constant_values=1)
    known, rest = scaled[:360], scaled[360:]
    rule = np.linalg.solve(known.T @ known + 20 * np.eye(known.shape[1]), known.T @ truths[:360])
    right = (rest @ rule > 0.5) == truths[360:].astype(bool)
    assert right.mean() > 0.96
    assert right.mean(axis=0).min() > 0.9


def test_size_and_colour_make_the_pitch() -> None:
    generator = np.random.default_rng(0)
    small, large = pitch_of(generator, "red", "small"), pitch_of(generator, "red", "large")
    assert small / large == pytest.approx(2, rel=0.05)
    assert pitch_of(generator, "black", "medium") / pitch_of(generator, "red", "medium") == pytest.approx(
        1.22, rel=0.05
    )
    wave = play(generator, "circle", RATE, 1.0)
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(1)
    assert np.argmax(np.abs(np.fft.rfft(wave))) == pytest.approx(460, abs=12)


def test_a_track_is_a_track(heard: list[Heard]) -> None:
    for each in heard:
        wave = each.sound.wave_16khz
        assert wave.dtype == np.float32
        assert wave.shape == (5 * 16_000,)
        assert each.sound.rate == RATE == 16_000
        assert np.isfinite(wave).all()
        assert np.abs(wave).max() <= 0.9001
        assert len(each.sound.labels) == 5


def test_a_track_is_the_same_again_and_its_own() -> None:
    tracks = [make_sound(make_scene(seed)) for seed in (4, 4, 6)]
    np.testing.assert_array_equal(tracks[0].wave_16khz, tracks[1].wave_16khz)
    assert tracks[0].labels == tracks[1].labels
    assert tracks[0].events == tracks[1].events
    assert not np.array_equal(tracks[0].wave_16khz, tracks[2].wave_16khz)


def test_seconds_sound_as_their_labels_say(heard: list[Heard]) -> None:
    """A silent second holds nothing, or a faint noise; any other is well above it."""
    for each in heard:
        for second, label in enumerate(each.sound.labels):
            wave = each.sound.wave_16khz[second * RATE : (second + 1) * RATE]
            if not label.silent:
                assert decibels(wave) > -32
            elif each.sound.noise_db is None:
                assert not wave.any()
            else:
                assert decibels(wave) < -44


def test_what_is_heard_is_what_the_labels_name(heard: list[Heard]) -> None:
    """A second with one shape alone is nearest, of all timbres, to that shape's."""
    generator = np.random.default_rng(2)
    known, names = [], []
    for shape in TIMBRES:
        for pitch in np.geomspace(0.68, 1.75, 8):
            known.append(bands(0.1 * play(generator, shape, RATE, pitch))[:90])
            names.append(shape)
    spread = np.std(known, axis=0)
    right = total = 0
    for each in heard:
        for second, label in enumerate(each.sound.labels):
            shapes = label.shapes + label.off_screen
            # Noise lifts the quiet bands, and twins blur the rhythm: both are left to the test of mixtures.
            if len(shapes) == 1 and len(label.objects) < 2 and each.sound.noise_db is None:
                wave = each.sound.wave_16khz[second * RATE : (second + 1) * RATE].astype(np.float64)
                far = np.linalg.norm((np.array(known) - bands(wave)[:90]) / spread, axis=1)
                right += names[int(np.argmin(far))] == shapes[0]
                total += 1
    assert total > 15
    assert right >= 0.95 * total


def test_what_sounds_is_in_view(heard: list[Heard]) -> None:
    for each in heard:
        shapes = [one.shape for one in each.scene.objects]
        for label, pixels_fn in zip(each.sound.labels, each.pixels_stn, strict=True):
            assert set(label.shapes) == {shapes[number] for number in label.objects}
            for number, shape in enumerate(shapes):
                if number in label.objects:
                    assert pixels_fn[:, number].min() >= 24
                elif shape in label.shapes + label.off_screen:
                    assert pixels_fn[:, number].max() == 0


def test_events_and_labels_agree(heard: list[Heard]) -> None:
    for each in heard:
        for second, label in enumerate(each.sound.labels):
            now = [event for event in each.sound.events if event.start_s <= second < event.end_s]
            assert sorted(event.object for event in now if event.object is not None) == list(label.objects)
            assert {event.shape for event in now if event.object is None} == set(label.off_screen)
            for event in now:
                assert event.object is None or each.scene.objects[event.object].shape == event.shape


def test_everything_that_should_happen_does(heard: list[Heard]) -> None:
    labels = [label for each in heard for label in each.sound.labels]
    assert sum(label.silent for label in labels) >= 20
    assert sum(len(label.shapes) >= 2 for label in labels) >= 40
    assert sum(bool(label.off_screen) for label in labels) >= 10
    assert sum(bool(label.off_screen and label.shapes) for label in labels) >= 3
    assert sum(label.shapes != () and not label.off_screen for label in labels) >= 80
    assert {shape for label in labels for shape in label.shapes} == set(SHAPES)
    assert 0.2 < np.mean([each.sound.noise_db is not None for each in heard]) < 0.6
    assert all(any(label.objects for label in each.sound.labels) for each in heard)
    strangers = [
        shape not in {one.shape for one in each.scene.objects}
        for each in heard
        for label in each.sound.labels
        for shape in label.off_screen
    ]
    assert any(strangers)


def test_a_shape_that_left_is_heard_from_off_screen() -> None:
    found = 0
    for seed in range(200):
        scene = make_scene(seed, 128, 128)
        shapes = {each.shape for each in scene.objects}
        found += any(event.object is None and event.shape in shapes for event in make_sound(scene).events)
        if found:
            return
    pytest.fail("no shape of a scene is ever heard while it is out of view")


def test_a_single_source_sounds_all_the_time() -> None:
    suited = 0
    for seed in range(20):
        scene = make_scene(seed)
        if not has_single(scene):
            with pytest.raises(InputError, match="in view all the time"):
                make_sound(scene, "single")
            continue
        suited += 1
        sound = make_sound(scene, "single")
        assert len({label.shapes for label in sound.labels}) == 1
        assert len(sound.labels[0].shapes) == 1
        assert all(label.objects == sound.labels[0].objects for label in sound.labels)
        assert len(sound.labels[0].objects) == 1
        assert not any(label.off_screen for label in sound.labels)
        assert all(sounding_mask(scene, sound, second).any() for second in range(5))
    assert 12 <= suited < 20


def test_masks_and_classes_are_of_the_seconds_last_frame(heard: list[Heard]) -> None:
    several = 0
    for each in heard[:15]:
        for second, label in enumerate(each.sound.labels):
            masks = each.scene.masks(second * 8 + 7)
            assert frame_of_second(each.scene, second) == second * 8 + 7
            expected = np.zeros((256, 256), bool)
            classes = np.zeros((256, 256), int)
            for number in label.objects:
                expected |= masks[number]
                shape = each.scene.objects[number].shape
                classes[masks[number]] = 1 + ["circle", "square", "triangle", "star", "cross", "heart"].index(shape)
            several += len(np.unique(classes)) > 2
            np.testing.assert_array_equal(sounding_mask(each.scene, each.sound, second), expected)
            result = class_map(each.scene, each.sound, second)
            assert result.dtype == np.uint8
            np.testing.assert_array_equal(result, classes)
    assert several


def test_ten_seconds_have_ten_labels() -> None:
    sound = make_sound(make_scene(3, num_frames=80))
    assert len(sound.labels) == 10
    assert sound.wave_16khz.shape == (160_000,)


def test_what_makes_no_sound_is_refused() -> None:
    scene = make_scene(0)
    with pytest.raises(InputError, match=r"no such mode.*single or multi.*stereo"):
        make_sound(scene, "stereo")
    for mode in MODES:
        with pytest.raises(InputError, match=r"whole seconds.*multiple of 8.*39 frames"):
            make_sound(make_scene(0, num_frames=39), mode)
    with pytest.raises(InputError, match=r"no such timbre.*oval"):
        play(np.random.default_rng(0), "oval", 10, 1.0)
    for second in (-1, 5):
        with pytest.raises(InputError, match="no such second"):
            sounding_mask(scene, make_sound(scene), second)
    sound = make_sound(scene)
    with pytest.raises(InputError, match=r"another form.*float32 \[80000\].*float64"):
        replace(sound, wave_16khz=sound.wave_16khz.astype(np.float64))
