"""The door to every source of frames."""

from __future__ import annotations

import os

from alref_edge.errors import InputError
from alref_edge.media.files import empty, local_path, open_regular, unreadable
from alref_edge.media.limits import Limits
from alref_edge.media.source import VideoSource

_EXPECTED = "a video file or a folder of frames"
_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def open_video(path: str | os.PathLike[str], limits: Limits | None = None, *, fps: float = 24.0) -> VideoSource:
    """Opens a video file, a folder of JPEG or PNG frames, or a single image.

    A video's packets are read once (not decoded) to index its frames, and its first picture is decoded to learn its
    rotation; of images only the headers are read. Nothing but local, regular files is ever opened: no address, no
    pipe, no playlist that names other files. Symbolic links are followed.

    Display rotation and mirroring are applied. Frames of a variable rate come as the stream holds them, `times_s()`
    tells when. Sample aspect ratio, interlacing and HDR transfer curves are left as stored.

    Args:
        path: a local path.
        limits: caps; `Limits()` by default.
        fps: frames per second of a folder or an image, which have no clock.

    Returns:
        VideoSource.

    Raises:
        MediaError: missing, empty, unreadable, truncated, damaged, without pictures, over a limit, mixed sizes.
        InputError: `fps` that is no positive number.
    """
    limits = limits or Limits()
    if not 0 < fps < 1e6:
        raise InputError("The frame rate is out of range.", expected="above 0 frames per second", got=fps)
    where = local_path(path, "a video", "a local file or folder")
    if os.path.isdir(where):
        from alref_edge.media.folder import open_folder

        return open_folder(where, limits, fps)
    file, size = open_regular(where, _EXPECTED)
    with file:
        if not size:
            raise empty(where, _EXPECTED)
        try:
            magic = file.read(8)
        except OSError as error:
            raise unreadable(where, error, _EXPECTED) from error
    if magic.startswith(_IMAGE_MAGIC):
        from alref_edge.media.folder import open_image

        return open_image(where, limits, fps)
    from alref_edge.media.video import VideoFile

    return VideoFile(where, limits)
