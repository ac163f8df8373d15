"""Sound files and sound tracks: right samples at 16 kHz, or a named error, within bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soxr

from alref_edge.errors import InputError, MediaError
from alref_edge.media import AudioLimits, decode_audio, open_video, probe_audio
from alref_edge.models.audio import kaldi_fbank
from tests.media.clips import cut, make_clip
from tests.media.sounds import make_sound_file, make_wave, tone

SECOND = tone(440, 1, 16_000)
INT16 = np.round(SECOND * 32767).astype("<i2")
THREE_HOURS = 3 * 3600


@contextmanager
def little_memory(most: float = 2**20) -> Iterator[None]:
    """Fails where Python and numpy held more than `most` bytes at once in the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def error_of(wave: np.ndarray, expected: np.ndarray, quantile: float = 1.0) -> float:
    """Largest error away from the ends, where every resampler has to guess; or another quantile of the errors."""
    middle = slice(len(expected) // 8, -len(expected) // 8)
    return float(np.quantile(np.abs(wave[: len(expected)][middle] - expected[middle]), quantile))


# name: (codec, rate, channels, largest error)
CODECS: dict[str, tuple[str, int, int, float]] = {
    "u8.wav": ("pcm_u8", 16_000, 1, 0.005),
    "s16.wav": ("pcm_s16le", 44_100, 2, 5e-5),
    "s24.wav": ("pcm_s24le", 48_000, 1, 1e-5),
    "s32.wav": ("pcm_s32le", 16_000, 2, 1e-6),
    "f32.wav": ("pcm_f32le", 22_050, 1, 1e-5),
    "f64.wav": ("pcm_f64le", 11_025, 2, 1e-5),
    "low.wav": ("pcm_s16le", 8_000, 1, 5e-5),
    "six.wav": ("pcm_s16le", 96_000, 6, 5e-5),
    "six.flac": ("flac", 96_000, 6, 5e-5),
    "odd.wav": ("pcm_s16le", 44_101, 1, 5e-5),
    "fast.wav": ("pcm_f32le", 768_000, 1, 1e-5),
    "big_endian.aiff": ("pcm_s16be", 16_000, 1, 5e-5),
    "lossless.mkv": ("flac", 44_100, 2, 5e-5),
    "lossy.mp3": ("libmp3lame", 44_100, 2, 0.02),
    "lossy.m4a": ("aac", 48_000, 1, 0.02),
    "lossy.aac": ("aac", 16_000, 1, 0.02),
    "lossy.ts": ("aac", 32_000, 2, 0.02),
    "lossy.ogg": ("libopus", 48_000, 2, 0.02),
    "lossy.webm": ("libopus", 48_000, 1, 0.02),
}


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_gives_the_tone(name: str, tmp_path: Path) -> None:
    codec, rate, channels, most = CODECS[name]
    # The channels differ in loudness; what is heard is their mean.
    levels = np.linspace(0.2, 0.6, channels) if channels > 1 else np.array([0.4])
    path = make_sound_file(tmp_path / name, [tone(440, 1.5, rate, level) for level in levels], rate, codec)
    audio = decode_audio(path)
    assert audio.wave.dtype == np.float32
    assert (audio.rate, audio.info.rate, audio.info.channels) == (16_000, rate, channels)
    # Nothing in these tells of the encoder's lead-in.
    lead = round(1024 * 16_000 / rate) if name in ("lossy.aac", "lossy.ts") else 0
    assert abs(audio.duration_s - 1.5 - lead / 16_000) < 0.07
    # FFmpeg's encoder of AAC stumbles over pure tones here and there.
    quantile = 0.9 if "lossy" in name else 1.0
    assert error_of(audio.wave[lead:], tone(440, 1.5, 16_000, 0.4), quantile) < most


def test_samples_at_the_wanted_rate_stay_as_they_are(tmp_path: Path) -> None:
    path = make_wave(tmp_path / "x.wav", INT16)
    np.testing.assert_array_equal(decode_audio(path).wave, INT16.astype(np.float32) / 32768)
    extremes = np.array([-32768, 32767, 0, 1], "<i2")
    wave = decode_audio(make_wave(tmp_path / "y.wav", extremes)).wave
    np.testing.assert_array_equal(wave, np.array([-1, 32767 / 32768, 0, 1 / 32768], np.float32))
    stereo = np.stack([INT16, INT16[::-1] // 3], 1)
    wave = decode_audio(make_wave(tmp_path / "z.wav", stereo, channels=2)).wave
    np.testing.assert_allclose(wave, stereo.mean(axis=1) / 32768, atol=1e-7)


def _antiphase(folder: Path, name: str, codec: str, rate: int = 16_000, offset: float = 0.0) -> Path:
    wave = tone(440, 1.5, rate, 0.4)
    return make_sound_file(folder / name, [0.5 * wave + offset, -0.45 * wave + offset], rate, codec)


def _surround(folder: Path, *levels: float) -> Path:
    wave = tone(440, 1.5, 48_000, 0.4)
    return make_sound_file(folder / "six.flac", [level * wave for level in levels], 48_000, "flac")


# name: (the file, the level that is heard, whether of one channel alone)
CHANNELS: dict[str, tuple[Callable[[Path], Path], float, bool]] = {
    "integers": (lambda f: _antiphase(f, "x.wav", "pcm_s16le"), 0.2, True),
    "floats at another rate": (lambda f: _antiphase(f, "x.wav", "pcm_f32le", 44_100), 0.2, True),
    "an offset that both have is not heard": (lambda f: _antiphase(f, "x.wav", "pcm_f32le", offset=0.1), 0.2, True),
    "front left against front right in 5.1": (lambda f: _surround(f, 1, -0.9, 0, 0, 0, 0.02), 0.4, True),
    "the centre of 5.1 alone": (lambda f: _surround(f, 0, 0, 1, 0, 0, 0), 0.4, True),
    "all of 5.1": (lambda f: _surround(f, 1, 1, 1, 1, 1, 1), 0.4, False),
    "one side of two": (lambda f: make_sound_file(f / "x.wav", [SECOND * 0.8, SECOND * 0], 16_000), 0.2, False),
    "a mean that loses 11 dB": (
        lambda f: make_sound_file(f / "x.wav", [SECOND, -0.437 * SECOND], 16_000),
        0.1408,
        False,
    ),
    "a mean that loses 13 dB": (lambda f: make_sound_file(f / "x.wav", [SECOND, -0.552 * SECOND], 16_000), 0.5, True),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_that_cancel_each_other_are_heard(name: str, tmp_path: Path) -> None:
    make, level, alone = CHANNELS[name]
    audio = decode_audio(make(tmp_path))
    swing = audio.wave - audio.wave.mean()
    assert np.sqrt(2 * np.mean(swing**2)) == pytest.approx(level, rel=0.01)
    assert any("cancel each other" in note for note in audio.warnings) == alone


def test_channels_that_cancel_for_a_while_only_have_their_mean(tmp_path: Path) -> None:
    halves = [np.concatenate([SECOND, SECOND]), np.concatenate([-SECOND, SECOND])]
    audio = decode_audio(make_sound_file(tmp_path / "x.wav", halves, 16_000))
    assert not audio.wave[:16_000].any()
    np.testing.assert_allclose(audio.wave[16_000:], SECOND, atol=5e-5)
    assert not audio.warnings


def test_a_track_whose_channels_cancel_is_decoded_twice_and_held_once(tmp_path: Path) -> None:
    path = make_wave(tmp_path / "x.wav", np.stack([np.tile(INT16, 60), -np.tile(INT16, 60)], 1), 48_000, channels=2)
    with little_memory(1.5 * 4 * 20 * 16_000 + 2**20):
        audio = decode_audio(path)
    assert audio.duration_s == pytest.approx(20)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_resampling_keeps_what_fits_and_lets_nothing_fold(rate: int, tmp_path: Path) -> None:
    for hertz in (50, 1_000, 3_300, 7_000, 7_200):
        if hertz < 0.47 * rate:
            path = make_wave(tmp_path / f"{hertz}.wav", tone(hertz, 1, rate).astype("<f4"), rate)
            wave = decode_audio(path).wave
            assert len(wave) == 16_000
            # soxr's "HQ" may fall by 0.01 dB up to 7,304 Hz.
            assert error_of(wave, tone(hertz, 1, 16_000)) < (1e-5 if hertz < 7_000 else 6e-4)
    for hertz in (8_300, 9_000, 20_000):
        if hertz < 0.49 * rate:
            path = make_wave(tmp_path / f"{hertz}.wav", tone(hertz, 1, rate).astype("<f4"), rate)
            assert error_of(decode_audio(path).wave, np.zeros(16_000)) < 1e-5


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 44_100, 44_101, 48_000])
@pytest.mark.parametrize("name", ["soxr_hq", "sinc_hann"])
def test_resamplers_are_those_of_the_official_front_ends(name: str, rate: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, rate + 37).astype("<f4")
    wave = decode_audio(make_wave(tmp_path / "x.wav", noise, rate), resampler=name).wave
    expected = soxr.resample(noise, rate, 16_000, "HQ") if name == "soxr_hq" else torchaudio_resample(noise, rate)
    assert len(wave) == len(expected)
    np.testing.assert_allclose(wave, expected.clip(-1, 1), atol=2e-7)
    # Mel bins, as each network has them: from 22,050 a second on, the highest tell one resampler from another.
    banks = {"soxr_hq": {"window": "povey"}, "sinc_hann": {"window": "hanning", "htk_compat": True, "mel_bins": 112}}
    mels = [kaldi_fbank(each * np.float32(2**15), **banks[name]) for each in (wave, expected.astype(np.float32))]
    assert np.abs(mels[0] - mels[1]).max() < 1e-2
    other = decode_audio(tmp_path / "x.wav", resampler="sinc_hann" if name == "soxr_hq" else "soxr_hq").wave
    length = min(len(wave), len(other))
    between = kaldi_fbank(other[:length] * np.float32(2**15), **banks[name]) - mels[0][: 1 + (length - 400) // 160]
    assert rate < 16_000 or np.abs(between[:, -1]).mean() > 0.1


def torchaudio_resample(wave: np.ndarray, rate: int, new_rate: int = 16_000) -> np.ndarray:
    """`torchaudio.functional.resample` by its formula, every output by itself, in float64."""
    base = min(rate, new_rate) * 0.99
    at_n = np.arange(-(-len(wave) * new_rate // rate)) * (rate / new_rate)
    reach = int(np.ceil(6 * rate / base)) + 1
    near_nt = np.floor(at_n)[:, None].astype(int) + np.arange(-reach, reach + 1)
    zeros_nt = np.clip((near_nt - at_n[:, None]) * base / rate, -6, 6)
    weights_nt = np.sinc(zeros_nt) * np.cos(zeros_nt * np.pi / 12) ** 2 * base / rate
    inside_nt = (near_nt >= 0) & (near_nt < len(wave))
    return (weights_nt * np.where(inside_nt, wave[near_nt.clip(0, len(wave) - 1)], 0)).sum(axis=1)


def test_there_is_no_other_resampler(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such resampler"):
        decode_audio(make_wave(tmp_path / "x.wav", INT16, 48_000), resampler="linear")


def test_the_result_may_have_any_rate(tmp_path: Path) -> None:
    path = make_wave(tmp_path / "x.wav", INT16)
    audio = decode_audio(path, rate=48_000)
    assert len(audio.wave) == 48_000
    assert error_of(audio.wave, tone(440, 1, 48_000)) < 5e-5
    for rate in (0, -1, 10**6):
        with pytest.raises(InputError, match="out of range"):
            decode_audio(path, rate=rate)


def test_sound_that_begins_late_is_put_in_time_with_the_pictures(tmp_path: Path) -> None:
    path = make_sound_file(tmp_path / "late.mkv", SECOND, 16_000, "flac", start_s=0.75, picture=True)
    audio = decode_audio(path)
    assert audio.start_s == pytest.approx(0.75, abs=2e-3)
    first_s = open_video(path).times_s()[0]
    in_time = decode_audio(path, origin_s=first_s)
    lead = round((audio.start_s - first_s) * 16_000)
    assert not in_time.wave[:lead].any()
    np.testing.assert_array_equal(in_time.wave[lead:], audio.wave)
    later = decode_audio(path, origin_s=audio.start_s + 0.5)
    np.testing.assert_array_equal(later.wave, audio.wave[8_000:])
    assert len(decode_audio(path, origin_s=9).wave) == 0
    with pytest.raises(InputError, match="no number"):
        decode_audio(path, origin_s=float("nan"))
    with pytest.raises(MediaError, match="duration_s"):
        decode_audio(path, origin_s=-1e9)


@pytest.mark.parametrize(
    ("name", "start_s", "picture"),
    [
        ("x.mkv", 10.0, True),
        ("x.mkv", 10.0, False),
        ("x.webm", 3.0, False),
        ("x.mov", 10.0, True),
        ("x.ts", 30.0, True),
    ],
)
def test_a_whole_track_that_starts_late_is_not_called_broken(
    name: str, start_s: float, picture: bool, tmp_path: Path
) -> None:
    codec = {"x.webm": "libopus"}.get(name, "aac")
    path = make_sound_file(tmp_path / name, tone(440, 3, 48_000), 48_000, codec, start_s=start_s, picture=picture)
    audio = decode_audio(path)
    assert not audio.warnings
    assert audio.duration_s == pytest.approx(3, abs=0.1)
    assert audio.lead_s == 0
    assert decode_audio(path, AudioLimits(duration_s=start_s + 4), origin_s=audio.start_s - 1).lead_s == pytest.approx(
        1
    )


@pytest.mark.parametrize("name", ["x.mkv", "x.mp4", "x.ts"])
def test_a_track_shorter_than_its_file_is_not_called_broken(name: str, tmp_path: Path) -> None:
    audio = decode_audio(make_sound_file(tmp_path / name, SECOND, 16_000, "aac", picture=True, picture_s=9))
    assert audio.duration_s == pytest.approx(1, abs=0.1)
    assert not audio.warnings


def test_a_gap_becomes_silence(tmp_path: Path) -> None:
    path = make_sound_file(tmp_path / "gap.mkv", np.full(16_000, 0.5), 16_000, "flac", gap=(0.5, 1.5))
    audio = decode_audio(path)
    assert audio.duration_s == pytest.approx(2.5, abs=2e-3)
    silent = np.flatnonzero(audio.wave == 0)
    assert len(silent) == pytest.approx(24_000, abs=32)
    assert (np.diff(silent) == 1).all()
    assert any("1.5 s of silence" in note for note in audio.warnings)
    with pytest.raises(MediaError, match="duration_s"):
        decode_audio(path, AudioLimits(duration_s=2))


def test_one_of_two_tracks_is_taken_with_a_warning(tmp_path: Path) -> None:
    audio = decode_audio(make_sound_file(tmp_path / "two.mkv", SECOND, 16_000, "flac", tracks=2))
    assert len(audio.wave) == 16_000
    assert any("2 audio tracks" in note for note in audio.warnings)


def test_loud_floats_are_clipped_with_a_warning(tmp_path: Path) -> None:
    path = make_wave(tmp_path / "x.wav", INT16.astype("<f4"))
    audio = decode_audio(path)
    assert np.abs(audio.wave).max() == 1
    assert any("clipped" in note for note in audio.warnings)
    slightly = decode_audio(make_wave(tmp_path / "y.wav", (1.4 * INT16 / 32768).astype("<f4")))
    assert not slightly.warnings


def test_probing_decodes_nothing_and_knows_a_missing_track(tmp_path: Path) -> None:
    assert probe_audio(make_clip(tmp_path / "mute.mp4")) is None
    info = probe_audio(make_sound_file(tmp_path / "x.mp4", SECOND, 16_000, "aac", picture=True))
    assert info is not None
    assert (info.rate, info.channels, info.codec, info.tracks) == (16_000, 1, "aac", 1)
    assert info.duration_s == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("data_bytes", [0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_a_recorder_that_could_not_write_its_length(data_bytes: int, tmp_path: Path) -> None:
    path = make_wave(tmp_path / "x.wav", INT16, data_bytes=data_bytes)
    with little_memory():
        audio = decode_audio(path, AudioLimits(duration_s=1e6))
    np.testing.assert_array_equal(audio.wave, INT16.astype(np.float32) / 32768)


def _three_hours(path: Path) -> Path:
    """An MP4 of a second of sound that lasts three hours by its medium header, last packet's time and edit list."""
    make_sound_file(path, SECOND, 16_000, "aac")
    data = bytearray(path.read_bytes())
    medium, times, edit = (data.index(name) for name in (b"mdhd", b"stts", b"elst"))
    last = times + 8 + 8 * int.from_bytes(data[times + 8 : times + 12], "big")
    for at, clock in ((medium + 20, 16_000), (last, 16_000), (edit + 12, 1000)):
        data[at : at + 4] = (THREE_HOURS * clock).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def test_three_hours_by_the_header_of_one_second(tmp_path: Path) -> None:
    path = _three_hours(tmp_path / "x.mp4")
    with little_memory():
        audio = decode_audio(path)
    assert audio.info.duration_s == pytest.approx(THREE_HOURS, abs=2)
    assert audio.duration_s == pytest.approx(1, abs=0.1)
    assert any("promises 1080" in note for note in audio.warnings)


def test_a_lying_header_takes_no_memory_of_the_process(tmp_path: Path) -> None:
    paths = [_three_hours(tmp_path / "x.mp4"), make_wave(tmp_path / "x.wav", INT16, data_bytes=0xFFFFFFFF)]
    code = (
        "import resource, sys\n"
        "from alref_edge.media.audio import decode_audio\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "decode_audio(sys.argv[1])\n"
        "before = peak()\n"
        "lengths = [len(decode_audio(path).wave) for path in sys.argv[2:]]\n"
        "print(peak() - before, *lengths)"
    )
    honest = make_wave(tmp_path / "honest.wav", INT16)
    command = [sys.executable, "-c", code, *map(str, [honest, *paths])]
    grown_kb, *lengths = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert grown_kb < 32 * 1024
    assert all(16_000 <= length < 17_500 for length in lengths)


def test_a_damaged_stretch_of_flac_is_silent_with_a_warning_or_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    path = make_sound_file(tmp_path / "x.flac", noise, 16_000, "flac")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 9000] = bytes(9000)
    path.write_bytes(data)
    try:
        audio = decode_audio(path)
    except MediaError as error:
        # Some versions of FFmpeg step over what they cannot read, others hand it to the decoder.
        assert "is damaged" in str(error)  # noqa: PT017
        return
    whole = audio.wave != 0
    np.testing.assert_allclose(audio.wave[whole], noise[: len(audio.wave)][whole], atol=1e-4)
    assert 0.7 < whole.mean() < 0.9
    assert any("stand for a gap" in note for note in audio.warnings)


def test_a_long_wave_takes_little_more_than_its_result(tmp_path: Path) -> None:
    path = make_wave(tmp_path / "x.wav", np.tile(INT16, 60), 48_000)
    with little_memory(1.5 * 4 * 20 * 16_000 + 2**20):
        audio = decode_audio(path)
    assert audio.duration_s == pytest.approx(20)


@pytest.mark.parametrize(("name", "seconds"), [("cut.mp3", 2), ("cut.ts", 2), ("cut.aac", 2), ("cut.ogg", 2)])
def test_recordings_may_end_anywhere(name: str, seconds: float, tmp_path: Path) -> None:
    codec = {"cut.mp3": "libmp3lame", "cut.ogg": "libopus"}.get(name, "aac")
    rate = 48_000
    whole = make_sound_file(tmp_path / f"whole_{name}", tone(440, seconds, rate), rate, codec)
    audio = decode_audio(cut(whole, tmp_path / name, 0.6))
    assert 0.3 * seconds < audio.duration_s < 0.8 * seconds
    assert np.sqrt((audio.wave[4_000:-4_000] ** 2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def _bytes(folder: Path, data: bytes) -> Path:
    path = folder / "x.wav"
    path.write_bytes(data)
    return path


def _cut(folder: Path, name: str, codec: str, keep: float = 0.6) -> Path:
    whole = make_sound_file(folder / f"whole_{name}", tone(440, 2, 16_000), 16_000, codec)
    return cut(whole, folder / name, keep)


def _damaged(folder: Path) -> Path:
    path = make_sound_file(folder / "x.m4a", np.random.default_rng(0).uniform(-0.5, 0.5, 32_000), 16_000, "aac")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 600] = np.random.default_rng(0).bytes(600)
    path.write_bytes(data)
    return path


def _spoilt(folder: Path, value: float, kind: str = "<f4", channels: int = 1) -> Path:
    samples = np.tile(SECOND[:, None], (1, channels)).astype(kind)
    samples[8_000, -1] = value
    return make_wave(folder / "x.wav", samples, channels=channels)


def _two_rates(folder: Path) -> Path:
    parts = [make_sound_file(folder / f"{rate}.aac", tone(440, 1, rate), rate, "aac") for rate in (16_000, 32_000)]
    (folder / "both.aac").write_bytes(b"".join(part.read_bytes() for part in parts))
    return folder / "both.aac"


def _wave(folder: Path, **keywords: object) -> Path:
    return make_wave(folder / "x.wav", INT16, **keywords)  # type: ignore[arg-type]


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.wav")
    return folder / "pipe.wav"


def _playlist(folder: Path) -> Path:
    sound = make_sound_file(folder / "part.ts", SECOND, 16_000, "aac")
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{sound}\n#EXT-X-ENDLIST\n"
    return _bytes(folder, text.encode())


ANY = AudioLimits()
BAD: dict[str, tuple[Callable[[Path], object], str, AudioLimits]] = {
    "missing": (lambda f: f / "none.wav", "does not exist", ANY),
    "empty name": (lambda f: "", "not a path", ANY),
    "address": (lambda f: "http://localhost/x.wav", "is an address", ANY),
    "folder": (lambda f: f, "not a regular file", ANY),
    "pipe": (_pipe, "not a regular file", ANY),
    "device": (lambda f: "/dev/zero", "not a regular file", ANY),
    "zero bytes": (lambda f: _bytes(f, b""), "is empty", ANY),
    "text": (lambda f: _bytes(f, b"no sound at all\n" * 999), "not a sound", ANY),
    "noise": (lambda f: _bytes(f, np.random.default_rng(1).bytes(9999)), "not a sound|damaged|no sound", ANY),
    "header only": (lambda f: make_wave(f / "x.wav", INT16[:0]), "not a sound|no sample", ANY),
    "playlist": (_playlist, "not a sound", ANY),
    "no audio track": (lambda f: make_clip(f / "mute.mp4"), "holds no sound", ANY),
    "image": (lambda f: make_clip(f / "x.gif", 2, codec="gif", pix_fmt="rgb8"), "holds no sound", ANY),
    "NaN": (lambda f: _spoilt(f, np.nan), "no numbers.* at 0.5", ANY),
    "NaN in one channel": (lambda f: _spoilt(f, np.nan, "<f8", 2), "no numbers", ANY),
    "infinity": (lambda f: _spoilt(f, -np.inf), "no numbers", ANY),
    "3-hour header": (lambda f: _wave(f, data_bytes=2 * 16_000 * THREE_HOURS), "is truncated", ANY),
    "3-hour MP4 over the cap": (
        lambda f: _three_hours(f / "x.mp4"),
        "over the limit `duration_s`",
        AudioLimits(duration_s=3600),
    ),
    "cut wav": (lambda f: _cut(f, "x.wav", "pcm_s16le"), "is truncated", ANY),
    "cut m4a": (lambda f: _cut(f, "x.m4a", "aac"), "is truncated", ANY),
    "cut mkv": (lambda f: _cut(f, "x.mkv", "flac"), "is truncated", ANY),
    "cut mp3, nothing left": (lambda f: _cut(f, "x.mp3", "libmp3lame", 0.01), "not a sound|damaged", ANY),
    "damaged m4a": (_damaged, "is damaged.* at 1.0", ANY),
    "rate changes on the way": (_two_rates, "changes its sample rate", ANY),
    "low rate": (lambda f: _wave(f, rate=100), "too low a sample rate", ANY),
    "bytes": (_wave, "over the limit `bytes`", AudioLimits(bytes=1000)),
    "seconds by the header": (_wave, "over the limit `duration_s`", AudioLimits(duration_s=0.99)),
    "seconds while decoding": (
        lambda f: _wave(f, data_bytes=0xFFFFFFFF),
        "over the limit `duration_s`",
        AudioLimits(duration_s=0.99),
    ),
    "rate": (lambda f: _wave(f, rate=48_000), "over the limit `rate`", AudioLimits(rate=44_100)),
    "rate of gigahertz": (lambda f: _wave(f, rate=2_000_000_000), "over the limit `rate`|not a sound", ANY),
    "channels": (lambda f: _wave(f, channels=2), "over the limit `channels`", AudioLimits(channels=1)),
    "thousands of channels": (lambda f: _wave(f, channels=8_000), "no sample|damaged|not a sound", ANY),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_its_error(name: str, tmp_path: Path) -> None:
    make, message, limits = BAD[name]
    path = make(tmp_path)
    with little_memory(), pytest.raises(MediaError, match=message) as caught:
        decode_audio(path, limits)  # type: ignore[arg-type]
    assert caught.value.expected is not None
    assert caught.value.got is not None


@pytest.mark.parametrize("field", ["bytes", "duration_s", "rate", "channels"])
def test_limits_must_be_positive(field: str) -> None:
    with pytest.raises(InputError, match=field):
        AudioLimits(**{field: 0})


def test_a_wave_of_endless_empty_chunks_is_given_up(tmp_path: Path) -> None:
    path = make_wave(tmp_path / "x.wav", INT16, before=b"junk\0\0\0\0" * 20_000)
    assert len(decode_audio(path).wave) == 16_000


def test_real_sound(media: Path) -> None:
    import wave as wave_module

    for name in ("audio_0.wav", "audio_1.wav"):
        with wave_module.open(str(media / name)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        np.testing.assert_array_equal(decode_audio(media / name).wave, samples.astype(np.float32) / 32768)
    audio = decode_audio(media / "with_real_audio.mp4")
    assert len(audio.wave) == round(800_768 * 16_000 / 44_100)
    assert 0.05 < np.sqrt((audio.wave**2).mean()) < 0.5
    assert not audio.warnings
    assert open_video(media / "with_real_audio.mp4").info.duration_s == pytest.approx(audio.duration_s, abs=0.2)


def test_digital_silence_is_all_zeros(media: Path) -> None:
    audio = decode_audio(media / "dog_silent_audio.mp4")
    assert audio.duration_s == pytest.approx(9.664)
    assert not audio.wave.any()
    assert probe_audio(media / "bedroom.mp4") is None
