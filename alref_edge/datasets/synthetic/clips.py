"""Scenes as MP4 clips with sound, and their masks beside them: what one plays, or gives to `alref-edge`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.datasets.synthetic.folders import truth_of, video_name
from alref_edge.datasets.synthetic.scene import Scene
from alref_edge.datasets.synthetic.sound import SoundTrack, make_sound
from alref_edge.errors import InputError, MediaError
from alref_edge.files import unwritable
from alref_edge.media import write_indexed_png

_ENCODERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"preset": "veryfast", "crf": "10"}),
    ("libopenh264", {}),
    ("mpeg4", {"qscale": "2"}),
)
_AAC_FRAME = 1024


class Mp4Clips:
    """Clips, and what is true of them.

        VIDEO.mp4                           H.264 and AAC
        Annotations/VIDEO/00000.png, ...    palette PNG of every frame, the value is the object's number plus one

    Expressions and labels of the sound stand in the record of the folder.

    Args:
        root: folder of the clips.
        split: one there is.
    """

    def __init__(self, root: Path, split: str) -> None:
        self._root = root

    def add(self, scene: Scene) -> dict[str, Any] | None:
        """See `FolderLayout`; scenes with sides of odd length have no such clip, see `write_clip`."""
        sound, video = make_sound(scene), video_name(scene)
        write_clip(self._root / f"{video}.mp4", scene, sound)
        annotations = self._root / "Annotations" / video
        annotations.mkdir(parents=True)
        for index in range(scene.num_frames):
            write_indexed_png(annotations / f"{index:05d}.png", scene.labels(index) + 1)
        return truth_of(scene, sound)

    def finish(self) -> None:
        """See `FolderLayout`."""


def write_clip(path: Path, scene: Scene, sound: SoundTrack | None = None) -> None:
    """Write a scene as an MP4 video that looks and sounds like it (H.264, yuv420p, BT.709; AAC, mono).

    Not beside its name. Where PyAV has no H.264 encoder that works, the video is MPEG-4 part 2.

    Args:
        path: of the video.
        scene: what it shows.
        sound: its sound, as long as the scene; None writes a video without sound.

    Raises:
        InputError: sides of odd length, which 4:2:0 video cannot have, or a path that cannot be written.
        CapacityError: the disk is full.
        MediaError: no encoder works.
    """
    import av

    if scene.width % 2 or scene.height % 2:
        raise InputError(
            "A clip has sides of even length.", expected="even", got=f"{scene.width}x{scene.height}", mend="add one."
        )
    failures: list[str] = []
    for encoder, options in _ENCODERS:
        try:
            with av.open(str(path.resolve()), "w", format="mp4", options={"movflags": "+faststart"}) as container:
                try:
                    video = _video_stream(container, encoder, options, scene)
                except (av.FFmpegError, ValueError) as error:
                    failures.append(f"{encoder}: {error}")
                    continue
                _mux(container, video, scene, sound)
            return
        except (av.FFmpegError, OSError) as error:
            raise unwritable(path, error) from error
    raise MediaError(
        "No video encoder works here.",
        expected=f"{_ENCODERS[0][0]} or another encoder in PyAV",
        got="; ".join(failures),
        mend="pip install --force-reinstall av",
    )


def _video_stream(container: Any, encoder: str, options: dict[str, str], scene: Scene) -> Any:
    """A stream whose encoder is open. ValueError or FFmpegError where it does not work."""
    video = container.add_stream(encoder, rate=scene.fps, options=options)
    video.width, video.height, video.pix_fmt = scene.width, scene.height, "yuv420p"
    context = video.codec_context
    # BT.709, limited range, said in the stream: readers then agree on the colours.
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
    context.open()
    return video


def _mux(container: Any, video: Any, scene: Scene, sound: SoundTrack | None) -> None:
    """Every frame, and the sound of each second after the frames of that second."""
    import av
    from av.video.reformatter import VideoReformatter

    convert = VideoReformatter()
    stream: Any = (
        None if sound is None else container.add_stream("aac", rate=sound.rate, layout="mono", bit_rate=96_000)
    )
    for index in range(scene.num_frames):
        picture = av.VideoFrame.from_ndarray(scene.frame(index), format="rgb24")
        picture = convert.reformat(picture, format="yuv420p", dst_colorspace=1, dst_color_range=1)
        picture.pts, picture.time_base = index, Fraction(1, scene.fps)
        container.mux(video.encode(picture))
        if sound is not None and index % scene.fps == scene.fps - 1:
            second = index // scene.fps
            for start in range(second * sound.rate, (second + 1) * sound.rate, _AAC_FRAME):
                end = min(start + _AAC_FRAME, (second + 1) * sound.rate)
                samples = np.ascontiguousarray(sound.wave_16khz[None, start:end])
                piece = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = sound.rate, start, Fraction(1, sound.rate)
                container.mux(stream.encode(piece))
    container.mux(video.encode(None))
    if stream is not None:
        container.mux(stream.encode(None))
