"""Hiera and its neck, rewritten for export: windows without symbolic shapes, positions as constants.

The `cuda` form is `FusedImageEncoder`, of the same blocks. Its tokens lie window by window, [windows, tokens, C], and
are put into another order only where the window changes: what attends globally does not care for the order. The
residual stream is carried as a sum, and what is still to be added to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alref_edge.errors import InputError
from export.fused import add_norm, attention, bias_gelu, project, self_attention
from export.sam2.attention import ScaledLinear, attend


class Block(nn.Module):
    """One official MultiScaleBlock on [1, H, W, C] with static H and W."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.window, self.pool, self.heads = block.window_size, block.pool, block.attn.num_heads
        self.stride = block.q_stride[0] if block.q_stride else 1
        self.shortcut = block.proj if block.dim != block.dim_out else None
        self.out = block.attn.proj
        width = block.attn.dim_out // self.heads
        self.qkv = ScaledLinear(block.attn.qkv.weight, block.attn.qkv.bias, float(width) ** -0.5, 1.0, 1.0)

    def pooled(self, x: Tensor) -> Tensor:
        """Max pooling of [n, H, W, C] where the block has one."""
        return x if self.pool is None else self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def attention(self, x: Tensor) -> Tensor:
        """Attention inside each of n windows: [n, H, W, C] → [n, H', W', C']."""
        n = x.shape[0]
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q = self.pooled(q)
        shape = q.shape
        q, k, v = (each.reshape(n, -1, self.heads, shape[-1] // self.heads).transpose(1, 2) for each in (q, k, v))
        attended = attend(q, k.transpose(2, 3), v)
        return self.out(attended.transpose(1, 2).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        """[1, H, W, C] → [1, H', W', C']."""
        shortcut = x
        x = self.norm1(x)
        if self.shortcut is not None:
            shortcut = self.pooled(self.shortcut(x))
        x = self.attention(x) if self.window == 0 else self.windowed(x, shortcut.shape)
        x = shortcut + x
        return x + self.mlp(self.norm2(x))

    def windowed(self, x: Tensor, out: torch.Size) -> Tensor:
        """Attention over windows, zero-padded on the right and below as the official code does."""
        size, (_, height, width, channels) = self.window, x.shape
        down, right = -height % size, -width % size
        if down or right:
            x = F.pad(x, (0, 0, 0, right, 0, down))
        rows, columns = (height + down) // size, (width + right) // size
        x = x.reshape(rows, size, columns, size, channels).transpose(1, 2).reshape(-1, size, size, channels)
        x = self.attention(x)
        size = size // self.stride
        x = x.reshape(rows, columns, size, size, -1).transpose(1, 2).reshape(1, rows * size, columns * size, -1)
        return x[:, : out[1], : out[2]] if (rows * size, columns * size) != tuple(out[1:3]) else x


@dataclass(frozen=True)
class Tokens:
    """Tokens of a square grid, window by window.

    Attributes:
        x: [windows, tokens, C].
        side: of the grid.
        window: side of a window; the grid's own where tokens lie row by row.
    """

    x: Tensor
    side: int
    window: int

    @classmethod
    def of_map(cls, x: Tensor, window: int) -> Tokens:
        """[1, C, side, side] by windows."""
        _, channels, side, _ = x.shape
        n = side // window
        x = x.reshape(channels, n, window, n, window).permute(1, 3, 2, 4, 0)
        return cls(x.reshape(n * n, -1, channels), side, window)

    def as_map(self) -> Tensor:
        """[1, C, side, side]."""
        n, window = self.side // self.window, self.window
        x = self.x.reshape(n, n, window, window, -1).permute(4, 0, 2, 1, 3)
        return x.reshape(1, -1, self.side, self.side)

    def by(self, window: int) -> Tokens:
        """The same by other windows, which divide the grid."""
        if window == self.window:
            return self
        small, large = sorted((self.window, window))
        if large % small:
            return self.by(self.side).by(window)
        n, k, channels = self.side // large, large // small, self.x.shape[-1]
        shape = (n, k, n, k, small, small) if large == window else (n, n, k, small, k, small)
        x = self.x.reshape(*shape, channels).permute(0, 2, 1, 4, 3, 5, 6)
        return Tokens(x.reshape(-1, window * window, channels), self.side, window)

    def projected(self, conv: nn.Conv2d) -> Tokens:
        """A convolution of single pixels, without its bias."""
        return replace(self, x=self.x @ conv.weight.flatten(1).t())


class FusedBlock(Block):
    """The block in fused operators, where biases are added by what comes next."""

    def attention(self, x: Tensor) -> Tensor:
        """Attention inside each of n windows, before the output's projection: [n, H, W, C] → [n, H', W', C']."""
        n, height, width, _ = x.shape
        attended = self.attended(x.flatten(1, 2), height)
        return attended.reshape(n, height // self.stride, width // self.stride, -1)

    def attended(self, x: Tensor, window: int) -> Tensor:
        """The same by tokens: [n, window * window, C] → [n, window' * window', C']."""
        weight, bias, scale = self.qkv.matrix(), self.qkv.bias.reshape(-1), self.qkv.pending
        if self.pool is None:
            return self_attention(x, weight, bias, self.heads, scale)
        q, k, v = (x @ weight.t()).chunk(3, dim=-1)
        return attention(self.pooled_tokens(q, window), k, v, self.heads, scale, bias)

    def pooled_tokens(self, x: Tensor, window: int) -> Tensor:
        """Max pooling, before or after a bias is added: [n, window * window, C] → [n, window' * window', C]."""
        return self.pooled(x.reshape(-1, window, window, x.shape[-1])).flatten(1, 2)

    def wanted(self, side: int, window: int) -> int:
        """By which windows it takes tokens that lie by `window`: row by row where its own would need padding."""
        if self.window == 0 and self.pool is None:  # all attend to all, in any order
            return window
        return self.window if self.window and side % self.window == 0 else side

    def through(self, x: Tensor, normed: Tensor, side: int, window: int) -> tuple[Tokens, Tokens, Tensor]:
        """Through the block but for its last sum.

        Args:
            x: the residual stream, [windows, tokens, C].
            normed: the same after norm1.
            side, window: see `Tokens`.

        Returns:
            the sum so far, what is to be added to it, and the bias that is to be added too.
        """
        bias, (count, _, channels) = self.out.bias, normed.shape
        if self.window == window:
            attended = self.attended(normed, window)
        elif self.window == 0:
            attended = self.attended(normed.reshape(1, -1, channels), side)
            attended = attended.reshape(count, -1, attended.shape[-1])
        else:
            out = torch.Size((1, side // self.stride, side // self.stride))
            attended = self.windowed(normed.reshape(1, side, side, channels), out).flatten(1, 2)
        if self.shortcut is not None:
            x, bias = self.pooled_tokens(project(normed, self.shortcut), window), bias + self.shortcut.bias
        x, normed = add_norm(x, project(attended, self.out), self.norm2, bias)
        first, last = self.mlp.layers
        branch = project(bias_gelu(project(normed, first), first.bias), last)
        side, window = side // self.stride, window // self.stride
        return Tokens(x, side, window), Tokens(branch, side, window), last.bias


class Positions(nn.Module):
    """The trunk's positions (`Hiera._get_pos_embed`): a coarse grid enlarged, and the same in every window.

    Bicubic enlarging is linear in rows and in columns, so it is two products here.
    """

    coarse: Tensor
    window: Tensor
    enlarge: Tensor

    def __init__(self, trunk: Any, side: int) -> None:
        super().__init__()
        coarse, window = trunk.pos_embed.detach(), trunk.pos_embed_window.detach()
        if coarse.shape[2] != coarse.shape[3] or window.shape[2] != window.shape[3] or side % window.shape[2]:
            raise InputError("The positions of this image encoder cannot be exported.", mend="use an official config.")
        self.register_buffer("coarse", coarse[0].permute(1, 2, 0).contiguous())  # [n, n, C]
        self.register_buffer("window", window[0].permute(1, 2, 0).contiguous())  # [m, m, C]
        identity = torch.eye(coarse.shape[2])[None, None]
        enlarge = F.interpolate(identity, size=(side, coarse.shape[2]), mode="bicubic")
        self.register_buffer("enlarge", enlarge[0, 0].clone())  # [side, n]

    def forward(self) -> Tensor:
        """[side, side, C]."""
        (side, coarse), (window, _, channels) = self.enlarge.shape, self.window.shape
        rows = torch.matmul(self.enlarge, self.coarse.flatten(1)).reshape(side, coarse, channels)
        tiles = torch.matmul(self.enlarge, rows).reshape(side // window, window, side // window, window, channels)
        return (tiles + self.window.unsqueeze(1)).reshape(side, side, channels)


class ImageEncoder(nn.Module):
    """The official `forward_image`: trunk, neck, and the decoder's projections of the finer levels."""

    block: type[Block] = Block

    def __init__(self, model: Any) -> None:
        super().__init__()
        trunk, neck = model.image_encoder.trunk, model.image_encoder.neck
        if neck.fuse_type != "sum" or neck.fpn_interp_model != "nearest" or model.image_encoder.scalp != 1:
            raise InputError("This image encoder cannot be exported.", mend="use an official config.")
        self.patch, self.ends = trunk.patch_embed.proj, tuple(trunk.stage_ends)
        self.position = Positions(trunk, model.image_size // 4)
        self.blocks = nn.ModuleList(self.block(block) for block in trunk.blocks)
        self.convs, self.top_down = neck.convs, tuple(neck.fpn_top_down_levels)
        self.conv_s0, self.conv_s1 = model.sam_mask_decoder.conv_s0, model.sam_mask_decoder.conv_s1

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """image [1,3,S,S] → embed [1,C,S/16,S/16], feat_s0 [1,C/8,S/4,S/4], feat_s1 [1,C/4,S/8,S/8]."""
        x = self.patch(image).permute(0, 2, 3, 1) + self.position()
        levels: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.ends:
                levels.append(x.permute(0, 3, 1, 2))
        last = len(levels) - 1
        features, above = [levels[0]] * len(levels), None
        for index in range(last, -1, -1):
            lateral = self.convs[last - index](levels[index])
            if index in self.top_down and above is not None:
                lateral = lateral + F.interpolate(above, scale_factor=2.0, mode="nearest")
            features[index] = above = lateral
        return features[2], self.conv_s0(features[0]), self.conv_s1(features[1])


class FusedImageEncoder(ImageEncoder):
    """The same in fused operators."""

    block = FusedBlock

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        if len(self.ends) != 4 or set(self.top_down) != {2, 3}:
            raise InputError("The levels of this image encoder cannot be fused.", mend="use an official config.")

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As the standard form's."""
        blocks: Any = self.blocks
        patches = F.conv2d(image, self.patch.weight, None, self.patch.stride, self.patch.padding)
        side = patches.shape[-1]
        branch, bias = Tokens.of_map(patches, blocks[0].wanted(side, side)), self.patch.bias
        tokens = Tokens(self.position().flatten(0, 1).unsqueeze(0), side, side)
        levels: list[Tokens] = []
        for index, block in enumerate(blocks):
            window = block.wanted(tokens.side, tokens.window)
            tokens, branch = tokens.by(window), branch.by(window)
            x, normed = add_norm(tokens.x, branch.x, block.norm1, bias)
            if index - 1 in self.ends:
                levels.append(replace(tokens, x=x))
            tokens, branch, bias = block.through(x, normed, tokens.side, window)
        levels.append(replace(tokens, x=tokens.x + (branch.x + bias)))
        return (
            self.embed(levels[2], levels[3]),
            self.fine(levels[0], self.conv_s0, 3),
            self.fine(levels[1], self.conv_s1, 2),
        )

    def fine(self, level: Tokens, conv: nn.Conv2d, lateral: int) -> Tensor:
        """A finer level through the neck and the decoder's projection, one linear map together: [1, C', side, side]."""
        outer, inner = conv, self.convs[lateral].conv
        weight = outer.weight.flatten(1) @ inner.weight.flatten(1)
        bias = outer.weight.flatten(1) @ inner.bias + outer.bias
        return replace(level, x=level.x @ weight.t()).as_map() + bias[:, None, None]

    def embed(self, level: Tokens, above: Tokens) -> Tensor:
        """The top level: the last but one with the last enlarged, [1, C, side, side]."""
        level = level if level.window % 2 == 0 else level.by(level.side)
        half = level.window // 2
        inner, outer = self.convs[1].conv, self.convs[0].conv
        x = level.projected(inner).x
        low = above.by(half).projected(outer).x
        both = x.reshape(-1, half, 2, half, 2, x.shape[-1]) + low.reshape(-1, half, 1, half, 1, x.shape[-1])
        return replace(level, x=both.reshape(x.shape)).as_map() + (inner.bias + outer.bias)[:, None, None]
