"""The sound of a video as the networks hear it, laid beside the video's clock."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from alref_edge.errors import MediaError
from alref_edge.media import Audio, AudioLimits, VideoSource, decode_audio
from alref_edge.models.audio.log_mel import SAMPLE_RATE
from alref_edge.models.audio.mel import checked_wave

# By so much may sound and video differ without a word, since encoders fill their last block and recorders stop one
# after the other: a share of the longer, but seconds at least, and at most.
_SHARE, _LEAST_S, _MOST_S = 0.05, 0.5, 5.0


@dataclass(frozen=True, eq=False)
class Sound:
    """A sound from the first frame of a video on.

    Attributes:
        wave_16khz: float32 `[samples]` in [-1, 1], for all that hear but LanguageBind.
        warnings: what was left out or assumed, and where sound and video are not of one length.
        decode_again: decodes it for LanguageBind; None where that hears the same samples.
    """

    wave_16khz: np.ndarray = field(repr=False)
    warnings: tuple[str, ...] = ()
    decode_again: Callable[[], Audio] | None = field(default=None, repr=False)

    @cached_property
    def language_16khz(self) -> np.ndarray:
        """The waveform for LanguageBind, whose official front end resamples in another way than that of BEATs.

        It is decoded when it is first asked for: where one object alone is named, nobody asks. The official code cuts
        segments before it resamples, here they are cut after: six samples on either side of a cut differ.

        Raises:
            MediaError: the file was changed in the meantime.
        """
        return self.wave_16khz if self.decode_again is None else self.decode_again().wave

    @classmethod
    def of(
        cls, source: VideoSource, sound: str | os.PathLike[str] | np.ndarray | None, limits: AudioLimits | None
    ) -> Sound:
        """The sound of a video.

        Args:
            source: the video.
            sound: a file that begins with the first frame, or float `[samples]` at 16 kHz; None: the video's own track.
            limits: caps on a file.

        Raises:
            InputError: it is no waveform.
            MediaError: it cannot be read or is over a limit, or the video has no sound of its own.
        """
        if isinstance(sound, np.ndarray):
            wave = checked_wave(sound).astype(np.float32)
            return cls(wave, _beside(source, len(wave) / SAMPLE_RATE, 0.0))
        origin_s = None
        if sound is None:
            if source.info.kind != "video":
                raise MediaError(
                    f"{source.path} has no sound of its own.",
                    expected="a video with an audio track, or a sound file",
                    got="frames alone" if source.info.kind == "frames" else "an image",
                    mend="give the sound: --audio FILE.wav, or `sound`.",
                )
            origin_s = float(source.times_s()[0])
        decode = partial(
            decode_audio, source.path if sound is None else sound, limits, rate=SAMPLE_RATE, origin_s=origin_s
        )
        audio = decode()
        again = None if audio.info.rate == SAMPLE_RATE else partial(decode, resampler="sinc_hann")
        return cls(audio.wave, (*audio.warnings, *_beside(source, audio.duration_s, audio.lead_s)), again)


def _beside(source: VideoSource, sound_s: float, lead_s: float) -> tuple[str, ...]:
    """What is to be said of a sound that is not as long as its video.

    Args:
        source: the video.
        sound_s: length of the sound from the first frame on.
        lead_s: silence that stands before it in that; below 0, seconds of it that were cut off before the first frame.
    """
    times_s = source.times_s()
    video_s = float(times_s[-1] - times_s[0]) + 1 / source.info.fps
    silent_s = min(max(0.0, lead_s), video_s) + max(0.0, video_s - sound_s)
    beyond_s = max(0.0, -lead_s) + max(0.0, sound_s - video_s)
    if max(silent_s, beyond_s) <= min(max(_LEAST_S, _SHARE * max(video_s, sound_s)), _MOST_S):
        return ()
    parts = [f"{silent_s:.1f} s of the video have no sound"] if silent_s > _LEAST_S else []
    parts += [f"{beyond_s:.1f} s of the sound have no frame and are not heard"] if beyond_s > _LEAST_S else []
    own_s = max(0.0, sound_s - lead_s)
    lengths = f"the video lasts {video_s:.1f} s and its sound {own_s:.1f} s: {' and '.join(parts)}"
    if source.info.kind == "video" or not own_s:
        return (lengths,)
    fitting = len(times_s) / own_s
    whole = round(fitting)
    fps = whole if abs(whole - fitting) <= _SHARE * fitting else fitting
    return (f"{lengths}; if all of it belongs to these frames, give their rate: --fps {fps:.3g}",)
