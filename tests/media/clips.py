"""Makers of small clips for tests. Every frame carries its own number, readable after lossy coding.

Not a test module; other tests import it: `from tests.media.clips import make_clip, frame_number`.
"""

from __future__ import annotations

import os
import struct
import wave
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

BITS = 14
_MATRICES = {
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
    "mirror": (-1, 0, 0, 1),
}


def media_folder() -> Path:
    """Where the real media are: `ALREF_MEDIA`, or `../shared/media` beside the checkout."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "media"
    return Path(os.environ.get("ALREF_MEDIA", default))


def pattern(number: int, width: int, height: int) -> np.ndarray:
    """Frame `number`, RGB uint8 `[H, W, 3]`: its number in black and white bars at the top, a moving square below.

    The corners differ (red at the top left, green at the top right, blue at the bottom left of the lower part), so that
    a turned or mirrored picture can be told from an upright one.
    """
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(40, 120, width).astype(np.uint8)
    image[..., 1] = np.linspace(40, 160, height).astype(np.uint8)[:, None]
    image[..., 2] = (60 + 2 * number) % 128
    bar = height // 4
    edges = np.linspace(0, width, BITS + 1).astype(int)
    for bit in range(BITS):
        image[:bar, edges[bit] : edges[bit + 1]] = 235 if number >> bit & 1 else 16
    block = max(4, min(width, height) // 6)
    image[bar : bar + block, :block] = (220, 30, 30)
    image[bar : bar + block, -block:] = (30, 200, 30)
    image[-block:, :block] = (30, 30, 220)
    x = (3 * number) % max(1, width - 3 * block) + block
    y = bar + (height - bar - block) // 2
    image[y : y + block, x : x + block] = (230, 220, 40)
    return image


def frame_number(image_hw3_u8: np.ndarray) -> int:
    """The number that `pattern` wrote into an upright frame."""
    height, width = image_hw3_u8.shape[:2]
    edges = np.linspace(0, width, BITS + 1).astype(int)
    row = image_hw3_u8[height // 8].mean(axis=1)
    return sum(int(row[(edges[bit] + edges[bit + 1]) // 2] > 125) << bit for bit in range(BITS))


def make_clip(
    path: str | os.PathLike[str],
    frames: int = 12,
    size: tuple[int, int] = (128, 96),
    *,
    fps: Fraction | int = 25,
    codec: str = "libx264",
    gop: int = 12,
    b_frames: int = 2,
    open_gop: bool = False,
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    container: str | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    colorspace: int | None = None,
    color_range: int | None = None,
    picture: Any = pattern,
) -> Path:
    """Writes `frames` pictures of `(width, height)` as a video.

    Args:
        times: presentation time of each frame in `time_base` units, for a variable rate.
        container: FFmpeg's name of the format; by the suffix of `path` where None.
        picture: function of (number, width, height) that gives the RGB frame.
    """
    import av

    path = Path(path)
    width, height = size
    settings = {} if codec in ("mjpeg", "gif", "rawvideo") else {"g": str(gop), "bf": str(b_frames)}
    if codec == "libx264":
        settings |= {"preset": "ultrafast", "sc_threshold": "0", "x264-params": f"open-gop={int(open_gop)}"}
        if not b_frames:
            settings["tune"] = "zerolatency"
    base = time_base or Fraction(1, 1) / Fraction(fps)
    with av.open(str(path), "w", format=container, options=container_options or {}) as out:
        stream: Any = out.add_stream(codec, rate=Fraction(fps), options=settings | (options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = base
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if color_range is not None:
            stream.codec_context.color_range = color_range
        for number in range(frames):
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(number, width, height)), format="rgb24")
            frame = rgb.reformat(format=pix_fmt, dst_colorspace=colorspace, dst_color_range=color_range)
            frame.pts, frame.time_base = number if times is None else times[number], base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def turn_clip(path: Path, rotation: int | str) -> Path:
    """Writes a display matrix into an MP4's track header: 0, 90, 180 or 270 degrees clockwise, or "mirror"."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    matrix = at + (40 if data[at] == 0 else 52)
    a, b, c, d = _MATRICES[rotation]
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def make_folder(
    path: str | os.PathLike[str],
    frames: int = 6,
    size: tuple[int, int] = (64, 48),
    *,
    suffix: str = ".png",
    digits: int = 5,
    picture: Any = pattern,
) -> Path:
    """Writes a folder of frames named by number, zero-padded to `digits`."""
    from PIL import Image

    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    for number in range(frames):
        Image.fromarray(picture(number, *size)).save(path / f"{number:0{digits}d}{suffix}")
    return path


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file, whole."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def make_png16(
    path: str | os.PathLike[str], values: np.ndarray, significant: int | None = None, late: bytes = b""
) -> Path:
    """Writes uint16 `[H, W]` or `[H, W, C]` (grey, grey and alpha, RGB, RGBA) as a PNG of 16 bits a sample.

    Args:
        significant: bits that the chunk sBIT states of every channel.
        late: chunks that follow the picture.
    """
    height, width, channels = values.reshape(*values.shape[:2], -1).shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    stated = b"" if significant is None else png_chunk(b"sBIT", bytes([significant] * channels))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + stated
        + png_chunk(b"IDAT", zlib.compress(rows)) + late + png_chunk(b"IEND", b"")
    )  # fmt: skip
    return path


def make_many_scans(path: str | os.PathLike[str], scans: int, size: tuple[int, int] = (64, 48)) -> Path:
    """Writes a progressive JPEG that refines itself `scans` times more than it should."""
    from PIL import Image

    path = Path(path)
    Image.fromarray(pattern(0, *size)).save(path, "JPEG", progressive=True)
    data = path.read_bytes()
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    path.write_bytes(data[:last] + data[last:end] * (scans + 1) + data[end:])
    return path


def make_sound(path: str | os.PathLike[str], seconds: float = 1.0, rate: int = 16_000) -> Path:
    """Writes a mono 16-bit WAV of a 440 Hz tone."""
    path = Path(path)
    wave_16bit = (8000 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype("<i2")
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(wave_16bit.tobytes())
    return path


def cut(source: Path, target: Path, keep: float) -> Path:
    """Copies the first `keep` (0 to 1) of a file's bytes."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * keep)])
    return target
