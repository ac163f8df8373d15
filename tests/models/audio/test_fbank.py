"""Kaldi's filter banks beside a plain computation of the formula, and beside numbers of the official code."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest

from alref_edge.errors import InputError
from alref_edge.media.audio import decode_audio
from alref_edge.models.audio import kaldi_fbank

RATE = 16_000


def plain_fbank(wave: np.ndarray, bins: int, window: str, low_hz: float = 20.0, high_hz: float = 8000.0) -> np.ndarray:
    """The formula word by word: the Fourier sum written out. 25 ms, 10 ms, 16 kHz."""
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / 399) for n in range(400)]
    taper = np.array([value**0.85 if window == "povey" else value for value in hann])
    turn = np.exp(-2j * np.pi * np.outer(np.arange(256), np.arange(400)) / 512)
    low, high = (1127 * math.log(1 + hertz / 700) for hertz in (low_hz, high_hz))
    step = (high - low) / (bins + 1)
    mel_k = np.array([1127 * math.log(1 + k * RATE / 512 / 700) for k in range(256)])
    lefts = [low + number * step for number in range(bins)]
    weights = [np.maximum(0, np.minimum((mel_k - left) / step, (left + 2 * step - mel_k) / step)) for left in lefts]
    frames = np.array([wave[start : start + 400] for start in range(0, len(wave) - 399, 160)], np.float64)
    frames -= frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    power = np.abs(((frames - 0.97 * before) * taper) @ turn.T) ** 2
    return np.log(np.maximum(power @ np.array(weights).T, 1.1920928955078125e-07))


def sound(seconds: float = 0.1) -> np.ndarray:
    """A wave that anybody can make again: sines, a ramp, and noise, so that no bin is near float32's own rounding."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    wave = 0.3 * np.sin(2 * np.pi * 440 * time_s) + 0.2 * np.sin(2 * np.pi * 2500 * time_s**1.5)
    noise = np.random.RandomState(0).uniform(-0.1, 0.1, len(wave))
    return (wave + noise + 0.1 * time_s).astype(np.float32)


@pytest.mark.parametrize(("window", "bins", "scale"), [("povey", 128, 2**15), ("hanning", 112, 1), ("povey", 23, 1)])
def test_it_is_the_formula(window: str, bins: int, scale: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 1000).astype(np.float32)
    for wave in (sound() * scale, noise * scale):
        fbank_tb = kaldi_fbank(wave, mel_bins=bins, window=window)
        assert fbank_tb.dtype == np.float32
        expected = plain_fbank(wave, bins, window)
        assert fbank_tb.shape == expected.shape
        # The official code has float32 weights: those close to 0 are not quite the formula's.
        np.testing.assert_allclose(fbank_tb, expected, atol=1e-3)
        assert np.abs(fbank_tb - expected).mean() < 1e-5


# `sound()` in torchaudio 2.11's compliance/kaldi.py: frames 0, 3 and 7, every 16th bin. Made by
# `python -m benchmarks.official.kaldi`, float32.
OFFICIAL: dict[str, tuple[dict[str, object], list[list[float]]]] = {
    "beats": (
        {},
        [
            [13.4877, 19.3845, 16.0757, 16.6145, 20.4926, 21.4792, 21.4623, 22.5492],
            [12.9084, 15.5174, 20.2019, 18.1815, 20.3179, 21.3188, 21.8041, 21.9781],
            [10.3075, 16.2478, 17.7126, 22.2839, 20.9559, 20.7853, 22.0622, 23.0734],
        ],
    ),
    "languagebind": (
        {"window": "hanning", "mel_bins": 112, "htk_compat": True},
        [
            [-7.3163, -0.1158, -4.3737, -0.7121, -0.2156, -0.2846, 0.2327],
            [-7.8727, -2.8006, 3.1395, -2.6257, -0.0265, 0.7843, 1.0193],
            [-10.0889, -3.4362, -3.881, -1.6983, -0.1129, 0.2407, 1.351],
        ],
    ),
}


@pytest.mark.parametrize("name", ["beats", "languagebind"])
def test_it_is_the_official_code(name: str) -> None:
    settings, expected = OFFICIAL[name]
    wave = sound() * 2**15 if name == "beats" else sound() - sound().mean()
    fbank_tb = kaldi_fbank(wave, **settings)  # type: ignore[arg-type]
    np.testing.assert_allclose(fbank_tb[[0, 3, 7], ::16], expected, atol=1e-3)


def test_energy_stands_first_or_last() -> None:
    wave = sound() * 2**15
    plain = kaldi_fbank(wave)
    first = kaldi_fbank(wave, use_energy=True)
    last = kaldi_fbank(wave, use_energy=True, htk_compat=True)
    np.testing.assert_array_equal(first[:, 1:], plain)
    np.testing.assert_array_equal(last[:, :-1], plain)
    np.testing.assert_array_equal(kaldi_fbank(wave, htk_compat=True), plain)
    frame = wave[160:560].astype(np.float64)
    energy = math.log(((frame - frame.mean()) ** 2).sum())
    assert first[1, 0] == pytest.approx(energy, abs=1e-5)
    assert last[1, -1] == pytest.approx(energy, abs=1e-5)
    assert (kaldi_fbank(np.zeros(800, np.float32), use_energy=True)[:, 0] == 0).all()


def test_whole_frames_only() -> None:
    for samples, frames in ((0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (16_000, 98), (160_000, 998)):
        assert kaldi_fbank(np.zeros(samples, np.float32)).shape == (frames, 128)


def test_silence_is_the_floor_and_constants_are_silence() -> None:
    floor = np.float32(math.log(1.1920928955078125e-07))
    np.testing.assert_array_equal(kaldi_fbank(np.zeros(8000, np.float32)), np.full((48, 128), floor))
    np.testing.assert_array_equal(kaldi_fbank(np.full(8000, 0.5, np.float32)), np.full((48, 128), floor))


def test_long_sound_is_worked_on_in_blocks() -> None:
    """Frames do not know of each other: any stretch gives the same rows, wherever the blocks are cut."""
    wave = np.random.default_rng(0).normal(0, 0.1, 12 * RATE).astype(np.float32)
    whole = kaldi_fbank(wave)
    for start in (1, 500, 1020, 1023, 1024):
        np.testing.assert_allclose(kaldi_fbank(wave[160 * start :]), whole[start:], atol=1e-5)


def test_settings_change_what_they_say() -> None:
    wave = sound()
    shifted = wave + np.float32(0.3)
    np.testing.assert_allclose(kaldi_fbank(shifted), kaldi_fbank(wave), atol=2e-3)
    assert np.abs(kaldi_fbank(shifted, remove_dc_offset=False) - kaldi_fbank(wave, remove_dc_offset=False)).max() > 0.1
    quiet, loud = (kaldi_fbank(scale * wave, mel_bins=40, preemphasis=0.0) for scale in (2**15, 2**16))
    np.testing.assert_allclose(loud - quiet, math.log(4), atol=1e-4)
    assert kaldi_fbank(wave, frame_shift_ms=5).shape[0] == 16
    np.testing.assert_array_equal(kaldi_fbank(wave, frame_shift_ms=5)[::2], kaldi_fbank(wave))
    assert kaldi_fbank(np.tile(wave, 3), rate=48_000).shape == (8, 128)
    np.testing.assert_array_equal(kaldi_fbank(wave, high_hz=-1000), kaldi_fbank(wave, high_hz=7000))


@pytest.mark.parametrize(
    ("wave", "settings", "message"),
    [
        (np.zeros((2, 800), np.float32), {}, "wrong shape or type"),
        (np.zeros(800, np.int16), {}, "divide int16 samples"),
        (np.array([0.0, np.nan] * 400), {}, "no numbers.*sample 1"),
        (np.full(800, np.inf, np.float32), {}, "no numbers"),
        (np.zeros(800), {"window": "hamming"}, "no such window.*povey"),
        (np.zeros(800), {"dither": 1.0}, "random"),
        (np.zeros(800), {"rate": 0}, "sample rate"),
        (np.zeros(800), {"mel_bins": 3}, "do not fit"),
        (np.zeros(800), {"low_hz": 8000}, "do not fit"),
        (np.zeros(800), {"high_hz": 9000}, "do not fit"),
        (np.zeros(800), {"frame_shift_ms": 0}, "do not fit"),
        (np.zeros(800), {"preemphasis": 2}, "do not fit"),
    ],
)
def test_bad_input_gets_its_error(wave: np.ndarray, settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kaldi_fbank(wave, **settings)  # type: ignore[arg-type]


def test_ten_seconds_take_less_than_fifty_milliseconds_of_processor() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 10 * RATE).astype(np.float32)
    times = []
    for _ in range(5):
        begin = time.process_time()
        kaldi_fbank(wave)
        times.append(time.process_time() - begin)
    assert min(times) < 0.05


def test_real_sound(media: Path) -> None:
    wave = decode_audio(media / "audio_0.wav").wave[40_000:46_000]
    np.testing.assert_allclose(kaldi_fbank(wave * 2**15), plain_fbank(wave * 2**15, 128, "povey"), atol=1e-3)
    centred = wave - wave.mean()
    fbank_tb = kaldi_fbank(centred, window="hanning", mel_bins=112, htk_compat=True)
    np.testing.assert_allclose(fbank_tb, plain_fbank(centred, 112, "hanning"), atol=1e-3)
