"""Damaged indexes: whatever a flipped bit does, a video is read, or its error or warning says what is missing."""

from __future__ import annotations

import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from alref_edge.errors import MediaError
from alref_edge.media import open_video
from tests.media.clips import frame_number, make_clip

FRAMES = 24
FRAGMENTS = {"container_options": {"movflags": "frag_keyframe+empty_moov"}}


def boxes(data: bytes, *names: bytes) -> list[int]:
    """Offsets of all bytes of the boxes of those names."""
    places: set[int] = set()
    for name in names:
        at = data.find(name)
        while at >= 0:
            places.update(range(at - 4, at - 4 + int.from_bytes(data[at - 4 : at], "big")))
            at = data.find(name, at + 1)
    return sorted(places)


def after(data: bytes, name: bytes) -> list[int]:
    return list(range(data.rindex(name), len(data)))


# name: (keywords of make_clip, the places where bits are flipped, how many, whether every lost frame must be noticed;
# elsewhere one in twenty may look like other data that are whole)
INDEXES: dict[str, tuple[dict[str, object], Callable[[bytes], list[int]], int, bool]] = {
    "tables.mp4": ({}, lambda data: boxes(data, b"stbl", b"edts"), 150, True),
    "hevc.mov": (
        {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=10:open-gop=0"}},
        lambda data: boxes(data, b"stbl"),
        40,
        True,
    ),
    "fragments.mp4": (FRAGMENTS, lambda data: boxes(data, b"moof"), 100, False),
    "clusters.mkv": ({"gop": 6}, lambda data: list(range(len(data))), 100, False),
    "cues.mkv": ({"gop": 6}, lambda data: after(data, b"\x1c\x53\xbb\x6b"), 40, True),
    "chunks.avi": ({}, lambda data: [*range(400), *after(data, b"idx1")], 60, True),
    "blocks.gif": ({"codec": "gif", "pix_fmt": "rgb8"}, lambda data: list(range(len(data))), 40, False),
    "packets.ts": ({}, lambda data: list(range(len(data))), 40, False),
    "tags.flv": ({"b_frames": 0}, lambda data: list(range(len(data))), 30, False),
    "blocks.webm": ({"codec": "libvpx"}, lambda data: list(range(len(data))), 30, False),
}


@pytest.mark.parametrize("name", INDEXES)
def test_flipped_bits_never_lose_a_frame_in_silence(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    keywords, places, count, all_noticed = INDEXES[name]
    whole = make_clip(tmp_path / f"whole_{name}", FRAMES, (64, 48), **keywords).read_bytes()
    draw = random.Random(name)
    seen: Counter[str] = Counter()
    capfd.readouterr()
    for _ in range(count):
        at, bit = draw.choice(places(whole)), draw.randrange(8)
        damaged = bytearray(whole)
        damaged[at] ^= 1 << bit
        path = tmp_path / name
        path.write_bytes(damaged)
        began = time.monotonic()
        try:
            source = open_video(path)
            source.frame_count()
            frames = [frame_number(frame) for _, frame in source.frames()]
        except MediaError:
            seen["error"] += 1
        else:
            told = len(frames) == FRAMES or bool(source.warnings)
            assert told or not all_noticed, f"bit {bit} of byte {at}: {frames}"
            seen["read" if told else "silent"] += 1
        assert time.monotonic() - began < 10
    assert seen["read"]
    assert seen["silent"] <= 0.05 * count
    assert "Traceback" not in capfd.readouterr().err


def _with_sound(path: Path) -> Path:
    """A clip of 40 frames whose sound cuts its samples into many chunks."""
    import av

    clip = make_clip(path.with_suffix(".mkv"), 40, gop=5)
    with av.open(str(clip)) as source, av.open(str(path), "w") as out:
        pictures = out.add_stream_from_template(source.streams.video[0])
        sound = out.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.int16), format="s16", layout="mono")
        silence.sample_rate = 8000
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size:
                packet.stream = pictures
                out.mux(packet)
                silence.pts = 320 * number
                out.mux(sound.encode(silence))
    return path


# name: (table, byte after its name, what is written there)
LIES: dict[str, tuple[bytes, int, int]] = {
    "the first chunk is beyond the end": (b"stco", 12, 0x7FFFFFFF),
    "a later chunk is beyond the end": (b"stco", 12 + 4 * 10, 0x7FFFFFFF),
    "a chunk is beyond 2 GiB": (b"stco", 12 + 4 * 4, 0xFFFFFFF0),
    "every sample has a gigabyte": (b"stsz", 8, 0x40000000),
    "14 sizes for 40 times": (b"stsz", 12, 14),
    "a sample has a gigabyte": (b"stsz", 16 + 4 * 20, 0x40000000),
    "7 chunks for 40 samples": (b"stco", 8, 7),
    "no chunks": (b"stco", 8, 0),
}


@pytest.mark.parametrize("lie", LIES)
def test_tables_that_lie_about_the_samples_are_an_error(lie: str, tmp_path: Path) -> None:
    box, at, value = LIES[lie]
    path = _with_sound(tmp_path / "lie.mov")
    assert open_video(path).info.frames == 40
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, data.index(box, data.rindex(b"moov")) + at, value)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"damaged|truncated|not a video"):
        list(open_video(path).frames())


def test_a_sample_without_bytes_repeats_a_picture_and_is_none_of_its_own(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "empty.mov", 40, codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    at = data.index(b"stsz", data.rindex(b"moov")) + 16 + 4 * 39
    struct.pack_into(">I", data, at, 0)
    path.write_bytes(data)
    source = open_video(path)
    assert [frame_number(frame) for _, frame in source.frames()] == list(range(39))
    assert source.frame_count() == 39
    assert any("39 of the 40 frames" in warning for warning in source.warnings)


def test_frames_that_an_edit_list_leaves_out_are_told(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "edited.mp4", 40, gop=5, b_frames=0)
    data = bytearray(path.read_bytes())
    # One edit: from the second half on. Its units are the movie's (1,000 a second) and the track's.
    at = data.index(b"elst")
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    struct.pack_into(">Ii", data, at + 12, 800, 20 * scale // 25)
    path.write_bytes(data)
    source = open_video(path)
    assert [frame_number(frame) for _, frame in source.frames()] == list(range(20, 40))
    assert any("20 of the 40 frames" in warning for warning in source.warnings)


@pytest.mark.parametrize("suffix", [".ts", ".flv"])
def test_a_hole_in_an_even_clock_is_told(suffix: str, tmp_path: Path) -> None:
    times = [40 * number for number in range(30) if number not in (12, 13)]
    path = make_clip(tmp_path / f"hole{suffix}", len(times), times=times, time_base=Fraction(1, 1000), b_frames=0)
    source = open_video(path)
    assert source.frame_count() == 28
    assert any("lost frames: 2, the first after 0.44 s" in warning for warning in source.warnings)


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".ts", ".mp4", ".avi", ".flv"])
def test_whole_clips_are_read_without_a_word(suffix: str, tmp_path: Path) -> None:
    codec = {"codec": "libvpx"} if suffix == ".webm" else {"b_frames": 0}
    for name, rate in (("even", 30), ("film", Fraction(24000, 1001))):
        source = open_video(make_clip(tmp_path / f"{name}{suffix}", 30, fps=rate, **codec))
        assert source.frame_count() == 30
        assert source.warnings == []
    uneven = [0, 40, 55, 300, 301, 500, 520, 900, 910, 950, 1000, 1100]
    if suffix not in (".avi",):
        path = make_clip(tmp_path / f"uneven{suffix}", len(uneven), times=uneven, time_base=Fraction(1, 1000), **codec)
        source = open_video(path)
        assert (source.frame_count(), source.warnings) == (len(uneven), [])


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_live_recordings_whose_clusters_state_no_size_are_counted_too(suffix: str, tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / f"live{suffix}", 40, codec="libvpx-vp9", gop=5,
        container_options={"live": "1", "cluster_time_limit": "200"},
    )  # fmt: skip
    whole = bytearray(path.read_bytes())
    clusters = [at for at in range(len(whole)) if whole.startswith(b"\x1f\x43\xb6\x75", at)]
    assert len(clusters) > 3
    for at in clusters:
        count = 9 - whole[at + 4].bit_length()
        whole[at + 4 : at + 4 + count] = ((2 << 7 * count) - 1).to_bytes(count, "big")
    path.write_bytes(whole)
    source = open_video(path)
    assert (source.frame_count(), source.warnings) == (40, [])
    # A block whose name is lost: readers step over it.
    whole[whole.index(b"\xa3", clusters[-1])] = 0xA2
    path.write_bytes(whole)
    assert any("may hold more frames" in warning for warning in open_video(path).warnings)


def test_a_video_that_gets_shorter_between_two_walks_is_an_error(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "x.ts", 60)
    source = open_video(path)
    assert source.frame_count() == 60
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 188 * 188])
    with pytest.raises(MediaError, match="frames before"):
        list(source.frames())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_video_that_gets_shorter_while_it_is_read_is_an_error(suffix: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    path = make_clip(
        tmp_path / f"x{suffix}", 40, (320, 240),
        picture=lambda number, width, height: draw.integers(0, 255, (height, width, 3)).astype(np.uint8),
    )  # fmt: skip
    assert path.stat().st_size > 1 << 20
    frames = open_video(path).frames()
    next(frames)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(MediaError):
        list(frames)


def _clip_with(path: Path, box: bytes, content: bytes) -> Path:
    """A clip of which one box in the track has another content."""
    data = bytearray(make_clip(path, 40, gop=5, b_frames=0).read_bytes())
    at = data.index(box, data.rindex(b"moov"))
    old = int.from_bytes(data[at - 4 : at], "big")
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"stbl") if box != b"elst" else (b"moov", b"trak", b"edts"):
        place = data.index(parent, data.rindex(b"moov")) - 4
        size = int.from_bytes(data[place : place + 4], "big") + len(content) + 8 - old
        struct.pack_into(">I", data, place, size)
    data[at - 4 : at - 4 + old] = struct.pack(">I", len(content) + 8) + box + content
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("box", "content"),
    [
        (b"stsz", struct.pack(">III", 0, 1, 400_000_000)),
        (b"elst", struct.pack(">II", 0, 500_000) + struct.pack(">IiI", 1600, 0, 0x10000) * 500_000),
    ],
)
def test_tables_of_absurd_length_are_refused_before_they_are_built(box: bytes, content: bytes, tmp_path: Path) -> None:
    path = _clip_with(tmp_path / "vast.mp4", box, content)
    began = time.monotonic()
    with pytest.raises(MediaError, match="entries, of which"):
        open_video(path)
    assert time.monotonic() - began < 5


def test_a_handful_of_edits_is_read(tmp_path: Path) -> None:
    edits = struct.pack(">II", 0, 12) + struct.pack(">IiI", 400, 0, 0x10000) * 12
    assert open_video(_clip_with(tmp_path / "edits.mp4", b"elst", edits)).frame_count() == 120


def test_a_title_in_another_encoding_is_no_damage(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "title.mp4", 5)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Lavf", b"\xe9\xe8\xff\xfe"))
    assert open_video(path).frame_count() == 5
