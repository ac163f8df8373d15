"""Scenes as a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from alref_edge.datasets.base import Clip, Sentence
from alref_edge.datasets.synthetic.scene import Scene, make_scene
from alref_edge.datasets.synthetic.scene_source import SceneSource


@dataclass(frozen=True)
class SyntheticScenes:
    """The scenes of some seeds, with the sentences about them; each clip's name is its seed.

    Attributes:
        seeds: of the scenes.
        size: height and width of a scene in pixels.
        frames: length of a scene.
    """

    seeds: range
    size: int = 256
    frames: int = 40

    def __len__(self) -> int:
        return len(self.seeds)

    def __iter__(self) -> Iterator[Clip]:
        return (clip_of(make_scene(seed, self.size, self.size, self.frames)) for seed in self.seeds)


def clip_of(scene: Scene) -> Clip:
    """A scene as a clip; what is seen where is worked out once, when it is first asked for."""
    labels = cache(lambda: np.stack([scene.labels(frame) for frame in range(scene.num_frames)]))
    sentences = tuple(
        Sentence(each.text, partial(_masks, labels, each.target), each.kind) for each in scene.expressions
    )
    return Clip(str(scene.seed), partial(SceneSource, scene), sentences)


def _masks(labels: Callable[[], np.ndarray], target: int) -> np.ndarray:
    masks_thw: np.ndarray = labels() == target
    return masks_thw
