"""A table of bad inputs: each gets a MediaError that says what failed, and the mend where there is one."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.errors import AlrefError, InputError, MediaError
from alref_edge.media import Limits, open_video
from tests.media.clips import cut, make_clip, make_folder, make_many_scans, make_sound, pattern, png_chunk


def _clip(folder: Path, name: str = "clip.mp4", **keywords: object) -> Path:
    return make_clip(folder / name, 40, **keywords)


def _bytes(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _cut(folder: Path, name: str, keep: float, **keywords: object) -> Path:
    return cut(_clip(folder, f"whole_{name}", **keywords), folder / name, keep)


def _damaged(folder: Path, name: str, seed: int = 0) -> Path:
    path = _clip(folder, name)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = np.random.default_rng(seed).bytes(300)
    path.write_bytes(data)
    return path


def _no_frames(folder: Path) -> Path:
    (folder / "empty").mkdir()
    (folder / "empty" / "readme.txt").write_text("nothing to see")
    (folder / "empty" / ".hidden.png").write_bytes(b"x")
    return folder / "empty"


def _mixed(folder: Path) -> Path:
    path = make_folder(folder / "mixed", 4)
    Image.new("RGB", (65, 48)).save(path / "00002.png")
    return path


def _twice(folder: Path) -> Path:
    path = make_folder(folder / "twice", 2, suffix=".jpg")
    Image.new("RGB", (64, 48)).save(path / "00001.png")
    return path


def _with_file(folder: Path, data: bytes, suffix: str = ".jpg") -> Path:
    path = make_folder(folder / "spoilt", 3, suffix=suffix)
    (path / f"00001{suffix}").write_bytes(data)
    return path


def _cut_jpeg(folder: Path) -> Path:
    path = make_folder(folder / "cut", 3, (320, 240), suffix=".jpg")
    return cut(path / "00001.jpg", path / "00001.jpg", 0.5).parent


def _cut_png(folder: Path) -> Path:
    path = make_folder(folder / "cut", 3, (320, 240))
    return cut(path / "00001.png", path / "00001.png", 0.5).parent


def _linked(folder: Path, target: str) -> Path:
    path = make_folder(folder / "links", 2)
    (path / "00002.png").symlink_to(target)
    return path


def _link(folder: Path, target: str) -> Path:
    path = folder / "link.mp4"
    path.symlink_to(target)
    return path


def _pipe(folder: Path, name: str) -> Path:
    os.mkfifo(folder / name)
    return folder / name


def _piped_frame(folder: Path) -> Path:
    path = make_folder(folder / "pipes", 2)
    _pipe(path, "00002.png")
    return path


def _png_of(folder: Path, *chunks: tuple[bytes, bytes], width: int = 60_000) -> Path:
    """A PNG of a few bytes that declares 60,000 x 60,000 pixels, or other chunks after such a header."""
    header = struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)
    listed = [(b"IHDR", header), *(chunks or [(b"IDAT", zlib.compress(bytes(100)))]), (b"IEND", b"")]
    return _bytes(folder, "made.png", b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in listed))


def _vast_jpeg(folder: Path) -> Path:
    """A JPEG of a few hundred bytes that declares 65,500 x 500 pixels, just within the limit."""
    path = folder / "vast.jpg"
    Image.new("RGB", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 500, 65_500)
    path.write_bytes(data)
    return path


def _animated(folder: Path) -> Path:
    frames = [Image.fromarray(pattern(number, 64, 48)) for number in range(3)]
    frames[0].save(folder / "animated.png", save_all=True, append_images=frames[1:])
    return folder / "animated.png"


def _webp(folder: Path) -> Path:
    frames = [Image.fromarray(pattern(number, 64, 48)) for number in range(3)]
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:])
    return folder / "animated.webp"


def _many_scans_video(folder: Path) -> Path:
    picture = make_many_scans(folder / "scans.jpg", 2000).read_bytes()
    return _bytes(folder, "scans.mjpeg", picture * 3)


def _scans_in_avi(folder: Path) -> Path:
    picture = make_many_scans(folder / "scans.jpg", 2000)
    import av

    path = folder / "scans.avi"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(3):
            packet = av.Packet(picture.read_bytes())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            packet.is_keyframe = True
            out.mux(packet)
    return path


def _socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s.mp4"))
    return folder / "s.mp4"


def _sparse(folder: Path) -> Path:
    path = folder / "sparse.mp4"
    with path.open("wb") as file:
        file.truncate(1 << 32)
    return path


def _long(folder: Path, name: str, times: list[int], **keywords: object) -> Path:
    return make_clip(folder / name, len(times), times=times, time_base=Fraction(1, 1000), b_frames=0, **keywords)


def _playlist(folder: Path) -> Path:
    clip = _clip(folder, "part.ts")
    return _bytes(
        folder, "list.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n".encode()
    )


def _concat(folder: Path) -> Path:
    _clip(folder, "part.mp4")
    return _bytes(folder, "list.ffconcat", b"ffconcat version 1.0\nfile part.mp4\n")


def _two_sizes(folder: Path) -> Path:
    one = make_clip(folder / "one.h264", 12, (128, 96), container="h264", b_frames=0)
    two = make_clip(folder / "two.h264", 12, (96, 64), container="h264", b_frames=0)
    return _bytes(folder, "both.h264", one.read_bytes() + two.read_bytes())


FASTSTART = {"container_options": {"movflags": "faststart"}}
FRAGMENTS = {"container_options": {"movflags": "frag_keyframe+empty_moov"}}

BAD: dict[str, tuple[Callable[[Path], object], str, Limits]] = {
    "missing": (lambda f: f / "nowhere.mp4", "does not exist", Limits()),
    "missing folder": (lambda f: f / "nowhere" / "x.mp4", "does not exist", Limits()),
    "empty name": (lambda f: "", "not a path", Limits()),
    "zero in the name": (lambda f: "a\0b", "not a path", Limits()),
    "file as folder": (lambda f: _clip(f) / "x", "cannot be read", Limits()),
    "link to nothing": (lambda f: _link(f, "gone.mp4"), "link to nothing", Limits()),
    "link to itself": (lambda f: _link(f, "link.mp4"), "cannot be read", Limits()),
    "address http": (lambda f: "http://localhost/x.mp4", "is an address", Limits()),
    "address rtsp": (lambda f: "rtsp://localhost/x", "is an address", Limits()),
    "address concat": (lambda f: "concat:a.mp4|b.mp4", "is an address", Limits()),
    "address data": (lambda f: "data:video/mp4;base64,AAAA", "is an address", Limits()),
    "address pipe": (lambda f: "pipe:0", "is an address", Limits()),
    "playlist": (_playlist, "not a video", Limits()),
    "concatenation": (_concat, "not a video", Limits()),
    "device": (lambda f: "/dev/zero", "not a regular file", Limits()),
    "pipe": (lambda f: _pipe(f, "pipe.mp4"), "not a regular file", Limits()),
    "zero bytes": (lambda f: _bytes(f, "zero.mp4", b""), "is empty", Limits()),
    "text": (lambda f: _bytes(f, "text.mp4", b"no video at all\n" * 99), "not a video", Limits()),
    "noise": (lambda f: _bytes(f, "noise.mp4", np.random.default_rng(0).bytes(9999)), "not a video|damaged", Limits()),
    "audio only": (lambda f: make_sound(f / "tone.wav"), "audio only", Limits()),
    "no folder frames": (_no_frames, "no frames", Limits()),
    "mixed sizes": (_mixed, "another size", Limits()),
    "frame twice": (_twice, "two files for one frame", Limits()),
    "cut mp4, index at the end": (lambda f: _cut(f, "cut.mp4", 0.9), "truncated", Limits()),
    "cut mp4, index in front": (lambda f: _cut(f, "cut.mp4", 0.9, **FASTSTART), "truncated", Limits()),
    "cut mp4, fragments": (lambda f: _cut(f, "cut.mp4", 0.9, **FRAGMENTS), "truncated", Limits()),
    "cut mp4, no index left": (lambda f: _cut(f, "cut.mp4", 0.05), "truncated", Limits()),
    "cut mkv": (lambda f: _cut(f, "cut.mkv", 0.9), "truncated", Limits()),
    "cut webm": (lambda f: _cut(f, "cut.webm", 0.5, codec="libvpx"), "truncated", Limits()),
    "cut avi": (lambda f: _cut(f, "cut.avi", 0.9), "truncated", Limits()),
    "cut gif": (lambda f: _cut(f, "cut.gif", 0.9, codec="gif", pix_fmt="rgb8"), "truncated", Limits()),
    "cut ts, nothing left": (lambda f: _cut(f, "cut.ts", 0.03), "damaged|not a video|no video|no picture", Limits()),
    "damaged mp4": (lambda f: _damaged(f, "damaged.mp4"), "damaged: frame", Limits()),
    "damaged mkv": (lambda f: _damaged(f, "damaged.mkv"), "damaged: frame", Limits()),
    "damaged ts": (lambda f: _damaged(f, "damaged.ts"), "damaged: frame", Limits()),
    "size changes on the way": (_two_sizes, "changes its picture size", Limits()),
    "corrupt jpeg": (lambda f: _with_file(f, b"\xff\xd8\xff\xe0 not a jpeg"), "not a whole JPEG", Limits()),
    "jpeg of a damaged header": (lambda f: _with_file(f, b"\xff\xd8 not a jpeg"), "Got: a damaged header", Limits()),
    "jpeg that is text": (lambda f: _with_file(f, b"hello"), "not a whole JPEG.*Got: text", Limits()),
    "jpeg that is a document": (lambda f: _with_file(f, b"%PDF-1.7"), "Got: a PDF document", Limits()),
    "empty jpeg": (lambda f: _with_file(f, b""), "not a whole JPEG", Limits()),
    "cut jpeg": (_cut_jpeg, "not a whole JPEG", Limits()),
    "cut png": (_cut_png, "not a whole JPEG or PNG", Limits()),
    "image that is cut": (lambda f: _cut_png(f) / "00001.png", "not a whole JPEG or PNG", Limits()),
    "frame link to nothing": (lambda f: _linked(f, "gone.png"), "link to nothing", Limits()),
    "frame link to itself": (lambda f: _linked(f, "00002.png"), "cannot be read", Limits()),
    "frame is a folder": (lambda f: _linked(f, "."), "not a regular file", Limits()),
    "frame is a pipe": (_piped_frame, "not a regular file", Limits()),
    "animated png": (_animated, "is an animated PNG", Limits()),
    "animated png among frames": (lambda f: _with_file(f, _animated(f).read_bytes(), ".png"), "animated PNG", Limits()),
    "animated webp": (_webp, "not a video", Limits()),
    "jpeg of 2,000 scans": (lambda f: make_many_scans(f / "x.jpg", 2000), "too many scans", Limits()),
    "frame of 101 scans": (
        lambda f: _with_file(f, make_many_scans(f / "x.jpg", 101).read_bytes()),
        "too many scans",
        Limits(),
    ),
    "motion jpeg of 2,000 scans": (_many_scans_video, "too many scans", Limits()),
    "avi of 2,000 scans": (_scans_in_avi, "too many scans", Limits()),
    "vast jpeg": (_vast_jpeg, "not a whole JPEG", Limits()),
    "jpeg of 30,000 segments": (
        lambda f: _bytes(f, "x.jpg", b"\xff\xd8" + b"\xff\xe1\0\2" * 30_000),
        "not a whole JPEG",
        Limits(),
    ),
    "png of 300,000 chunks": (lambda f: _png_of(f, *[(b"tEXt", b"")] * 300_000, width=8), "not a whole", Limits()),
    "png without a picture": (lambda f: _png_of(f, (b"tEXt", b"a\0b"), width=8), "not a whole", Limits()),
    "kernel log": (lambda f: "/proc/kmsg", "is empty", Limits()),
    "own memory": (lambda f: "/proc/self/mem", "is empty", Limits()),
    "setting of the system": (lambda f: _link(f, "/proc/cpuinfo"), "is empty", Limits()),
    "frame of the kernel": (lambda f: _linked(f, "/proc/kmsg"), "not a whole JPEG", Limits()),
    "socket": (_socket, "cannot be read", Limits()),
    "zeros of 4 GiB": (_sparse, "not a video", Limits()),
    "one frame for five hours": (
        lambda f: _long(f, "long.mkv", [0, 5 * 3600_000]),
        "over the limit `duration_s`",
        Limits(),
    ),
    "one frame for five hours, uncounted": (
        lambda f: _long(f, "long.webm", [0, 40, 5 * 3600_000], codec="libvpx"),
        "over the limit `duration_s`",
        Limits(),
    ),
    "bomb": (_png_of, "over the limit `pixels`|decompression bomb", Limits()),
    "file bytes": (_clip, "over the limit `bytes`", Limits(bytes=1000)),
    "file pixels": (_clip, "over the limit `pixels`", Limits(pixels=128 * 96 - 1)),
    "file frames": (_clip, "over the limit `frames`", Limits(frames=39)),
    "file seconds": (_clip, "over the limit `duration_s`", Limits(duration_s=1.5)),
    "fragment frames": (lambda f: _clip(f, **FRAGMENTS), "over the limit `frames`", Limits(frames=39)),
    "stream frames": (lambda f: _clip(f, "clip.ts"), "over the limit `frames`", Limits(frames=39)),
    "stream seconds": (lambda f: _clip(f, "clip.ts"), "over the limit `duration_s`", Limits(duration_s=1)),
    "raw stream seconds": (
        lambda f: _clip(f, "clip.h264", container="h264"),
        "over the limit `duration_s`",
        Limits(duration_s=1),
    ),
    "folder bytes": (lambda f: make_folder(f / "x", 9), "over the limit `bytes`", Limits(bytes=500)),
    "folder pixels": (lambda f: make_folder(f / "x", 9), "over the limit `pixels`", Limits(pixels=3000)),
    "folder frames": (lambda f: make_folder(f / "x", 9), "over the limit `frames`", Limits(frames=8)),
}
NO_MEND = {"empty name", "zero in the name", "file as folder", "link to itself", "device", "pipe", "socket"}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_its_error(name: str, tmp_path: Path) -> None:
    make, message, limits = BAD[name]
    path = make(tmp_path)
    with pytest.raises(MediaError, match=message) as caught:
        for _ in open_video(path, limits).frames():
            pass
    error = caught.value
    assert error.exit_code == 3
    assert error.expected is not None
    assert error.got is not None
    assert name in NO_MEND or error.mend or "link to itself" in name or "over the limit" not in str(error)


@pytest.mark.parametrize("name", ["damaged mp4", "damaged mkv", "cut jpeg"])
def test_backward_walks_and_samples_find_the_damage_too(name: str, tmp_path: Path) -> None:
    source = open_video(BAD[name][0](tmp_path))
    last = source.frame_count() - 1
    with pytest.raises(MediaError):
        list(source.frames_reversed())
    with pytest.raises(MediaError):
        list(source.frames_at(range(last + 1)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = _clip(tmp_path)
    path.chmod(0)
    with pytest.raises(MediaError, match="may not be read"):
        open_video(path)


@pytest.mark.parametrize("field", ["bytes", "pixels", "frames", "duration_s"])
def test_limits_must_be_positive(field: str) -> None:
    with pytest.raises(InputError, match=field):
        Limits(**{field: 0})


def test_a_rate_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(AlrefError, match="frame rate"):
        open_video(make_folder(tmp_path / "x"), fps=0)


def test_a_file_that_goes_away_between_opening_and_reading(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "x", 3)
    clip = _clip(tmp_path)
    sources = [open_video(folder), open_video(clip)]
    (folder / "00002.png").unlink()
    clip.unlink()
    for source in sources:
        with pytest.raises(MediaError, match="does not exist"):
            list(source.frames())


def test_frames_that_change_size_between_opening_and_reading(tmp_path: Path) -> None:
    source = open_video(make_folder(tmp_path / "x", 3))
    Image.new("RGB", (8, 8)).save(tmp_path / "x" / "00001.png")
    with pytest.raises(MediaError, match="another size"):
        list(source.frames())
