"""A waveform, what the headers say of a track, and the caps on what is read."""

from __future__ import annotations

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
