"""BEATs nano, from scratch: which timbres are heard in a sound of one to ten seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from alref_edge.datasets.synthetic import TRAINING_SEEDS
from alref_edge.models.audio import kaldi_fbank
from export.beats.checkpoint import Checkpoint, build_model, load_checkpoint
from export.beats.configs import FBANK_MEAN, FBANK_STD, NANO
from export.beats.model import BeatsModel
from export.nano.sounds import NAMES, UNSEEN, clips, draw_plan, mix, tagging_quality

LABELS = (*NAMES, "Silence")


class As20kTask:
    """What BEATs nano is to learn, in place of the checkpoint of AS20K; see `export.nano.training.Task`.

    Args:
        device: "cpu" or "cuda".
        initial: a checkpoint to start from.

    Attributes:
        seed: of first weights and sounds.
        turns: sounds of a step and their seconds, by turns.
    """

    name, seed = "beats_as20k_nano", 20
    turns: tuple[tuple[int, int], ...] = ((16, 2), (12, 3), (8, 5), (24, 1), (8, 5), (4, 10))

    def __init__(self, device: str = "cpu", initial: Path | None = None) -> None:
        self.device = device
        torch.manual_seed(self.seed)
        config = replace(NANO, predictor_class=len(LABELS))
        self.model = (BeatsModel(config) if initial is None else build_model(load_checkpoint(initial))).to(device)

    def loss(self, step: int) -> dict[str, Tensor]:
        """See `Task.loss`."""
        generator = np.random.default_rng([TRAINING_SEEDS, self.seed, step])
        count, seconds = self.turns[step % len(self.turns)]
        plans = [draw_plan(generator, seconds) for _ in range(count)]
        heard_bs = np.stack([plan.any(axis=0) for plan in plans])
        wanted = np.concatenate([heard_bs, ~heard_bs.any(axis=1, keepdims=True)], axis=1)
        fbank = torch.from_numpy(np.stack([front_end(mix(generator, plan)) for plan in plans]))
        logits = self.model.logits(fbank.to(self.device))
        wanted_bl = torch.from_numpy(wanted.astype(np.float32)).to(self.device)
        return {"loss": functional.binary_cross_entropy_with_logits(logits, wanted_bl)}

    def evaluate(self) -> dict[str, float]:
        """Tags of 64 tracks: precision and recall at 0.5, and whether the best one is right."""
        return tagging_quality(clips(UNSEEN, 64), self.probabilities)

    def probabilities(self, wave_16khz: np.ndarray) -> np.ndarray:
        """Those of `NAMES`, float32 [6]."""
        fbank = torch.from_numpy(front_end(wave_16khz))[None]
        return np.asarray(self.model(fbank.to(self.device))[0, : len(NAMES)].cpu())

    def finish(self) -> None:
        """See `Task.finish`: there is nothing to do."""

    def save(self, path: Path) -> None:
        """See `Task.save`; in float16."""
        weights = {name: value.detach().cpu().half() for name, value in self.model.state_dict().items()}
        Checkpoint(self.model.config, weights, LABELS).save(path)


class As2mTask(As20kTask):
    """A second opinion, in place of the checkpoint of AS2M: other first weights, other sounds."""

    name, seed = "beats_as2m_nano", 2000
    turns = ((16, 2), (24, 1), (10, 3), (6, 5))


def front_end(wave_16khz: np.ndarray) -> np.ndarray:
    """Normalised filter banks, float32 [frames, 128], as `Beats.fbank` makes them."""
    fbank = kaldi_fbank(wave_16khz * np.float32(2**15))
    return ((fbank - np.float32(FBANK_MEAN)) / np.float32(2 * FBANK_STD)).astype(np.float32)
