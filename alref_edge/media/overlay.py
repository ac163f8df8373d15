"""The H.264 video, or the PNG, that shows masks over frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from alref_edge.errors import InputError, MediaError
from alref_edge.files import discard, open_beside, publish, unwritable, written_beside
from alref_edge.media.drawing import draw_overlay, lacking_note

if TYPE_CHECKING:
    from alref_edge.media.soundtrack import Soundtrack

_ENCODERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"preset": "superfast"}),
    ("libopenh264", {}),
    ("h264_nvenc", {"cq": "22"}),
    ("h264_videotoolbox", {}),
    ("h264_v4l2m2m", {}),
    ("mpeg4", {"qscale": "3"}),
)
OVERLAY_TICKS = 60_000
"""Ticks a second of an overlay's clock.

It holds 24, 25, 30 and 30/1.001 frames/s exactly, and MPEG-4 part 2 allows it (at most 65,535).
"""


def write_overlay_png(
    path: str | os.PathLike[str], image_hw3_u8: np.ndarray, masks_nhw: np.ndarray, labels: Sequence[str] = ()
) -> list[str]:
    """Writes an image with its masks as a PNG, whole or not at all. Arguments as of `draw_overlay`.

    Returns:
        Notes, as `OverlayWriter.notes`.

    Raises:
        InputError: shapes that do not fit, or a path that cannot be written.
        CapacityError: the disk is full.
    """
    from PIL import Image

    drawn = Image.fromarray(draw_overlay(image_hw3_u8, masks_nhw, labels))
    with written_beside(Path(path)) as file:
        drawn.save(file, format="PNG", compress_level=3)
    return lacking_note(labels)


class OverlayWriter:
    """Writes frames with their masks as an MP4 video (H.264, yuv420p, BT.709), beside its name until it is whole.

    Use it as a context manager: a block that ends well leaves the video under its name, an error leaves nothing.

    Args:
        path: of the video; an existing file is replaced at the end.
        width, height: of the frames, in pixels; odd ones are padded by repeating the last column or row.
        fps: frames per second.
        labels: text of each object, drawn on its mask; `write` may give others.
        alpha: share of the colour inside a mask.
        crf: rate factor of x264, 0 to 51: the lower, the closer to the frames. Other encoders have their own settings.
        sound: a file whose sound goes with the frames, as far as they reach; where it cannot be read, the video is
            silent and a warning says so.
        sound_from_s: time on that file's clock of the first frame; None: that of its first sample.

    Attributes:
        codec: the encoder in use.
        frames: frames written so far.
        warnings: what the user should know, in words (no H.264 encoder in this PyAV; no sound).
        notes: what explains the pictures, in words (characters of labels that the font lacks).

    Raises:
        InputError: sizes or a rate out of range, or a path that cannot be written.
        CapacityError: the disk is full.
        MediaError: no encoder works.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        fps: float | Fraction,
        *,
        labels: Sequence[str] = (),
        alpha: float = 0.5,
        crf: int = 20,
        sound: str | os.PathLike[str] | None = None,
        sound_from_s: float | None = None,
    ) -> None:
        if width < 1 or height < 1 or not 0 < fps < 10_000:
            raise InputError(
                "An overlay's size or rate is out of range.",
                expected="a width and height from 1, 0 to 10,000 frames per second",
                got=f"{width}x{height} at {fps}",
            )
        self.path = Path(path)
        self.width, self.height = width, height
        self.fps = Fraction(fps).limit_denominator(10_000)
        if self.fps <= 0:
            raise InputError("An overlay's rate is out of range.", expected="at least 0.0001 frames/s", got=fps)
        self.frames = 0
        self.warnings: list[str] = []
        self.notes = lacking_note(labels)
        self._labels = tuple(labels)
        self._alpha, self._crf = alpha, crf
        self._last = -1
        self._due = Fraction(0)
        self._sound = None if sound is None else self._soundtrack(sound, sound_from_s)
        file, self._partial = open_beside(self.path)
        file.close()
        try:
            self._open()
        except BaseException:
            self.abort()
            raise

    def _soundtrack(self, sound: str | os.PathLike[str], from_s: float | None) -> Soundtrack | None:
        from alref_edge.media.soundtrack import Soundtrack

        try:
            return Soundtrack(sound, from_s)
        except MediaError as error:
            self.warnings.append(f"the overlay is silent: {error.message}")
            return None

    def _open(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._container: Any = None
        self._convert = VideoReformatter()
        failures: list[str] = []
        for name, options in _ENCODERS:
            if name not in av.codecs_available:
                continue
            if name == "libx264":
                options = {**options, "crf": str(self._crf)}
            try:
                # By name, not as a file object: moving the index to the front reopens the file. An absolute path has
                # no scheme, whatever its folders are called.
                name_on_disk = os.path.abspath(self._partial)
                container = av.open(name_on_disk, "w", format="mp4", options={"movflags": "+faststart"})
                stream: Any = container.add_stream(name, rate=self.fps, options=options)
                stream.width, stream.height = self.width + self.width % 2, self.height + self.height % 2
                stream.pix_fmt = "yuv420p"
                context = stream.codec_context
                context.time_base = stream.time_base = Fraction(1, OVERLAY_TICKS)
                # BT.709, limited range, said in the stream: players and our own reader then agree on the colours.
                context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
                context.open()
            except (av.FFmpegError, ValueError, OSError) as error:
                failures.append(f"{name}: {error}")
                continue
            if self._sound is not None and not self._add_sound(container):
                self._open()
                return
            self._container, self._stream, self.codec = container, stream, name
            if name == "mpeg4":
                self.warnings.append("this PyAV has no H.264 encoder that works: the overlay is MPEG-4 part 2")
            return
        raise MediaError(
            "No video encoder works here.",
            expected="libx264 or another encoder in PyAV",
            got="; ".join(failures) or "none",
            mend="pip install --force-reinstall av",
        )

    def _add_sound(self, container: Any) -> bool:
        """Whether the container takes the sound; else it is of no use any more, and the next one goes without."""
        import av

        assert self._sound is not None
        try:
            self._sound.add_to(container)
            container.start_encoding()
        except (av.FFmpegError, ValueError, MediaError) as error:
            self.warnings.append(f"the overlay is silent: {error}")
            self._sound.close()
            self._sound = None
            with suppress(Exception):
                container.close()
            return False
        return True

    def write(
        self,
        image_hw3_u8: np.ndarray,
        masks_nhw: np.ndarray,
        labels: Sequence[str] | None = None,
        *,
        objects: Sequence[int] | None = None,
        time_s: float | None = None,
    ) -> None:
        """Draws the masks over a frame and adds it: see `draw` and `add`."""
        self.add(self.draw(image_hw3_u8, masks_nhw, labels, objects=objects), time_s)

    def draw(
        self,
        image_hw3_u8: np.ndarray,
        masks_nhw: np.ndarray,
        labels: Sequence[str] | None = None,
        *,
        objects: Sequence[int] | None = None,
    ) -> np.ndarray:
        """The frame with the masks over it (see `draw_overlay`); another thread may draw while one adds.

        Raises:
            InputError: shapes that do not fit.
        """
        if image_hw3_u8.shape[:2] != (self.height, self.width):
            raise InputError(
                "A frame has another size than its overlay video.",
                expected=f"{self.width}x{self.height}",
                got="x".join(str(side) for side in image_hw3_u8.shape[1::-1]),
            )
        texts = self._labels if labels is None else labels
        return draw_overlay(image_hw3_u8, masks_nhw, texts, objects=objects, alpha=self._alpha)

    def add(self, image: np.ndarray, time_s: float | None = None) -> None:
        """Adds a frame that is drawn.

        Args:
            image: of `draw`.
            time_s: when it is shown, for a variable rate; by default a frame's duration after the last one.

        Raises:
            InputError: a time not after the last one, a place that cannot be written.
            CapacityError: the disk is full.
        """
        import av

        if self._container is None:
            raise InputError("The overlay video is closed.", expected="an open writer", got=self.path)
        due = self._due if time_s is None else Fraction(time_s) * OVERLAY_TICKS
        pts = round(due)
        if pts <= self._last:
            raise InputError(
                "A frame of an overlay is not later than the one before.",
                expected=f"after {self._last / OVERLAY_TICKS:.4f} s",
                got=f"{pts / OVERLAY_TICKS:.4f} s",
            )
        if self.width % 2 or self.height % 2:
            image = np.pad(image, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        try:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = self._convert.reformat(frame, format="yuv420p", dst_colorspace=1, dst_color_range=1)
            frame.pts, frame.time_base = pts, Fraction(1, OVERLAY_TICKS)
            self._container.mux(self._stream.encode(frame))
            if self._sound is not None:
                self._sound.advance(pts / OVERLAY_TICKS)
        except (av.FFmpegError, OSError) as error:
            raise unwritable(self.path, error) from error
        self._last, self._due = pts, due + OVERLAY_TICKS / self.fps
        self.frames += 1

    def close(self) -> None:
        """Finishes the video and gives it its name.

        Raises:
            MediaError: no frame was written.
            InputError: it cannot be written.
            CapacityError: the disk is full.
        """
        import av

        if self._container is None:
            return
        try:
            if not self.frames:
                raise MediaError(f"{self.path} would have no frames.", expected="at least one frame", got="none")
            self._container.mux(self._stream.encode(None))
            if self._sound is not None:
                self._sound.finish(float(self._due / OVERLAY_TICKS))
                self.warnings += self._sound.warnings
            self._container.close()
            self._container = None
            publish(self._partial, self.path)
        except (av.FFmpegError, OSError) as error:
            raise unwritable(self.path, error) from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Gives up: nothing is left on disk. Does nothing after `close`."""
        if self._sound is not None:
            self._sound.close()
        container, self._container = getattr(self, "_container", None), None
        if container is not None:
            with suppress(Exception):
                container.close()
        discard(self._partial)

    def __enter__(self) -> OverlayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        if getattr(self, "_partial", None) is not None:
            self.abort()
