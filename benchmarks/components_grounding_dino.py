"""Grounding DINO's graphs beside the official code, which a worker runs in the reference environment."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from alref_edge.bundle import Component
from alref_edge.models.grounding_dino.geometry import backbone_tables, decoder_tables
from alref_edge.models.grounding_dino.text import CaptionTokenizer
from alref_edge.runtime import SessionOptions, open_session
from benchmarks.official_worker import OfficialWorker

Case = tuple[str, Callable[[], object], Callable[[], object]]
SIZES = {"nano": (320, 427)}
SIZE = (750, 1333)  # a 540x960 frame after the official resize
CAPTION = "the small dog on the left of the red car."


def cases(variant: str, component: Component, threads: int) -> Iterator[Case]:
    """Image backbone, text encoder, a caption on an image that is encoded, and everything."""
    height, width = SIZES.get(variant, SIZE)
    options = SessionOptions(threads=threads)
    sessions = {name: open_session(path, device="cpu", options=options) for name, path in component.graphs.items()}
    tokens = CaptionTokenizer(component.file("vocab")).encode(CAPTION)
    image = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)
    known = {
        **backbone_tables(height, width, component.config),
        **decoder_tables(height, width, component.config),
        "image": image,
        "input_ids": tokens.input_ids,
        "position_ids": tokens.position_ids,
        "attention_mask": tokens.attention_mask,
    }

    def run(name: str) -> None:
        session = sessions[name]
        known.update(session.run({key: known[key] for key in session.inputs}))

    def caption() -> None:
        run("text_encoder")
        run("decoder")

    def whole() -> None:
        run("backbone")
        caption()

    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(Path(folder), variant, component, image[0], threads)
        with OfficialWorker("grounding_dino_worker", Path(folder), settings) as official:
            yield "backbone", lambda: run("backbone"), lambda: official.run("backbone")
            yield "text_encoder", lambda: run("text_encoder"), lambda: official.run("text_encoder")
            yield "text_encoder + decoder", caption, lambda: official.run("caption")
            yield "all three", whole, lambda: official.run("whole")


def _settings(folder: Path, variant: str, component: Component, image: np.ndarray, threads: int) -> dict[str, object]:
    from export.grounding_dino import save_seeded_checkpoint

    save_seeded_checkpoint(variant, 0, folder / "official.pth")
    np.save(folder / "image.npy", image)
    return {
        "variant": variant,
        "checkpoint": str(folder / "official.pth"),
        "vocab": str(component.file("vocab").resolve()),
        "image": str(folder / "image.npy"),
        "caption": CAPTION,
        "threads": threads,
    }
