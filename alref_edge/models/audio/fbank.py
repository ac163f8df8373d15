"""Kaldi's log filter banks, as BEATs and LanguageBind call them (`torchaudio.compliance.kaldi.fbank`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from alref_edge.errors import InputError
from alref_edge.models.audio.mel import checked_wave, frames, mel_filters

_HANN: Callable[[int], np.ndarray] = np.hanning
WINDOWS: dict[str, Callable[[int], np.ndarray]] = {
    "hanning": _HANN,
    "povey": lambda length: _HANN(length) ** 0.85,
}
# The floor of every energy before its logarithm.
_EPSILON = float(np.finfo(np.float32).eps)
# Frames that are worked on at a time, so that hours of sound need no more memory than their result.
_BLOCK = 1024


def kaldi_fbank(
    wave: np.ndarray,
    *,
    rate: float = 16_000,
    mel_bins: int = 128,
    window: str = "povey",
    frame_length_ms: float = 25.0,
    frame_shift_ms: float = 10.0,
    low_hz: float = 20.0,
    high_hz: float = 0.0,
    preemphasis: float = 0.97,
    remove_dc_offset: bool = True,
    htk_compat: bool = False,
    use_energy: bool = False,
    dither: float = 0.0,
) -> np.ndarray:
    """Natural logarithms of the power in each mel bin of each frame.

    Only whole frames are taken ("snip edges"); the FFT is as long as the next power of two. The official BEATs gives
    it the waveform times 2**15 and the window "povey"; LanguageBind the waveform minus its mean and "hanning".
    Computed in float64, so that what is left beside the official float32 is the latter's own rounding.

    Args:
        wave: float `[samples]`.
        rate: samples per second.
        mel_bins: number of bins, above 3.
        window: "povey" or "hanning".
        frame_length_ms, frame_shift_ms: in milliseconds.
        low_hz, high_hz: where the first bin begins and the last one ends; `high_hz` up to 0 counts from half the rate.
        preemphasis: share of the sample before that is taken off each sample.
        remove_dc_offset: take each frame's mean off it first.
        use_energy: add a column with the logarithm of each frame's energy before pre-emphasis, at least 0.
        htk_compat: where that column stands: last, or first. Says nothing without it.
        dither: 0, the only value that gives the same answer twice.

    Returns:
        float32 `[frames, mel_bins]` (or one column more); no frame where the sound is shorter than one.

    Raises:
        InputError: a waveform that is none, or settings that make no sense.
    """
    wave = checked_wave(wave)
    if window not in WINDOWS:
        raise InputError("There is no such window.", expected=" or ".join(WINDOWS), got=repr(window))
    if dither != 0.0:
        raise InputError("Dither is not offered: it is random.", expected="dither=0.0", got=dither)
    if not 0 < rate < 1e7:
        raise InputError("A sample rate makes no sense.", expected="samples per second, above 0", got=rate)
    length, shift = int(rate * frame_length_ms * 0.001), int(rate * frame_shift_ms * 0.001)
    high_hz = high_hz if high_hz > 0 else high_hz + rate / 2
    if length < 2 or shift < 1 or mel_bins < 4 or not 0 <= low_hz < high_hz <= rate / 2 or not 0 <= preemphasis <= 1:
        raise InputError(
            "The settings of a filter bank do not fit each other.",
            expected="2 samples or more, 4 bins or more, 0 <= low_hz < high_hz <= rate / 2, pre-emphasis to 1",
            got=f"{length} samples every {shift}, {mel_bins} bins, {low_hz:g}..{high_hz:g} Hz, {preemphasis:g}",
        )
    fft_size = 1 << (length - 1).bit_length()
    filters_fb = mel_filters(mel_bins, fft_size, rate, low_hz, high_hz)
    window_l = WINDOWS[window](length)
    frames_tl = frames(wave, length, shift)
    fbank_tb = np.empty((len(frames_tl), mel_bins + use_energy), np.float32)
    energy, mel = (-1, slice(mel_bins)) if htk_compat else (0, slice(int(use_energy), None))
    for start in range(0, len(frames_tl), _BLOCK):
        block_tl = frames_tl[start : start + _BLOCK].astype(np.float64)
        out_tb = fbank_tb[start : start + _BLOCK]
        if remove_dc_offset:
            block_tl -= block_tl.mean(axis=1, keepdims=True)
        if use_energy:
            # Kaldi's energy floor of 1.0 is above the general one.
            out_tb[:, energy] = np.log(np.maximum(np.einsum("tl,tl->t", block_tl, block_tl), 1.0))
        block_tl[:, 1:] -= preemphasis * block_tl[:, :-1]
        block_tl[:, 0] *= 1 - preemphasis
        spectrum_tf = np.fft.rfft(block_tl * window_l, fft_size)
        power_tf = spectrum_tf.real**2 + spectrum_tf.imag**2
        out_tb[:, mel] = np.log(np.maximum(power_tf @ filters_fb, _EPSILON))
    return fbank_tb
