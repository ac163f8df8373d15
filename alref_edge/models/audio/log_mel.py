"""YAMNet's input: patches of a log-mel spectrogram (`features.py` and `params.py` of `research/audioset/yamnet`)."""

from __future__ import annotations

import numpy as np

from alref_edge.errors import InputError
from alref_edge.models.audio.mel import checked_wave, mel_filters

SAMPLE_RATE = 16_000
MEL_BANDS = 64
# A patch is 96 spectra of 25 ms, one every 10 ms: 0.975 s.
PATCH_FRAMES = 96
FRAME_SAMPLES, SHIFT_SAMPLES = 400, 160
PATCH_SAMPLES = FRAME_SAMPLES + (PATCH_FRAMES - 1) * SHIFT_SAMPLES
_FFT_SIZE = 512
_LOW_HZ, _HIGH_HZ = 125.0, 7500.0
_LOG_OFFSET = 0.001
# Patches that are worked on at a time.
_BLOCK = 16


def log_mel_patches(wave_16khz: np.ndarray, *, hop_s: float = 0.48) -> np.ndarray:
    """Patches of the log-mel spectrogram, one every `hop_s` seconds, the end padded with silence to a whole patch.

    Each value is ln(m + 0.001), m the sum of FFT magnitudes (periodic Hann window) under one of 64 triangles between
    125 and 7500 Hz. A sound shorter than a patch gives one patch. With the official hop of 0.48 s the patches are the
    official ones; every other hop begins its patches at the nearest sample.

    Args:
        wave_16khz: float `[samples]` in [-1, 1].
        hop_s: seconds from the start of one patch to the next.

    Returns:
        float32 `[patches, 96, 64]`: time, then frequency.

    Raises:
        InputError: a waveform that is none, or a hop shorter than a sample.
    """
    wave_16khz = checked_wave(wave_16khz)
    hop = round(hop_s * SAMPLE_RATE) if 0 < hop_s < 1e6 else 0
    if hop < 1:
        raise InputError("The hop of YAMNet's patches makes no sense.", expected="seconds, above 0", got=hop_s)
    patches = 1 + max(0, -(-(len(wave_16khz) - PATCH_SAMPLES) // hop))
    filters_fb = mel_filters(MEL_BANDS, _FFT_SIZE, SAMPLE_RATE, _LOW_HZ, _HIGH_HZ)
    window_l = np.hanning(FRAME_SAMPLES + 1)[:-1]
    offsets_t = np.arange(PATCH_FRAMES) * SHIFT_SAMPLES
    log_mel_ptb = np.empty((patches, PATCH_FRAMES, MEL_BANDS), np.float32)
    for start in range(0, patches, _BLOCK):
        stop = min(start + _BLOCK, patches)
        padded = np.zeros((stop - start - 1) * hop + PATCH_SAMPLES)
        here = wave_16khz[start * hop : start * hop + len(padded)]
        padded[: len(here)] = here
        frames_nl = np.lib.stride_tricks.sliding_window_view(padded, FRAME_SAMPLES)
        frames_ptl = frames_nl[np.arange(stop - start)[:, None] * hop + offsets_t]
        magnitudes_ptf = np.abs(np.fft.rfft(frames_ptl * window_l, _FFT_SIZE))
        log_mel_ptb[start:stop] = np.log(magnitudes_ptf @ filters_fb + _LOG_OFFSET)
    return log_mel_ptb
