"""Synthetic clips with exact masks and expressions: the nano bundle is trained, and changes are measured, on them."""

from __future__ import annotations

from alref_edge.datasets.synthetic.dataset import SyntheticScenes, clip_of
from alref_edge.datasets.synthetic.objects import COLOURS, SHAPES, SIZES, SceneObject
from alref_edge.datasets.synthetic.scene import TRAINING_SEEDS, Scene, make_scene
from alref_edge.datasets.synthetic.scene_source import SceneSource
from alref_edge.datasets.synthetic.words import KINDS, Expression

__all__ = [
    "COLOURS",
    "KINDS",
    "SHAPES",
    "SIZES",
    "TRAINING_SEEDS",
    "Expression",
    "Scene",
    "SceneObject",
    "SceneSource",
    "SyntheticScenes",
    "clip_of",
    "make_scene",
]
