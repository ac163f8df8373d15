"""Video files, through PyAV."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from alref_edge.errors import MediaError
from alref_edge.media.blocks import gif_pictures, matroska_pictures
from alref_edge.media.containers import fragment_samples
from alref_edge.media.files import open_regular
from alref_edge.media.index import index_packets
from alref_edge.media.limits import Limits
from alref_edge.media.opening import ERRORS, Medium, open_container, reason, stated_s
from alref_edge.media.orientation import Orientation
from alref_edge.media.pictures import check_scans
from alref_edge.media.source import VideoInfo, VideoSource

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_log = logging.getLogger(__name__)

_REPAIR = "ffmpeg -i IN -c:v libx264 OUT.mp4"
VIDEO = Medium("a video", "MP4, MOV, Matroska, WebM, AVI, MPEG or the like", _REPAIR)
# Recordings of these may begin or end anywhere; a cut first or last picture is no damage there.
_STREAMS = frozenset({"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v", "mjpeg", "flv"})
# swscale: bilinear chroma, with accurate rounding and C-equal results, so that every machine gives the same pixels
# (SWS_BILINEAR | SWS_ACCURATE_RND | SWS_BITEXACT of libswscale/swscale.h).
_SWS_FLAGS = 0x2 | 0x40000 | 0x80000
_MAX_THREADS = 4
_MAX_RATE = 1000
# Frames from which on a clock can be called even.
_EVEN = 10
# Containers whose headers state the length; others' is FFmpeg's estimate.
_DATED = frozenset({"mov", "matroska", "webm", "avi", "flv"})
# PyAV before 18 crashes when decoder options meet a container whose streams are found late (MPEG); the sizes of its
# headers are still checked after opening.
_PROBE_OPTIONS = int(av.__version__.split(".")[0]) >= 18


class VideoFile(VideoSource):
    """A video file.

    A file shorter than its own headers say is refused. MPEG-TS and other streams have no such header: a recording may
    begin and end anywhere, a cut first or last picture is left out, a cut that no decoder notices stays unnoticed.

    Where the container tells the truth about its frames (MP4, MOV, Matroska, WebM with the usual codecs), reading
    begins at key frames and `info.frames` is known at once. Elsewhere (MPEG-TS, AVI, VP8 ...) every walk decodes from
    the start and `frame_count` decodes the whole video once.

    Colours follow the stream's own matrix and range (untagged streams: BT.601 limited, as FFmpeg takes them), by
    swscale with bilinear chroma, accurate rounding and bit-exact output. Values above 8 bits are scaled to 8; HDR
    curves are not tone-mapped.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._count: int | None = None
        self._times: np.ndarray | None = None
        self._begin: int | None = None
        self.path, self.limits = path, limits
        self.warnings: list[str] = []
        with self._opened() as (container, stream):
            self._format, self._codec = container.format.name, stream.codec_context.name
            self._check_headers(container, stream)
            self._listed = self._count_listed(container, stream)
            self._time_base = stream.time_base or Fraction(1)
            header_s, of_the_track = stated_s(container, stream)
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            dated = of_the_track and _DATED & set(self._format.split(","))
            self._promised_s, self._promised = header_s if dated else 0.0, stream.frames
            if "avi" in self._format.split(","):
                # Its headers count the pictures that are repeated, too.
                self._promised = sum(1 for entry in stream.index_entries if entry.size)
            elif "mov" in self._format.split(","):
                self._promised = max(stream.frames, self._listed)
            packets = self._packets(container, stream, whole=True)
            self._index = index_packets(container, stream, packets, limits, path)
        with self._opened() as (container, stream):
            first = self._first_picture(container, stream)
        self._stored = (first.width, first.height)
        self._orientation = Orientation.of(first)
        width, height = self._orientation.size(*self._stored)
        if self._index is not None:
            index = self._index
            self._count = len(index)
            self._times = index.pts_t * float(self._time_base)
            spread_s = float(self._times[-1] - self._times[0])
            duration_s = spread_s + index.last_s or header_s
            limits.check_duration(duration_s, path)
            measured = (len(index) - 1) / spread_s if spread_s > 0 else 0.0
            # Containers with a millisecond clock blur 30/1.001 frames/s; the header's rate is taken where it agrees.
            rate = measured if measured and abs(rate / measured - 1) > 0.005 else rate
        else:
            duration_s = header_s
        # One frame has no rate: what its header gives is the container's clock, such as 90,000 a second.
        if self._count == 1 or not 0 < rate < _MAX_RATE:
            rate = 25.0
        info = VideoInfo(self._count, width, height, rate, duration_s, "video", self._codec, self._orientation.degrees)
        listed = "an unknown number of" if self._count is None else self._count
        _log.info("a video of %s frames, %dx%d, is decoded by FFmpeg's %s", listed, width, height, self._codec)
        _log.debug("the video is %s", path)
        noted = self.warnings
        super().__init__(path, info, limits)
        self.warnings += noted
        if self._index is not None:
            if len(self._index) < self._promised:
                shown = f"{len(self._index)} of the {self._promised} frames of {path.name}"
                self._note(f"{shown} are shown; its own edit list or empty samples leave out the others")
            self._note_losses(duration_s)

    def frame_count(self) -> int:
        self._count_by_decoding()
        return int(self._count or 0)

    def times_s(self) -> np.ndarray:
        self._count_by_decoding()
        return np.array(self._times)

    def _count_by_decoding(self) -> None:
        if self._times is None:
            frames = 0
            stamps: list[int] = []
            for frame in self._decode_all():
                frames += 1
                if frame.pts is not None:
                    stamps.append(frame.pts)
            self._count = frames
            if len(stamps) == frames and (np.diff(stamps) > 0).all():
                self._times = np.array(stamps) * float(self._time_base)
            else:
                # AVI and elementary streams have no clock of their own.
                self._times = np.arange(frames) / self.info.fps
            self.limits.check_duration(float(self._times[-1] - self._times[0]), self.path)
            self._note_losses(float(self._times[-1] - self._times[0]) + 1 / self.info.fps)

    def _note_losses(self, holds_s: float) -> None:
        """Warns where the headers promise a longer video, or where an even clock has holes."""
        name, promises_s = self.path.name, self._promised_s
        if promises_s - holds_s > max(3 / self.info.fps, 0.05 * promises_s):
            self._note(f"{name} promises {promises_s:.1f} s of pictures and holds {holds_s:.1f} s")
        listed = self._listed and (self._index is not None or self._codec == "gif")
        if listed or self._times is None or len(self._times) < _EVEN:
            return
        steps = np.diff(self._times)
        typical = float(np.median(steps))
        holes = np.flatnonzero(steps > 1.5 * typical)
        others = np.delete(steps, holes)
        if 0 < len(holes) <= max(1, 0.02 * len(steps)) and np.abs(others - typical).max() <= max(0.1 * typical, 0.0011):
            lost = int((np.rint(steps[holes] / typical) - 1).sum())
            after_s = float(self._times[holes[0]] - self._times[0])
            self._note(f"{name} seems to have lost frames: {lost}, the first after {after_s:.2f} s")

    def _group_start(self, index: int) -> int:
        return int(self._index.starts_g[self._index.group(index)]) if self._index is not None else 0

    def _read(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        if not len(wanted):
            return
        convert = VideoReformatter()
        frames = self._decode_wanted(wanted) if self._index is not None else self._decode_through(wanted)
        for index, frame in frames:
            yield index, self._to_rgb(frame, convert)

    def _decode_through(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        left = iter(wanted)
        index = next(left, None)
        for i, frame in enumerate(self._decode_all()):
            self.decoded += 1
            if i == index:
                yield i, frame
                index = next(left, None)
                if index is None:
                    return

    def _decode_all(self) -> Iterator[VideoFrame]:
        """Every picture from the start, in display order, by decoding alone."""
        lenient = bool(_STREAMS & set(self._format.split(",")))
        seen, late = 0, False
        with self._opened() as (container, stream):
            if lenient:
                # With frame threads an error would be told pictures later, and one at the end could not be known.
                stream.thread_type = "SLICE"
            damage: object = None
            torn: set[int] = set()
            try:
                for packet in self._packets(container, stream, whole=True):
                    at_end = packet.size == 0
                    if damage is not None and not (at_end and lenient):
                        raise self._broken(seen, damage)
                    if packet.is_corrupt and packet.pts is not None:
                        torn.add(packet.pts)
                    frames, error = _decoded(stream, packet)
                    for frame in frames:
                        if frame.is_corrupt or frame.pts in torn:
                            damage = "a damaged picture" if seen or not lenient else None
                            late = late or damage is None
                        elif damage is None:
                            seen += 1
                            self._check_frame(frame, seen)
                            yield frame
                        elif not lenient:
                            break
                    if error is not None and (seen or not lenient):
                        damage = error
                    late = late or (error is not None and damage is None)
            except ERRORS as error:
                damage = error
        if damage is not None and not lenient:
            raise self._broken(seen, damage)
        if not seen:
            raise self._broken(0, damage or "no picture")
        if self._count is not None and seen < self._count:
            raise self._broken(seen, "an end, where there were more frames before")
        if seen < self._promised:
            self._note(f"{self.path.name} promises {self._promised} frames and holds {seen}")
        if late:
            self._note(f"{self.path.name} begins with what cannot be decoded; it is left out")
        if damage is not None:
            self._note(f"the last picture of {self.path.name} is cut off and left out")

    def _note(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)

    def _decode_wanted(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Decodes run by run: from a key frame to the last packet that the run needs."""
        assert self._index is not None
        with self._opened() as (container, stream):
            for group, run in self._index.runs(wanted):
                yield from self._decode_run(container, stream, group, run)

    def _decode_run(
        self, container: InputContainer, stream: VideoStream, group: int, run: Sequence[int]
    ) -> Iterator[tuple[int, VideoFrame]]:
        index = self._index
        assert index is not None
        begin, end = int(index.packet_t[run[0]]), int(index.packet_t[np.asarray(run)].max())
        early: dict[int, VideoFrame] = {}
        position, want = 0, run[0]
        wanted = run if isinstance(run, range) else frozenset(run)
        try:
            for frame in self._packets_decoded(container, stream, group, end):
                self.decoded += 1
                if frame.is_corrupt:
                    raise self._broken(want, "a damaged picture")
                self._check_frame(frame, None)
                shown = index.find(frame.pts) if frame.pts is not None else -1
                if shown in wanted:
                    early[shown] = frame
                while want in early:
                    yield want, early.pop(want)
                    position += 1
                    if position == len(run):
                        # Pictures still inside the decoder belong to this run's packets and to nobody's wishes.
                        return
                    want = run[position]
        except ERRORS as error:
            raise self._broken(want, error) from error
        raise self._broken(want, f"no picture from packets {begin} to {end}")

    def _packets_decoded(
        self, container: InputContainer, stream: VideoStream, group: int, end: int
    ) -> Iterator[VideoFrame]:
        assert self._index is not None
        ordinal, pts, dts = (int(value) for value in self._index.keys_g[group])
        decoder = stream.codec_context
        at = -1
        # Demuxers seek by dts (MP4) or pts (Matroska); the earlier of both never lands behind the key frame,
        # except where the container's index is poor: then the second turn reads from the start.
        for target in (min(pts, dts), int(self._index.keys_g[0, 1:].min())):
            container.seek(target, stream=stream, backward=True)
            for packet in self._packets(container, stream, whole=False):
                if at < 0:
                    if packet.pts is None or (packet.pts > pts and packet.is_keyframe):
                        break
                    if packet.pts != pts:
                        continue
                    at = ordinal
                else:
                    at += 1
                yield from decoder.decode(packet)
                if at == end:
                    yield from decoder.decode(None)
                    return
            if at >= 0:
                return

    def _to_rgb(self, frame: VideoFrame, convert: VideoReformatter) -> np.ndarray:
        try:
            rgb = convert.reformat(frame, format="rgb24", interpolation=_SWS_FLAGS, threads=1).to_ndarray()
        except ERRORS as error:
            raise self._broken(None, error) from error
        return self._orientation.apply(rgb)

    def _check_headers(self, container: InputContainer, stream: VideoStream) -> None:
        context: VideoCodecContext = stream.codec_context
        self.limits.check_pixels(context.width, context.height, self.path)
        self.limits.check_frames(stream.frames, self.path)
        self.limits.check_duration(stated_s(container, stream)[0], self.path)

    def _check_frame(self, frame: VideoFrame, number: int | None) -> None:
        stored = getattr(self, "_stored", None)
        if stored is not None and (frame.width, frame.height) != stored:
            self.limits.check_pixels(frame.width, frame.height, self.path)
            raise MediaError(
                f"{self.path} changes its picture size on the way.",
                expected=f"{stored[0]}x{stored[1]}",
                got=f"{frame.width}x{frame.height}",
                mend="scale it to one size: ffmpeg -i IN -vf scale=W:H OUT.mp4",
            )
        if number is not None:
            self.limits.check_frames(number, self.path)
            if number == 1:
                self._begin = frame.pts
            if frame.pts is not None and self._begin is not None:
                self.limits.check_duration(float((frame.pts - self._begin) * self._time_base), self.path)
            else:
                self.limits.check_duration((number - 1) / self.info.fps, self.path)

    def _first_picture(self, container: InputContainer, stream: VideoStream) -> VideoFrame:
        damage: object = "no picture"
        try:
            for packet in self._packets(container, stream, whole=False):
                frames, error = _decoded(stream, packet)
                damage = error or damage
                for frame in frames:
                    self.limits.check_pixels(frame.width, frame.height, self.path)
                    return frame
        except ERRORS as error:
            damage = error
        raise self._broken(0, damage)

    @contextmanager
    def _opened(self, demuxer_options: dict[str, str] | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
        """The container and its first video stream; whatever PyAV raises while they are in use is a MediaError."""
        max_pixels = {"max_pixels": str(self.limits.pixels)}
        with open_container(
            self.path, VIDEO, self.limits.check_bytes, max_pixels if _PROBE_OPTIONS else {}, demuxer_options
        ) as container:
            try:
                stream = self._pick(container)
                stream.codec_context.options = max_pixels
                stream.thread_type = "AUTO"
                stream.codec_context.thread_count = min(_MAX_THREADS, len(os.sched_getaffinity(0)))
                yield container, stream
            except ERRORS as error:
                raise self._broken(None, error) from error

    def _packets(self, container: InputContainer, stream: VideoStream, *, whole: bool) -> Iterator[Packet[VideoStream]]:
        """Packets that hold a picture, in the file's order, and the empty one at the end.

        Args:
            container, stream: where they come from.
            whole: from the first to the last: MediaError where there are fewer than the container lists.
        """
        count = 0
        for packet in container.demux(stream):
            at_end = not packet.size and packet.dts is None
            if at_end and whole and count < self._listed:
                raise self._fewer(self._listed, count)
            if packet.size and self._codec == "mjpeg":
                check_scans(io.BytesIO(bytes(packet)), self.path)
            # A sample without bytes repeats the picture before it.
            if packet.size or at_end:
                count += not at_end
                yield packet

    def _count_listed(self, container: InputContainer, stream: VideoStream) -> int:
        """Pictures that the container lists or holds by its own structure, 0 where it has none to go by.

        MediaError where the tables of an MP4 or MOV contradict each other; where other blocks do not fit, nothing is
        promised, and a warning says so.
        """
        formats = set(self._format.split(","))
        file, size = open_regular(self.path, VIDEO.formats)
        with file:
            try:
                if formats & {"matroska", "webm"}:
                    return matroska_pictures(file, size, container.streams.video.index(stream))
                if "gif" in formats:
                    return gif_pictures(file)
            except ERRORS as error:
                self._note(f"{self.path.name} is damaged and may hold more frames than are read: {reason(error)}")
                return 0
            if "mov" not in formats:
                return 0
            in_fragments = fragment_samples(file, size)
        listed = sum(1 for entry in stream.index_entries if entry.size)
        if len(stream.index_entries) < stream.frames:
            # An edit list may leave out frames; without it the tables of times and of sizes must agree.
            with self._opened({"ignore_editlist": "1"}) as (_, unedited):
                if len(unedited.index_entries) < stream.frames:
                    raise self._fewer(stream.frames, len(unedited.index_entries))
        tracks = {each.id for each in container.streams}
        if not tracks >= in_fragments.keys():
            raise self._broken(None, f"fragments of track {max(in_fragments.keys() - tracks)}, which it has not")
        # Fragments that were read while opening are in both.
        return max(listed, in_fragments.get(stream.id, 0))

    def _fewer(self, listed: int, got: int) -> MediaError:
        return MediaError(
            f"{self.path} is damaged: it holds fewer frames than its own index lists.",
            expected=f"{listed} frames",
            got=f"{got}",
            mend=f"copy the file again, or keep what is whole: {_REPAIR}",
        )

    def _pick(self, container: InputContainer) -> VideoStream:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            names = {"video": "a cover picture"}
            kinds = sorted({names.get(stream.type, stream.type) for stream in container.streams})
            raise MediaError(
                f"{self.path} holds no video.",
                expected="a video stream",
                got=f"{' and '.join(kinds)} only" if kinds else "no stream at all",
                mend="give a video, a folder of frames or an image; sound goes with one of them as `sound`.",
            )
        stream = streams[0]
        if stream.codec_context is None:
            raise MediaError(
                f"{self.path} is in a codec that this PyAV cannot decode.",
                expected="a codec of `python -m av --codecs`",
                got=stream.codec_tag if hasattr(stream, "codec_tag") else "an unknown codec",
                mend="re-encode it elsewhere: ffmpeg -i IN -c:v libx264 OUT.mp4",
            )
        return stream

    def _broken(self, index: int | None, got: object) -> MediaError:
        count = self._count
        return MediaError(
            f"{self.path} is damaged" + (f": frame {index} could not be decoded." if index is not None else "."),
            expected=f"{count} frames" if count else "pictures that decode",
            got=reason(got) if isinstance(got, Exception) else got,
            mend="copy the file again, or repair it: ffmpeg -i IN -c:v libx264 OUT.mp4",
        )


def _decoded(stream: VideoStream, packet: Packet[VideoStream]) -> tuple[Sequence[VideoFrame], Exception | None]:
    """The pictures that a packet brings out of the decoder, or none and the decoder's complaint."""
    try:
        return stream.codec_context.decode(packet), None
    except av.EOFError:
        return [], None
    except av.FFmpegError as error:
        return [], error
