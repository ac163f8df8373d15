"""The `backbone` graph: Swin and the input projections, every size-dependent step a Gather by a table."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional

from alref_edge.errors import InputError
from export.forms import fusing
from export.grounding_dino.checkpoint import relative_position_index
from export.grounding_dino.configs import swin_config
from export.grounding_dino.layers import Affine, Norm, fused_attention, hidden_gelu, joined

if TYPE_CHECKING:
    from transformers import GroundingDinoForObjectDetection

# What the official code adds to the scores of tokens that a cyclic shift brought together.
_APART = -100.0


class Backbone(nn.Module):
    """Image to flattened feature levels; weights from transformers' model.

    `forward(image, tables)` takes the normalised image [1, 3, H, W] and the tables of
    `alref_edge.models.grounding_dino.geometry.backbone_tables`, and gives features [1, L, d].
    """

    def __init__(self, model: GroundingDinoForObjectDetection) -> None:
        super().__init__()
        backbone: Any = model.model.backbone.conv_encoder.model
        config = swin_config(model.config)
        embeddings = backbone.swin.embeddings
        self.patch_size = cast("int", config.patch_size)
        self.patches = embeddings.patch_embeddings.projection
        self.norm = Norm(embeddings.norm)
        self.stages = nn.ModuleList(
            _Stage(layer, config.window_size, heads)
            for layer, heads in zip(backbone.swin.encoder.layers, config.num_heads, strict=True)
        )
        self.norms = nn.ModuleList(Norm(backbone.hidden_states_norms[f"stage{stage}"]) for stage in (2, 3, 4))
        self.projections = nn.ModuleList(_Projection(layer) for layer in model.model.input_proj_vision)

    def forward(self, image: torch.Tensor, tables: dict[str, torch.Tensor]) -> torch.Tensor:
        # The official code pads to a multiple of the patch; a patch that starts inside needs no more than this.
        rest = self.patch_size - 1
        patches = self.patches(functional.pad(image, (0, rest, 0, rest)))
        rows = self.norm(patches[0].flatten(1).transpose(0, 1))
        levels = []
        for index, stage in enumerate(cast("Iterable[_Stage]", self.stages)):
            own = {name[:-2]: table for name, table in tables.items() if name.endswith(f"_{index}")}
            rows, hidden, fc2 = stage(rows, own)
            if index == 0:
                rows = rows + fc2(hidden)
            else:
                rows, last = joined(rows, hidden, fc2, cast("Norm", self.norms[index - 1]))
                levels.append(self.projections[index - 1](last))
            if index < 3:
                rows = stage.merge(rows, tables[f"merge_{index}"])
        levels.append(self.projections[3](_gather(last, tables["stride"]).flatten(1)))
        return torch.cat(levels, dim=0)[None]


class _Stage(nn.Module):
    def __init__(self, layer: Any, window_size: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _Block(block, window_size, heads, shifted=index % 2 == 1) for index, block in enumerate(layer.blocks)
        )
        if layer.downsample is not None:
            self.merge_norm = Norm(layer.downsample.norm)
            self.merge_weight = nn.Buffer(layer.downsample.reduction.weight.detach().t().contiguous())

    def forward(
        self, rows_nc: torch.Tensor, tables: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, Affine]:
        """Rows without the last block's last branch; what ends that branch, and the layer which it ends in."""
        blocks = cast("list[_Block]", list(self.blocks))
        rows_nc, hidden = blocks[0](rows_nc, blocks[0].norm1(rows_nc), tables)
        for block, after in pairwise(blocks):
            rows_nc, normed_nc = joined(rows_nc, hidden, block.fc2, after.norm1)
            rows_nc, hidden = after(rows_nc, normed_nc, tables)
        return rows_nc, hidden, blocks[-1].fc2

    def merge(self, rows_nc: torch.Tensor, table_m4: torch.Tensor) -> torch.Tensor:
        return torch.matmul(self.merge_norm(_gather(rows_nc, table_m4).flatten(1)), self.merge_weight)


class _Block(nn.Module):
    def __init__(self, block: Any, window_size: int, heads: int, *, shifted: bool) -> None:
        super().__init__()
        attention = block.attention
        self.heads, self.width = heads, attention.head_dim
        self.tokens = window_size**2
        self._by_window = (-1, self.heads, self.tokens, self.tokens)
        self.shifted = shifted
        self.norm1, self.norm2 = Norm(block.layernorm_before), Norm(block.layernorm_after)
        self.query, self.key = Affine(attention.q_proj, self.width**-0.5), Affine(attention.k_proj)
        self.value, self.output = Affine(attention.v_proj), Affine(attention.o_proj)
        self.fc1, self.fc2 = Affine(block.mlp.fc1), Affine(block.mlp.fc2)
        self.bias = _Bias(attention, window_size, shifted=shifted)

    def forward(
        self, rows_nc: torch.Tensor, normed_nc: torch.Tensor, tables: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows, and the same normalised by `norm1`, to rows with attention, and what `fc2` is given to add to them."""
        into, back = ("shifted", "unshifted") if self.shifted else ("windows", "unwindows")
        windows = _gather(normed_nc, tables[into])
        if fusing():  # back in their places first: there are fewer rows to project then
            parts = ((windows, self.query), (windows, self.key), (windows, self.value))
            mixed = fused_attention(*parts, self.heads, self._bias(tables).view(self._by_window))
            mixed = functional.embedding(tables[back], mixed.flatten(0, 1))
            rows_nc, normed_nc = joined(rows_nc, mixed, self.output, self.norm2)
        else:
            mixed = self.output(self._mixed(windows.flatten(0, 1), tables))
            rows_nc = rows_nc + functional.embedding(tables[back], mixed)
            normed_nc = self.norm2(rows_nc)
        return rows_nc, hidden_gelu(normed_nc, self.fc1)

    def _mixed(self, windows: torch.Tensor, tables: dict[str, torch.Tensor]) -> torch.Tensor:
        shape = (-1, self.tokens, self.heads, self.width)
        query = self.query(windows).view(shape).transpose(1, 2)
        key = self.key(windows).view(shape).permute(0, 2, 3, 1)
        value = self.value(windows).view(shape).transpose(1, 2)
        bias = self._bias(tables)
        scores = torch.matmul(query, key) + bias.view(self._by_window)
        mixed = torch.matmul(torch.softmax(scores, dim=-1), value)
        return mixed.transpose(1, 2).reshape(-1, self.heads * self.width)

    def _bias(self, tables: dict[str, torch.Tensor]) -> torch.Tensor:
        """What is added to the scores: [1, heads, n, n], or [windows, heads n n] where they are shifted."""
        bias = self.bias()
        return functional.embedding(tables["kinds"], bias.flatten(1)) if self.shifted else bias


class _Bias(nn.Module):
    """What is added to a window's scores: relative positions, and in shifted windows the mask of their kind.

    Engines fold all of it when they load the graph, which is much smaller for that.
    """

    def __init__(self, attention: Any, size: int, *, shifted: bool) -> None:
        super().__init__()
        self.table = nn.Buffer(attention.relative_position_bias.relative_position_bias_table.detach().clone())
        # A difference of two tokens' places in a window of doubled width tells their relative position.
        rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        self.places = nn.Buffer((rows * (2 * size - 1) + columns).flatten())
        self.middle = 2 * size * (size - 1)
        if not torch.equal(self.index(), relative_position_index(size)):
            raise InputError("Relative positions of this window size cannot be exported.", got=size)
        self.regions = nn.Buffer(_shifted_regions(size)) if shifted else None

    def index(self) -> torch.Tensor:
        """Row of the table for each pair of tokens, [n, n]."""
        return self.places[:, None] - self.places[None, :] + self.middle

    def forward(self) -> torch.Tensor:
        """[kinds, heads, n, n]."""
        bias_1hnn = functional.embedding(self.index(), self.table).permute(2, 0, 1)[None]
        if self.regions is None:
            return bias_1hnn
        together = self.regions[:, None, :, None] == self.regions[:, None, None, :]
        return bias_1hnn + torch.where(together, 0.0, _APART)


class _Projection(nn.Module):
    """The 1x1 (or, on gathered neighbourhoods, 3x3) convolution to d channels, and its group norm.

    The weights are the right factor: engines pack it once, and no sum depends on the number of threads.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        convolution, self.group_norm = layer[0], layer[1]
        weight = convolution.weight.detach().permute(2, 3, 1, 0).flatten(0, 2)
        self.weight, self.bias = nn.Buffer(weight.contiguous()), nn.Buffer(convolution.bias.detach().clone())

    def forward(self, rows_nc: torch.Tensor) -> torch.Tensor:
        rows_nd = torch.addmm(self.bias, rows_nc, self.weight)
        return self.group_norm(rows_nd.transpose(0, 1)[None])[0].transpose(0, 1)


def _gather(rows_nc: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Rows by a table in which the number of rows stands for a row of zeros."""
    return functional.embedding(table, functional.pad(rows_nc, (0, 0, 0, 1)))


def _shifted_regions(size: int) -> torch.Tensor:
    """Which part of the image each token of a shifted window is from, by the window's kind (see `backbone_tables`):
    [4, n]. Tokens of different parts do not see each other."""
    late = (torch.arange(size) >= size - size // 2).long()
    regions = [(kind & 1) * late[:, None] + 2 * ((kind >> 1) & 1) * late[None, :] for kind in range(4)]
    return torch.stack(regions).flatten(1)
