"""YAMNet's graph beside the torch module that it is exported from: the official code runs on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from alref_edge.bundle import Component
from alref_edge.runtime import SessionOptions, open_session
from export.yamnet import VARIANTS
from export.yamnet.exporter import GRAPH
from export.yamnet.keras_file import seeded_weights
from export.yamnet.model import MEL_BANDS, PATCH_FRAMES, build_model

Case = tuple[str, Callable[[], object], Callable[[], object]]
# Patches of 0.96 s, one every 0.48 s: of one second, and of ten.
PATCHES = (1, 20)


def cases(variant: str, component: Component, threads: int) -> Iterator[Case]:
    """One patch and twenty."""
    session = open_session(component.graph(GRAPH), device="cpu", options=SessionOptions(threads=threads))
    config = VARIANTS[variant]
    module = build_model(config, seeded_weights(config, 0))
    for count in PATCHES:
        shape = (count, PATCH_FRAMES, MEL_BANDS)
        patches = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        tensor = torch.from_numpy(patches)

        def ours(patches: np.ndarray = patches) -> object:
            return session.run({"patches": patches})

        def theirs(tensor: torch.Tensor = tensor) -> object:
            with torch.inference_mode():
                return module(tensor)

        yield f"{count} patch{'es' * (count > 1)}", ours, theirs
