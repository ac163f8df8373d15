"""Dense supervision of SAM 2 nano: what each cell of the features shows, where a track's object is, what is remembered.

Masks alone teach slowly what an object looks like: shape and colour count only where objects meet. The heads are thrown
away after the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.nano.attributes import LOOKS, UNKNOWN
from export.nano.sam2_model import Moment

_CLASSES = [len(values) for values in LOOKS.values()]
_OUTLINE = 4.0  # weight of outlines beside attributes
_SHARE_OF_CELL = 0.2  # that an object covers, at least, for the cell to be its own
_CELLS = 2.0  # added to those that an object covers: one that is hidden counts too


class DenseHeads(nn.Module):
    """One linear layer for each thing that is asked.

    Args:
        stages: channels of the trunk's four maps, of strides 4, 8, 16 and 32.
        width: channels of the features that are tracked on.
        memory_width: channels of memories.
    """

    def __init__(self, stages: Sequence[int], width: int, memory_width: int) -> None:
        super().__init__()
        self.outlines = nn.ModuleList(nn.Linear(stages[index], 16 * 4**index) for index in (0, 1))
        self.attributes = nn.ModuleList(nn.Linear(each, sum(_CLASSES)) for each in (*stages[1:], width))
        self.pointer, self.memory = nn.Linear(width, sum(_CLASSES)), nn.Linear(memory_width, sum(_CLASSES))
        self.conditioned = nn.Linear(width, 1)
        nn.init.constant_(self.conditioned.bias, -4.0)

    def feature_loss(self, maps: Sequence[Tensor], embed: Tensor, labels: Tensor, attributes: Tensor) -> Tensor:
        """Loss of what the cells of N images' maps show: which pixels are an object's (an outline, whatever its colour,
        makes a shape), and of which shape, colour and size it is.

        Args:
            maps: the trunk's, float32 [N, h, w, C] each.
            embed: features, float32 [N, C, h, w].
            labels: the object at each pixel, -1 for none, int8 [N, S, S].
            attributes: classes of each image's objects, int64 [N, M, 3]; `UNKNOWN` where there are fewer than M.

        Returns:
            float32 scalar.
        """
        there = (labels >= 0).float().unsqueeze(1)
        outline = reduce(
            torch.add,
            [
                F.binary_cross_entropy_with_logits(
                    head(cells).permute(0, 3, 1, 2), F.pixel_unshuffle(there, labels.shape[-1] // cells.shape[1])
                )
                for head, cells in zip(self.outlines, maps, strict=False)
            ],
        )
        each_nmss = (
            labels.unsqueeze(1) == torch.arange(attributes.shape[1], device=labels.device)[:, None, None]
        ).float()
        total = _OUTLINE * outline
        for head, cells in zip(self.attributes, (*maps[1:], embed.permute(0, 2, 3, 1)), strict=True):
            most, owners = F.avg_pool2d(each_nmss, labels.shape[-1] // cells.shape[1]).max(dim=1)
            found = attributes[torch.arange(len(attributes), device=attributes.device)[:, None, None], owners]
            total = total + _classified(head(cells), found.masked_fill((most < _SHARE_OF_CELL).unsqueeze(-1), UNKNOWN))
        return total

    def location_loss(self, conditioned: Tensor, masks: Tensor) -> Tensor:
        """Loss of the share of each cell that a row's object covers, read from conditioned features: the mean over rows
        of the sum over cells, divided by the cells that are covered.

        Args:
            conditioned: float32 [R, C, h, w].
            masks: bool [R, S, S].

        Returns:
            float32 scalar.
        """
        covered = F.avg_pool2d(masks.unsqueeze(1).float(), masks.shape[-1] // conditioned.shape[-1]).squeeze(1)
        said = self.conditioned(conditioned.permute(0, 2, 3, 1)).squeeze(-1)
        apart = F.binary_cross_entropy_with_logits(said, covered, reduction="none").sum(dim=(-2, -1))
        return (apart / (covered.sum(dim=(-2, -1)) + _CELLS)).mean()

    def attribute_loss(self, moment: Moment, masks: Tensor, attributes: Tensor) -> Tensor:
        """Loss of shape, colour and size as the pointer, and the memory of each cell that the object covers, tell them.

        Args:
            moment: of R rows.
            masks: bool [R, S, S].
            attributes: classes, int64 [R, 3].

        Returns:
            float32 scalar.
        """
        side = int(moment.memory.shape[1] ** 0.5)
        covered = F.avg_pool2d(masks.unsqueeze(1).float(), masks.shape[-1] // side).flatten(1) >= _SHARE_OF_CELL
        rows, cells = torch.nonzero(covered, as_tuple=True)
        pointers, memories = self.pointer(moment.pointer), self.memory(moment.memory[rows, cells])
        return _classified(pointers, attributes) + _classified(memories, attributes[rows])


def _classified(said: Tensor, attributes: Tensor) -> Tensor:
    """Cross-entropy of logits [..., all classes] for classes [..., 3]: means over known ones, summed over the 3."""
    total = said.new_zeros(())
    for logits, wanted in zip(said.split(_CLASSES, dim=-1), attributes.unbind(dim=-1), strict=True):
        known = wanted != UNKNOWN
        if bool(known.any()):
            total = total + F.cross_entropy(logits[known], wanted[known])
    return total
