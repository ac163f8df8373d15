"""The nano MLLM, from scratch: a Qwen3-VL of 1.2 million parameters that answers the shipped templates about scenes.

First the vision tower alone learns what each token of a strip covers; then all of it learns to answer, many questions
about one strip at a time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from alref_edge.datasets.synthetic import TRAINING_SEEDS
from alref_edge.errors import InputError
from export.nano.mllm_answers import Exercise, box_exercise, frame_exercise
from export.nano.mllm_dense import CELLS, DenseHeads, Proposals, dense_targets, propose
from export.nano.mllm_folder import read_weights
from export.nano.mllm_init import start_well
from export.nano.mllm_model import Mllm, MllmConfig
from export.nano.mllm_scenes import SceneFolder, Truth, drawn
from export.nano.mllm_tokens import (
    AFTER_ANSWER,
    AFTER_IMAGE,
    AFTER_PROMPT,
    BEFORE_IMAGE,
    VOCABULARY,
    decode,
    encode,
    special,
)
from export.nano.muon import MuonAdamW
from export.nano.training import save_checkpoint

HELD_OUT = 256
"""The first scenes of the training seeds are never trained on."""

SCENES = 10_000
_SEED = 11
_LONGEST_ANSWER = 130
_DENSE_SHARE = 0.15
# A third of the scenes has sentences of relation: in most draws it is looked for one that has.
_ATTEMPTS = (1, 4, 4, 4, 4)
_WITH_BOXES = 0.6
_TARGET_AMONG_BOXES = 0.75
_KIND_WEIGHTS = {"appearance": 0.6, "relation": 6.0, "motion": 1.2}


class TrainedMllm(nn.Module):
    """The model, and the heads that only its training needs."""

    def __init__(self, config: MllmConfig) -> None:
        super().__init__()
        self.mllm = Mllm(config)
        self.heads = DenseHeads(config.hidden, config.vision_hidden)


class MllmTask:
    """What the nano MLLM is to learn; see `export.nano.training.Task`.

    Args:
        device: "cpu".
        initial: a checkpoint to start from, or a served folder, which has no heads for the dense targets: those begin
            anew.
        scenes: folder in which rendered scenes are kept; None renders each when it is needed.
        sight_steps: steps at the beginning in which the vision tower learns alone.
        images: strips of a step.
        questions: about each of them.
        scene_count: scenes that are trained on.
        evaluated: held-out scenes of an evaluation.
    """

    name = "mllm"

    def __init__(
        self,
        device: str = "cpu",
        initial: Path | None = None,
        *,
        scenes: Path | None = None,
        sight_steps: int = 1400,
        images: int = 6,
        questions: int = 6,
        scene_count: int = SCENES,
        evaluated: int = 40,
    ) -> None:
        if device != "cpu":
            raise InputError("The nano MLLM is trained on the CPU.", expected="cpu", got=device)
        torch.manual_seed(_SEED)
        self.model = TrainedMllm(MllmConfig(VOCABULARY))
        self.scenes = SceneFolder(scenes, HELD_OUT, scene_count)
        self.held_out = SceneFolder(scenes, 0, min(HELD_OUT, evaluated))
        self.sight_steps, self.images, self.questions = sight_steps, images, questions
        if initial is None:
            start_well(self.model.mllm.visual, self.scenes)
        elif initial.is_dir():
            read_weights(initial, self.model.mllm)
        else:
            self.model.load_state_dict(torch.load(initial, map_location="cpu", weights_only=True)["model"])

    def optimizer(self, weight_decay: float) -> MuonAdamW:
        """Muon for the matrices of layers, AdamW for the rest."""
        matrices = [
            value
            for name, value in self.model.named_parameters()
            if value.ndim == 2 and any(part in name for part in ("blocks.", "merger.", "layers."))
        ]
        return MuonAdamW(self.model, matrices, weight_decay)

    def loss(self, step: int) -> dict[str, Tensor]:
        """See `Task.loss`."""
        generator = np.random.default_rng([TRAINING_SEEDS, _SEED, step])
        asking = step >= self.sight_steps
        truths = [drawn(self.scenes, generator, attempts=int(generator.choice(_ATTEMPTS))) for _ in range(self.images)]
        marked = [propose(generator, each) if generator.random() < _WITH_BOXES else None for each in truths]
        tokens, patches = self.model.mllm.visual.look(_strips(truths, marked))
        told = self.model.heads.losses(
            tokens, patches, [dense_targets(*each) for each in zip(truths, marked, strict=True)]
        )
        if not asking:
            return {"loss": told["dense"], **told}
        asked = [
            exercises(generator, truth, proposals, self.questions)
            for truth, proposals in zip(truths, marked, strict=True)
        ]
        answers = self._answer_losses(tokens, asked)
        return {"loss": answers["answer"] + _DENSE_SHARE * told["dense"], **answers, **told}

    def _answer_losses(self, tokens_bnc: Tensor, asked: Sequence[Sequence[Exercise]]) -> dict[str, Tensor]:
        """Cross-entropy of the answers' tokens; those that decide count more."""
        cache, start = self.model.mllm.begin(*_before_and_after(), tokens_bnc)
        counts = torch.tensor([len(each) for each in asked])
        cache = [(key.repeat_interleave(counts, 0), value.repeat_interleave(counts, 0)) for key, value in cache]
        prompts = [encode(each.prompt + AFTER_PROMPT) for group in asked for each in group]
        answers = [encode(each.answer + AFTER_ANSWER) for group in asked for each in group]
        longest = max(len(one) + len(other) for one, other in zip(prompts, answers, strict=True)) - 1
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        wanted, weights = torch.zeros_like(ids), torch.zeros(ids.shape)
        deciding = torch.tensor([special(" yes"), special(" no"), special(" out")])
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids[row, : len(prompt) + len(answer) - 1] = torch.tensor((prompt + answer)[:-1])
            part = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
            wanted[row, part], weights[row, part] = torch.tensor(answer), 1.0
            weights[row, part.stop - 3] = 3.0
        weights[torch.isin(wanted, deciding) & (weights > 0)] = 5.0
        hidden, _ = self.model.mllm.language_model.go_on(
            ids, start + torch.arange(longest).expand_as(ids), _causal(longest, cache), cache
        )
        chosen = weights > 0
        logits = self.model.mllm.language_model.scores(hidden[chosen])
        each = functional.cross_entropy(logits, wanted[chosen], reduction="none")
        right = (logits.argmax(dim=1) == wanted[chosen]).float()
        decided = torch.isin(wanted[chosen], deciding)
        last = weights[chosen] == 3.0
        return {
            "answer": (each * weights[chosen]).sum() / weights.sum(),
            "token_right": right.mean(),
            "match_right": right[decided].mean() if decided.any() else torch.tensor(1.0),
            "last_right": right[last].mean(),
        }

    def evaluate(self) -> dict[str, float]:
        """Choices on held-out scenes, by greedy decoding: the share that is right, by kind of sentence."""
        generator = np.random.default_rng(_SEED)
        right: dict[str, list[float]] = {}
        sure: list[float] = []
        for first in range(0, len(self.held_out), 10):
            truths = [self.held_out[n] for n in range(first, min(first + 10, len(self.held_out)))]
            marked = [propose(generator, each) for each in truths]
            for boxes in (marked, [None] * len(truths)):
                asked = [exercises(generator, *each, 5) for each in zip(truths, boxes, strict=True)]
                tokens = self.model.mllm.visual(_strips(truths, boxes))
                texts = iter(self.answer(tokens, [[each.prompt for each in group] for group in asked]))
                for group, box in zip(asked, boxes, strict=True):
                    for each in group:
                        found = _last_number(next(texts))
                        sure.append(float(found is not None))
                        name = f"{each.kind}_box" if box else "frame"
                        right.setdefault(name, []).append(float(found == each.choice))
        return {**{name: float(np.mean(values)) for name, values in right.items()}, "well_formed": float(np.mean(sure))}

    def answer(self, tokens_bnc: Tensor, prompts: Sequence[Sequence[str]]) -> list[str]:
        """Answers by greedy decoding, without a grammar.

        Args:
            tokens_bnc: of the strips.
            prompts: about each of them.
        """
        language = self.model.mllm.language_model
        cache, start = self.model.mllm.begin(*_before_and_after(), tokens_bnc)
        counts = torch.tensor([len(each) for each in prompts])
        cache = [(key.repeat_interleave(counts, 0), value.repeat_interleave(counts, 0)) for key, value in cache]
        texts = [encode(each + AFTER_PROMPT) for group in prompts for each in group]
        longest, before = max(map(len, texts)), cache[0][0].shape[2]
        ids = torch.tensor([[0] * (longest - len(each)) + each for each in texts])
        pads = torch.tensor([longest - len(each) for each in texts])
        places = (start + torch.arange(longest) - pads[:, None]).clamp(min=0)
        known = torch.cat([torch.ones(len(texts), before, dtype=torch.bool), torch.arange(longest) >= pads[:, None]], 1)
        hidden, cache = language.go_on(ids, places, _causal(longest, cache) & known[:, None, None], cache)
        said: list[Tensor] = []
        while len(said) < _LONGEST_ANSWER:
            said.append(language.scores(hidden[:, -1]).argmax(dim=1))
            if all((torch.stack(said, 1) == special(AFTER_ANSWER)).any(dim=1)):
                break
            known = torch.cat([known, torch.ones(len(texts), 1, dtype=torch.bool)], 1)
            places = places[:, -1:] + 1
            hidden, cache = language.go_on(said[-1][:, None], places, known[:, None, None], cache)
        return [decode(row).split(AFTER_ANSWER)[0] for row in torch.stack(said, 1).tolist()]

    def finish(self) -> None:
        """See `Task.finish`."""

    def save(self, path: Path) -> None:
        """See `Task.save`."""
        save_checkpoint(self.model.state_dict(), path)


def exercises(generator: np.random.Generator, truth: Truth, proposals: Proposals | None, count: int) -> list[Exercise]:
    """Questions about a strip: which box, where it has boxes, or else which frame; relations and motions more often."""
    found = [*truth.sentences(generator), *truth.sentences(generator)]
    among = set() if proposals is None else set(proposals.owners)
    weights = np.array([_KIND_WEIGHTS[each.kind] for each in found])
    if proposals is not None:
        weights *= [1.0 if each.target in among else 1 - _TARGET_AMONG_BOXES for each in found]
    weights = weights / np.array([sum(other.kind == each.kind for other in found) for each in found])
    order = generator.choice(len(found), min(count, len(found)), replace=False, p=weights / weights.sum())
    chosen = [found[index] for index in order]
    if proposals is None:
        return [frame_exercise(truth, each) for each in chosen]
    return [box_exercise(generator, truth, proposals, each) for each in chosen]


def _strips(truths: Sequence[Truth], marked: Sequence[Proposals | None]) -> Tensor:
    strips = [
        truth.strip() if boxes is None else truth.strip(boxes.frame, boxes.boxes_n4)
        for truth, boxes in zip(truths, marked, strict=True)
    ]
    return torch.from_numpy(np.stack(strips))


def _before_and_after() -> tuple[Tensor, Tensor, int]:
    return torch.tensor(encode(BEFORE_IMAGE)), torch.tensor(encode(AFTER_IMAGE)), CELLS


def _causal(length: int, cache: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """All that came before, and of the text what stands before each token, bool `[1, 1, N, before + N]`."""
    before = torch.ones(length, cache[0][0].shape[2], dtype=torch.bool)
    return torch.cat([before, torch.ones(length, length, dtype=torch.bool).tril()], dim=1)[None, None]


def _last_number(text: str) -> int | None:
    try:
        values = list(json.loads(text).values())
        return int(values[-1])
    except (ValueError, TypeError, AttributeError, IndexError):
        return None
