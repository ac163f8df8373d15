"""Sound of a file or of a video's track as one float32 waveform, and the caps on what is read."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

import numpy as np

from alref_edge.errors import InputError, MediaError


@dataclass(frozen=True)
class AudioLimits:
    """Caps, each checked from headers before a sample is decoded where a header tells, and while decoding always.

    Attributes:
        bytes: size of the file. Default 8 GiB.
        duration_s: length in seconds. Default four hours, which are 0.9 GB at 16 kHz for each resampler.
        rate: samples per second of the track. Default 768,000.
        channels: of the track. Default 64.
    """

    bytes: int = 8 << 30
    duration_s: float = 4 * 3600.0
    rate: int = 768_000
    channels: int = 64

    def __post_init__(self) -> None:
        for name in ("bytes", "duration_s", "rate", "channels"):
            value = getattr(self, name)
            if not value > 0:
                raise InputError(f"The limit `{name}` is not positive.", expected="a number above 0", got=value)

    def check(self, name: str, value: float, what: object) -> None:
        """Raises MediaError if `value` is over the cap of that `name`."""
        most = getattr(self, name)
        if value > most:
            raise MediaError(
                f"{what} is over the limit `{name}`.",
                expected=f"at most {most:,}",
                got=f"{value:,.1f}" if isinstance(value, float) else f"{value:,}",
                mend=f"cut or resample it, or raise the limit: `AudioLimits({name}=...)`.",
            )


@dataclass(frozen=True)
class AudioInfo:
    """What the headers say about a track.

    Attributes:
        rate: samples per second; 0 where only the samples tell.
        channels: number of channels; 0 where only the samples tell.
        duration_s: length in seconds; 0 where the container does not say.
        codec: name of the codec.
        tracks: audio tracks of the file; the one that FFmpeg calls the best is read.
    """

    rate: int
    channels: int
    duration_s: float
    codec: str
    tracks: int = 1


@dataclass(frozen=True, eq=False)
class Audio:
    """A mono waveform.

    Attributes:
        wave: float32 `[samples]` in [-1, 1], all finite: the mean of the channels, or the loudest of them alone.
        rate: samples per second.
        start_s: when its first sample sounds, on the container's clock, as `VideoSource.times_s` has it.
        info: AudioInfo of the track.
        warnings: what was left out or assumed, in words.
        lead_s: seconds of silence that stand before the track's own first sample; below 0, seconds of it that were cut
            off.
    """

    wave: np.ndarray = field(repr=False)
    rate: int
    start_s: float
    info: AudioInfo
    warnings: tuple[str, ...] = ()
    lead_s: float = 0.0

    @property
    def duration_s(self) -> float:
        """Length of the waveform in seconds."""
        return len(self.wave) / self.rate


def decode_audio(
    path: str | os.PathLike[str],
    limits: AudioLimits | None = None,
    *,
    rate: int = 16_000,
    origin_s: float | None = None,
    resampler: str = "soxr_hq",
) -> Audio:
    """Decodes a sound file, or the sound of a video, to mono at `rate`.

    Channels are clipped to [-1, 1] and averaged; where their mean loses more than 12 dB against the loudest of them, as
    the mean of a channel and its inverse loses all, that one is heard alone, with a warning. A track at `rate` keeps
    its samples as they are (16-bit ones divided by 32768); any other is resampled. Where the track's clock leaps by
    more than 0.1 s, silence stands for what is missing.
    Memory grows with the samples that really come, never with what a header promises. Nothing but a local, regular
    file is ever opened.

    Args:
        path: a local file.
        limits: caps; `AudioLimits()` by default.
        rate: samples per second of the result, 1,000 to 768,000.
        origin_s: time on the container's clock at which the waveform shall begin: earlier sound is cut off, silence
            stands before later sound. By default it begins with the first sample.
        resampler: "soxr_hq", as librosa has it by default, or "sinc_hann", as torchaudio has it.

    Returns:
        Audio.

    Raises:
        MediaError: missing, not a sound or video, no audio track, truncated, damaged, samples that are no numbers,
            over a limit.
        InputError: `rate` out of range, an origin that is no number, or no such resampler.
    """
    if not 1_000 <= rate <= 768_000:
        raise InputError("The sample rate is out of range.", expected="1,000 to 768,000 a second", got=rate)
    if origin_s is not None and not math.isfinite(origin_s):
        raise InputError("The origin of a waveform is no number.", expected="seconds", got=origin_s)
    from alref_edge.media.track import decode_track

    return decode_track(path, limits or AudioLimits(), rate, origin_s, resampler)


def probe_audio(path: str | os.PathLike[str], limits: AudioLimits | None = None) -> AudioInfo | None:
    """What the headers say about a file's sound, or None where it has none. Decodes nothing. MediaError as above."""
    from alref_edge.media.track import probe_track

    return probe_track(path, limits or AudioLimits())
