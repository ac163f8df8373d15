"""The sound of a file, put beside the pictures of a video that is being written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.stream import Discard

from alref_edge.errors import MediaError
from alref_edge.media.audio_track import SOUND, AudioTrack, best_track
from alref_edge.media.files import local_path
from alref_edge.media.opening import ERRORS, open_container, reason
from alref_edge.media.waveform import AudioLimits

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer

# What players of MP4 understand; everything else becomes AAC.
_COPIED = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "flac", "opus"})
_AAC_RATES = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000})
_AAC_BITS = 128_000
_GAP_S = 0.1


class Soundtrack:
    """The sound of a file on its way into an MP4: as it is where MP4 has its codec, else as AAC of one or two channels.

    It is decoded once before anything is written, so that nothing damaged is copied.

    Args:
        path: a sound, or a video, of which nothing is added if it has no sound.
        origin_s: time on the file's clock of the first picture: earlier sound is left out, later sound stays late.
            None: the first sample goes with the first picture.
        limits: caps on the sound; `AudioLimits()` if None.

    Attributes:
        warnings: what went wrong once writing had begun.

    Raises:
        MediaError: the sound cannot be read or decoded, or is over a limit.
    """

    def __init__(
        self, path: str | os.PathLike[str], origin_s: float | None = None, limits: AudioLimits | None = None
    ) -> None:
        self._path = local_path(path, SOUND.noun)
        self._limits = limits or AudioLimits()
        self.warnings: list[str] = []
        self._stack = ExitStack()
        self._packets: Iterator[Any] = iter(())
        self._next: Any = None
        self._container: Any = None
        self._origin_s = origin_s or 0.0
        with _opened(self._path, self._limits) as (container, stream):
            if stream is not None:
                track = AudioTrack(container, stream, self._path, self._limits, None)
                for _ in track.blocks():
                    pass
                if origin_s is None:
                    self._origin_s = track.start_s

    def add_to(self, container: OutputContainer) -> None:
        """Add the stream to a container to which nothing was written yet. MediaError; FFmpegError where it cannot."""
        source, stream = self._stack.enter_context(_opened(self._path, self._limits))
        if stream is None:
            return
        context = stream.codec_context
        added: Any
        if context.codec.canonical_name in _COPIED:
            added = container.add_stream_from_template(stream)
            self._packets = self._copied(source, stream, added)
        else:
            rate = context.sample_rate if context.sample_rate in _AAC_RATES else 48_000
            layout = "mono" if context.channels == 1 else "stereo"
            added = container.add_stream("aac", rate=rate, layout=layout, bit_rate=_AAC_BITS)
            self._packets = self._encoded(source, stream, added)
        self._container = container

    def advance(self, until_s: float) -> None:
        """Write what begins before a time, in seconds from the first picture."""
        while (packet := self._ready()) is not None and packet.pts * packet.time_base < until_s:
            self._write(packet)

    def finish(self, end_s: float) -> None:
        """Write the rest up to the end of the pictures, and no more."""
        while (packet := self._ready()) is not None and packet.pts * packet.time_base < end_s:
            left = round(Fraction(end_s) / packet.time_base) - packet.pts
            packet.duration = min(packet.duration, max(1, left))
            self._write(packet)
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._packets, self._next = iter(()), None
        self._stack.close()

    def _write(self, packet: Any) -> None:
        """OSError, or the FFmpegError that is one, where the disk refuses."""
        self._next = None
        try:
            self._container.mux(packet)
        except ValueError as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        self._packets = iter(())
        self.warnings.append(f"the overlay's sound ends early: {reason(error)}")

    def _ready(self) -> Any:
        """The next packet; None at the end of the sound, or of what can be read of it."""
        if self._next is None:
            try:
                self._next = next(self._packets, None)
            except (*ERRORS, MediaError) as error:
                self._stop(error)
        return self._next

    def _copied(self, source: InputContainer, stream: AudioStream, added: Any) -> Iterator[Any]:
        """The packets as they are, on the pictures' clock."""
        end: int | None = None
        last: int | None = None
        for packet in source.demux(stream):
            if not packet.size:
                continue
            shift = round(Fraction(self._origin_s) / packet.time_base)
            begin = packet.pts if packet.pts is not None else packet.dts if packet.dts is not None else end
            if begin is None:
                continue
            end = begin + (packet.duration or 0)
            # A clock that runs backward is no clock: MP4 refuses it.
            if (end <= shift and begin < shift) or (last is not None and begin <= last):
                continue
            last = begin
            packet.pts = packet.dts = begin - shift
            packet.stream = added
            yield packet

    def _encoded(self, source: InputContainer, stream: AudioStream, added: Any) -> Iterator[Any]:
        """The samples as AAC, on the pictures' clock; silence stands where it leaps."""
        context = added.codec_context
        rate, layout = context.sample_rate, context.layout.name
        resampler = av.AudioResampler("fltp", layout, rate)
        count: int | None = None
        for frame in _decoded(source, stream):
            due = None if frame.time is None else round((frame.time - self._origin_s) * rate)
            for piece in resampler.resample(frame):
                samples_cn = piece.to_ndarray()
                if count is None:
                    count = due or 0
                elif due is not None and due - count > _GAP_S * rate:
                    for at in range(count, due, rate):
                        yield from added.encode(_frame(np.zeros((len(samples_cn), min(rate, due - at))), at, rate))
                    count = due
                due = None
                early = max(0, -count)
                if early < samples_cn.shape[1]:
                    yield from added.encode(_frame(samples_cn[:, early:], count + early, rate))
                count += samples_cn.shape[1]
        yield from added.encode(None)


@contextmanager
def _opened(path: Path, limits: AudioLimits) -> Iterator[tuple[InputContainer, AudioStream | None]]:
    """A container and the track of it that FFmpeg calls the best; None where it has none."""
    with open_container(path, SOUND, lambda size, what: limits.check("bytes", size, what)) as container:
        stream = best_track(container)
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        yield container, stream


def _decoded(source: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """What decodes; whether the rest matters was decided before."""
    for packet in source.demux(stream):
        frames: list[AudioFrame] = []
        with suppress(av.FFmpegError):
            frames = stream.codec_context.decode(packet)
        yield from frames


def _frame(samples_cn: np.ndarray, at: int, rate: int) -> AudioFrame:
    samples = np.ascontiguousarray(samples_cn, np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono" if len(samples) == 1 else "stereo")
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), at
    return frame
