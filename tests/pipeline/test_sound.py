"""The sound beside the video's clock: lengths that differ, two resamplers, whole clips, and why nothing sounds."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alref_edge.cli.selectors import SoundOptions
from alref_edge.media import open_video
from alref_edge.pipeline import AvsSettings, GroundingSoundSelector, Pipeline, Setting
from alref_edge.pipeline.jobs import SoundingObject, WindowResult
from alref_edge.pipeline.measure import RunStats
from alref_edge.pipeline.scheduling import analyse_windows
from alref_edge.pipeline.silence import why_nothing
from alref_edge.pipeline.sound import Sound
from alref_edge.pipeline.sound_analysis import SoundAnalysis
from alref_edge.types import Detections, Pivot, Tag
from tests.media.clips import make_clip
from tests.media.sounds import make_sound_file, make_wave, tone

RATE = 16_000
FRAMES_S = 5.0


def frames(folder: Path, count: int) -> Path:
    from PIL import Image

    (folder / "frames").mkdir()
    for number in range(count):
        Image.new("RGB", (64, 48)).save(folder / "frames" / f"{number}.png")
    return folder / "frames"


def said(video: Path, sound: Path | np.ndarray | None, fps: float = 24.0) -> str:
    return " | ".join(Sound.of(open_video(video, fps=fps), sound, None).warnings)


def seconds(folder: Path, length_s: float) -> Path:
    return make_sound_file(folder / "x.wav", tone(440, length_s, RATE), RATE)


@pytest.mark.parametrize(
    ("length_s", "words"),
    [
        (2.5, "the video lasts 5.0 s and its sound 2.5 s: 2.5 s of the video have no sound"),
        (4.3, "0.7 s of the video have no sound"),
        (9.0, "the video lasts 5.0 s and its sound 9.0 s: 4.0 s of the sound have no frame and are not heard"),
        (0.1, "4.9 s of the video have no sound"),
        (4.6, ""),
        (5.4, ""),
    ],
)
def test_a_sound_that_is_not_as_long_as_the_video_is_told(length_s: float, words: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=40, fps=8)
    told = said(clip, seconds(tmp_path, length_s))
    assert words in told
    assert bool(told) == bool(words)
    assert "--fps" not in told
    assert said(clip, tone(440, length_s, RATE)) == told


def test_of_a_long_video_five_seconds_are_told(tmp_path: Path) -> None:
    folder = frames(tmp_path, 200)
    assert said(folder, np.zeros(196 * RATE, np.float32), fps=1) == ""
    assert "6.0 s of the video have no sound" in said(folder, np.zeros(194 * RATE, np.float32), fps=1)


@pytest.mark.parametrize(
    ("count", "length_s", "fps", "mend"),
    [(5, 5.05, 24.0, "--fps 1"), (20, 10.0, 24.0, "--fps 2"), (7, 5.0, 7.0, "--fps 1.4")],
)
def test_the_rate_of_a_folder_that_was_forgotten_is_named(
    count: int, length_s: float, fps: float, mend: str, tmp_path: Path
) -> None:
    assert said(frames(tmp_path, count), seconds(tmp_path, length_s), fps).endswith(mend)


@pytest.mark.parametrize("name", ["x.mkv", "x.mov", "x.ts"])
def test_half_a_video_without_sound_is_told(name: str, tmp_path: Path) -> None:
    late = make_sound_file(tmp_path / name, tone(440, 3, RATE), RATE, "aac", start_s=3, picture=True)
    assert re.search(r"(3.0|2.9) s of the video have no sound", said(late, None))
    early = make_sound_file(tmp_path / f"early_{name}", tone(440, 2, RATE), RATE, "aac", picture=True, picture_s=6)
    assert "s of the video have no sound" in said(early, None)
    whole = make_sound_file(tmp_path / f"whole_{name}", tone(440, 4, RATE), RATE, "aac", picture=True)
    assert said(whole, None) == ""


@pytest.mark.parametrize("rate", [22_050, 32_000, 44_100, 48_000])
def test_languagebind_hears_what_torchaudio_makes_of_it(rate: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, rate).astype("<f4")
    path = make_wave(tmp_path / "x.wav", noise, rate)
    sound = Sound.of(open_video(frames(tmp_path, 1), fps=1), path, None)
    assert len(sound.language_16khz) == len(sound.wave_16khz)
    spectra = [np.abs(np.fft.rfft(wave))[7_500:7_900].mean() for wave in (sound.wave_16khz, sound.language_16khz)]
    assert spectra[1] > 1.3 * spectra[0]
    assert sound.language_16khz is sound.language_16khz


def test_a_sound_at_16_khz_is_one_for_all(tmp_path: Path) -> None:
    sound = Sound.of(open_video(frames(tmp_path, 1), fps=1), seconds(tmp_path, 1), None)
    assert sound.language_16khz is sound.wave_16khz


@pytest.mark.parametrize(
    ("settings", "length_s", "alone", "heard_s"),
    [
        (Setting.S4.settings, 5.4, True, 5.4),
        (Setting.V2_BINARY.settings, 4.2, True, 4.2),
        (Setting.MS3.settings, 61.0, True, 5.0),
        (Setting.MS3.settings, 15.0, False, 5.0),
        (AvsSettings(), 5.4, True, 5.0),
    ],
)
def test_beats_hears_the_whole_of_a_clip_of_a_dataset(
    settings: AvsSettings, length_s: float, alone: bool, heard_s: float
) -> None:
    tagged: list[int] = []

    class Tagger:
        shortest, labels = 1, ("dog",) * 5

        def tag(self, wave: np.ndarray, top: int) -> tuple[Tag, ...]:
            tagged.append(len(wave))
            return ()

    class Hearers:
        from threading import RLock

        lock = RLock()

        def tagger(self, name: str) -> Tagger:
            return Tagger()

    sound = Sound(np.zeros(round(length_s * RATE), np.float32))
    analysis = SoundAnalysis(Hearers(), sound, slice(0, 5 * RATE), alone, settings, RunStats())  # type: ignore[arg-type]
    analysis.tag_sounds()
    assert set(tagged) == {round(heard_s * RATE)}
    assert len(analysis.wave) == min(5 * RATE, len(sound.wave_16khz))


BOX = Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), ("dog",))
DOG = SoundingObject("dog", BOX, 0, Pivot(0, np.zeros(4, np.float32)))
LOST = SoundingObject("dog", BOX[:0], 0, None)
TAGS = (Tag("1", "Dog", 0.4),)


def window(start_s: int = 0, **changes: Any) -> WindowResult:
    values: dict[str, Any] = {
        "tags": (),
        "objects": (),
        "audio_segments": (),
        "labels": ((),) * 2,
        "silent": (False,) * 2,
    }
    return WindowResult(start_s, range(2), **{**values, **changes})


QUIET, LOUD = tone(440, 2, RATE, 0.001), tone(440, 2, RATE)
WHY: dict[str, tuple[list[WindowResult], np.ndarray, dict[str, Any], str]] = {
    "something sounds": ([window(objects=(DOG,), labels=(("dog",), ()))], LOUD, {}, ""),
    "digital silence": ([window(silent=(True,) * 2)], 0 * LOUD, {}, "silent from beginning to end"),
    "the sound is over": ([window(silent=(True,) * 2)], LOUD[:0], {}, "no sound falls into the time"),
    "the gate": ([window(silent=(True,) * 2)], QUIET, {}, "gate of -45 dB, the loudest of the video has -63.0 dB"),
    "a sound beyond the video is not of it": ([window(silent=(True,) * 2)], np.r_[QUIET, LOUD], {}, "has -63.0 dB"),
    "no tag": ([window(tags=TAGS)], LOUD, {"tag_threshold": 0.5}, "threshold of 0.5, the best has 0.4"),
    "nothing in view": ([window(tags=TAGS)], LOUD, {}, "'grounding' names no object in view"),
    "no box": ([window(tags=TAGS, objects=(LOST,))], LOUD, {}, "no box was found on the pivot frames"),
    "not heard": ([window(tags=TAGS, objects=(DOG,))], LOUD, {"silence_db": None}, "has a box is heard in no second"),
    "shut out": ([window(tags=TAGS, objects=(DOG,))], LOUD, {}, "in no second that the silence gate leaves open"),
    "too short": ([window()], LOUD[:100], {}, "too short to be tagged"),
    "windows that differ": (
        [window(tags=TAGS), window(2, tags=TAGS), window(4, tags=TAGS, objects=(LOST,))],
        LOUD,
        {},
        "in 2 of 3 windows the selector 'grounding' names no object in view; in 1 of 3 windows no box",
    ),
}


@pytest.mark.parametrize("name", WHY)
def test_that_nothing_sounds_is_explained(name: str) -> None:
    found, wave, changes, words = WHY[name]
    selector = GroundingSoundSelector(lambda words, choices: list(words))
    told = why_nothing(found, Sound(wave.astype(np.float32)), selector, AvsSettings().changed(changes))
    assert len(told) == bool(words)
    assert words in "".join(told)


def test_a_selector_may_know_that_there_is_no_segment(nano_bundle: Path) -> None:
    class Knowing(GroundingSoundSelector):
        def categories(self, window: Any, ground: Any) -> Any:
            from alref_edge.pipeline import SoundingCategory

            return [SoundingCategory("circle", 1), SoundingCategory("square", 1)]

        def audio_segments(self, window: Any) -> tuple[()]:  # type: ignore[override]
            return ()

    from alref_edge.datasets.synthetic import SceneSource, make_scene

    with Pipeline.from_bundle(nano_bundle, device="cpu") as pipeline:
        selector = Knowing(lambda words, choices: list(words))
        source = SceneSource(make_scene(3, num_frames=8, fps=8))
        (heard,) = analyse_windows(
            pipeline.networks, source, Sound(LOUD.astype(np.float32)), selector, AvsSettings(), RunStats()
        )
    assert heard.audio_segments == ()
    assert heard.labels == ((),)


class Bundle:
    """A pipeline whose bundle wants this."""

    def __init__(self, **defaults: Any) -> None:
        self.defaults = defaults

    def avs_settings(self, base: AvsSettings) -> AvsSettings:
        return base.changed(self.defaults)


HEARD: dict[str, tuple[dict[str, Any], dict[str, Any], float | None]] = {
    "as usual": ({}, {}, -45.0),
    "a setting has no gate": ({"setting": "s4"}, {}, None),
    "a setting with a gate all the same": ({"setting": "ms3", "silence_gate": True}, {}, -45.0),
    "no gate": ({"silence_gate": False}, {}, None),
    "a bundle's own gate": ({}, {"silence_db": -60.0}, -60.0),
    "a bundle's own gate, asked for": ({"silence_gate": True}, {"silence_db": -60.0}, -60.0),
    "a gate at full scale is one": ({"silence_gate": True}, {"silence_db": 0}, 0),
    "a bundle without a gate": ({}, {"silence_db": None}, None),
    "a replay": ({"answers": Path("x")}, {"silence_db": -60.0}, None),
    "a replay with a gate": ({"answers": Path("x"), "silence_gate": True}, {"silence_db": -60.0}, -60.0),
}


def sound_options(**options: Any) -> SoundOptions:
    return SoundOptions(**{"selector": "mllm", **options})


@pytest.mark.parametrize("name", HEARD)
def test_the_silence_gate_is_as_the_setting_or_the_bundle_has_it(name: str) -> None:
    options, defaults, silence_db = HEARD[name]
    assert sound_options(**options).settings(Bundle(**defaults)).silence_db == silence_db  # type: ignore[arg-type]


def test_categories_of_the_user_stand_for_those_of_the_setting(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("keyboard\nred fox\n")
    make: Callable[..., AvsSettings] = lambda **options: sound_options(**options).settings(Bundle())  # type: ignore[arg-type]  # noqa: E731
    assert len(make(setting="v2_binary").categories) == 70
    own = make(setting="v2_binary", categories=tmp_path / "names.txt")
    assert own.categories == ("keyboard", "red fox")
    assert own.category_meanings == {}
    assert make(setting="avss", semantic=True).categories[69] == "woman"
