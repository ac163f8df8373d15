"""Streaming resamplers of one channel: what the official front ends of the networks that hear put before them.

BEATs: `librosa.load(path, sr=16000)`, which is soxr's "HQ". LanguageBind: `torchaudio.functional.resample` as it comes,
a short windowed sinc that passes more of the highest frequencies and folds a little of what lies beyond them.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import soxr

from alref_edge.errors import InputError

SOXR_HQ, SINC_HANN = "soxr_hq", "sinc_hann"
# torchaudio's `lowpass_filter_width` and `rolloff`.
_ZEROS, _ROLLOFF = 6, 0.99
# Outputs that are worked on at a time.
_BLOCK = 1 << 14


class Resampler(Protocol):
    """Takes a sound block by block; in the end `samples * new_rate / rate` samples have come out, give or take one."""

    def push(self, block: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Float32 `[samples]` in, as much as can be said of it out; the rest comes with the `last` block."""
        ...


def make_resampler(name: str, rate: int, new_rate: int) -> Resampler:
    """The resampler of that name. InputError where there is none."""
    if name == SOXR_HQ:
        return SoxrHq(rate, new_rate)
    if name == SINC_HANN:
        return SincHann(rate, new_rate)
    raise InputError("There is no such resampler.", expected=f"{SOXR_HQ}, {SINC_HANN}", got=name)


class SoxrHq:
    """soxr's "HQ" in float32, `librosa.resample` as it comes (without the zero that makes its last sample a whole one).

    It keeps what lies below 0.91 of half the lower rate, and lets nothing fold.
    """

    def __init__(self, rate: int, new_rate: int) -> None:
        self._stream = soxr.ResampleStream(rate, new_rate, 1, dtype="float32", quality="HQ")

    def push(self, block: np.ndarray, *, last: bool = False) -> np.ndarray:
        """See `Resampler.push`."""
        return np.asarray(self._stream.resample_chunk(np.ascontiguousarray(block, np.float32), last=last))


class SincHann:
    """`torchaudio.functional.resample` with its defaults, `sinc_interp_hann`, in float64."""

    def __init__(self, rate: int, new_rate: int) -> None:
        shared = math.gcd(rate, new_rate)
        self._rate, self._new_rate = rate // shared, new_rate // shared
        cutoff = _ROLLOFF * min(self._rate, self._new_rate)
        self._width = math.ceil(_ZEROS * self._rate / cutoff)
        offsets_t = np.arange(-self._width, self._width + 2)
        # Between an output and the input sample before it, by the output's place in its cycle.
        late_p = np.arange(self._new_rate) * self._rate % self._new_rate / self._new_rate
        zeros_pt = np.clip((offsets_t - late_p[:, None]) * cutoff / self._rate, -_ZEROS, _ZEROS)
        hann_pt = np.cos(zeros_pt * np.pi / _ZEROS / 2) ** 2
        self._weights_pt = np.sinc(zeros_pt) * hann_pt * cutoff / self._rate
        self._waiting = np.zeros(self._width)
        self._begin = -self._width
        self._taken = self._given = 0

    def push(self, block: np.ndarray, *, last: bool = False) -> np.ndarray:
        """See `Resampler.push`."""
        taps = self._weights_pt.shape[1]
        self._taken += len(block)
        self._waiting = np.concatenate([self._waiting, block, np.zeros(taps if last else 0)])
        known = self._begin + len(self._waiting) - (self._width + 1)
        end = self._taken if last else max(0, known)
        stop = max(self._given, -(-end * self._new_rate // self._rate))
        out = np.empty(stop - self._given, np.float32)
        for done in range(0, len(out), _BLOCK):
            number_n = np.arange(self._given + done, min(stop, self._given + done + _BLOCK))
            first_n = number_n * self._rate // self._new_rate - self._width - self._begin
            heard_nt = np.lib.stride_tricks.sliding_window_view(self._waiting, taps)[first_n]
            weights_nt = self._weights_pt[number_n % self._new_rate]
            out[done : done + len(number_n)] = np.einsum("nt,nt->n", heard_nt, weights_nt)
        self._given = stop
        needed = stop * self._rate // self._new_rate - self._width
        self._waiting, self._begin = self._waiting[max(0, needed - self._begin) :], max(self._begin, needed)
        return out
