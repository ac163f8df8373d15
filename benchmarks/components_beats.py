"""BEATs' graph beside the official PyTorch module, both from filter banks on: front ends are numpy and torchaudio."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from alref_edge.bundle import Component
from alref_edge.runtime import SessionOptions, open_session
from benchmarks.official.beats import build_official
from export.beats import VARIANTS, seeded_checkpoint
from export.beats.exporter import example_fbank

Case = tuple[str, Callable[[], object], Callable[[], object]]
SECONDS = (1, 5, 10)


def cases(variant: str, component: Component, threads: int) -> Iterator[Case]:
    """Sounds of one, five and ten seconds."""
    session = open_session(component.graph("tagger"), device="cpu", options=SessionOptions(threads=threads))
    seeded = seeded_checkpoint(VARIANTS[variant][1], 0)
    official = build_official({"cfg": seeded.config.to_official(), "model": dict(seeded.weights)}, front_end=False)
    for seconds in SECONDS:
        fbank = example_fbank(100 * seconds - 2)
        tensor, padding_mask = torch.from_numpy(fbank), torch.zeros(1, 10000).bool()

        def ours(fbank: object = fbank) -> object:
            return session.run({"fbank": fbank})  # type: ignore[dict-item]

        def theirs(tensor: torch.Tensor = tensor, padding_mask: torch.Tensor = padding_mask) -> object:
            with torch.inference_mode():
                return official.extract_features(tensor, padding_mask=padding_mask)

        yield f"{seconds} s", ours, theirs
