"""LanguageBind's graphs beside the official code, which a worker runs in the reference environment."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from alref_edge.bundle import Component
from alref_edge.models.languagebind import combine_labels
from alref_edge.models.languagebind.labels import phrase
from alref_edge.models.languagebind.text import ClipTokenizer
from alref_edge.runtime import SessionOptions, open_session
from benchmarks.official_worker import OfficialWorker
from export.languagebind import save_seeded_folder

Case = tuple[str, Callable[[], object], Callable[[], object]]
LABELS = ("dog", "man", "violin")


def cases(variant: str, component: Component, threads: int) -> Iterator[Case]:
    """A segment of sound; the texts of three labels, with their own length in our graph and with the official one."""
    options = SessionOptions(threads=threads)
    sessions = {name: open_session(path, device="cpu", options=options) for name, path in component.graphs.items()}
    texts = [phrase(each) for each in combine_labels(LABELS)]
    longest = component.config["context_length"]
    tokenizer = ClipTokenizer(component.file("vocab"), component.file("merges"), context_length=longest)
    own = tokenizer.encode(texts)
    full = np.full((len(texts), longest), tokenizer.end, np.int64)
    full[:, : own.shape[1]] = own
    shape = (1, 3, component.config["mel_bins"], component.config["frames"])
    picture = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "picture.npy", picture)
        settings = {
            "folder": str(save_seeded_folder(variant, 0, Path(folder) / "official")),
            "picture": str(Path(folder) / "picture.npy"),
            "texts": texts,
            "threads": threads,
        }
        with OfficialWorker("languagebind_worker", Path(folder), settings) as official:
            yield "audio", lambda: sessions["audio"].run({"fbank": picture}), lambda: official.run("audio")
            for name, tokens in ((f"{len(texts)} texts", own), (f"{len(texts)} texts, all {longest} tokens", full)):

                def ours(tokens: np.ndarray = tokens) -> object:
                    return sessions["text"].run({"input_ids": tokens})

                yield name, ours, lambda: official.run("text")
