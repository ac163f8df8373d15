"""`alref-edge avs`, as a user meets it: results, and what bad sounds come to."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from alref_edge.cli import app
from alref_edge.datasets.synthetic import make_scene
from alref_edge.datasets.synthetic.clips import write_clip
from alref_edge.datasets.synthetic.sound import frame_of_second, make_sound
from alref_edge.media import decode_audio
from alref_edge.pipeline.selectors.sound_replay import STAGE_1, STAGE_2
from tests.media.clips import make_clip
from tests.media.sounds import make_sound_file, make_wave, tone

# Three shapes, one object each, in view all the time; see tests/pipeline/test_avs.py.
SEED = 1918
RATE = 16_000
_ROOM = 3 << 30


def alref(*arguments: object) -> tuple[int, str]:
    """Exit code and all that is printed."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu", "--threads", "1"])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    scene = make_scene(SEED)
    write_clip(path, scene, make_sound(scene))
    return path


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One frame a second of the scene, as AVSBench has them, and its sound beside them."""
    folder = tmp_path_factory.mktemp("frames")
    scene = make_scene(SEED)
    (folder / "scene").mkdir()
    for second in range(5):
        Image.fromarray(scene.frame(frame_of_second(scene, second))).save(folder / "scene" / f"{second}.png")
    make_sound_file(folder / "scene.wav", make_sound(scene).wave_16khz, RATE)
    return folder / "scene"


def test_a_video_with_its_own_track(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed = alref("avs", clip, "--semantic", "--out", out)
    assert code == 0, printed
    record = json.loads((out / "result.json").read_text())
    truth = make_sound(make_scene(SEED))
    assert record["schema"] == "alref-edge.avs/1"
    assert len(record["sound"]["labels"]) == 5
    heard = {shape for label in truth.labels for shape in label.shapes}
    found = {entry["name"] for entry in record["objects"]}
    assert heard & found
    for entry in record["objects"]:
        assert f"{entry['name']}: sounds in {len(entry['seconds'])} s" in printed
        masks = sorted((out / entry["masks"]["folder"]).glob("*.png"))
        assert len(masks) == 40
        for index, path in enumerate(masks):
            assert index // 8 in entry["seconds"] or not np.asarray(Image.open(path)).any()
    classes = np.stack([np.asarray(Image.open(path)) for path in sorted((out / "semantic").glob("*.png"))])
    assert classes.shape == (40, 256, 256)
    assert set(np.unique(classes)) <= {0, *(record["sound"]["classes"][name] for name in found)}
    assert classes.any()
    played, own = (decode_audio(path, origin_s=0.0).wave[: 5 * RATE] for path in (out / "overlay.mp4", clip))
    assert np.corrcoef(played, own)[0, 1] > 0.999


def test_a_folder_of_frames_with_a_sound_file_and_recorded_answers(frames: Path, tmp_path: Path) -> None:
    where = tmp_path / "ms3"
    where.mkdir()
    (where / STAGE_1).write_text(json.dumps({"scene": "{'circle': 2, 'square': 9}"}))
    (where / STAGE_2).write_text("{}")
    (tmp_path / "segments.json").write_text(json.dumps({"scene": [[0, 3], [3, 4]]}))
    sound = ["--audio", frames.with_suffix(".wav"), "--fps", 1]
    replay = ["--selector", "replay", "--answers", tmp_path, "--setting", "ms3"]
    code, printed = alref(
        "avs", frames, *sound, *replay, "--segments", tmp_path / "segments.json", "--out", tmp_path / "out"
    )
    assert code == 0, printed
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["selector"] == "replay"
    assert record["settings"]["silence_db"] is None
    assert [(entry["name"], [pivot["frame"] for pivot in entry["pivots"]]) for entry in record["objects"]] == [
        ("circle", [1]),
        ("square", [0]),
    ]
    labels = record["sound"]["labels"]
    assert labels[0] == labels[1] == labels[2]
    assert labels[3] == labels[4]
    assert record["sound"]["windows"][0]["tags"] == []
    assert not any(name.startswith("beats") for name in record["device"]["providers"])
    # Frame 0 of the folder and the sound's first sample go together.
    played = decode_audio(tmp_path / "out" / "overlay.mp4", origin_s=0.0).wave[: 5 * RATE]
    assert np.corrcoef(played, decode_audio(frames.with_suffix(".wav")).wave[: len(played)])[0, 1] > 0.95
    assert record["input"]["frame_names"] == ["0", "1", "2", "3", "4"]
    for entry in record["objects"]:
        assert len(list((tmp_path / "out" / entry["masks"]["folder"]).glob("?.png"))) == 5


def test_an_overwritten_result_may_be_of_another_kind(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert alref("avs", clip, "--semantic", "--no-overlay", "--out", out)[0] == 0
    assert alref("rvos", clip, "--text", "circle", "--no-overlay", "--out", out, "--overwrite")[0] == 0
    assert not (out / "semantic").exists()


def heard_in(frames: Path, sound: Path, out: Path) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """The labels of each second and the objects, of the folder with a sound."""
    with little_memory():
        code, printed = alref("avs", frames, "--audio", sound, "--fps", 1, "--no-overlay", "--out", out)
    assert code == 0, printed
    record = json.loads((out / "result.json").read_text())
    return record["sound"]["labels"], [{**entry, "warnings": []} for entry in record["objects"]]


@pytest.mark.parametrize(("rate", "channels", "seconds"), [(8_000, 1, 2), (96_000, 6, 2), (16_000, 6, 5)])
def test_other_rates_and_channels_come_to_the_same(
    rate: int, channels: int, seconds: int, frames: Path, tmp_path: Path
) -> None:
    """At 8 kHz half of the band is gone, and of any other rate BEATs' official resampler takes what lies above 7.3 kHz;
    with either goes what the shipped taggers, which know full bands only, tell three voices apart by.
    """
    usual = frames.with_suffix(".wav")
    expected, _ = heard_in(frames, usual, tmp_path / "usual")
    wave = decode_audio(usual, rate=rate).wave
    labels, objects = heard_in(frames, make_sound_file(tmp_path / "x.wav", [wave] * channels, rate), tmp_path / "other")
    truth = make_sound(make_scene(SEED)).labels
    assert [sorted(names) for names in labels[:seconds]] == [sorted(names) for names in expected[:seconds]]
    assert labels[:2] == [list(label.shapes) for label in truth[:2]]
    assert {entry["name"] for entry in objects} <= {shape for label in truth for shape in label.shapes}


@pytest.mark.parametrize("seconds", [0.1, 1.2])
def test_a_sound_shorter_than_the_video_comes_to_a_result(seconds: float, frames: Path, tmp_path: Path) -> None:
    wave = make_sound(make_scene(SEED)).wave_16khz[: round(seconds * RATE)]
    labels, _ = heard_in(frames, make_sound_file(tmp_path / "x.flac", wave, RATE, "flac"), tmp_path / "out")
    assert len(labels) == 5
    assert not any(labels[2:])


def test_digital_silence_comes_to_nothing(frames: Path, tmp_path: Path) -> None:
    labels, objects = heard_in(frames, make_sound_file(tmp_path / "x.wav", np.zeros(5 * RATE), RATE), tmp_path / "out")
    assert labels == [[]] * 5
    assert objects == []


# name: (the sound, options, what is told)
TOLD: dict[str, tuple[Callable[[], Any], list[Any], str]] = {
    "silence": (lambda: np.zeros(5 * RATE), ["--fps", 1], "nothing sounds: the sound is silent from beginning to end"),
    "too quiet": (
        lambda: 1e-3 * make_sound(make_scene(SEED)).wave_16khz,
        ["--fps", 1],
        "every second is below the silence gate of -45 dB",
    ),
    "no gate, and nothing that has a name": (
        lambda: np.random.default_rng(0).uniform(-1e-3, 1e-3, 5 * RATE),
        ["--fps", 1, "--no-silence-gate"],
        "no tag reaches the threshold of 0.5",
    ),
    "half": (
        lambda: make_sound(make_scene(SEED)).wave_16khz[: 5 * RATE // 2],
        ["--fps", 1],
        "2.5 s of the video have no",
    ),
    "a rate that was forgotten": (lambda: make_sound(make_scene(SEED)).wave_16khz, [], "give their rate: --fps 1"),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_is_wrong_with_a_sound_is_told(name: str, frames: Path, tmp_path: Path) -> None:
    make, options, words = TOLD[name]
    sound = make_sound_file(tmp_path / "x.wav", make(), RATE)
    out = tmp_path / "out"
    code, printed = alref("avs", frames, "--audio", sound, *options, "--no-overlay", "--report", "--out", out)
    assert code == 0, printed
    record = json.loads((out / "result.json").read_text())
    assert any(words in warning for warning in record["warnings"])
    assert words in printed.replace("\n", " ")
    assert words in (out / "report.html").read_text()
    assert record["sound"]["duration_s"] == pytest.approx(len(make()) / RATE)


def test_channels_that_cancel_come_to_what_the_louder_comes_to(frames: Path, tmp_path: Path) -> None:
    wave = make_sound(make_scene(SEED)).wave_16khz
    both = make_sound_file(tmp_path / "x.wav", [wave, -wave], RATE)
    expected = heard_in(frames, frames.with_suffix(".wav"), tmp_path / "usual")
    assert heard_in(frames, both, tmp_path / "other") == expected


def test_a_silent_track_of_a_real_video_comes_to_no_object(media: Path, tmp_path: Path) -> None:
    code, printed = alref("avs", media / "dog_silent_audio.mp4", "--masks", "none", "--out", tmp_path / "out")
    assert code == 0, printed
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["objects"] == []
    assert not any(record["sound"]["labels"])
    assert record["device"]["providers"] == {}


BAD: dict[str, tuple[Callable[[Path], list[Any]], int, str]] = {
    "boxes anew without a replay": (
        lambda f: [f / "frames", "--ground-anew"],
        2,
        "--ground-anew is an option of --selector replay",
    ),
    "no track": (lambda f: [make_clip(f / "mute.mp4")], 3, "holds no sound"),
    "a folder's own": (lambda f: [f / "frames"], 3, "--audio FILE.wav"),
    "missing": (lambda f: [f / "frames", "--audio", f / "none.wav"], 3, "does not exist"),
    "NaN": (lambda f: [f / "frames", "--audio", _spoilt(f)], 3, "no numbers"),
    "3-hour header": (lambda f: [f / "frames", "--audio", _three_hours(f)], 3, "is truncated"),
    "a picture": (lambda f: [f / "frames", "--audio", f / "frames" / "0.png"], 3, "not a sound|holds no sound"),
    "no such setting": (lambda f: [f / "frames", "--audio", _tone(f), "--setting", "s5"], 2, "no such setting"),
    "replay without answers": (
        lambda f: [f / "frames", "--audio", _tone(f), "--selector", "replay"],
        2,
        "--answers FOLDER",
    ),
    "answers without a setting": (
        lambda f: [f / "frames", "--audio", _tone(f), "--selector", "replay", "--answers", f],
        2,
        "--setting s4",
    ),
    "answers that are not there": (
        lambda f: [f / "frames", "--audio", _tone(f), "--selector", "replay", "--answers", f, "--setting", "s4"],
        2,
        "cannot be read",
    ),
    "a segment file alone": (
        lambda f: [f / "frames", "--audio", _tone(f), "--segments", f / "s.json"],
        2,
        "--answers FOLDER",
    ),
    "categories that are not there": (
        lambda f: [f / "frames", "--audio", _tone(f), "--categories", f / "none.txt"],
        2,
        "none.txt cannot be read",
    ),
    "categories twice": (
        lambda f: [f / "frames", "--audio", _tone(f), "--categories", _lines(f, "dog\ndog")],
        2,
        "each once",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_get_their_error(name: str, frames: Path, tmp_path: Path) -> None:
    make, expected, message = BAD[name]
    (tmp_path / "frames").mkdir()
    Image.open(frames / "0.png").save(tmp_path / "frames" / "0.png")
    arguments = make(tmp_path)
    with little_memory():
        code, printed = alref("avs", *arguments, "--out", tmp_path / "out")
    assert code == expected, printed
    assert any(part in " ".join(printed.split()) for part in message.split("|")), printed
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.partial*"))


def _tone(folder: Path) -> Path:
    return make_sound_file(folder / "x.wav", tone(440, 1, RATE), RATE)


def _spoilt(folder: Path) -> Path:
    samples = np.zeros((RATE, 1), "<f4")
    samples[8_000] = np.nan
    return make_wave(folder / "x.wav", samples)


def _three_hours(folder: Path) -> Path:
    return make_wave(folder / "x.wav", np.zeros((RATE, 1), "<i2"), data_bytes=2 * RATE * 3 * 3600)


def _lines(folder: Path, text: str) -> Path:
    (folder / "categories.txt").write_text(text)
    return folder / "categories.txt"


@contextmanager
def little_memory() -> Iterator[None]:
    """Inside, the process may take 3 GiB of addresses more than it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
