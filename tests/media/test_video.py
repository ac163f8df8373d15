"""Video files: order, random access, backward walks, rotation, rates, sizes, colours, counters."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from alref_edge.errors import InputError, MediaError
from alref_edge.media import Limits, VideoSource, open_video
from tests.media.clips import cut, frame_number, make_clip, pattern, turn_clip

# name: (keywords of make_clip, key-frame groups, or None where the container is not trusted)
CLIPS: dict[str, tuple[dict[str, object], int | None]] = {
    "b_frames.mp4": ({}, 4),
    "long_gop.mp4": ({"gop": 1000, "b_frames": 3}, 1),
    "all_intra.mp4": ({"gop": 1, "b_frames": 0}, 40),
    # A group that refers across its key frame cannot be entered there, so it is no group of its own.
    "open_gop.mp4": ({"open_gop": True, "b_frames": 3}, 1),
    # Its recovery points are flagged as key frames, but pictures after them are not exact.
    "intra_refresh.mp4": ({"b_frames": 0, "gop": 10, "options": {"x264-params": "intra-refresh=1"}}, 1),
    "fragmented.mp4": ({"container_options": {"movflags": "frag_keyframe+empty_moov"}}, 4),
    "matroska.mkv": ({}, 4),
    "vp9.webm": ({"codec": "libvpx-vp9"}, 4),
    "hevc.mp4": ({"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=10:open-gop=0"}}, 4),
    "mjpeg.mov": ({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, 40),
    "ten_bit.mp4": ({"pix_fmt": "yuv420p10le"}, 4),
    "odd.mp4": ({"size": (127, 95), "pix_fmt": "yuv444p"}, 4),
    "vp8.webm": ({"codec": "libvpx"}, None),
    "transport.ts": ({}, None),
    "open_gop.ts": ({"open_gop": True}, None),
    "mpeg4.avi": ({"codec": "mpeg4"}, None),
    "h264.avi": ({}, None),
    "program.mpg": ({"codec": "mpeg2video"}, None),
    "elementary.h264": ({"container": "h264"}, None),
    "gif.gif": ({"codec": "gif", "pix_fmt": "rgb8"}, None),
}
FRAMES = 40


def checksum(frame: np.ndarray) -> tuple[object, ...]:
    return *frame.shape, zlib.crc32(np.ascontiguousarray(frame).data)


def straight(path: Path) -> list[np.ndarray]:
    """Every frame by plain decoding, with no index, seek or early end: what all other ways must equal."""
    import av

    with av.open(str(path)) as container:
        return [
            frame.reformat(format="rgb24", interpolation=0x2 | 0x40000 | 0x80000).to_ndarray()
            for frame in container.decode(video=0)
        ]


def assert_every_way_is_equal(source: VideoSource, expected: list[tuple[object, ...]]) -> None:
    def walk(frames: Iterator[tuple[int, np.ndarray]]) -> list[int]:
        order = []
        for index, frame in frames:
            assert checksum(frame) == expected[index]
            order.append(index)
        return order

    count = len(expected)
    draw = random.Random(0)
    assert walk(source.frames()) == list(range(count))
    assert source.frame_count() == count
    assert len(source.times_s()) == count
    assert (np.diff(source.times_s()) > 0).all()

    assert walk(source.frames_reversed()) == list(reversed(range(count)))

    start, stop = sorted(draw.sample(range(count + 1), 2))
    assert walk(source.frames(start, stop)) == list(range(start, stop))
    assert walk(source.frames(start, None, 7)) == list(range(start, count, 7))
    assert walk(source.frames_reversed(start, stop)) == list(reversed(range(start, stop)))
    some = draw.sample(range(count), 5)
    assert walk(source.frames_at(some)) == sorted(some)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.mark.parametrize("name", CLIPS)
def test_every_way_of_reading_gives_the_frames_of_straight_decoding(name: str, folder: Path) -> None:
    keywords, groups = CLIPS[name]
    path = make_clip(folder / name, FRAMES, **keywords)
    expected = straight(path)
    assert [frame_number(frame) for frame in expected] == list(range(FRAMES))
    expected = [checksum(frame) for frame in expected]
    source = open_video(path)
    assert source.info.kind == "video"
    assert source.info.frames == (None if groups is None else FRAMES)
    if groups is not None:
        assert len({source._group_start(index) for index in range(FRAMES)}) == groups
    assert_every_way_is_equal(source, expected)


@pytest.mark.parametrize("name", ["bedroom.mp4", "dog_silent_audio.mp4", "with_real_audio.mp4"])
def test_real_video_read_in_every_way(name: str, media: Path) -> None:
    import av

    if not (media / name).is_file():
        pytest.skip(f"{name} is not among the real media")
    source = open_video(media / name)
    flags = 0x2 | 0x40000 | 0x80000
    with av.open(str(media / name)) as container:
        frames = container.decode(video=0)
        expected = [checksum(f.reformat(format="rgb24", interpolation=flags).to_ndarray()) for f in frames]
    assert source.info.frames == len(expected)
    assert expected[0][:3] == (source.info.height, source.info.width, 3)
    assert_every_way_is_equal(source, expected)


def test_bedroom_is_what_it_is_known_to_be(media: Path) -> None:
    info = open_video(media / "bedroom.mp4").info
    assert (info.frames, info.width, info.height, info.fps) == (200, 960, 540, 30.0)
    assert info.duration_s == pytest.approx(200 / 30)


def test_decoding_costs_no_more_than_the_groups_need(folder: Path) -> None:
    path = make_clip(folder / "counted.mp4", 48, gop=12, b_frames=0)
    source = open_video(path)
    assert source.decoded == 0
    list(source.frames())
    assert source.decoded == 48
    list(source.frames_reversed())
    assert source.decoded == 96
    source.decoded = 0
    assert [index for index, _ in source.frames_at([40, 2, 2, 14])] == [2, 14, 40]
    assert source.decoded == 3 + 3 + 5
    source.decoded = 0
    list(source.frames(36, 40))
    assert source.decoded == 4


def test_backward_walk_decodes_each_frame_of_one_long_group_once(folder: Path) -> None:
    source = open_video(make_clip(folder / "once.mp4", 60, gop=1000, b_frames=2))
    walked = [index for index, _ in source.frames_reversed(10, 50)]
    assert walked == list(reversed(range(10, 50)))
    assert 50 <= source.decoded <= 53  # a picture may need the later one that it refers to


def test_walks_are_independent_and_may_be_abandoned(folder: Path) -> None:
    source = open_video(make_clip(folder / "two.mp4", 30))
    one, two = source.frames(), source.frames_reversed()
    pairs = [(next(one)[0], next(two)[0]) for _ in range(10)]
    assert pairs == [(i, 29 - i) for i in range(10)]
    one.close()
    assert next(two)[0] == 19
    two.close()
    assert frame_number(source.frame(17)) == 17


def test_one_frame_clip(folder: Path) -> None:
    source = open_video(make_clip(folder / "one.mp4", 1))
    assert source.info.frames == 1
    assert [index for index, _ in source.frames()] == [0]
    assert [index for index, _ in source.frames_reversed()] == [0]
    assert source.info.duration_s > 0


@pytest.mark.parametrize(("times", "fps"), [([0], 25), ([0, 1], 25), ([0, 90], 25), ([0, 180], 500)])
def test_the_clock_of_a_container_is_not_its_rate(times: list[int], fps: float, folder: Path) -> None:
    path = make_clip(
        folder / f"clock_{times[-1]}_{len(times)}.mp4", len(times), b_frames=0, times=times,
        fps=90_000, time_base=Fraction(1, 90_000), container_options={"video_track_timescale": "90000"},
    )  # fmt: skip
    assert open_video(path).info.fps == pytest.approx(fps)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate_keeps_the_frames_and_their_times(suffix: str, folder: Path) -> None:
    times = [0, 40, 55, 300, 301, 900, 933]
    path = make_clip(folder / f"vfr{suffix}", len(times), times=times, time_base=Fraction(1, 1000), b_frames=2)
    source = open_video(path)
    assert [frame_number(frame) for _, frame in source.frames()] == list(range(len(times)))
    np.testing.assert_allclose(source.times_s() - source.times_s()[0], np.array(times) / 1000, atol=1e-3)


@pytest.mark.parametrize(
    ("rotation", "stored_to_shown"),
    [
        (0, lambda image: image),
        (90, lambda image: np.rot90(image, -1)),
        (180, lambda image: np.rot90(image, 2)),
        (270, lambda image: np.rot90(image, 1)),
        ("mirror", lambda image: image[:, ::-1]),
    ],
)
def test_display_rotation_is_applied(rotation, stored_to_shown, folder: Path) -> None:
    path = make_clip(folder / f"turn_{rotation}.mp4", 3, (128, 96))
    upright = straight(path)
    source = open_video(turn_clip(path, rotation))
    width, height = (96, 128) if rotation in (90, 270) else (128, 96)
    assert (source.info.width, source.info.height) == (width, height)
    assert source.info.rotation == (rotation if rotation != "mirror" else 0)
    for index, frame in source.frames():
        np.testing.assert_array_equal(frame, stored_to_shown(upright[index]))
        assert frame.flags.c_contiguous


def test_a_turn_by_ninety_degrees_takes_the_top_left_to_the_top_right(folder: Path) -> None:
    def corner(number: int, width: int, height: int) -> np.ndarray:
        image = np.full((height, width, 3), 16, np.uint8)
        image[:24, :24] = 235
        return image

    path = turn_clip(make_clip(folder / "corner.mp4", 2, (128, 96), picture=corner), 90)
    frame = open_video(path).frame(0)
    assert frame[5, -5].min() > 200
    assert max(frame[5, 5].max(), frame[-5, 5].max(), frame[-5, -5].max()) < 60


# AVColorSpace: 1 is BT.709, 5 is BT.601; AVColorRange: 1 is limited, 2 is full.
@pytest.mark.parametrize("colorspace", [1, 5])
@pytest.mark.parametrize("color_range", [1, 2])
def test_colours_follow_the_matrix_and_range_of_the_stream(colorspace: int, color_range: int, folder: Path) -> None:
    colours = [(200, 40, 30), (30, 180, 60), (40, 60, 200), (250, 250, 250), (5, 5, 5)]

    def flat(number: int, width: int, height: int) -> np.ndarray:
        return np.full((height, width, 3), colours[number], np.uint8)

    path = make_clip(
        folder / f"colour_{colorspace}_{color_range}.mp4",
        len(colours),
        (64, 64),
        pix_fmt="yuv444p",
        options={"crf": "1"},
        b_frames=0,
        colorspace=colorspace,
        color_range=color_range,
        picture=flat,
    )
    for index, frame in open_video(path).frames():
        assert np.abs(frame.reshape(-1, 3).mean(axis=0) - colours[index]).max() < 5


def test_conversion_is_the_same_every_time_and_on_both_sides_of_a_seek(folder: Path) -> None:
    path = make_clip(folder / "again.mp4", 20, (122, 66))
    one = [frame.tobytes() for _, frame in open_video(path).frames()]
    two = [frame.tobytes() for _, frame in open_video(path).frames()]
    assert one == two


def test_frames_come_as_writable_contiguous_rgb(folder: Path) -> None:
    for _, frame in open_video(make_clip(folder / "array.mp4", 2, (98, 50))).frames():
        assert frame.dtype == np.uint8
        assert frame.shape == (50, 98, 3)
        assert frame.flags.c_contiguous
        assert np.abs(frame.astype(int) - pattern(0, 98, 50)).mean() < 25


def test_a_cover_picture_is_no_video(media: Path, folder: Path) -> None:
    import av

    from alref_edge.errors import MediaError

    path = folder / "cover.mkv"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("aac", rate=16_000)
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = 0x400  # attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 16_000, 0
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    with pytest.raises(MediaError, match=r"no video|damaged|no picture"):
        open_video(path)
    tagged = folder / "cover.m4a"
    with av.open(str(tagged), "w", format="mp4") as out:
        sound = out.add_stream("aac", rate=16_000)
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = 0x400
        out.mux(cover.encode(av.VideoFrame(64, 64, "yuvj420p")))
        out.mux(cover.encode(None))
        for start in range(0, 16_000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 16_000, start
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    with pytest.raises(MediaError, match=r"no video.*Got: a cover picture and audio only"):
        open_video(tagged)


def test_ranges_are_clipped_like_slices_and_nonsense_is_refused(folder: Path) -> None:
    source = open_video(make_clip(folder / "range.mp4", 10))
    assert [index for index, _ in source.frames(8, 99)] == [8, 9]
    assert list(source.frames(10)) == []
    assert list(source.frames(5, 5)) == []
    assert list(source.frames_reversed(4, 4)) == []
    assert list(source.frames_at([])) == []
    for bad in ((-1, None, 1), (0, -2, 1), (0, None, 0)):
        with pytest.raises(InputError):
            source.frames(*bad)
    for indices in ([10], [-1, 2]):
        with pytest.raises(InputError):
            source.frames_at(indices)


def test_a_stream_that_is_cut_gives_its_whole_pictures(folder: Path) -> None:
    path = make_clip(folder / "whole.ts", 40, b_frames=0)
    expected = straight(path)
    for keep in (0.9, 0.6):
        source = open_video(cut(path, folder / "cut.ts", keep))
        count = source.frame_count()
        got = [frame for _, frame in source.frames()]
        assert 0.6 * 40 * keep < count == len(got) < 40
        assert all(np.array_equal(one, two) for one, two in zip(got[:-1], expected, strict=False))


def test_a_path_with_a_colon_is_read_when_it_is_clearly_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(folder / "plain.mp4", 2).rename(folder / "http:x.mp4")
    assert open_video(path).frame_count() == 2
    monkeypatch.chdir(folder)
    for clear in (Path("http:x.mp4"), "./http:x.mp4"):
        assert open_video(clear).frame_count() == 2
    with pytest.raises(MediaError, match="is an address"):
        open_video("http:x.mp4")


@pytest.mark.parametrize(
    ("name", "codec"),
    [("x.mkv", "libx264"), ("x.mkv", "libvpx"), ("x.webm", "libvpx-vp9"), ("x.mp4", "libx264"), ("x.ts", "libx264")],
)
@pytest.mark.parametrize("start_s", [10, 20_000])
def test_a_whole_video_that_starts_late_is_as_long_as_its_pictures(
    name: str, codec: str, start_s: int, folder: Path
) -> None:
    path = make_clip(folder / name, 40, codec=codec, b_frames=0, times=range(25 * start_s, 25 * start_s + 40))
    source = open_video(path, Limits(duration_s=2))
    assert source.frame_count() == 40
    assert source.times_s()[0] == pytest.approx(start_s, abs=2)
    assert source.info.duration_s == pytest.approx(1.6, abs=0.05)
    assert not source.warnings


def test_limits_that_just_fit_are_no_error(folder: Path) -> None:
    path = make_clip(folder / "fits.mp4", 10)
    limits = Limits(bytes=path.stat().st_size, pixels=128 * 96, frames=10, duration_s=0.4001)
    assert len(list(open_video(path, limits).frames())) == 10
