"""SAM 2 nano learns to segment from prompts and to track: the task of `python -m export.nano sam2`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alref_edge.datasets.synthetic import Scene, make_scene
from export.nano.muon import MuonAdamW
from export.nano.sam2_dense import DenseHeads
from export.nano.sam2_model import (
    LONGEST,
    VARIANT,
    Decoded,
    Features,
    Moment,
    build_trainable,
    condition,
    encode,
    encode_with_maps,
    moment_of,
    prompt,
    track,
)
from export.nano.sam2_scenes import FEW, Clips, draw_clips, draw_prompts, normalised
from export.nano.training import save_checkpoint

# Weights of the losses. Mask, dice, IoU and object score are judged as in the SAM 2 paper, but: in place of the focal
# loss stands cross-entropy for each pixel of the object, so that small ones count as much as large ones, and of it the
# logarithm, so that lost tracks do not drown the rest; and of the multimask output the mask with the highest predicted
# IoU learns, which is the one that is remembered. Then come those of dense supervision.
_WEIGHTS = {"mask": 1.0, "dice": 2.0, "iou": 1.0, "score": 1.0, "features": 0.2, "location": 0.3, "attributes": 0.3}
_ROUND = 16.0  # pixels that the dice loss adds to both sides
_SPREAD = 200.0  # pixels that cross-entropy adds to an object
_ROWS = 8  # compared at once
_FEW_ROWS = 4  # tables of a few vectors are not matrices of layers


# Scenes that the object score is calibrated on; neither trained on nor measured on.
_CALIBRATED_ON = range(600_000, 600_008)


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum.

    Attributes:
        until: first step that is of the next stage.
        clips, frames, rows, calm: of a batch; see `draw_clips`.
        astray: share of the clips in which tracks are exchanged on the way: they must be found again.
    """

    until: int
    clips: int
    frames: int
    rows: int
    calm: bool = False
    astray: float = 0.0


CURRICULUM = (
    Stage(until=3400, clips=5, frames=1, rows=3),
    Stage(until=8000, clips=1, frames=8, rows=4, astray=0.35),
    Stage(until=10**9, clips=1, frames=16, rows=4, calm=True, astray=0.35),
)


@dataclass(frozen=True)
class Answer:
    """What was decoded for some rows in one frame of a batch.

    Attributes:
        decoded: of R' rows.
        frame: the frame's index in the batch.
        rows: the rows' numbers, int64 [R'].
        mask_index: which of the four masks is compared with the truth, int64 [R'].
    """

    decoded: Decoded
    frame: int
    rows: Tensor
    mask_index: Tensor


class TrainedSam2(nn.Module):
    """The model, and the heads that only its training needs."""

    def __init__(self, sam2: Any) -> None:
        super().__init__()
        self.sam2 = sam2
        self.heads = DenseHeads(sam2.image_encoder.trunk.channel_list[::-1], sam2.hidden_dim, sam2.mem_dim)


class Sam2Task:
    """See `export.nano.training.Task`.

    Args:
        device: "cpu" or "cuda".
        initial: an official checkpoint to start from.
        curriculum: stages; the default is the recipe's.
        seed: of weights and batches.
        clips: how many unseen clips quality is measured on.
    """

    name = VARIANT

    def __init__(
        self,
        device: str = "cpu",
        initial: Path | None = None,
        *,
        curriculum: tuple[Stage, ...] = CURRICULUM,
        seed: int = 0,
        clips: int = 5,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = TrainedSam2(build_trainable(initial, seed=seed)).to(device)
        self.device, self.curriculum, self.seed, self.clips = device, curriculum, seed, clips

    @property
    def sam2(self) -> Any:
        """The official `SAM2Base`."""
        return self.model.sam2

    def optimizer(self, weight_decay: float) -> MuonAdamW:
        """Muon for the matrices of layers, AdamW for the rest."""
        matrices = [each for each in self.sam2.parameters() if each.ndim == 2 and min(each.shape) > _FEW_ROWS]
        return MuonAdamW(self.model, matrices, weight_decay)

    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses of a step, float32 scalars: the parts, not yet weighted, and "loss", their sum by `_WEIGHTS`."""
        stage = next(each for each in self.curriculum if step < each.until)
        sizes = {"clips": stage.clips, "frames": stage.frames, "rows": stage.rows}
        clips = draw_clips(self.seed, step, **sizes, calm=stage.calm)
        generator = np.random.default_rng([self.seed, step, 78])
        answers, dense = self._answer(clips, generator, stage.astray)
        told = losses(answers, clips, self.device)
        return {**told, **dense, "loss": told["loss"] + sum(_WEIGHTS[name] * value for name, value in dense.items())}

    def _answer(
        self, clips: Clips, generator: np.random.Generator, astray: float
    ) -> tuple[list[Answer], dict[str, Tensor]]:
        """Segment in up to three frames from boxes or points; then track from the first frame's true mask, or from what
        was segmented there. In a share of the clips each track is made to have followed another object for a while.

        Returns:
            The answers, and the losses of dense supervision: "features", "attributes" and, of what is tracked,
            "location".
        """
        model, heads, owners = self.sam2, self.model.heads, clips.clip_of_row.to(self.device)
        frames, number = clips.images.shape[:2]
        encoded, maps = encode_with_maps(model, clips.images.flatten(0, 1).to(self.device))
        labels = clips.labels.flatten(0, 1).to(self.device)
        classes = clips.attributes.repeat(frames, 1, 1).to(self.device)
        dense = {"features": heads.feature_loss(maps, encoded.embed, labels, classes)}
        features = [encoded.rows(owners + number * index) for index in range(frames)]
        every = torch.arange(len(owners))
        answers = []
        for frame in sorted({0, frames // 2, frames - 1}):
            shown = clips.promptable(frame)
            if len(shown):
                coords, points = draw_prompts(generator, clips.masks[frame, shown])
                some = features[frame] if len(shown) == len(every) else features[frame].rows(shown.to(self.device))
                decoded = prompt(model, some, coords.to(self.device), points.to(self.device))
                single = points.shape[1] > 1 or generator.random() < 0.5
                index = torch.zeros_like(shown) if single else decoded.ious[:, 1:].argmax(dim=1).cpu() + 1
                answers.append(Answer(decoded, frame, shown, index))
        masks = clips.masks[0].unsqueeze(1).to(self.device)
        if generator.random() < 0.3 and answers and answers[0].frame == 0 and len(answers[0].rows) == len(every):
            guess = _enlarged(answers[0].decoded.masks[:, :1].detach())
            masks = torch.where(guess.flatten(1).any(dim=1)[:, None, None, None], guess, masks)
        decoded, moment = condition(model, features[0], masks, clips.times[0])
        answers.append(Answer(decoded, 0, every, torch.zeros_like(every)))
        past, locations, attributes = [moment], [], [self._attribute_loss(decoded, moment, clips, 0)]
        exchanged = torch.from_numpy(_exchanged(generator, clips.clip_of_row.numpy(), astray)).to(self.device)
        first, last = sorted(generator.integers(1, max(2, frames - 1), size=2))
        for frame in range(1, frames):
            if frame == last + 1:
                past = [*past[:first], *(each.rows(exchanged) for each in past[first:])]
            decoded, best, conditioned = track(model, features[frame], past, clips.times[frame])
            # The mask that is remembered is the one that learns; now and then another, so that it stays worth choosing.
            tried = best if generator.random() < 0.8 else torch.from_numpy(generator.integers(3, size=len(best)))
            answers.append(Answer(decoded, frame, every, tried.cpu() + 1))
            locations.append(heads.location_loss(conditioned, clips.masks[frame].to(self.device)))
            if frame < frames - 1:
                past.append(moment_of(model, features[frame], decoded, best, clips.times[frame])[1])
                attributes.append(self._attribute_loss(decoded, past[-1], clips, frame))
        if locations:
            dense["location"] = torch.stack(locations).mean()
        dense["attributes"] = torch.stack(attributes).mean()
        return answers, dense

    def _attribute_loss(self, decoded: Decoded, moment: Moment, clips: Clips, frame: int) -> Tensor:
        """`DenseHeads.attribute_loss` of the rows whose object is there and is said to be."""
        masks = clips.masks[frame].to(self.device)
        told = torch.nonzero(masks.flatten(1).any(dim=1) & (decoded.score[:, 0] > 0)).flatten()
        attributes = clips.attributes_of_rows().to(self.device)
        return self.model.heads.attribute_loss(moment.rows(told), masks[told], attributes[told])

    def evaluate(self) -> dict[str, float]:
        """Tracking from a true box on the frame where the most of an object is seen, on clips never trained on.

        Returns:
            j: mean Jaccard index over objects and frames; prompt_j: of the prompted frames; absent, present: the share
            of frames without, with the object in which the model says so.
        """
        totals: dict[str, list[float]] = {"j": [], "prompt_j": [], "absent": [], "present": []}
        for seed in range(500_000, 500_000 + self.clips):
            scene = make_scene(seed)
            frames = np.stack([normalised(scene.frame(index)) for index in range(scene.num_frames)])
            features = self.encode_all(frames)
            for number in range(len(scene.objects)):
                truth = np.stack([scene.labels(index) == number for index in range(scene.num_frames)])
                found, pivot = self.track_object(scene, features, number)
                for index, (wanted, got) in enumerate(zip(truth, found, strict=True)):
                    union = int((wanted | got).sum())
                    j = float((wanted & got).sum()) / union if union else 1.0
                    totals["j"].append(j)
                    if index == pivot:
                        totals["prompt_j"].append(j)
                    if wanted.any():
                        totals["present"].append(float(got.any()))
                    else:
                        totals["absent"].append(float(not got.any()))
        return {name: round(float(np.mean(values)), 4) for name, values in totals.items() if values}

    def encode_all(self, frames: np.ndarray) -> list[Features]:
        """Features of every normalised frame, each of one image."""
        return [encode(self.sam2, torch.from_numpy(each[None]).to(self.device)) for each in frames]

    def track_object(self, scene: Scene, features: list[Features], number: int) -> tuple[np.ndarray, int]:
        """Masks bool [T, S, S] of an object from its true box on the frame where the most of it is seen; that frame."""
        pivot = max(range(scene.num_frames), key=lambda index: int((scene.labels(index) == number).sum()))
        masks = np.zeros((scene.num_frames, scene.height, scene.width), bool)
        for index, score, mask in self._tracked(scene, features, number, pivot):
            masks[index] = mask & (score > 0)
        return masks, pivot

    def calibrate(self, seeds: range) -> float:
        """Move the bias of the object score to where zero best tells presence from absence, over scenes of some seeds.

        Training sees few absent objects and sets the scores of those apart, but not around zero.

        Returns:
            What was added to the bias.
        """
        found: list[tuple[float, float, float]] = []  # score; J if the mask is given, and if none is
        for seed in seeds:
            scene = make_scene(seed)
            frames = np.stack([normalised(scene.frame(index)) for index in range(scene.num_frames)])
            features = self.encode_all(frames)
            for number in range(len(scene.objects)):
                pivot = max(range(scene.num_frames), key=lambda index: int((scene.labels(index) == number).sum()))
                for index, score, mask in self._tracked(scene, features, number, pivot):
                    truth = scene.labels(index) == number
                    given = float((truth & mask).sum()) / max(1, int((truth | mask).sum()))
                    found.append((score, given, float(not truth.any())))
        scores, given, kept = np.array(found).T
        tried = np.arange(-4.0, 4.0, 0.1)
        reached = np.array([np.where(scores > each, given, kept).mean() for each in tried])
        # The middle of the best stretch.
        offset = -float(np.median(tried[reached >= reached.max() - 2e-4]))
        self.sam2.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data += offset
        return offset

    def _tracked(
        self, scene: Scene, features: list[Features], number: int, pivot: int
    ) -> Iterator[tuple[int, float, np.ndarray]]:
        """Frame, object score and mask bool [S, S] of an object: prompted on its frame, then forward, then backward."""
        box = torch.from_numpy(scene.boxes(pivot)[number].reshape(1, 2, 2)).to(self.device)
        labels = torch.tensor([[2, 3]], dtype=torch.int32, device=self.device)
        start = _enlarged(prompt(self.sam2, features[pivot], box, labels).masks[:, :1])
        yield pivot, 1.0, start[0, 0].cpu().numpy()
        if not bool(start.any()):
            return
        for order in (range(pivot + 1, scene.num_frames), range(pivot - 1, -1, -1)):
            past: list[Moment] = [condition(self.sam2, features[pivot], start, 0)[1]]
            for time, index in enumerate(order, start=1):
                decoded, best, _ = track(self.sam2, features[index], past, time)
                yield index, float(decoded.score), _enlarged(decoded.masks[:, best + 1])[0, 0].cpu().numpy()
                past = [
                    past[0],
                    *past[1:][1 - LONGEST :],
                    moment_of(self.sam2, features[index], decoded, best, time)[1],
                ]

    def finish(self) -> None:
        """See `Task.finish`: the object score is calibrated."""
        self.calibrate(_CALIBRATED_ON)

    def save(self, path: Path) -> None:
        """See `Task.save`."""
        save_checkpoint(self.sam2.state_dict(), path)


def _exchanged(generator: np.random.Generator, clip_of_row: np.ndarray, share: float) -> np.ndarray:
    """Which row's past each row takes, int64 [R]: another one's of its clip in a share of the clips, else its own."""
    order = np.arange(len(clip_of_row))
    for clip in np.unique(clip_of_row):
        rows = np.flatnonzero(clip_of_row == clip)
        if generator.random() < share:
            order[rows] = np.roll(rows, int(generator.integers(1, max(2, len(rows)))))
    return order


def _enlarged(logits: Tensor) -> Tensor:
    """Masks bool [R, 1, S, S] of logits [R, 1, h, w]."""
    return F.interpolate(logits, scale_factor=4.0, mode="bilinear") > 0


def losses(answers: list[Answer], clips: Clips, device: str) -> dict[str, Tensor]:
    """Losses of masks, means over the answers' rows. Masks, at full size since outlines are finer than cells, and their
    predicted IoU count where the object is seen; the object score where it is clearly there, or not at all.

    Args:
        answers: of one batch.
        clips: the batch.
        device: of the answers.

    Returns:
        float32 scalars: "mask", "dice" (neither has a gradient), "iou" and "score", and "loss", their weighted sum.
    """
    logits = torch.cat([each.decoded.masks for each in answers])  # [A, 4, h, w]
    ious = torch.cat([each.decoded.ious for each in answers])
    scores = torch.cat([each.decoded.score for each in answers]).squeeze(-1)
    whole = torch.cat([clips.masks[each.frame, each.rows] for each in answers]).to(device)
    areas = whole.sum(dim=(-2, -1))
    seen = (areas > 0).float()
    judged = 1.0 - seen * (areas < FEW).float()
    judged = judged / judged.sum().clamp(min=1.0)
    shown = seen / seen.sum().clamp(min=1.0)

    indices = torch.cat([each.mask_index for each in answers]).to(device)
    chosen = logits[torch.arange(len(logits), device=logits.device), indices]
    drawn, entropy, dice = Outlines.apply(chosen, whole, shown)
    wanted = whole.unsqueeze(1).float()
    with torch.no_grad():
        got, true = logits > 0, F.avg_pool2d(wanted, whole.shape[-1] // logits.shape[-1]) > 0.5
        quality = (got & true).sum(dim=(-2, -1)) / (got | true).sum(dim=(-2, -1)).clamp(min=1)
    parts = {
        "mask": entropy,
        "dice": dice,
        "iou": ((ious - quality).abs().mean(dim=1) * shown).sum(),
        "score": (F.binary_cross_entropy_with_logits(scores, seen, reduction="none") * judged).sum(),
    }
    return {"loss": drawn + _WEIGHTS["iou"] * parts["iou"] + _WEIGHTS["score"] * parts["score"], **parts}


class Outlines(torch.autograd.Function):
    """Cross-entropy and dice loss of masks at full size, a few rows at a time: they stay in the processor's cache.

    Of logits [A, h, w], masks bool [A, S, S] and weights [A]: the weighted sums of both together (which alone has a
    gradient) and of each.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, masks: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gradient = torch.zeros_like(logits)
        entropy = dice = logits.new_zeros(())
        for rows in torch.nonzero(weights).flatten().split(_ROWS):
            with torch.enable_grad():
                coarse = logits[rows].detach().requires_grad_()
                wanted = masks[rows].float()
                fine = F.interpolate(coarse.unsqueeze(0), size=wanted.shape[-2:], mode="bilinear").squeeze(0)
                distance = F.binary_cross_entropy_with_logits(fine, wanted, reduction="none").sum(dim=(-2, -1))
                distance = torch.log1p(distance / (wanted.sum(dim=(-2, -1)) + _SPREAD))
                chance = fine.sigmoid()
                both, sizes = (chance * wanted).sum(dim=(-2, -1)), (chance + wanted).sum(dim=(-2, -1))
                apart = 1 - (2 * both + _ROUND) / (sizes + _ROUND)
                part = ((_WEIGHTS["mask"] * distance + _WEIGHTS["dice"] * apart) * weights[rows]).sum()
                gradient[rows] = torch.autograd.grad(part, coarse)[0]
            entropy = entropy + (distance.detach() * weights[rows]).sum()
            dice = dice + (apart.detach() * weights[rows]).sum()
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(entropy, dice)
        return _WEIGHTS["mask"] * entropy + _WEIGHTS["dice"] * dice, entropy, dice

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return ctx.saved_tensors[0] * gradients[0], None, None
