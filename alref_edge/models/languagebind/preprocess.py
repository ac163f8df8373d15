"""Sound as LanguageBind's audio tower sees it (official `audio/processing_audio.py`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alref_edge.bundle.configs import LanguageBindConfig
from alref_edge.errors import InputError
from alref_edge.models.audio import kaldi_fbank
from alref_edge.models.audio.mel import checked_wave

_LENGTH_MS, _SHIFT_MS = 25, 10


@dataclass(frozen=True)
class AudioFrontEnd:
    """A spectrogram picture of a sound, of one size whatever its length.

    Attributes:
        sample_rate: samples a second.
        mel_bins: height of the picture.
        frames: width of the picture; a frame is 25 ms, one every 10 ms.
        mean, std: of the log-mel values; they are brought to (x - mean) / (2 std).
    """

    sample_rate: int
    mel_bins: int
    frames: int
    mean: float
    std: float

    @classmethod
    def from_config(cls, config: LanguageBindConfig) -> AudioFrontEnd:
        """Of a component's configuration."""
        return cls(config.sample_rate, config.mel_bins, config.frames, config.audio_mean, config.audio_std)

    def picture(self, wave_16khz: np.ndarray) -> np.ndarray:
        """The picture of a sound: float32 `[3, mel_bins, frames]`.

        A sound of fewer frames is repeated in time, its three channels alike. Of a longer one the channels are a front,
        a middle and a back crop: the possible beginnings are parted into three equal runs, and each crop begins at the
        first of its run, where the official code draws one at random. Only the frames of the crops are computed.

        Args:
            wave_16khz: float `[samples]` in [-1, 1], mono, at `sample_rate`.

        Raises:
            InputError: it is no such waveform, or shorter than one frame.
        """
        wave = checked_wave(wave_16khz)
        length, shift = self.sample_rate * _LENGTH_MS // 1000, self.sample_rate * _SHIFT_MS // 1000
        if len(wave) < length:
            raise InputError(
                "The sound is shorter than one frame.",
                expected=f"at least {length} samples ({_LENGTH_MS} ms)",
                got=f"{len(wave)} samples",
            )
        wave = wave - wave.mean(dtype=np.float64)
        total = 1 + (len(wave) - length) // shift
        if total <= self.frames:
            fbank_tm = self._fbank(wave)
            repeats = -(-self.frames // total)
            crops = [np.tile(fbank_tm, (repeats, 1))[: self.frames]] * 3
        else:
            last = (self.frames - 1) * shift + length
            starts = crop_starts(total, self.frames)
            made = {start: self._fbank(wave[start * shift : start * shift + last]) for start in set(starts)}
            crops = [made[start] for start in starts]
        picture_ctm = (np.stack(crops) - np.float32(self.mean)) / np.float32(2 * self.std)
        return np.ascontiguousarray(picture_ctm.transpose(0, 2, 1), np.float32)

    def _fbank(self, wave: np.ndarray) -> np.ndarray:
        return kaldi_fbank(
            wave,
            rate=self.sample_rate,
            mel_bins=self.mel_bins,
            window="hanning",
            frame_length_ms=_LENGTH_MS,
            frame_shift_ms=_SHIFT_MS,
            htk_compat=True,
        )


def crop_starts(total: int, frames: int) -> tuple[int, int, int]:
    """Where the three crops of `frames` out of `total` frames begin, `total` being more.

    The beginnings 0 to `total - frames` are parted as `numpy.array_split` parts them; a run that is empty counts as 0.
    """
    runs = np.array_split(np.arange(total - frames + 1), 3)
    front, middle, back = (int(run[0]) if len(run) else 0 for run in runs)
    return front, middle, back
