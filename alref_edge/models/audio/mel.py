"""What both front ends share: the check of a waveform, its overlapping frames, and triangles on the mel scale."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from alref_edge.errors import InputError


def checked_wave(wave: np.ndarray) -> np.ndarray:
    """The waveform, if it is one: floating point `[samples]`, every value finite. InputError otherwise."""
    wave = np.asarray(wave)
    if wave.ndim != 1 or not np.issubdtype(wave.dtype, np.floating):
        raise InputError(
            "A waveform has the wrong shape or type.",
            expected="float32 [samples], mono, in [-1, 1]",
            got=f"{wave.dtype} {list(wave.shape)}",
            mend="take the mean of the channels; divide int16 samples by 32768.",
        )
    if not np.isfinite(wave).all():
        at = int(np.flatnonzero(~np.isfinite(wave))[0])
        raise InputError("A waveform holds values that are no numbers.", expected="finite samples", got=f"sample {at}")
    return wave


def frames(wave: np.ndarray, length: int, shift: int) -> np.ndarray:
    """A view `[frames, length]` of the frames that lie wholly inside the waveform, one every `shift` samples."""
    if len(wave) < length:
        return np.empty((0, length), wave.dtype)
    return np.lib.stride_tricks.sliding_window_view(wave, length)[::shift]


@lru_cache(maxsize=16)
def mel_filters(bins: int, fft_size: int, rate: float, low_hz: float, high_hz: float) -> np.ndarray:
    """Triangles that are equally wide on the mel scale, 1127 ln(1 + f / 700), and overlap by half.

    Kaldi's `get_mel_banks` and TensorFlow's `linear_to_mel_weight_matrix` are this matrix (0 Hz and half the rate get
    no weight in either), computed in float32. Its roundings are kept, since a weight close to 0 feels them.

    Args:
        bins: number of triangles; the first begins at `low_hz`, the last ends at `high_hz`.
        fft_size: length of the real FFT.
        rate: samples per second.

    Returns:
        float64 `[fft_size // 2 + 1, bins]`, read-only: the weight of each frequency in each bin.
    """
    low, high = 1127.0 * np.log1p(np.array([low_hz, high_hz]) / 700.0)
    edges = np.float32(low) + np.arange(bins + 2, dtype=np.float32) * np.float32((high - low) / (bins + 1))
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    hertz_f = np.arange(fft_size // 2 + 1, dtype=np.float32) * np.float32(rate / fft_size)
    ratio_f = (1 + hertz_f / np.float32(700)).astype(np.float64)
    mel_f1 = (np.float32(1127) * np.log(ratio_f).astype(np.float32))[:, None]
    rising, falling = (mel_f1 - left) / (centre - left), (right - mel_f1) / (right - centre)
    filters_fb = np.maximum(0, np.minimum(rising, falling)).astype(np.float64)
    filters_fb.flags.writeable = False
    return filters_fb
