"""YAMNet's log-mel patches beside a plain computation of the official formula."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from alref_edge.errors import InputError
from alref_edge.media.audio import decode_audio
from alref_edge.models.audio.log_mel import MEL_BANDS, PATCH_FRAMES, PATCH_SAMPLES, SAMPLE_RATE, log_mel_patches


def plain_patches(wave: np.ndarray) -> np.ndarray:
    """`pad_waveform` and `waveform_to_log_mel_spectrogram_patches`, in float64 with the Fourier sum written out."""
    first, hop = 15_600, 7_680
    padding = max(0, first - len(wave))
    beyond = max(len(wave), first) - first
    wave = np.pad(wave.astype(np.float64), (0, padding + hop * math.ceil(beyond / hop) - beyond))
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / 400) for n in range(400)])
    turn = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512)
    frames = np.array([wave[at : at + 400] for at in range(0, len(wave) - 399, 160)])
    spectra = np.abs((frames * window) @ turn.T)
    mel = 1127 * np.log(1 + np.arange(257) * 31.25 / 700)
    edges = np.linspace(1127 * math.log(1 + 125 / 700), 1127 * math.log(1 + 7500 / 700), 66)
    weights = np.zeros((257, 64))
    for band in range(64):
        left, centre, right = edges[band : band + 3]
        weights[:, band] = np.maximum(0, np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)))
    weights[0] = 0
    log_mel = np.log(spectra @ weights + 0.001)
    return np.array([log_mel[at : at + 96] for at in range(0, len(log_mel) - 95, 48)])


@pytest.mark.parametrize("samples", [0, 1, 15_599, 15_600, 15_601, 23_280, 23_281, 50_000])
def test_they_are_the_official_patches(samples: int) -> None:
    wave = np.random.default_rng(samples).uniform(-0.5, 0.5, samples).astype(np.float32)
    patches_ptb = log_mel_patches(wave)
    expected = plain_patches(wave)
    assert patches_ptb.dtype == np.float32
    assert patches_ptb.shape == expected.shape
    np.testing.assert_allclose(patches_ptb, expected, atol=1e-4)


def test_constants() -> None:
    assert (SAMPLE_RATE, MEL_BANDS, PATCH_FRAMES, PATCH_SAMPLES) == (16_000, 64, 96, 15_600)


@pytest.mark.parametrize("hop_s", [0.975, 0.96, 0.1, 1 / 16_000 * 777, 2.0])
def test_every_hop_gives_the_patches_at_its_samples(hop_s: float) -> None:
    wave = np.random.default_rng(1).uniform(-0.5, 0.5, 60_000).astype(np.float32)
    hop = round(hop_s * 16_000)
    patches_ptb = log_mel_patches(wave, hop_s=hop_s)
    assert len(patches_ptb) == 1 + math.ceil((60_000 - 15_600) / hop)
    for number in (0, 1, len(patches_ptb) - 1):
        piece = wave[number * hop : number * hop + 15_600]
        np.testing.assert_allclose(patches_ptb[number], log_mel_patches(piece)[0], atol=1e-5)


def test_silence() -> None:
    np.testing.assert_array_equal(log_mel_patches(np.zeros(16_000, np.float32)), np.float32(math.log(0.001)))


@pytest.mark.parametrize(
    ("wave", "hop_s", "message"),
    [
        (np.zeros((1, 16_000), np.float32), 0.48, "wrong shape or type"),
        (np.zeros(16_000, np.int16), 0.48, "wrong shape or type"),
        (np.full(16_000, np.nan), 0.48, "no numbers"),
        (np.zeros(16_000), 0.0, "hop"),
        (np.zeros(16_000), -1.0, "hop"),
        (np.zeros(16_000), math.nan, "hop"),
    ],
)
def test_bad_input_gets_its_error(wave: np.ndarray, hop_s: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        log_mel_patches(wave, hop_s=hop_s)


def test_real_sound(media: Path) -> None:
    for name in ("audio_1.wav", "with_real_audio.mp4"):
        wave = decode_audio(media / name).wave[16_000:60_000]
        np.testing.assert_allclose(log_mel_patches(wave), plain_patches(wave), atol=1e-4)
