"""Folders of JPEG or PNG frames, and single images, through Pillow."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from alref_edge.errors import MediaError
from alref_edge.media.content import kind_of
from alref_edge.media.files import open_regular, unreadable
from alref_edge.media.limits import Limits
from alref_edge.media.orientation import Orientation
from alref_edge.media.pictures import PngHeader, check_scans, jpeg_scans, png_header
from alref_edge.media.source import VideoInfo, VideoSource

_SUFFIXES = (".jpg", ".jpeg", ".png")
_FORMATS = ("JPEG", "PNG")
_EXPECTED = "an undamaged JPEG or PNG file"
_ORIENTATION_TAG = 0x0112
# Frames of a 16-bit folder that are looked at to learn which of the 16 bits hold the picture.
_LOOKED_AT = 8
_NEARLY_BLACK = 1 << 12
_JPEG_MAGIC, _PNG_MAGIC = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_ORIENTATIONS = {
    2: Orientation(flip_columns=True),
    3: Orientation(flip_rows=True, flip_columns=True),
    4: Orientation(flip_rows=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_columns=True),
    7: Orientation(transpose=True, flip_rows=True, flip_columns=True),
    8: Orientation(transpose=True, flip_rows=True),
}
# Channels of the 16-bit formats of FFmpeg's PNG decoder.
_CHANNELS = {"gray16be": 1, "ya16be": 2, "rgb48be": 3, "rgba64be": 4}
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class ImageFolder(VideoSource):
    """One frame a file, in natural order of the names (`9.jpg` before `10.jpg`).

    Alpha is dropped, palettes and grey are expanded, and the orientation that a file's Exif or XMP states is applied,
    to each frame its own. 16-bit values become 8 bits by the significant bits that a PNG states (sBIT) where the frames
    looked at stay within them, else they are cut to their upper 8; a warning says it where that is nearly black.

    Args:
        deep: significant bits of each frame that has 16-bit samples.
    """

    def __init__(
        self, path: Path, files: Sequence[Path], info: VideoInfo, limits: Limits, deep: Mapping[int, int]
    ) -> None:
        super().__init__(path, info, limits)
        self.files = tuple(files)
        self._deep = deep
        self._brightest: int | None = None

    def frame_count(self) -> int:
        return len(self.files)

    @property
    def frame_names(self) -> tuple[str, ...] | None:
        return tuple(file.stem for file in self.files) if self.info.kind == "frames" else None

    def times_s(self) -> np.ndarray:
        return np.arange(len(self.files)) / self.info.fps

    def _group_start(self, index: int) -> int:
        return index

    def _read(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted:
            if index >= len(self.files):
                return
            frame = read_image(self.files[index], self.limits, self._bits(index))
            self.decoded += 1
            if frame.shape[:2] != (self.info.height, self.info.width):
                raise _mixed(self.files[index], frame.shape[1], frame.shape[0], self.info.width, self.info.height)
            yield index, frame

    def _bits(self, index: int) -> int:
        """Which of the 16 bits of a deep frame hold the picture: the lower so many, 16 for all."""
        bits = self._deep.get(index)
        if bits is None:
            return 16
        if self._brightest is None:
            self._brightest = self._look()
        return bits if self._brightest < 1 << bits else 16

    def _look(self) -> int:
        """The largest value in a few deep frames, evenly spread. Warns where that is nearly black for 16 bits."""
        deep = list(self._deep)
        some = sorted({deep[i * (len(deep) - 1) // max(1, _LOOKED_AT - 1)] for i in range(_LOOKED_AT)})
        brightest = max(brightest_value(self.files[index], self.limits) for index in some)
        if 0 < brightest < _NEARLY_BLACK and 16 in self._deep.values():
            likely = next(bits for bits in (8, 10, 12) if brightest < 1 << bits)
            factor = 1 << 16 - likely
            self.warnings.append(
                f"the 16-bit PNG frames of {self.path.name} are nearly black, with no value above {brightest:,} of "
                f"65,535: they probably hold {likely} bits; multiply them by {factor} "
                f"(mogrify -evaluate multiply {factor} FRAMES), or state the bits in them (sBIT)"
            )
        return brightest


def open_folder(path: Path, limits: Limits, fps: float) -> ImageFolder:
    """Opens a folder; reads the header of every frame. MediaError as `open_video` says."""
    try:
        names = [name for name in os.listdir(path) if not name.startswith(".") and name.lower().endswith(_SUFFIXES)]
    except OSError as error:
        raise unreadable(path, error, "a folder of frames") from error
    if not names:
        raise MediaError(
            f"{path} holds no frames.",
            expected="JPEG or PNG files (.jpg, .jpeg, .png)",
            got="none",
            mend="extract the frames into it: ffmpeg -i VIDEO -q:v 2 FOLDER/%05d.jpg",
        )
    limits.check_frames(len(names), path)
    names.sort(key=natural_key)
    by_stem: dict[str, str] = {}
    for name in names:
        other = by_stem.setdefault(Path(name).stem, name)
        if other != name:
            raise MediaError(
                f"{path} holds two files for one frame.",
                expected="one file a frame",
                got=f"{other} and {name}",
                mend="keep frames and masks in folders of their own.",
            )
    return _open(path, [path / name for name in names], limits, fps, "frames")


def open_image(path: Path, limits: Limits, fps: float) -> ImageFolder:
    """Opens one image as a clip of one frame. MediaError as `open_video` says."""
    return _open(path, [path], limits, fps, "image")


def _open(path: Path, files: list[Path], limits: Limits, fps: float, kind: str) -> ImageFolder:
    total = 0
    width = height = rotation = 0
    codec = ""
    deep: dict[int, int] = {}
    for index, file in enumerate(files):
        with _opened(file) as picture:
            total += picture.bytes
            limits.check_bytes(total, path)
            limits.check_pixels(*picture.image.size, file)
            orientation = picture.orientation()
            w, h = orientation.size(*picture.image.size)
            if picture.png is not None and picture.png.depth == 16:
                deep[index] = picture.png.significant
            if not width:
                width, height, rotation, codec = w, h, orientation.degrees, str(picture.image.format).lower()
            elif (w, h) != (width, height):
                raise _mixed(file, w, h, width, height)
    info = VideoInfo(len(files), width, height, fps, len(files) / fps, kind, codec, rotation)
    return ImageFolder(path, files, info, limits, deep)


def read_image(path: Path, limits: Limits, bits: int = 16) -> np.ndarray:
    """Decodes a JPEG or PNG file to RGB uint8 `[H, W, 3]`, upright.

    Args:
        path: of the file.
        limits: caps on its bytes and pixels.
        bits: below 16, the picture is in the lower so many bits of a 16-bit PNG.

    Raises:
        MediaError: not such a file, damaged, over a limit.
    """
    with _checked(path, limits) as picture:
        orientation = picture.orientation()
        if bits < 16:
            values = np.minimum((picture.values().astype(np.uint32) << 8) >> bits, 255).astype(np.uint8)
        elif picture.image.mode.startswith("I"):
            values = (picture.values() >> 8).astype(np.uint8)
        else:
            values = np.array(picture.image.convert("RGB"))
        return orientation.apply(np.broadcast_to(values, (*values.shape[:2], 3)))


def brightest_value(path: Path, limits: Limits) -> int:
    """The largest value of a 16-bit PNG file, alpha left out. Raises MediaError."""
    with _checked(path, limits) as picture:
        return int(picture.values().max())


@dataclass(frozen=True)
class _Picture:
    """An open image file, of which Pillow has read the header.

    Attributes:
        file: itself.
        bytes: its size.
        image: Pillow's.
        png: what the chunks say, of a PNG.
    """

    file: BinaryIO
    bytes: int
    image: Image.Image
    png: PngHeader | None

    def orientation(self) -> Orientation:
        """What brings the stored picture upright, by its Exif or XMP."""
        if self.png is not None and self.png.late_text:
            self.image.load()
        try:
            # Not PngImageFile's own, which decodes the picture where the header has no Exif.
            return _ORIENTATIONS.get(int(Image.Image.getexif(self.image).get(_ORIENTATION_TAG, 1)), Orientation())
        except _DAMAGE:
            return Orientation()

    def values(self) -> np.ndarray:
        """Samples of a 16-bit PNG, uint16 `[H, W, 1 or 3]`, alpha left out. ValueError, OSError where it is damaged."""
        if self.image.mode.startswith("I"):
            return np.asarray(self.image).astype(np.uint16)[:, :, None]
        # Pillow keeps the upper 8 bits of colours alone; but it knows a damaged file.
        self.image.load()
        from av import CodecContext, Packet

        self.file.seek(0)
        frames = CodecContext.create("png", "r").decode(Packet(self.file.read()))
        channels = _CHANNELS[frames[0].format.name]
        height, width = frames[0].height, frames[0].width
        rows = np.frombuffer(memoryview(frames[0].planes[0]), ">u2").reshape(height, -1)[:, : width * channels]
        values = rows.reshape(height, width, channels)[:, :, : 3 if channels > 2 else 1]
        return np.asarray(values, np.uint16)


@contextmanager
def _checked(path: Path, limits: Limits) -> Iterator[_Picture]:
    """An image to be decoded: within the limits, and every error of its decoder a MediaError."""
    with _opened(path) as picture:
        limits.check_bytes(picture.bytes, path)
        limits.check_pixels(*picture.image.size, path)
        try:
            if picture.png is None:
                at = picture.file.tell()
                check_scans(picture.file, path)
                picture.file.seek(at)
            yield picture
        except MemoryError as error:
            raise damaged(path, "it needs more memory than there is") from error
        except _DAMAGE as error:
            raise damaged(path, error) from error


@contextmanager
def _opened(path: Path) -> Iterator[_Picture]:
    """A regular file opened by Pillow, header only."""
    file, size = open_regular(path, _EXPECTED)
    with file:
        if not size:
            raise damaged(path, "0 bytes")
        try:
            magic = file.read(8)
            png = png_header(file) if magic == _PNG_MAGIC else None
            if magic.startswith(_JPEG_MAGIC):
                jpeg_scans(file, 0)
            file.seek(0)
            image = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError as error:
            ours = magic.startswith((_JPEG_MAGIC, _PNG_MAGIC))
            raise damaged(path, "a damaged header" if ours else kind_of(file) or "neither") from error
        except _DAMAGE as error:
            raise damaged(path, error) from error
        width, height = image.size
        # A block of 8 x 8 takes a bit at the very least; decoders make grey of what is not there.
        if png is None and 8 * size < (width // 8) * (height // 8):
            raise damaged(path, f"{size:,} bytes for {width}x{height} pixels")
        pictures = getattr(image, "n_frames", 1)
        if png is not None and pictures > 1:
            raise MediaError(
                f"{path} is an animated PNG.",
                expected="one picture in a file",
                got=f"{pictures:,}",
                mend=f"make a video of it: ffmpeg -i {path.name} OUT.mp4",
            )
        yield _Picture(file, size, image, png)


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key under which digits count as numbers: `f2` before `f10`; ties by the name itself."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts], name


def damaged(path: Path, got: object) -> MediaError:
    """The MediaError for an image that cannot be decoded."""
    return MediaError(
        f"{path} is not a whole JPEG or PNG image.",
        expected=_EXPECTED,
        got=str(got).rstrip("."),
        mend="extract or copy this frame again.",
    )


def _mixed(path: Path, width: int, height: int, want_width: int, want_height: int) -> MediaError:
    return MediaError(
        f"{path} has another size than the first frame.",
        expected=f"{want_width}x{want_height}",
        got=f"{width}x{height}",
        mend="scale the frames to one size, or split the folder.",
    )
