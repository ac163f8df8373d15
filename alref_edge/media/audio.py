"""Sound of a file or of a video's track as one float32 waveform: the door to it."""

from __future__ import annotations

import math
import os

from alref_edge.errors import InputError
from alref_edge.media.waveform import Audio, AudioInfo, AudioLimits


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
    from alref_edge.media.audio_track import decode_audio_track

    return decode_audio_track(path, limits or AudioLimits(), rate, origin_s, resampler)


def probe_audio(path: str | os.PathLike[str], limits: AudioLimits | None = None) -> AudioInfo | None:
    """What the headers say about a file's sound, or None where it has none. Decodes nothing. MediaError as above."""
    from alref_edge.media.audio_track import probe_audio_track

    return probe_audio_track(path, limits or AudioLimits())
