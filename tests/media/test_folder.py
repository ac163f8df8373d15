"""Frame folders and single images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.errors import MediaError
from alref_edge.media import open_video
from alref_edge.media.folder import natural_key
from tests.media.clips import frame_number, make_clip, make_folder, pattern


def test_frames_are_the_pixels_of_the_files_in_natural_order(tmp_path: Path) -> None:
    source = open_video(make_folder(tmp_path / "png", 12, digits=1))
    assert source.info.kind == "frames"
    assert (source.info.frames, source.info.width, source.info.height, source.info.codec) == (12, 64, 48, "png")
    for index, frame in source.frames():
        np.testing.assert_array_equal(frame, pattern(index, 64, 48))
    assert source.decoded == 12


def test_every_walk(tmp_path: Path) -> None:
    source = open_video(make_folder(tmp_path / "jpg", 10, suffix=".jpg"), fps=5)
    assert [frame_number(frame) for _, frame in source.frames(2, 9, 3)] == [2, 5, 8]
    assert [(i, frame_number(frame)) for i, frame in source.frames_reversed(3, 7)] == [(i, i) for i in (6, 5, 4, 3)]
    source.decoded = 0
    assert [(i, frame_number(frame)) for i, frame in source.frames_at([9, 0, 9])] == [(0, 0), (9, 9)]
    assert source.decoded == 2
    np.testing.assert_allclose(source.times_s(), np.arange(10) / 5)
    assert (source.info.fps, source.info.duration_s) == (5, 2)


def test_natural_order() -> None:
    names = ["f10.jpg", "f9.jpg", "F1.jpg", "f01.jpg", "a.jpg", "12.jpg", "2.jpg"]
    assert sorted(names, key=natural_key) == ["2.jpg", "12.jpg", "a.jpg", "F1.jpg", "f01.jpg", "f9.jpg", "f10.jpg"]


def test_other_files_and_hidden_ones_are_left_alone(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "x", 3)
    (folder / "notes.txt").write_text("hello")
    (folder / "._00000.png").write_bytes(b"a fork that some systems leave")
    (folder / "sub").mkdir()
    assert open_video(folder).frame_count() == 3


def test_links_to_frames_and_folders_are_followed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "real", 3)
    (tmp_path / "links").mkdir()
    for number, name in enumerate(("00002.png", "00000.png")):
        (tmp_path / "links" / f"{number}.png").symlink_to(folder / name)
    (tmp_path / "way").symlink_to(tmp_path / "links")
    assert [frame_number(frame) for _, frame in open_video(tmp_path / "way").frames()] == [2, 0]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_every_kind_of_image_becomes_rgb(mode: str, tmp_path: Path) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.fromarray(pattern(3, 64, 48)).convert(mode).save(tmp_path / f"image.{suffix}")
    frame = open_video(tmp_path / f"image.{suffix}").frame(0)
    assert frame.dtype == np.uint8
    assert frame.shape == (48, 64, 3)
    assert frame_number(frame) == 3


def test_sixteen_bit_images_are_cut_to_eight(tmp_path: Path) -> None:
    ramp = (np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(open_video(tmp_path / "deep.png").frame(0)[..., 1], ramp >> 8)


@pytest.mark.parametrize(("orientation", "turned"), [(1, False), (3, False), (6, True), (8, True)])
def test_exif_orientation_of_jpegs_is_applied(orientation: int, turned: bool, tmp_path: Path) -> None:
    image = Image.fromarray(pattern(5, 64, 48))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    source = open_video(tmp_path / "turned.jpg")
    assert (source.info.width, source.info.height) == ((48, 64) if turned else (64, 48))
    stored = np.asarray(Image.open(tmp_path / "turned.jpg"))
    steps = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    np.testing.assert_array_equal(source.frame(0), np.rot90(stored, steps))


def test_a_single_image_is_a_clip_of_one_frame(media: Path) -> None:
    path = media / "cat_dog.jpeg"
    if not path.is_file():
        pytest.skip("cat_dog.jpeg is not among the real media")
    source = open_video(path)
    assert (source.info.kind, source.frame_count()) == ("image", 1)
    np.testing.assert_array_equal(source.frame(0), np.asarray(Image.open(path).convert("RGB")))


def test_frames_have_their_files_names(tmp_path: Path) -> None:
    names = ["1", "2", "7", "100", "A", "a", "b.c", "großer Hund\n", os.fsdecode(b"caf\xe9"), "x" * 250]
    files = [name + (".jpg", ".PNG", ".jpeg")[number % 3 if len(name) < 9 else 0] for number, name in enumerate(names)]
    for file in files:
        Image.new("RGB", (8, 8)).save(tmp_path / file, format="PNG")
    assert open_video(tmp_path).frame_names == tuple(Path(file).stem for file in sorted(files, key=natural_key))
    assert open_video(tmp_path).frame_names[:4] == ("1", "2", "7", "100")
    (image,) = (path for path in tmp_path.iterdir() if path.stem == "100")
    assert open_video(image).frame_names is None
    assert open_video(make_clip(tmp_path / "clip.mp4", frames=2)).frame_names is None


@pytest.mark.parametrize(
    "names", [("1.jpg", "1.png"), ("a.jpg", "a.b.jpg", "a.jpeg"), ("1.jpg", "1.kk.jpg", "1.PNG", "2.jpg")]
)
def test_two_files_of_one_name_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / name, format="PNG")
    with pytest.raises(MediaError, match="two files for one frame"):
        open_video(tmp_path)
