"""A synthetic scene as a video, without a codec in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from alref_edge.datasets.synthetic.scene import Scene
from alref_edge.media import Limits, VideoInfo, VideoSource


class SceneSource(VideoSource):
    """The frames of a scene, each drawn when it is asked for.

    Args:
        scene: it.
        limits: caps, which a scene is not held to; `Limits()` by default.
        every: of so many frames, the last one alone is shown.
    """

    def __init__(self, scene: Scene, limits: Limits | None = None, every: int = 1) -> None:
        frames = scene.num_frames // every
        info = VideoInfo(
            frames=frames,
            width=scene.width,
            height=scene.height,
            fps=scene.fps / every,
            duration_s=frames * every / scene.fps,
            kind="frames",
            codec="synthetic",
        )
        super().__init__(Path(f"synthetic-{scene.seed}"), info, limits or Limits())
        self.scene = scene
        self._every, self._frames = every, frames

    def frame_count(self) -> int:
        return self._frames

    def times_s(self) -> np.ndarray:
        return np.arange(self._frames) * self._every / self.scene.fps

    def _group_start(self, index: int) -> int:
        return index

    def _read(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted:
            if index >= self._frames:
                return
            self.decoded += 1
            yield index, self.scene.frame((index + 1) * self._every - 1)
