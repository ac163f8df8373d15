"""Makers of small sound files for tests. Not a test module: `from tests.media.sounds import make_sound_file, tone`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
_TYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}


def tone(hertz: float, seconds: float, rate: int, level: float = 0.5) -> np.ndarray:
    """float64 `[samples]`: a sine that begins at 0."""
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def make_sound_file(
    path: Path,
    sound: np.ndarray | Sequence[np.ndarray],
    rate: int,
    codec: str = "pcm_s16le",
    *,
    start_s: float = 0.0,
    gap: tuple[float, float] | None = None,
    tracks: int = 1,
    picture: bool = False,
    picture_s: float | None = None,
    container: str | None = None,
) -> Path:
    """Writes `[samples]` or channels of them, floats in [-1, 1], by FFmpeg's encoder of that name.

    Args:
        start_s: time of the first sample.
        gap: (at_s, length_s): a leap of the clock.
        picture: add a video of black frames, 10 a second from time 0.
        picture_s: its length, if not that of the sound.
    """
    import av

    sound_cn = np.atleast_2d(np.asarray(sound))
    channels = len(sound_cn)
    with av.open(str(path), "w", format=container) as out:
        streams = [out.add_stream(codec, rate=rate, layout=_LAYOUTS[channels]) for _ in range(tracks)]
        video = out.add_stream("libx264", rate=10) if picture else None
        if video is not None:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for number in range(int(10 * (picture_s or start_s + sound_cn.shape[1] / rate))):
                frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                out.mux(video.encode(frame))
            out.mux(video.encode(None))
        for stream in streams:
            stream.codec_context.open(strict=False)
            name = stream.codec_context.format.name
            kind = _TYPES[name.removesuffix("p")]
            values = sound_cn
            if kind == np.uint8:
                values = np.round(sound_cn * 128 + 128).clip(0, 255)
            elif kind in (np.int16, np.int32):
                values = np.round(sound_cn * (-float(np.iinfo(kind).min))).clip(np.iinfo(kind).min, np.iinfo(kind).max)
            size = stream.codec_context.frame_size or 1024
            for at in range(0, sound_cn.shape[1], size):
                piece = values[:, at : at + size].astype(kind)
                packed = piece if name.endswith("p") else piece.T.reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), format=name, layout=_LAYOUTS[channels])
                shift_s = start_s + (gap[1] if gap and at / rate >= gap[0] else 0)
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = at + round(shift_s * rate)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


def make_wave(
    path: Path,
    samples: np.ndarray,
    rate: int = 16_000,
    channels: int = 1,
    *,
    data_bytes: int | None = None,
    before: bytes = b"",
) -> Path:
    """Writes a WAVE file byte by byte: interleaved int16 or floats as they are, with any lie as its length."""
    data = samples.tobytes()
    size = samples.dtype.itemsize
    kind = 3 if samples.dtype.kind == "f" else 1
    form = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, kind, channels, rate, rate * channels * size % 2**32, channels * size, 8 * size
    )
    length = len(data) if data_bytes is None else data_bytes
    body = b"WAVE" + form + before + struct.pack("<4sI", b"data", length) + data
    path.write_bytes(struct.pack("<4sI", b"RIFF", min(len(body) - len(data) + length, 2**32 - 1)) + body)
    return path
