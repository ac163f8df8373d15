"""Frame folders and single images."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from alref_edge.errors import MediaError
from alref_edge.media import open_video
from alref_edge.media.folder import natural_key
from tests.media.clips import frame_number, make_clip, make_folder, make_many_scans, make_png16, pattern, png_chunk


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


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_sixteen_bit_images_are_scaled_by_the_bits_that_they_state(channels: int, bits: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1 << bits, (48, 50, channels)).astype(np.uint16)
    source = open_video(make_png16(tmp_path / "deep.png", values, bits))
    colours = values[..., :3] if channels > 2 else np.repeat(values[..., :1], 3, axis=2)
    np.testing.assert_array_equal(source.frame(0), colours >> (bits - 8))
    assert source.warnings == []


def test_stated_bits_that_are_scaled_already_are_left_as_they_are(tmp_path: Path) -> None:
    # As the specification of PNG wants it: 12 bits, stretched over all 16. A dark frame follows its bright folder.
    for number, highest in enumerate((4095, 200)):
        values = np.random.default_rng(number).integers(0, highest, (48, 50, 3)).astype(np.uint16)
        make_png16(tmp_path / "x" / f"{number}.png", values << 4 | values >> 8, 12)
    source = open_video(tmp_path / "x")
    dark = source.frame(1)
    np.testing.assert_array_equal(dark, (values << 4) >> 8)
    assert source.frame(0).max() == 255
    assert source.warnings == []


@pytest.mark.parametrize(("highest", "likely", "factor"), [(4095, 12, 16), (1000, 10, 64), (255, 8, 256)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_nearly_black_sixteen_bit_images_is_told(
    channels: int, highest: int, likely: int, factor: int, tmp_path: Path
) -> None:
    for number in range(3):
        values = np.full((48, 50, channels), highest, np.uint16)
        values[:24] = number
        make_png16(tmp_path / "x" / f"{number}.png", values if channels > 1 else values[..., 0])
    source = open_video(tmp_path / "x")
    assert [int(frame.max()) for _, frame in source.frames()] == [highest >> 8] * 3
    list(source.frames())
    (warning,) = source.warnings
    assert f"{highest:,} of 65,535" in warning
    assert f"probably hold {likely} bits; multiply them by {factor} " in warning


def test_one_bright_image_or_black_alone_is_no_nearly_black_folder(tmp_path: Path) -> None:
    for number, value in enumerate((100, 100, 60_000)):
        make_png16(tmp_path / "x" / f"{number}.png", np.full((48, 50), value, np.uint16))
    make_png16(tmp_path / "black.png", np.zeros((48, 50), np.uint16))
    for path in (tmp_path / "x", tmp_path / "black.png"):
        source = open_video(path)
        list(source.frames())
        assert source.warnings == []


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _xmp(orientation: int) -> str:
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'


def _jpeg(path: Path, image: Image.Image, orientation: int) -> None:
    image.save(path, "JPEG", exif=_exif(orientation), quality=95)


def _png(path: Path, image: Image.Image, orientation: int) -> None:
    image.save(path, "PNG", exif=_exif(orientation))


def _png_profile(path: Path, image: Image.Image, orientation: int) -> None:
    raw = _exif(orientation)
    texts = PngInfo()
    texts.add_text("Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}\n", zip=True)
    image.save(path, "PNG", pnginfo=texts)


def _png_xmp(path: Path, image: Image.Image, orientation: int) -> None:
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", _xmp(orientation))
    image.save(path, "PNG", pnginfo=texts)


def _png_late(path: Path, image: Image.Image, orientation: int) -> None:
    image.save(path, "PNG")
    data = path.read_bytes()
    end = data.rindex(b"IEND") - 4
    path.write_bytes(data[:end] + png_chunk(b"eXIf", _exif(orientation).removeprefix(b"Exif\0\0")) + data[end:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("write", [_jpeg, _png, _png_profile, _png_xmp, _png_late])
def test_the_orientation_that_a_file_states_is_applied(
    write: Callable[[Path, Image.Image, int], None], orientation: int, tmp_path: Path
) -> None:
    path = tmp_path / "turned"
    write(path, Image.fromarray(pattern(5, 64, 48)), orientation)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    source = open_video(path)
    assert (source.info.height, source.info.width) == expected.shape[:2]
    assert source.info.rotation == {3: 180, 5: 270, 6: 90, 7: 90, 8: 270}.get(orientation, 0)
    np.testing.assert_array_equal(source.frame(0), expected)


def test_orientation_of_deep_and_of_mixed_files(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (48, 64, 3)).astype(np.uint16)
    late = png_chunk(b"eXIf", _exif(6).removeprefix(b"Exif\0\0"))
    deep = open_video(make_png16(tmp_path / "deep.png", values, 12, late))
    np.testing.assert_array_equal(deep.frame(0), np.rot90(values >> 4, -1))
    folder = tmp_path / "mixed"
    folder.mkdir()
    _jpeg(folder / "0.jpg", Image.fromarray(pattern(0, 64, 48)), 1)
    _png(folder / "1.png", Image.fromarray(np.ascontiguousarray(np.rot90(pattern(1, 64, 48)))), 6)
    assert [frame_number(frame) for _, frame in open_video(folder).frames()] == [0, 1]
    _png(folder / "2.png", Image.fromarray(pattern(2, 64, 48)), 6)
    with pytest.raises(MediaError, match="another size"):
        open_video(folder)


@pytest.mark.parametrize("text", ["garbage", "\nexif\n  99\nzz\n", "\nexif\n   8\n4d4d002a\n"])
def test_metadata_that_make_no_sense_turn_nothing(text: str, tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_text("Raw profile type exif", text)
    Image.fromarray(pattern(5, 64, 48)).save(tmp_path / "x.png", pnginfo=texts)
    np.testing.assert_array_equal(open_video(tmp_path / "x.png").frame(0), pattern(5, 64, 48))


def test_palettes_with_transparency_and_two_levels(tmp_path: Path) -> None:
    image = Image.fromarray(pattern(3, 64, 48))
    image.convert("P").save(tmp_path / "palette.png", transparency=0)
    image.convert("L").save(tmp_path / "grey.png", transparency=16)
    image.convert("RGB").save(tmp_path / "colour.png", transparency=(16, 16, 16))
    image.convert("1").save(tmp_path / "two.png")
    for path in tmp_path.iterdir():
        assert frame_number(open_video(path).frame(0)) == 3


def test_a_progressive_jpeg_as_encoders_write_it_is_read(tmp_path: Path) -> None:
    source = open_video(make_many_scans(tmp_path / "fine.jpg", 20))
    assert frame_number(source.frame(0)) == 0


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


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"GIF89a" + bytes(100), "a GIF image"),
        (b"%PDF-1.7" + bytes(100), "a PDF document"),
        (b"no picture at all", "text"),
        (bytes(range(200, 256)) * 4, "neither"),
    ],
)
def test_a_frame_that_is_something_else_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "1.png").write_bytes(content)
    with pytest.raises(MediaError) as caught:
        open_video(tmp_path)
    assert caught.value.got == kind
