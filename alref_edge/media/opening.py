"""One way to open a media file: a local, regular, whole file, and nothing beside it."""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av

from alref_edge.errors import MediaError
from alref_edge.media.containers import check_tables, declared_bytes
from alref_edge.media.content import kind_of
from alref_edge.media.files import empty, open_regular

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Demuxers that read one file and never name another: playlists, image sequences, concatenations and devices stay out.
DEMUXERS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,ivf,h264,hevc,m4v,mjpeg,mxf,nut,gif,yuv4mpegpipe,"
    "av1,obu,wtv,wav,w64,mp3,flac,aac,amr,ac3,eac3,dts,aiff,au,caf,wv,ape,tta,voc"
)
# What PyAV raises for a file that is not what it should be; LookupError for a stream that comes up late.
ERRORS = (av.FFmpegError, OSError, ValueError, EOFError, MemoryError, ArithmeticError, LookupError, struct.error)
_READ_BYTES = 1 << 18
_MOST_CHUNKS = 1000


@dataclass(frozen=True)
class Medium:
    """What a file is opened as, for the errors.

    Attributes:
        noun: "a sound".
        formats: those that a user may give.
        mend: the command that makes one of them.
    """

    noun: str
    formats: str
    mend: str


@contextmanager
def open_container(
    path: Path,
    medium: Medium,
    check_bytes: Callable[[int, object], None],
    options: dict[str, str] | None = None,
    demuxer_options: dict[str, str] | None = None,
) -> Iterator[InputContainer]:
    """The container of a local regular file.

    Args:
        path: where it is.
        medium: what it should be.
        check_bytes: called with the file's size and path; raises where that is over a limit.
        options: for the decoders.
        demuxer_options: for the container.

    Raises:
        MediaError: missing, not allowed, not a regular file, empty, shorter than its headers say, not a medium.
    """
    file, size = open_regular(path, medium.formats)
    with file:
        if not size:
            raise empty(path, medium.formats)
        check_bytes(size, path)
        try:
            declared = wave_bytes(file) or declared_bytes(file, size)
            if declared is not None and declared > size:
                raise MediaError(
                    f"{path} is truncated.",
                    expected=f"at least {declared:,} bytes by its own headers",
                    got=f"{size:,} bytes",
                    mend="copy the file again from its origin.",
                )
            check_tables(file, size)
            file.seek(0)
            container = av.open(
                _Reader(file),
                "r",
                buffer_size=_READ_BYTES,
                options=options or {},
                container_options={
                    **(demuxer_options or {}),
                    "protocol_whitelist": "file",
                    "format_whitelist": DEMUXERS,
                },
                # A title in another encoding says nothing about the pictures.
                metadata_errors="replace",
                io_open=_refuse,
            )
        except ERRORS as error:
            raise MediaError(
                f"{path} is not {medium.noun} that can be read.",
                expected=medium.formats,
                got=kind_of(file) or f"{type(error).__name__}: {reason(error)}",
                mend=f"give {medium.noun}; copy the file again if it was one, or re-encode it: {medium.mend}",
            ) from error
        with container:
            yield container


class _Reader:
    """A file as PyAV reads it: a place that cannot be, which a damaged index may name, is an error code, no exception.

    PyAV prints the traceback of every such exception but the last.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._seek = file.seek
        self.read, self.tell = file.read, file.tell

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -errno.EINVAL


def wave_bytes(file: BinaryIO) -> int | None:
    """Bytes that a RIFF WAVE file should have at least by its chunks, or None where it is none or does not say.

    Recorders that cannot seek back leave 0 or a number close to 2 or 4 GiB as the length of the samples.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    offset = 12
    for _ in range(_MOST_CHUNKS):
        file.seek(offset)
        chunk = file.read(8)
        if len(chunk) < 8:
            break
        name, length = struct.unpack("<4sI", chunk)
        offset += 8
        if name == b"data":
            return offset + length if 0 < length < 0x7FFFF000 else None
        offset += length + length % 2
    return None


def stated_s(container: InputContainer, stream: AudioStream | VideoStream) -> tuple[float, bool]:
    """How long the headers say that a track is, in seconds, 0 where they do not; and whether they say it of the track.

    Matroska counts every length from 0 on its clock; what lies before the first sample is taken off again.
    """
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base), True
    from_zero = "matroska" in container.format.name
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag is not None:
        begin_s = float((stream.start_time or 0) * (stream.time_base or 0)) if from_zero else 0.0
        return max(0.0, 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3]) - max(0.0, begin_s)), True
    begin = max(0, container.start_time or 0) if from_zero else 0
    return max(0, (container.duration or 0) - begin) / 1e6, len(container.streams) == 1


def reason(error: object) -> str:
    """What FFmpeg or the system says, without the path and the full stop."""
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def _refuse(url: str, flags: int, options: dict[str, str]) -> object:
    raise PermissionError(f"a medium may not open another file ({url})")
