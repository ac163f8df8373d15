"""Decoding of one audio track, through PyAV: mono blocks in time order, resampled."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.filter import Graph
from av.stream import Discard

from alref_edge.errors import MediaError
from alref_edge.media.audio import Audio, AudioInfo, AudioLimits
from alref_edge.media.opening import ERRORS, Medium, local_path, open_container, reason

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
_FILTER = "filter_size=256:cutoff=0.98:kaiser_beta=12"


def probe_track(path: str | os.PathLike[str], limits: AudioLimits) -> AudioInfo | None:
    """`probe_audio`, once PyAV is wanted."""
    where = local_path(path, SOUND)
    with _opened(where, limits) as container:
        stream = _best(container)
        return None if stream is None else _info(container, stream, limits, where)


def decode_track(path: str | os.PathLike[str], limits: AudioLimits, rate: int, origin_s: float | None) -> Audio:
    """`decode_audio`, once PyAV is wanted."""
    where = local_path(path, SOUND)
    samples = bytearray()
    with _opened(where, limits) as container:
        stream = _best(container)
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
        track = Track(container, stream, where, limits, origin_s)
        for block in _resampled(_joined(track.blocks()), track, rate):
            samples += np.clip(block, -1, 1).tobytes()
    wave = np.frombuffer(samples, np.float32)
    return Audio(wave, rate, track.start_s, info, (*_notes(info, track, where), *track.warnings))


class Track:
    """An open track, read once from its start.

    Attributes:
        rate: samples per second, known with the first block.
        start_s: time of the first sample of the first block, on the container's clock.
        heard_s: seconds of sound that were decoded.
        peak: largest magnitude before clipping.
        warnings: what was left out or assumed.
    """

    def __init__(
        self, container: InputContainer, stream: AudioStream, path: Path, limits: AudioLimits, origin_s: float | None
    ) -> None:
        self._container, self._stream, self._path, self._limits = container, stream, path, limits
        self._count = 0
        self._origin_s = origin_s
        self.rate = 0
        self.start_s = 0.0
        self.heard_s = 0.0
        self.peak = 0.0
        self.warnings: list[str] = []

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
            begin_s = frame.time or 0.0
            self.start_s = begin_s if self._origin_s is None else self._origin_s
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
            mono = (samples_cn.astype(np.float32) - middle).mean(axis=0)
            return np.asarray(mono * np.float32(step))
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
        return np.asarray(np.clip(samples_cn, -1, 1).astype(np.float32).mean(axis=0))

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


def _opened(path: Path, limits: AudioLimits) -> AbstractContextManager[InputContainer]:
    return open_container(path, SOUND, lambda size, what: limits.check("bytes", size, what))


def _best(container: InputContainer) -> AudioStream | None:
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
    if stream.duration and stream.time_base:
        duration_s = float(stream.duration * stream.time_base)
    else:
        duration_s = (container.duration or 0) / 1e6
    info = AudioInfo(
        context.sample_rate or 0, context.channels or 0, duration_s, context.name, len(container.streams.audio)
    )
    limits.check("rate", info.rate, path)
    limits.check("channels", info.channels, path)
    limits.check("duration_s", info.duration_s, path)
    return info


def _notes(info: AudioInfo, track: Track, path: Path) -> Iterator[str]:
    if info.tracks > 1:
        yield f"{path.name} has {info.tracks} audio tracks; the one that FFmpeg calls the best is read"
    if info.duration_s - track.heard_s > max(1.0, 0.1 * info.duration_s):
        yield f"{path.name} promises {info.duration_s:.1f} s of sound and holds {track.heard_s:.1f} s"
    if track.peak > 2:
        yield f"{path.name} has samples up to {track.peak:.3g}; all beyond 1 are clipped"


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


def _resampled(blocks: Iterable[np.ndarray], track: Track, rate: int) -> Iterator[np.ndarray]:
    """The blocks at another rate, by swresample; its delay is taken out at both ends."""
    graph = None
    at = 0
    for block in blocks:
        if track.rate == rate:
            yield block
            continue
        if graph is None:
            graph = _graph(track.rate, rate)
        frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = track.rate, Fraction(1, track.rate), at
        at += len(block)
        graph.push(frame)
        yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _graph(rate: int, new_rate: int) -> Graph:
    graph = Graph()
    source = graph.add_abuffer(format="fltp", layout="mono", sample_rate=rate, time_base=Fraction(1, rate))
    resample, sink = graph.add("aresample", f"{new_rate}:{_FILTER}"), graph.add("abuffersink")
    source.link_to(resample)
    resample.link_to(sink)
    graph.configure()
    return graph


def _pulled(graph: Graph) -> Iterator[np.ndarray]:
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        yield frame.to_ndarray()[0]
