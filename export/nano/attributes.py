"""What objects look like and do, as classes that networks learn to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from alref_edge.datasets.synthetic import COLOURS, SHAPES, SIZES, SceneObject
from alref_edge.datasets.synthetic.objects import MOTIONS

LOOKS: Mapping[str, tuple[str, ...]] = {"shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES)}
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {**LOOKS, "motion": MOTIONS}

UNKNOWN = -100
"""The class that `torch.nn.functional.cross_entropy` leaves out."""


def classes_of(objects: Sequence[SceneObject], attributes: Mapping[str, tuple[str, ...]]) -> np.ndarray:
    """The number of each object's value of each attribute, int64 `[objects, attributes]`."""
    rows = [[values.index(getattr(each, name)) for name, values in attributes.items()] for each in objects]
    return np.array(rows, np.int64).reshape(len(objects), len(attributes))
