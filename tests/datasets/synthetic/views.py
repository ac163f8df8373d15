"""What is seen in scenes, counted pixel by pixel: shared by the tests of scenes and of their sound."""

from __future__ import annotations

import numpy as np

from alref_edge.datasets.synthetic import Scene


def pixels_tn(scene: Scene) -> np.ndarray:
    """How many pixels of each object are seen in each frame, int64 [frames, objects]."""
    return np.stack([scene.masks(index).sum(axis=(1, 2)) for index in range(scene.num_frames)])
