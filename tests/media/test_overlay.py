"""Overlays: what is drawn, and the video that holds it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from alref_edge.errors import CapacityError, InputError, MediaError
from alref_edge.media import OverlayWriter, draw_overlay, drawing, object_colour, open_video, overlay
from tests.media.clips import frame_number, pattern

GREY = np.full((120, 160, 3), 200, np.uint8)


def disc(x: int, y: int, radius: int, height: int = 120, width: int = 160) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def test_inside_is_blended_the_contour_is_solid_and_the_rest_untouched() -> None:
    mask = disc(80, 60, 30)
    before = GREY.copy()
    drawn = draw_overlay(GREY, mask[None], alpha=0.5)
    np.testing.assert_array_equal(GREY, before)
    np.testing.assert_array_equal(drawn[~mask], GREY[~mask])
    assert np.abs(drawn[60, 80].astype(int) - (np.array(object_colour(0)) + 200) / 2).max() <= 1
    left = np.flatnonzero(mask[60])[0]
    assert tuple(drawn[60, left]) == object_colour(0)


def test_a_mask_at_the_border_is_outlined_there_too() -> None:
    drawn = draw_overlay(GREY, np.ones((1, 120, 160), bool))
    for corner in ((0, 0), (0, 159), (119, 0), (119, 159), (60, 0)):
        assert tuple(drawn[corner]) == object_colour(0)


@pytest.mark.parametrize("mask", [disc(80, 60, 1), disc(80, 60, 2), disc(0, 0, 9)], ids=["pixel", "cross", "corner"])
def test_tiny_masks_are_seen(mask: np.ndarray) -> None:
    drawn = draw_overlay(GREY, mask[None], ["x"], alpha=0.3)
    assert (drawn[mask] != 200).any()


def test_no_masks_and_empty_masks_leave_the_frame_as_it_is() -> None:
    for masks in (np.zeros((0, 120, 160), bool), np.zeros((2, 120, 160), bool)):
        np.testing.assert_array_equal(draw_overlay(GREY, masks, ["a", "b"][: len(masks)]), GREY)


def test_colours_belong_to_the_object_and_not_to_its_place_in_the_list() -> None:
    one, two = disc(40, 60, 20), disc(120, 60, 20)
    both = draw_overlay(GREY, np.stack([one, two]))
    alone = draw_overlay(GREY, two[None], objects=[1])
    np.testing.assert_array_equal(both[two], alone[two])
    assert not np.array_equal(both[one], GREY[one])


@pytest.mark.parametrize("text", ["the dog on the left", "é ß 狗 🐕", "x" * 500, "a\nb\tc", " "])
def test_labels_of_any_text_stay_inside_the_frame(text: str) -> None:
    mask = disc(150, 10, 8)
    drawn = draw_overlay(GREY, mask[None], [text])
    assert drawn.shape == GREY.shape
    assert (drawn != draw_overlay(GREY, mask[None])).any() == bool(text.strip())


def test_labels_do_not_cover_each_other() -> None:
    masks = np.stack([disc(80, 60, 30), disc(80, 60, 28)])
    one = draw_overlay(GREY, masks, ["first", ""])
    both = draw_overlay(GREY, masks, ["first", "second"])
    plain = draw_overlay(GREY, masks)
    first = (one != plain).any(axis=2)
    assert first.any()
    np.testing.assert_array_equal(both[first], one[first])


def read(path: Path) -> list[np.ndarray]:
    return [frame for _, frame in open_video(path).frames()]


@pytest.mark.parametrize("size", [(160, 120), (161, 121), (33, 16), (1, 1)])
def test_the_video_holds_every_frame_at_its_size(size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    path = tmp_path / "out.mp4"
    none = np.zeros((0, height, width), bool)
    with OverlayWriter(path, width, height, 25) as writer:
        for number in range(8):
            writer.write(pattern(number, width, height) if width > 20 else np.full((1, 1, 3), 99, np.uint8), none)
            assert not path.exists()
    assert writer.frames == 8
    info = open_video(path).info
    assert (info.frames, info.fps) == (8, 25)
    assert (info.width, info.height) == (width + width % 2, height + height % 2)
    if width > 20:
        assert [frame_number(frame[:height, :width]) for frame in read(path)] == list(range(8))
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


def test_it_is_h264_where_there_is_an_encoder_and_its_colours_come_back(tmp_path: Path) -> None:
    import av

    if "libx264" not in av.codecs_available:
        pytest.skip("this PyAV has no libx264")
    colours = [(200, 40, 30), (30, 180, 60), (40, 60, 200), (240, 240, 240)]
    with OverlayWriter(tmp_path / "c.mp4", 64, 64, 10) as writer:
        for colour in colours:
            writer.write(np.full((64, 64, 3), colour, np.uint8), np.zeros((0, 64, 64), bool))
    assert writer.codec == "libx264"
    assert writer.warnings == []
    assert open_video(tmp_path / "c.mp4").info.codec == "h264"
    for frame, colour in zip(read(tmp_path / "c.mp4"), colours, strict=True):
        assert np.abs(frame.reshape(-1, 3).mean(axis=0) - colour).max() < 6


def test_masks_are_in_the_video(tmp_path: Path) -> None:
    masks = np.stack([disc(50, 60, 25), disc(110, 60, 25)])
    with OverlayWriter(tmp_path / "m.mp4", 160, 120, 10, labels=["left", "right"]) as writer:
        writer.write(GREY, masks)
    frame = read(tmp_path / "m.mp4")[0].astype(int)
    assert np.abs(frame[75, 50] - [164, 100, 100]).max() < 15
    assert np.abs(frame[75, 110] - [100, 164, 100]).max() < 15


@pytest.mark.parametrize("rate", [25, 30, 29.97, Fraction(30000, 1001), 23.976, 12.5, 1, 0.5, 240])
def test_rates(rate: float | Fraction, tmp_path: Path) -> None:
    with OverlayWriter(tmp_path / "r.mp4", 32, 32, rate) as writer:
        for _ in range(40):
            writer.write(np.zeros((32, 32, 3), np.uint8), np.zeros((0, 32, 32), bool))
    source = open_video(tmp_path / "r.mp4")
    np.testing.assert_allclose(source.times_s(), np.arange(40) / float(rate), atol=1e-4 * 40 / float(rate))
    assert source.info.fps == pytest.approx(float(rate), rel=1e-3)


def test_times_of_a_variable_rate_are_kept(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.055, 0.3, 0.9]
    with OverlayWriter(tmp_path / "v.mp4", 32, 32, 25) as writer:
        for time_s in times:
            writer.write(np.zeros((32, 32, 3), np.uint8), np.zeros((0, 32, 32), bool), time_s=time_s)
        with pytest.raises(InputError, match="not later"):
            writer.write(np.zeros((32, 32, 3), np.uint8), np.zeros((0, 32, 32), bool), time_s=0.9)
    np.testing.assert_allclose(open_video(tmp_path / "v.mp4").times_s(), times, atol=1e-4)


def test_an_error_leaves_nothing_and_an_older_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")

    def fail() -> None:
        with OverlayWriter(path, 32, 32, 25) as writer:
            writer.write(np.zeros((32, 32, 3), np.uint8), np.zeros((0, 32, 32), bool))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(MediaError, match="no frames"), OverlayWriter(path, 32, 32, 25):
        pass
    forgotten = OverlayWriter(path, 32, 32, 25)
    assert len(list(tmp_path.iterdir())) == 2
    del forgotten
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]
    assert path.read_bytes() == b"older"


def test_closing_twice_is_harmless_and_writing_after_it_is_told(tmp_path: Path) -> None:
    writer = OverlayWriter(tmp_path / "out.mp4", 32, 32, 25)
    writer.write(np.zeros((32, 32, 3), np.uint8), np.zeros((0, 32, 32), bool))
    writer.close()
    writer.close()
    assert len(read(tmp_path / "out.mp4")) == 1
    with pytest.raises(InputError, match="closed"):
        writer.write(np.zeros((32, 32, 3), np.uint8), np.zeros((0, 32, 32), bool))


def test_without_an_h264_encoder_it_is_mpeg4_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [("no_such_encoder", {}), *(entry for entry in overlay._ENCODERS if entry[0] == "mpeg4")]
    monkeypatch.setattr(overlay, "_ENCODERS", tuple(known))
    with OverlayWriter(tmp_path / "out.mp4", 160, 120, 25) as writer:
        for number in range(5):
            writer.write(pattern(number, 160, 120), disc(80, 60, 20)[None])
    assert writer.codec == "mpeg4"
    assert "no H.264 encoder" in writer.warnings[0]
    assert [frame_number(frame) for frame in read(tmp_path / "out.mp4")] == list(range(5))


def test_without_any_encoder_it_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "_ENCODERS", ())
    with pytest.raises(MediaError, match="No video encoder"):
        OverlayWriter(tmp_path / "out.mp4", 32, 32, 25)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_a_capacity_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_a_full_disk(path: Path) -> tuple[IO[bytes], Path]:
        link = path.with_suffix(".partial")
        link.symlink_to("/dev/full")
        return link.open("wb"), link

    monkeypatch.setattr(overlay, "open_beside", on_a_full_disk)

    def fill(frames: int) -> None:
        noise = np.random.default_rng(0)
        with OverlayWriter(tmp_path / "out.mp4", 160, 120, 25) as writer:
            for _ in range(frames):
                image = noise.integers(0, 256, (120, 160, 3), np.uint8)
                writer.write(image, np.zeros((0, 120, 160), bool))

    for frames in (1, 100):
        with pytest.raises(CapacityError, match=r"cannot be written.*No space left"):
            fill(frames)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "fps"), [((0, 32), 25), ((32, -1), 25), ((32, 32), 0), ((32, 32), float("nan")), ((32, 32), 1e-9)]
)
def test_sizes_and_rates_out_of_range(size: tuple[int, int], fps: float, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        OverlayWriter(tmp_path / "out.mp4", *size, fps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("image", "masks", "keywords"),
    [
        (GREY.astype(np.float32), np.zeros((1, 120, 160), bool), {}),
        (GREY[..., 0], np.zeros((1, 120, 160), bool), {}),
        (GREY, np.zeros((120, 160), bool), {}),
        (GREY, np.zeros((1, 120, 159), bool), {}),
        (GREY, np.zeros((1, 120, 160), np.uint8), {}),
        (GREY, np.zeros((2, 120, 160), bool), {"labels": ["one"]}),
        (GREY, np.zeros((2, 120, 160), bool), {"objects": [1]}),
        (GREY, np.zeros((1, 120, 160), bool), {"alpha": 1.5}),
    ],
)
def test_frames_and_masks_that_do_not_fit(image: np.ndarray, masks: np.ndarray, keywords: dict[str, object]) -> None:
    with pytest.raises(InputError):
        draw_overlay(image, masks, **keywords)


def test_a_frame_of_another_size_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with OverlayWriter(tmp_path / "whole.mp4", 32, 32, 25) as writer:
        writer.write(GREY[:32, :32], np.zeros((0, 32, 32), bool))
        with pytest.raises(InputError, match="another size"):
            writer.write(GREY, np.zeros((0, 120, 160), bool))
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "gone" / "x.mp4", tmp_path / "folder"):
        with pytest.raises(InputError, match="cannot be written"):
            OverlayWriter(path, 32, 32, 25)
    assert {entry.name for entry in tmp_path.iterdir()} == {"folder", "whole.mp4"}


def test_labels_in_other_scripts_are_told_of_once(tmp_path: Path) -> None:
    texts = ["große ñandú", "красный", "红色", "红 \x1b[31m"]
    with OverlayWriter(tmp_path / "out.mp4", 64, 48, 25, labels=texts[:2]) as writer:
        writer.write(GREY[:48, :64], np.zeros((2, 48, 64), bool))
    assert writer.notes == []
    with OverlayWriter(tmp_path / "out.mp4", 64, 48, 25, labels=texts) as writer:
        writer.write(GREY[:48, :64], np.ones((4, 48, 64), bool))
    assert writer.warnings == []
    (note,) = writer.notes
    assert r"lacks '红', '色', '\x1b': code points" in note
    with OverlayWriter(tmp_path / "out.mp4", 64, 48, 25, labels=["一二三四五六七八九十"]) as writer:
        writer.write(GREY[:48, :64], np.ones((1, 48, 64), bool))
    assert "'八' and 2 more" in writer.notes[0]


@pytest.mark.parametrize("text", ["große", "красный", "ἀρχή", "x" * 400, "红色红色红色红色红色红色红色"])
def test_a_label_is_written_whole_in_height(text: str) -> None:
    """No letter touches the upper or lower edge of its patch, which has one colour there."""
    patch = np.asarray(drawing._label(text, object_colour(0), 24, 300))
    assert patch.shape[1] <= 300
    assert (patch != object_colour(0)).any()
    for edge in (patch[0], patch[-1]):
        np.testing.assert_array_equal(edge, np.broadcast_to(object_colour(0), edge.shape))
