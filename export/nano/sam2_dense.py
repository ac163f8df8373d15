"""Dense supervision of SAM 2 nano: what each cell of the features shows, where a track's object is, what is remembered.

Masks alone teach slowly what an object looks like: shape and colour count only where objects meet. The heads are thrown
away after the training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alref_edge.datasets.synthetic import COLOURS, SHAPES, SIZES
from alref_edge.datasets.synthetic.objects import SceneObject
from export.nano.sam2_model import Moment

_KINDS = {"shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES)}
_COUNTS = [len(values) for values in _KINDS.values()]
_NONE = -100
_OUTLINE = 4.0
_SHARE_OF_CELL = 0.2  # that an object covers, at least, for the cell to be its own


def kinds_of(objects: tuple[SceneObject, ...], most: int) -> np.ndarray:
    """Numbers of the shape, colour and size of each object, int64 [most, 3]; -100 where there are fewer objects."""
    rows = [[values.index(getattr(each, name)) for name, values in _KINDS.items()] for each in objects]
    return np.array(rows + [[_NONE] * len(_KINDS)] * (most - len(rows)), np.int64)


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
        self.kinds = nn.ModuleList(nn.Linear(each, sum(_COUNTS)) for each in (*stages[1:], width))
        self.pointer, self.memory = nn.Linear(width, sum(_COUNTS)), nn.Linear(memory_width, sum(_COUNTS))
        self.conditioned = nn.Linear(width, 1)
        nn.init.constant_(self.conditioned.bias, -4.0)

    def see(self, maps: Sequence[Tensor], embed: Tensor, labels: Tensor, kinds: Tensor) -> Tensor:
        """Loss of what the cells of N images' maps show: which pixels are an object's (an outline, whatever its colour,
        makes a shape), and of which shape, colour and size it is.

        Args:
            maps: the trunk's, [N, h, w, C] each.
            embed: features [N, C, h, w].
            labels: the object at each pixel, -1 for none, int8 [N, S, S].
            kinds: of each image's objects, int64 [N, M, 3]; see `kinds_of`.
        """
        there = (labels >= 0).float().unsqueeze(1)
        outline = sum(
            F.binary_cross_entropy_with_logits(
                head(cells).permute(0, 3, 1, 2), F.pixel_unshuffle(there, labels.shape[-1] // cells.shape[1])
            )
            for head, cells in zip(self.outlines, maps, strict=False)
        )
        each_nmss = (labels.unsqueeze(1) == torch.arange(kinds.shape[1], device=labels.device)[:, None, None]).float()
        total = _OUTLINE * outline
        for head, cells in zip(self.kinds, (*maps[1:], embed.permute(0, 2, 3, 1)), strict=True):
            most, owners = F.avg_pool2d(each_nmss, labels.shape[-1] // cells.shape[1]).max(dim=1)
            found = kinds[torch.arange(len(kinds), device=kinds.device)[:, None, None], owners]
            total = total + _named(head(cells), found.masked_fill((most < _SHARE_OF_CELL).unsqueeze(-1), _NONE))
        return total

    def find(self, conditioned: Tensor, masks: Tensor) -> Tensor:
        """Loss of the share of each cell that a row's object covers, read from conditioned features.

        Args:
            conditioned: [R, C, h, w].
            masks: bool [R, S, S].
        """
        covered = F.avg_pool2d(masks.unsqueeze(1).float(), masks.shape[-1] // conditioned.shape[-1]).squeeze(1)
        said = self.conditioned(conditioned.permute(0, 2, 3, 1)).squeeze(-1)
        apart = F.binary_cross_entropy_with_logits(said, covered, reduction="none").sum(dim=(-2, -1))
        return (apart / (covered.sum(dim=(-2, -1)) + 2)).mean()

    def name(self, moment: Moment, masks: Tensor, kinds: Tensor) -> Tensor:
        """Loss of the kinds that the pointer, and the memory of cells that the object covers, mean.

        Args:
            moment: of R rows.
            masks: bool [R, S, S].
            kinds: int64 [R, 3].
        """
        side = int(moment.memory.shape[1] ** 0.5)
        covered = F.avg_pool2d(masks.unsqueeze(1).float(), masks.shape[-1] // side).flatten(1) >= _SHARE_OF_CELL
        rows, cells = torch.nonzero(covered, as_tuple=True)
        return _named(self.pointer(moment.pointer), kinds) + _named(
            self.memory(moment.memory[rows, cells]), kinds[rows]
        )


def _named(said: Tensor, kinds: Tensor) -> Tensor:
    """Cross-entropy of logits [..., sum of counts] for kinds [..., 3]: means over known ones, summed over the 3."""
    total = said.new_zeros(())
    for logits, wanted in zip(said.split(_COUNTS, dim=-1), kinds.unbind(dim=-1), strict=True):
        known = wanted != _NONE
        if bool(known.any()):
            total = total + F.cross_entropy(logits[known], wanted[known])
    return total
