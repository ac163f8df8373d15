"""Caps on what is read: a hostile or mistaken file ends in an error, not in an exhausted machine."""

from __future__ import annotations

from dataclasses import dataclass

from alref_edge.errors import InputError, MediaError


@dataclass(frozen=True)
class Limits:
    """Caps, each checked from headers before anything is decoded where a header tells, and while decoding always.

    Attributes:
        bytes: size of the file, or of all frames of a folder together. Default 8 GiB.
        pixels: width times height of one frame. Default 8192 x 4320.
        frames: number of frames. Default 500,000 (over four hours at 30 frames/s).
        duration_s: length in seconds. Default four hours. Frame folders have no clock: not checked there.
    """

    bytes: int = 8 << 30
    pixels: int = 8192 * 4320
    frames: int = 500_000
    duration_s: float = 4 * 3600.0

    def __post_init__(self) -> None:
        for name in ("bytes", "pixels", "frames", "duration_s"):
            value = getattr(self, name)
            if not value > 0:
                raise InputError(f"The limit `{name}` is not positive.", expected="a number above 0", got=value)

    def check_bytes(self, count: int, what: object) -> None:
        """Raises MediaError if `count` bytes are over the cap."""
        if count > self.bytes:
            raise _over(what, "bytes", f"at most {self.bytes:,} bytes", f"{count:,}")

    def check_pixels(self, width: int, height: int, what: object) -> None:
        """Raises MediaError if a frame of `width` x `height` is empty or over the cap."""
        if width < 1 or height < 1:
            raise MediaError(
                f"{what} declares no picture size.",
                expected="a width and a height above 0",
                got=f"{width}x{height}",
                mend="re-encode it: ffmpeg -i IN -c:v libx264 OUT.mp4",
            )
        if width * height > self.pixels:
            raise _over(what, "pixels", f"at most {self.pixels:,} pixels a frame", f"{width}x{height}")

    def check_frames(self, count: int, what: object) -> None:
        """Raises MediaError if `count` frames are over the cap."""
        if count > self.frames:
            raise _over(what, "frames", f"at most {self.frames:,} frames", f"{count:,} or more")

    def check_duration(self, seconds: float, what: object) -> None:
        """Raises MediaError if `seconds` is over the cap."""
        if seconds > self.duration_s:
            raise _over(what, "duration_s", f"at most {self.duration_s:g} s", f"{seconds:.1f} s")


def _over(what: object, name: str, expected: str, got: str) -> MediaError:
    return MediaError(
        f"{what} is over the limit `{name}`.",
        expected=expected,
        got=got,
        mend=f"cut or scale it down, or raise the limit: `Limits({name}=...)`.",
    )
