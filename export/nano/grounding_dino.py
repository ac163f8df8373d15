"""Grounding DINO nano, from scratch, on frames of generated scenes.

Its own set loss alone learns slowly: few queries meet the target. Four things make it quick. Text reaches the image
from the start (fusion scales of 0.5 in place of 1e-4). The backbone begins with heads that each look one way, as a
convolution does, and learns shape, colour and size first, by heads that are thrown away. Every token of the feature
levels is told whether its proposal is the target, and where that ends. And training begins on small frames full of
objects, at the pixel sizes of large frames.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from alref_edge.datasets.synthetic import SHAPES, TRAINING_SEEDS, Scene, make_scene
from alref_edge.models.grounding_dino.text import CaptionTokenizer
from export.grounding_dino.checkpoint import build_model, empty_model, load_official, to_official
from export.grounding_dino.configs import MEAN, STD, bert_config, transformers_config
from export.grounding_dino.vocabulary import make_vocabulary
from export.nano.attributes import LOOKS, classes_of
from export.nano.grounding_forward import Captions, forward, image_features
from export.nano.grounding_losses import FINEST, Batch, iou, set_and_dense_losses
from export.nano.training import save_checkpoint

_SEED = 7
_UNSEEN = 500_000
# The share of an object that must be seen for the backbone to be asked about it.
_CLEAR = 0.6
# The share of captions that are a shape's name alone, as a category is asked for: any number of objects, or none.
_CATEGORIES = 0.1
_WEIGHTS = {"dense": 2.0, "dense_box": 2.0, "queries": 1.0, "query_box": 2.0, "attributes": 3.0}


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum.

    Attributes:
        until: first step that is of the next stage.
        turns: batches by turns: square frames, their side, most objects in one, and captions asked of each. With no
            captions the backbone alone learns: shapes take it long, and this is the quick way.
    """

    until: int
    turns: tuple[tuple[int, int, int, int], ...]


CURRICULUM = (
    Stage(until=1500, turns=((32, 96, 2, 0), (18, 128, 2, 0))),
    Stage(until=10**9, turns=((12, 128, 4, 2), (8, 160, 4, 2), (4, 256, 5, 3))),
)


class GroundingDinoTask:
    """What Grounding DINO nano is to learn; see `export.nano.training.Task`.

    Args:
        device: "cpu" or "cuda".
        initial: an official checkpoint to start from.
        curriculum: stages; the default is the recipe's.
    """

    name = "grounding_dino_nano"

    def __init__(
        self, device: str = "cpu", initial: Path | None = None, *, curriculum: tuple[Stage, ...] = CURRICULUM
    ) -> None:
        torch.manual_seed(_SEED)
        self.config = transformers_config("nano")
        if initial is None:
            network = _start(empty_model(self.config))
        else:
            network = build_model(self.config, load_official(initial, self.config))
        self.model = _WithHeads(network, self.config.d_model).to(device)
        self.device = device
        self.curriculum = curriculum
        with tempfile.TemporaryDirectory() as folder:
            self.tokenizer = CaptionTokenizer(
                self._write_vocabulary(Path(folder)), max_text_len=self.config.max_text_len
            )

    def loss(self, step: int) -> dict[str, Tensor]:
        """See `Task.loss`."""
        generator = np.random.default_rng([_SEED, step])
        turns = next(stage.turns for stage in self.curriculum if step < stage.until)
        frames, side, most, asked = turns[step % len(turns)]
        first = TRAINING_SEEDS + step * 1024
        views = [
            (make_scene(seed, side, side, num_frames=1, objects=(min(2, most), most)), 0)
            for seed in range(first, first + frames)
        ]
        batch = self.batch(views, generator, asked)
        if not asked:
            loss = self.model.attributes(*image_features(self.model.network, batch.images), batch)
            return {"loss": _WEIGHTS["attributes"] * loss, "attributes": loss}
        found = forward(self.model.network, batch.images, batch.captions)
        losses = set_and_dense_losses(found, batch) | {
            "attributes": self.model.attributes(found.features, found.levels, batch)
        }
        return {"loss": sum((_WEIGHTS[name] * value for name, value in losses.items()), torch.zeros(())), **losses}

    def evaluate(self) -> dict[str, float]:
        """The share of appearance expressions whose top box has an IoU of 0.5 or more with the target; its mean IoU."""
        overlaps: list[float] = []
        proposed: list[float] = []
        for start in range(0, 96, 12):
            views = [(make_scene(_UNSEEN + start + index), 20) for index in range(12)]
            batch = self.batch(views, None)
            found = forward(self.model.network, batch.images, batch.captions)
            for row, truth in enumerate(batch.boxes):
                for logits, boxes, into in (
                    (found.logits[-1], found.boxes[-1], overlaps),
                    (found.proposal_logits, found.proposal_boxes, proposed),
                ):
                    scores = logits[row].masked_fill(~batch.captions.real[row], -1e4).amax(dim=-1)
                    into.append(float(iou(boxes[row, scores.argmax()][None], truth)[0, 0]))
        return {
            "top_box": round(float(np.mean(np.array(overlaps) >= 0.5)), 4),
            "top_proposal": round(float(np.mean(np.array(proposed) >= 0.5)), 4),
            "mean_iou": round(float(np.mean(overlaps)), 4),
        }

    def finish(self) -> None:
        """See `Task.finish`: there is nothing to do."""

    def save(self, path: Path) -> None:
        """See `Task.save`; the vocabulary is written beside it as `vocab.txt`."""
        save_checkpoint(to_official(self.model.network.state_dict(), self.config), path)
        self._write_vocabulary(path.parent)

    def batch(self, views: list[tuple[Scene, int]], generator: np.random.Generator | None, asked_of: int = 0) -> Batch:
        """Frames and captions.

        Args:
            views: scenes and numbers of frames.
            generator: draws captions; None takes all appearance expressions whose target is seen.
            asked_of: captions drawn for a frame.
        """
        images, objects, attributes, asked = [], [], [], []
        for number, (scene, frame) in enumerate(views):
            images.append(torch.from_numpy(scene.frame(frame)))
            boxes_n4 = scene.boxes(frame)
            seen = ~np.isnan(boxes_n4[:, 0]) & (np.nan_to_num(boxes_n4[:, 2:] - boxes_n4[:, :2]).min(axis=1) >= 4)
            side = np.array([scene.width, scene.height] * 2, np.float32)
            centred = (
                np.concatenate([(boxes_n4[:, :2] + boxes_n4[:, 2:]) / 2, boxes_n4[:, 2:] - boxes_n4[:, :2]], axis=1)
                / side
            )
            whole = np.array([np.count_nonzero(each.sprite_alpha >= 128) for each in scene.objects])
            clear = seen & (scene.masks(frame).sum(axis=(1, 2)) > _CLEAR * whole)
            objects.append(torch.from_numpy(centred[clear].astype(np.float32)))
            attributes.append(torch.from_numpy(classes_of(scene.objects, LOOKS)[clear]))
            for text, targets in self._ask(scene, seen, generator, asked_of):
                asked.append((number, text, torch.from_numpy(centred[targets].astype(np.float32))))
        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        pixels = (torch.stack(images).float() / 255 - mean) / std
        captions = self._captions([(number, text) for number, text, _ in asked])
        move = lambda tensors: tuple(each.to(self.device) for each in tensors)  # noqa: E731
        return Batch(
            pixels.permute(0, 3, 1, 2).contiguous().to(self.device),
            Captions(**{name: value.to(self.device) for name, value in captions.items()}),
            move(boxes for _, _, boxes in asked),
            move(objects),
            move(attributes),
        )

    def _ask(
        self, scene: Scene, seen: np.ndarray, generator: np.random.Generator | None, count: int
    ) -> list[tuple[str, list[int]]]:
        """Captions for a frame, each with the objects that it means."""
        stills = [each for each in scene.expressions if each.kind != "motion" and seen[each.target]]
        if generator is None:
            return [(each.text, [each.target]) for each in stills if each.kind == "appearance"]
        order = iter(generator.permutation(len(stills)))
        chosen: list[tuple[str, list[int]]] = []
        for _ in range(count):
            index = None if generator.random() < _CATEGORIES else next(order, None)
            if index is None:
                shape = str(generator.choice(SHAPES))
                alike = [n for n, each in enumerate(scene.objects) if each.shape == shape and seen[n]]
                chosen.append((shape, alike))
            else:
                chosen.append((stills[index].text, [stills[index].target]))
        return chosen

    def _captions(self, asked: list[tuple[int, str]]) -> dict[str, Tensor]:
        encoded = [self.tokenizer.encode(text) for _, text in asked]
        longest, count = max(map(len, encoded), default=1), len(encoded)
        ids, positions = np.zeros((2, count, longest), np.int64)
        sees = np.broadcast_to(np.eye(longest, dtype=bool), (count, longest, longest)).copy()
        real, named = np.zeros((2, count, longest), bool)
        for row, tokens in enumerate(encoded):
            length = len(tokens)
            ids[row, :length], positions[row, :length] = tokens.input_ids[0], tokens.position_ids[0]
            sees[row, :length, :length] = tokens.attention_mask[0]
            real[row, :length] = True
            # Neither [CLS] nor [SEP] nor the period before it.
            named[row, 1 : length - 2] = True
        parts = {"input_ids": ids, "position_ids": positions, "sees": sees, "real": real, "named": named}
        return {
            "image": torch.tensor([image for image, _ in asked], dtype=torch.int64),
            **{k: torch.from_numpy(v) for k, v in parts.items()},
        }

    def _write_vocabulary(self, folder: Path) -> Path:
        path = folder / "vocab.txt"
        lines = make_vocabulary(bert_config(self.config).vocab_size)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path


class _WithHeads(nn.Module):
    """The network with heads that tell shape, colour and size of what lies under a token; these are not exported."""

    def __init__(self, network: nn.Module, width: int) -> None:
        super().__init__()
        self.network = network
        outputs = sum(len(values) for values in LOOKS.values())
        self.heads = nn.ModuleList(nn.Linear(width, outputs) for _ in range(FINEST))

    def attributes(self, features: Tensor, levels: Sequence[tuple[int, int]], batch: Batch) -> Tensor:
        """The loss of these heads, on the token of each of the finest levels that is nearest an object's middle."""
        images = torch.cat([torch.full((len(boxes),), row) for row, boxes in enumerate(batch.objects)])
        middles = torch.cat(batch.objects)[:, :2].cpu()
        wanted = torch.cat(batch.attributes)
        total, start = features.new_zeros(()), 0
        for head, (height, width) in zip(self.heads, levels, strict=False):
            column, row = ((middles * torch.tensor([width, height])).long().clamp(min=0)).unbind(1)
            tokens = start + row.clamp(max=height - 1) * width + column.clamp(max=width - 1)
            parts = head(features[images, tokens]).split([len(values) for values in LOOKS.values()], dim=1)
            for index, logits in enumerate(parts):
                total = total + functional.cross_entropy(logits, wanted[:, index])
            start += height * width
        return total / (len(self.heads) * len(LOOKS))


def _start(model: Any) -> nn.Module:
    """Where training starts, beside transformers' own: text reaches the image at once, scores begin low and near, and
    nothing is dropped: scenes never come twice."""
    for module in model.modules():
        for name in ("p", "dropout", "activation_dropout", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    last = model.config.encoder_layers - 1
    for name, parameter in model.named_parameters():
        if name.endswith(("vision_param", "text_param")):
            nn.init.constant_(parameter, 0.5)
        elif name.endswith(f"layers.{last}.text_enhancer_layer.layer_norm_after.weight"):
            nn.init.constant_(parameter, 0.25)
        elif name.endswith("relative_position_bias_table"):
            with torch.no_grad():
                parameter.copy_(_looks(parameter.shape[0], parameter.shape[1]))
    return model


def _looks(offsets: int, heads: int) -> Tensor:
    """Relative position biases with which each head of a window looks one way, like a tap of a convolution.

    Returns:
        float32 [offsets, heads]; the offsets are those of a window, rows first.
    """
    side = math.isqrt(offsets)
    steps = torch.arange(side) - side // 2
    places = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).reshape(-1, 1, 2)
    angles = torch.arange(heads) * (2 * math.pi / min(heads, 8))
    far = 1.0 + torch.arange(heads).div(8, rounding_mode="floor")
    taps = torch.stack([angles.sin(), angles.cos()], dim=-1)
    taps = (taps / taps.abs().amax(dim=-1, keepdim=True)).round() * far[:, None]
    return -1.5 * ((places - taps) ** 2).sum(-1).float().clamp(max=6)
