"""Grounding DINO's graphs beside the official code, which a worker runs in the reference environment."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from alref_edge.bundle import Component
from alref_edge.models.grounding_dino.geometry import backbone_tables, decoder_tables
from alref_edge.models.grounding_dino.text import CaptionTokenizer
from alref_edge.runtime import SessionOptions, open_session
from benchmarks.official_side import ROOT, reference_python

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
        official = _worker(Path(folder), variant, component, image[0], threads)
        try:
            yield "backbone", lambda: run("backbone"), lambda: _ask(official, "backbone")
            yield "text_encoder", lambda: run("text_encoder"), lambda: _ask(official, "text_encoder")
            yield "text_encoder + decoder", caption, lambda: _ask(official, "caption")
            yield "all three", whole, lambda: _ask(official, "whole")
        finally:
            official.terminate()
            official.wait()


def _worker(folder: Path, variant: str, component: Component, image: np.ndarray, threads: int) -> subprocess.Popen[str]:
    from export.grounding_dino import save_seeded_checkpoint

    save_seeded_checkpoint(variant, 0, folder / "official.pth")
    np.save(folder / "image.npy", image)
    settings = {
        "variant": variant,
        "checkpoint": str(folder / "official.pth"),
        "vocab": str(component.file("vocab").resolve()),
        "image": str(folder / "image.npy"),
        "caption": CAPTION,
        "threads": threads,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    command = [reference_python(), "-m", "benchmarks.official.grounding_dino_worker", str(folder / "settings.json")]
    worker = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    _wait(worker, "ready")
    return worker


def _ask(worker: subprocess.Popen[str], part: str) -> None:
    assert worker.stdin is not None
    worker.stdin.write(part + "\n")
    worker.stdin.flush()
    _wait(worker, "done")


def _wait(worker: subprocess.Popen[str], word: str) -> None:
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.strip() == word:
            return
    raise RuntimeError(f"the official worker ended: exit status {worker.wait()}")
