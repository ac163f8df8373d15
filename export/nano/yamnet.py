"""YAMNet nano, from scratch: which timbres a second holds, and features that turn where the set of them changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from alref_edge.datasets.synthetic import TRAINING_SEEDS
from alref_edge.datasets.synthetic.timbres import RATE
from alref_edge.models.audio import log_mel_patches
from alref_edge.pipeline.audio_segments import FRAME_S, AudioSegment, AudioSegmentSettings, cosines, cut
from export.nano.sounds import UNSEEN, clips, cutting_quality, draw_plan, mix
from export.yamnet.keras_file import read_weights, write_weights
from export.yamnet.model import YamNetModule, build_model, weights_of
from export.yamnet.variants import config_of

_SEED = 9
TURNS = ((12, 5), (6, 10), (20, 3))
# How fast a cosine becomes sure that two seconds are alike, or not, away from the threshold.
_STEEPNESS = 10.0


class YamNetTask:
    """What YAMNet nano is to learn; see `export.nano.training.Task`.

    Args:
        device: "cpu" or "cuda".
        initial: a checkpoint to start from.
        turns: sounds of a step and their seconds, by turns.
    """

    name = "yamnet_nano"

    def __init__(
        self, device: str = "cpu", initial: Path | None = None, *, turns: tuple[tuple[int, int], ...] = TURNS
    ) -> None:
        torch.manual_seed(_SEED)
        config = config_of("nano")
        self.device = device
        self.turns = turns
        self.model = YamNetModule(config) if initial is None else build_model(config, read_weights(initial, config))
        self.model.to(device)

    def loss(self, step: int) -> dict[str, Tensor]:
        """See `Task.loss`: scores as they are, and cosines on their side of the threshold, of any two seconds."""
        generator = np.random.default_rng([TRAINING_SEEDS, _SEED, step])
        count, seconds = self.turns[step % len(self.turns)]
        plans = [draw_plan(generator, seconds) for _ in range(count)]
        patches = np.concatenate([log_mel_patches(mix(generator, plan), hop_s=FRAME_S)[:seconds] for plan in plans])
        heard_ns = torch.from_numpy(np.concatenate(plans)).to(self.device)
        wanted = torch.cat([heard_ns, ~heard_ns.any(dim=1, keepdim=True)], dim=1).float()
        logits, features_nd = self.model.logits(torch.from_numpy(patches).to(self.device))
        scores = functional.binary_cross_entropy_with_logits(logits, wanted)
        units_nd = functional.normalize(features_nd, eps=1e-6)
        cosines_nn = units_nd @ units_nd.T
        alike_nn = (heard_ns[:, None] == heard_ns[None]).all(dim=2)
        sure = functional.binary_cross_entropy_with_logits(
            _STEEPNESS * (cosines_nn - AudioSegmentSettings().threshold), alike_nn.float(), reduction="none"
        )
        apart = ~torch.eye(len(alike_nn), dtype=torch.bool, device=self.device)
        pairs = sure[alike_nn & apart].mean() + sure[~alike_nn].mean()
        next_n = torch.arange(len(alike_nn) - 1)
        next_n = next_n[(next_n + 1) % seconds != 0]
        neighbours = sure[next_n, next_n + 1].mean()
        return {"loss": scores + pairs + neighbours, "scores": scores, "pairs": pairs, "neighbours": neighbours}

    def evaluate(self) -> dict[str, float]:
        """Precision and recall of the cuts of 64 tracks."""
        return cutting_quality(clips(UNSEEN, 64), self.cut)

    def cut(self, wave_16khz: np.ndarray) -> tuple[AudioSegment, ...]:
        """Segments of a sound of whole seconds."""
        seconds = len(wave_16khz) // RATE
        patches = torch.from_numpy(log_mel_patches(wave_16khz, hop_s=FRAME_S)[:seconds])
        features = self.model(patches.to(self.device))[1].cpu().numpy()
        return cut(cosines(features), FRAME_S, AudioSegmentSettings().threshold, seconds=seconds)

    def finish(self) -> None:
        """See `Task.finish`: there is nothing to do."""

    def save(self, path: Path) -> None:
        """See `Task.save`: `yamnet_nano.h5`, numbers that float16 holds."""
        weights = {name: value.astype(np.float16) for name, value in weights_of(self.model).items()}
        write_weights(path.with_suffix(".h5"), weights)
