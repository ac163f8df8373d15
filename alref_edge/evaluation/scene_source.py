"""A synthetic scene as a video, without a codec in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from alref_edge.datasets.synthetic import Scene
from alref_edge.media import Limits, VideoInfo, VideoSource


class SceneSource(VideoSource):
    """The frames of a scene, each drawn when it is asked for.

    Args:
        scene: it.
        limits: caps, which a scene is not held to; `Limits()` by default.
    """

    def __init__(self, scene: Scene, limits: Limits | None = None) -> None:
        info = VideoInfo(
            frames=scene.num_frames,
            width=scene.width,
            height=scene.height,
            fps=scene.fps,
            duration_s=scene.num_frames / scene.fps,
            kind="frames",
            codec="synthetic",
        )
        super().__init__(Path(f"synthetic-{scene.seed}"), info, limits or Limits())
        self.scene = scene

    def frame_count(self) -> int:
        return self.scene.num_frames

    def times_s(self) -> np.ndarray:
        return np.arange(self.scene.num_frames) / self.scene.fps

    def _group_start(self, index: int) -> int:
        return index

    def _read(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted:
            if index >= self.scene.num_frames:
                return
            self.decoded += 1
            yield index, self.scene.frame(index)
