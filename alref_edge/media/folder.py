"""Folders of JPEG or PNG frames, and single images, through Pillow."""

from __future__ import annotations

import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from alref_edge.errors import MediaError
from alref_edge.media.limits import Limits
from alref_edge.media.source import VideoInfo, VideoSource, unreadable

_SUFFIXES = (".jpg", ".jpeg", ".png")
_FORMATS = ("JPEG", "PNG")
_ORIENTATION_TAG = 0x0112
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    IndexError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class ImageFolder(VideoSource):
    """One frame a file, in natural order of the names (`9.jpg` before `10.jpg`).

    Alpha is dropped, palettes and grey are expanded, 16-bit values are cut to their upper 8 bits, and the orientation
    that a JPEG's Exif states is applied.
    """

    def __init__(self, path: Path, files: Sequence[Path], info: VideoInfo, limits: Limits) -> None:
        super().__init__(path, info, limits)
        self.files = tuple(files)

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
            frame = read_image(self.files[index], self.limits)
            self.decoded += 1
            if frame.shape[:2] != (self.info.height, self.info.width):
                raise _mixed(self.files[index], frame.shape[1], frame.shape[0], self.info.width, self.info.height)
            yield index, frame


def open_folder(path: Path, limits: Limits, fps: float) -> ImageFolder:
    """Opens a folder; reads the header of every frame. MediaError as `open_video` says."""
    try:
        names = [name for name in os.listdir(path) if not name.startswith(".") and name.lower().endswith(_SUFFIXES)]
    except OSError as error:
        raise unreadable(path, error) from error
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
    width = height = 0
    codec = ""
    for file in files:
        with _opened(file) as (image, size):
            total += size
            limits.check_bytes(total, path)
            limits.check_pixels(*image.size, file)
            w, h = image.size[::-1] if _orientation(image) in (5, 6, 7, 8) else image.size
            codec = codec or str(image.format).lower()
        if not width:
            width, height = w, h
        elif (w, h) != (width, height):
            raise _mixed(file, w, h, width, height)
    info = VideoInfo(len(files), width, height, fps, len(files) / fps, kind, codec)
    return ImageFolder(path, files, info, limits)


def read_image(path: Path, limits: Limits) -> np.ndarray:
    """Decodes a JPEG or PNG file to RGB uint8 `[H, W, 3]`. Raises MediaError."""
    with _opened(path) as (image, size):
        limits.check_bytes(size, path)
        limits.check_pixels(*image.size, path)
        try:
            if image.mode.startswith("I"):
                grey = np.asarray(image).astype(np.uint32)
                return np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
            if _orientation(image) != 1:
                image = ImageOps.exif_transpose(image)
            return np.array(image.convert("RGB"))
        except MemoryError as error:
            raise damaged(path, "it needs more memory than there is") from error
        except _DAMAGE as error:
            raise damaged(path, error) from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Image.Image, int]]:
    """A regular file opened by Pillow, header only: `(image, size in bytes)`."""
    try:
        # Without O_NONBLOCK the opening of a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(path, error) from error
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        os.close(descriptor)
        raise damaged(path, "not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        if state.st_size == 0:
            raise damaged(path, "0 bytes")
        try:
            image = Image.open(file, formats=_FORMATS)
        except _DAMAGE as error:
            raise damaged(path, error) from error
        yield image, state.st_size


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key under which digits count as numbers: `f2` before `f10`; ties by the name itself."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts], name


def _orientation(image: Image.Image) -> int:
    # Only a JPEG has its Exif in the header; asking a PNG for it would decode the picture.
    if image.format == "PNG":
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DAMAGE:
        return 1


def damaged(path: Path, got: object) -> MediaError:
    """The MediaError for an image that cannot be decoded."""
    return MediaError(
        f"{path} is not a whole JPEG or PNG image.",
        expected="an undamaged JPEG or PNG file",
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
