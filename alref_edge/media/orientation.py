"""Display matrices: how the pictures that a video stores become the ones that it means to show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


class Orientation(NamedTuple):
    """A quarter turn and mirroring: transpose first, then reverse rows, then reverse columns."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Orientation:
        """By the frame's display matrix (libavutil/display.h); odd angles are taken to the nearest quarter turn."""
        items: Any = frame.side_data
        for item in items:
            if item.type.name == "DISPLAYMATRIX":
                a, b, _, c, d = np.frombuffer(bytes(item), np.int32)[:5] / 65536.0
                if abs(b) + abs(c) > abs(a) + abs(d):
                    return cls(True, bool(b < 0), bool(c < 0))
                return cls(False, bool(d < 0), bool(a < 0))
        return cls()

    @property
    def degrees(self) -> int:
        """Clockwise: 0, 90, 180 or 270; a mirror image counts as its unmirrored turn."""
        if self.transpose:
            return 90 if self.flip_columns else 270
        return 180 if self.flip_rows and self.flip_columns else 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after the turn."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, image_hwc: np.ndarray) -> np.ndarray:
        """The turned picture, contiguous."""
        image = image_hwc.transpose(1, 0, 2) if self.transpose else image_hwc
        return np.ascontiguousarray(image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1])
