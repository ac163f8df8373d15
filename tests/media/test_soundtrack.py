"""The sound beside an overlay: what is in it, in step with its frames, and nothing of what is damaged."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from alref_edge.media import OverlayWriter, decode_audio, open_video, probe_audio
from alref_edge.media import soundtrack as module
from tests.media.sounds import make_sound_file

FPS = 10
CLICKS_S = np.array([0.25, 1.0, 1.75, 2.5])


def clicks(rate: int, channels: int = 1, seconds: float = 3.0) -> list[np.ndarray]:
    sound = np.zeros(round(seconds * rate))
    for time_s in CLICKS_S:
        start = round(time_s * rate)
        beep = 0.8 * np.sin(2 * np.pi * 1000 * np.arange(rate // 100) / rate)
        sound[start : start + rate // 100] = beep[: len(sound[start:])]
    return [sound] * channels


def overlay(path: Path, sound: Path, seconds: float, from_s: float | None = None) -> OverlayWriter:
    with OverlayWriter(path, 64, 48, FPS, sound=sound, sound_from_s=from_s) as writer:
        for _ in range(round(seconds * FPS)):
            writer.write(np.zeros((48, 64, 3), np.uint8), np.zeros((0, 48, 64), bool))
    assert open_video(path).frame_count() == round(seconds * FPS)
    return writer


def heard(path: Path) -> np.ndarray:
    """When clicks are heard, in seconds after the first frame, or the first sample where there is no frame."""
    with av.open(str(path)) as container:
        origin_s = float(open_video(path).times_s()[0]) if container.streams.video else None
    loud = np.flatnonzero(np.abs(decode_audio(path, origin_s=origin_s).wave) > 0.2)
    return loud[np.insert(np.diff(loud) > 1600, 0, True)] / 16_000


def length_s(path: Path) -> float:
    """To the end of the sound, from the first frame."""
    with av.open(str(path)) as container:
        (stream,) = container.streams.audio
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels", "kept"),
    [
        ("a.mp4", "aac", 44_100, 2, "aac"),
        ("a.mkv", "aac", 44_100, 1, "aac"),
        ("a.ts", "aac", 48_000, 2, "aac"),
        ("a.mp3", "libmp3lame", 44_100, 2, "mp3"),
        ("b.mkv", "libopus", 48_000, 2, "opus"),
        ("c.flac", "flac", 44_100, 1, "flac"),
        ("d.m4a", "alac", 44_100, 2, "alac"),
        ("e.mkv", "ac3", 48_000, 6, "ac3"),
        ("f.wav", "pcm_s16le", 16_000, 1, "aac"),
        ("g.wav", "pcm_s16le", 11_000, 2, "aac"),
        ("h.mkv", "pcm_s32le", 96_000, 6, "aac"),
    ],
)
def test_sound_is_copied_where_mp4_has_its_codec_and_is_aac_elsewhere(
    tmp_path: Path, name: str, codec: str, rate: int, channels: int, kept: str
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    sound = make_sound_file(tmp_path / name, clicks(rate, channels), rate, codec)
    out = tmp_path / "overlay.mp4"
    writer = overlay(out, sound, 2.0)
    assert writer.warnings == []
    info = probe_audio(out)
    assert info.codec.removesuffix("float") == kept
    assert info.channels == (channels if kept != "aac" or codec == "aac" else min(2, channels))
    np.testing.assert_allclose(heard(out), heard(sound)[:3], atol=2e-3)
    assert length_s(out) == pytest.approx(2.0, abs=1e-3)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
@pytest.mark.parametrize(("start_s", "from_s"), [(0.7, 0.0), (0.0, 0.5), (0.3, 0.8), (10.0, 10.0)])
def test_sound_stays_in_step_with_the_pictures(tmp_path: Path, codec: str, start_s: float, from_s: float) -> None:
    """Sound that begins late stays late; what lies before the first picture is left out."""
    sound = make_sound_file(tmp_path / "a.mkv", clicks(48_000), 48_000, codec, start_s=start_s)
    overlay(tmp_path / "overlay.mp4", sound, 4.0, from_s)
    expected = CLICKS_S + start_s - from_s
    np.testing.assert_allclose(heard(tmp_path / "overlay.mp4"), expected[expected > 0], atol=2e-3)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_a_leap_of_the_clock_stays(tmp_path: Path, codec: str) -> None:
    sound = make_sound_file(tmp_path / "a.mkv", clicks(48_000), 48_000, codec, gap=(1.3, 0.5))
    overlay(tmp_path / "overlay.mp4", sound, 3.6)
    np.testing.assert_allclose(heard(tmp_path / "overlay.mp4"), [0.25, 1.0, 2.25, 3.0], atol=2e-3)


def test_short_sound_ends_before_the_pictures_do(tmp_path: Path) -> None:
    sound = make_sound_file(tmp_path / "a.wav", clicks(16_000, seconds=0.5), 16_000)
    overlay(tmp_path / "overlay.mp4", sound, 3.0)
    assert length_s(tmp_path / "overlay.mp4") == pytest.approx(0.5, abs=0.1)


def test_a_video_without_sound_has_a_silent_overlay_without_a_word(tmp_path: Path) -> None:
    silent = tmp_path / "silent.mp4"
    with OverlayWriter(silent, 64, 48, FPS) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8), np.zeros((0, 48, 64), bool))
    assert overlay(tmp_path / "overlay.mp4", silent, 1.0, 0.0).warnings == []
    assert probe_audio(tmp_path / "overlay.mp4") is None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def _overwrite(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 4000] = b"\xff" * 4000
    path.write_bytes(whole)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _overwrite, _empty, Path.unlink])
def test_damaged_sound_is_left_out_and_told(tmp_path: Path, damage: object) -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 3 * 44_100)
    sound = make_sound_file(tmp_path / "a.mp4", noise.clip(-1, 1), 44_100, "aac")
    damage(sound)
    (warning,) = overlay(tmp_path / "overlay.mp4", sound, 1.0).warnings
    assert warning.startswith("the overlay is silent: ")
    assert str(sound) in warning
    assert probe_audio(tmp_path / "overlay.mp4") is None


def test_a_codec_that_mp4_refuses_leaves_the_overlay_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COPIED", frozenset({"pcm_u8"}))
    sound = make_sound_file(tmp_path / "a.wav", clicks(16_000), 16_000, "pcm_u8")
    (warning,) = overlay(tmp_path / "overlay.mp4", sound, 1.0).warnings
    assert warning.startswith("the overlay is silent: ")


def test_what_goes_wrong_on_the_way_ends_the_sound_and_not_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = make_sound_file(tmp_path / "a.wav", clicks(16_000), 16_000)
    decoded = module._decoded

    def torn(*arguments: object) -> object:
        for number, frame in enumerate(decoded(*arguments)):
            if number == 5:
                raise OSError("the disk is gone")
            yield frame

    monkeypatch.setattr(module, "_decoded", torn)
    (warning,) = overlay(tmp_path / "overlay.mp4", sound, 2.0).warnings
    assert warning == "the overlay's sound ends early: the disk is gone"
    assert length_s(tmp_path / "overlay.mp4") < 1.0


def test_a_name_with_a_colon_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_sound_file(tmp_path / "take:1.mp4", clicks(48_000), 48_000, "aac", picture=True)
    source = open_video("./take:1.mp4")
    assert decode_audio(source.path).wave.any()
    assert overlay(tmp_path / "overlay.mp4", source.path, 2.0, 0.0).warnings == []
    np.testing.assert_allclose(heard(tmp_path / "overlay.mp4"), CLICKS_S[:3], atol=2e-3)


def test_an_error_on_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    sound = make_sound_file(tmp_path / "a.wav", clicks(16_000), 16_000)

    def fail() -> None:
        with OverlayWriter(tmp_path / "overlay.mp4", 64, 48, FPS, sound=sound) as writer:
            writer.write(np.zeros((48, 64, 3), np.uint8), np.zeros((0, 48, 64), bool))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]
    sound.unlink()
