"""Decoding of one audio track, through PyAV: mono blocks in time order, resampled."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.stream import Discard

from alref_edge.errors import MediaError
from alref_edge.media.files import local_path
from alref_edge.media.opening import ERRORS, Medium, open_container, reason, stated_s
from alref_edge.media.resample import make_resampler
from alref_edge.media.waveform import Audio, AudioInfo, AudioLimits

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

SOUND = Medium("a sound", "WAV, FLAC, MP3, Ogg, or a video with sound", "ffmpeg -i IN -vn OUT.wav")
# Recordings of these may begin or end anywhere; a cut first or last packet is no damage there.
_STREAMS = frozenset({"mpegts", "mpeg", "mp3", "aac", "ac3", "eac3", "dts", "flv", "ogg", "amr"})
# The share of full scale that one step of an integer sample is, by the type that PyAV gives.
_STEPS = {"u1": 2.0**-7, "i2": 2.0**-15, "i4": 2.0**-31}
_GAP_S = 0.1
_LEAST_RATE = 1_000
# What the mean of channels may lose against the louder one before that one is heard alone: 12 dB of power.
_CANCELLED = 10**1.2
# Less than this is rounding, of samples that may be counted in steps of 16 or of 32 bits or in full scale.
_NOTHING = 1e-12


def probe_audio_track(path: str | os.PathLike[str], limits: AudioLimits) -> AudioInfo | None:
    """`probe_audio`, once PyAV is wanted."""
    where = local_path(path, SOUND.noun)
    with _opened(where, limits) as container:
        stream = best_track(container)
        return None if stream is None else _info(container, stream, limits, where)


def decode_audio_track(
    path: str | os.PathLike[str], limits: AudioLimits, rate: int, origin_s: float | None, resampler: str
) -> Audio:
    """`decode_audio`, once PyAV is wanted."""
    where = local_path(path, SOUND.noun)
    audio: Audio | None
    audio, louder = _decode(where, limits, rate, origin_s, resampler, None)
    if louder is not None:
        audio = None  # one waveform is held at a time
        audio, _ = _decode(where, limits, rate, origin_s, resampler, louder)
    return audio


def _decode(
    where: Path, limits: AudioLimits, rate: int, origin_s: float | None, resampler: str, channel: int | None
) -> tuple[Audio, int | None]:
    """The sound of one channel, or the mean of all; then, whether one is to be heard alone since the mean loses it."""
    samples = bytearray()
    with _opened(where, limits) as container:
        stream = best_track(container)
        if stream is None:
            kinds = sorted({other.type for other in container.streams})
            raise MediaError(
                f"{where} holds no sound.",
                expected="an audio track",
                got=f"{' and '.join(kinds)} only" if kinds else "no track at all",
                mend="give a file with sound.",
            )
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        info = _info(container, stream, limits, where)
        track = AudioTrack(container, stream, where, limits, origin_s, channel)
        for block in _resampled(_joined(track.blocks()), track, rate, resampler):
            samples += np.clip(block, -1, 1).tobytes()
        missing_s = _missing_s(container, stream, track)
    wave = np.frombuffer(samples, np.float32)
    warnings = (*_notes(info, track, missing_s, where), *track.warnings)
    return Audio(wave, rate, track.start_s, info, warnings, track.lead_s), track.louder


class AudioTrack:
    """An open track, read once from its start.

    Attributes:
        rate: samples per second, known with the first block.
        start_s: time of the first sample of the first block, on the container's clock.
        lead_s: seconds of silence before the track's own first sample; below 0, seconds of it that are cut off.
        heard_s: seconds of sound that were decoded.
        peak: largest magnitude before clipping.
        warnings: what was left out or assumed.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: AudioStream,
        path: Path,
        limits: AudioLimits,
        origin_s: float | None,
        channel: int | None = None,
    ) -> None:
        self._container, self._stream, self._path, self._limits = container, stream, path, limits
        self._count = 0
        self._origin_s, self._channel = origin_s, channel
        self._levels = _Levels()
        self.rate = 0
        self.start_s = 0.0
        self.lead_s = 0.0
        self.heard_s = 0.0
        self.peak = 0.0
        self.warnings: list[str] = []

    @property
    def end_s(self) -> float:
        """When the sound that was decoded ends, on the container's clock."""
        return self.start_s + self._count / self.rate

    @property
    def louder(self) -> int | None:
        """The channel that is to be heard alone, since the channels cancel each other in their mean; None: the mean."""
        return None if self._channel is not None else self._levels.louder

    @property
    def channel(self) -> tuple[int, int] | None:
        """The channel that is heard alone, and how many there are; None where their mean is heard."""
        return None if self._channel is None else (self._channel, self._levels.channels)

    def blocks(self) -> Iterator[np.ndarray]:
        """Float32 `[samples]` blocks that follow each other without a gap. MediaError."""
        for frame in self._frames():
            if not frame.samples:
                continue
            self._check(frame)
            gap = self._gap(frame)
            mono = self._mono(frame)[max(0, -gap) :]
            self._limits.check("duration_s", (self._count + max(0, gap) + len(mono)) / self.rate, self._path)
            for done in range(0, gap, self.rate):
                yield np.zeros(min(self.rate, gap - done), np.float32)
            self._count += max(0, gap) + len(mono)
            yield mono
        if not self.rate:
            raise self._broken("no sample")

    def _check(self, frame: AudioFrame) -> None:
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        self._limits.check("rate", rate, self._path)
        self._limits.check("channels", channels, self._path)
        if not self.rate:
            if rate < _LEAST_RATE:
                raise MediaError(
                    f"{self._path} has too low a sample rate.", expected=f"at least {_LEAST_RATE:,}", got=rate
                )
            self.rate = rate
            begin_s = 0.0 if frame.time is None else frame.time
            self.start_s = begin_s if self._origin_s is None else self._origin_s
            self.lead_s = begin_s - self.start_s
        elif rate != self.rate:
            raise MediaError(
                f"{self._path} changes its sample rate on the way.",
                expected=f"{self.rate:,} a second",
                got=f"{rate:,}",
                mend="bring it to one rate: ffmpeg -i IN -ar 16000 OUT.wav",
            )
        self.heard_s += frame.samples / rate

    def _gap(self, frame: AudioFrame) -> int:
        """Samples of silence due before a frame; below 0, samples of it that lie before the origin."""
        if frame.time is None:
            return 0
        gap = round((frame.time - self.start_s) * self.rate) - self._count
        if not self._count:
            return gap
        if gap <= _GAP_S * self.rate:
            return 0
        self.warnings.append(f"{gap / self.rate:.1f} s of silence stand for a gap in {self._path.name}")
        return gap

    def _mono(self, frame: AudioFrame) -> np.ndarray:
        try:
            samples = frame.to_ndarray()
        except ERRORS as error:
            raise self._broken(error) from error
        samples_cn = samples if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels).T
        step = _STEPS.get(samples_cn.dtype.str[1:])
        if step is not None:
            middle = 128 if samples_cn.dtype == np.uint8 else 0
            return self._mixed(samples_cn.astype(np.float32) - middle) * np.float32(step)
        finite_n = np.isfinite(samples_cn).all(axis=0)
        if not finite_n.all():
            at_s = (self._count + int(finite_n.argmin())) / self.rate
            raise MediaError(
                f"{self._path} holds samples that are no numbers.",
                expected="finite samples",
                got=f"NaN or infinity at {at_s:.2f} s",
                mend="write it anew from its origin; ffmpeg -i IN -c:a pcm_s16le OUT.wav makes silence of them.",
            )
        self.peak = max(self.peak, float(np.abs(samples_cn).max()))
        return self._mixed(np.clip(samples_cn, -1, 1).astype(np.float32))

    def _mixed(self, samples_cn: np.ndarray) -> np.ndarray:
        """The mean of the channels, or the one that is wanted alone; a block that lacks it has the mean."""
        mean_n = np.asarray(samples_cn.mean(axis=0))
        self._levels.add(samples_cn, mean_n)
        wanted = self._channel
        return mean_n if wanted is None or wanted >= len(samples_cn) else samples_cn[wanted]

    def _frames(self) -> Iterator[AudioFrame]:
        lenient = bool(_STREAMS & set(self._container.format.name.split(",")))
        seen = False
        damage: Exception | None = None
        try:
            for packet in self._container.demux(self._stream):
                if damage is not None and packet.size:
                    break
                try:
                    frames = self._stream.codec_context.decode(packet)
                except av.EOFError:
                    frames = []
                except av.FFmpegError as error:
                    frames = []
                    # A recording that begins anywhere begins with what no decoder understands.
                    damage = error if seen or not lenient else None
                for frame in frames:
                    seen = True
                    yield frame
            else:
                if damage is not None and lenient:
                    self.warnings.append(f"the end of {self._path.name} is cut off and left out")
                    damage = None
        except ERRORS as error:
            damage = error
        if damage is not None:
            raise self._broken(damage) from damage

    def _broken(self, got: object) -> MediaError:
        at = f" at {self._count / self.rate:.2f} s" if self.rate else ""
        return MediaError(
            f"{self._path} is damaged: its sound could not be decoded{at}.",
            expected="samples that decode",
            got=reason(got) if isinstance(got, Exception) else got,
            mend=f"copy the file again, or repair it: {SOUND.mend}",
        )


class _Levels:
    """How loud each channel is over the whole track, and their mean; a constant offset is not loud."""

    def __init__(self) -> None:
        self._samples = 0
        self._sums: np.ndarray | None = None
        self.channels = 0

    def add(self, samples_cn: np.ndarray, mean_n: np.ndarray) -> None:
        """Count a block in; where the number of channels changes on the way, nothing is said of them any more."""
        every_rn = np.concatenate([samples_cn, mean_n[None]]).astype(np.float64)
        sums = np.stack([every_rn.sum(axis=1), np.einsum("rn,rn->r", every_rn, every_rn)])
        if self._sums is None:
            self._sums, self.channels = np.zeros_like(sums), len(samples_cn)
        self._sums = self._sums + sums if sums.shape == self._sums.shape else np.zeros((2, 2))
        self._samples += len(mean_n)

    @property
    def louder(self) -> int | None:
        """The loudest channel where the mean loses more than 12 dB against it; None where the mean will do."""
        if self._sums is None:
            return None
        power_r = self._sums[1] / self._samples - (self._sums[0] / self._samples) ** 2
        loudest = int(power_r[:-1].argmax())
        return loudest if power_r[loudest] > max(0.0, float(power_r[-1])) * _CANCELLED + _NOTHING else None


def _opened(path: Path, limits: AudioLimits) -> AbstractContextManager[InputContainer]:
    return open_container(path, SOUND, lambda size, what: limits.check("bytes", size, what))


def best_track(container: InputContainer) -> AudioStream | None:
    """The track of sound that FFmpeg calls the best; None where there is none."""
    tracks = container.streams.audio
    best = container.streams.best("audio")
    # A track whose headers make no sense is not called best; it is left to the decoder to say what is wrong with it.
    return tracks[tracks.index(best)] if best in tracks else tracks[0] if tracks else None


def _info(container: InputContainer, stream: AudioStream, limits: AudioLimits, path: Path) -> AudioInfo:
    """What the headers say. MediaError if that is over a limit, or in an unknown codec."""
    context = stream.codec_context
    if context is None:
        raise MediaError(
            f"The sound of {path} is in a codec that this PyAV cannot decode.",
            expected="a codec of `python -m av --codecs`",
            got="an unknown codec",
            mend=f"re-encode it elsewhere: {SOUND.mend}",
        )
    duration_s, _ = stated_s(container, stream)
    info = AudioInfo(
        context.sample_rate or 0, context.channels or 0, duration_s, context.name, len(container.streams.audio)
    )
    limits.check("rate", info.rate, path)
    limits.check("channels", info.channels, path)
    limits.check("duration_s", info.duration_s, path)
    return info


def _missing_s(container: InputContainer, stream: AudioStream, track: AudioTrack) -> float:
    """How much less sound was decoded than the headers promise of the track; 0 if not clearly less.

    Of a track that starts late a container may promise what lies before it too.
    """
    promised_s, of_the_track = stated_s(container, stream)
    missing_s = promised_s - max(track.heard_s, track.end_s - (container.start_time or 0) / 1e6)
    return missing_s if of_the_track and missing_s > max(1.0, 0.1 * promised_s) else 0.0


def _notes(info: AudioInfo, track: AudioTrack, missing_s: float, path: Path) -> Iterator[str]:
    if info.tracks > 1:
        yield f"{path.name} has {info.tracks} audio tracks; the one that FFmpeg calls the best is read"
    if missing_s:
        yield f"{path.name} promises {info.duration_s:.1f} s of sound and holds {track.heard_s:.1f} s"
    if track.peak > 2:
        yield f"{path.name} has samples up to {track.peak:.3g}; all beyond 1 are clipped"
    if track.channel is not None:
        number, count = track.channel
        yield (
            f"the {count} channels of {path.name} cancel each other in their mean: "
            f"the loudest, number {number + 1}, is heard alone"
        )


def _joined(blocks: Iterable[np.ndarray], least: int = 1 << 15) -> Iterator[np.ndarray]:
    """The blocks, put together to `least` samples or more each."""
    waiting: list[np.ndarray] = []
    for block in blocks:
        waiting.append(block)
        if sum(map(len, waiting)) >= least:
            yield np.concatenate(waiting)
            waiting.clear()
    if waiting:
        yield np.concatenate(waiting)


def _resampled(blocks: Iterable[np.ndarray], track: AudioTrack, rate: int, resampler: str) -> Iterator[np.ndarray]:
    """The blocks at another rate; those that have it already stay as they are."""
    made = None
    for block in blocks:
        if track.rate == rate:
            yield block
            continue
        if made is None:
            made = make_resampler(resampler, track.rate, rate)
        yield made.push(block)
    if made is not None:
        yield made.push(np.zeros(0, np.float32), last=True)
