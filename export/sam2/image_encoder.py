"""Hiera and its neck, rewritten for export: windows without symbolic shapes, positions as constants."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alref_edge.errors import InputError
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

    def __init__(self, model: Any) -> None:
        super().__init__()
        trunk, neck = model.image_encoder.trunk, model.image_encoder.neck
        if neck.fuse_type != "sum" or neck.fpn_interp_model != "nearest" or model.image_encoder.scalp != 1:
            raise InputError("This image encoder cannot be exported.", mend="use an official config.")
        self.patch, self.ends = trunk.patch_embed.proj, tuple(trunk.stage_ends)
        self.position = Positions(trunk, model.image_size // 4)
        self.blocks = nn.ModuleList(Block(block) for block in trunk.blocks)
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
