"""Memory attention and memory encoder, rewritten for export."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alref_edge.errors import InputError
from export.sam2.attention import (
    attend,
    block_of,
    fused,
    in_halves,
    linear_of,
    rope_tables,
    rotate_tokens,
)


class MemoryTokens(nn.Module):
    """Gathers memories and object pointers into the tokens that memory attention attends to.

    Args:
        model: an official SAM2Base.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        size = model.sam_image_embedding_size
        self.mem_dim, self.split = model.mem_dim, model.hidden_dim // model.mem_dim
        position = model.memory_encoder.position_encoding(torch.zeros(1, model.mem_dim, size, size))
        self.register_buffer("position", position.flatten(2).clone())  # [1, D, hw]
        temporal = model.maskmem_tpos_enc.detach().reshape(model.num_maskmem, model.mem_dim)
        self.register_buffer("temporal", temporal.flip(0).unsqueeze(-1).clone())  # row t_pos
        self.projected = bool(model.add_tpos_enc_to_obj_ptrs)
        if self.projected:
            if not model.proj_tpos_enc_in_obj_ptrs:
                raise InputError("Pointer positions without a projection cannot be exported.", mend="use an official config.")
            self.projection = model.obj_ptr_tpos_proj
            half = model.hidden_dim // 2
            index = torch.arange(half, dtype=torch.float32)
            self.register_buffer("wavelengths", 10000 ** (2 * (index // 2) / half))

    def forward(
        self, bank: Tensor, slots: Tensor, tpos: Tensor, pointers: Tensor, pointer_pos: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys' input [B,D,N] (positions added), values [B,N,D] and pointers' share of it [B,D,P*C/D]."""
        memory = bank.flatten(2)[slots]  # [B, M, D, hw]
        keys = memory + self.position + self.temporal[tpos]
        batch = slots.shape[0]
        keys = keys.permute(0, 2, 1, 3).reshape(batch, self.mem_dim, -1)
        tokens = pointers.reshape(batch, -1, self.mem_dim)
        values = torch.cat((memory.transpose(2, 3).reshape(batch, -1, self.mem_dim), tokens), dim=1)
        if not self.projected:
            return keys, values, tokens.transpose(1, 2)
        if pointer_pos is None:
            raise InputError("This model needs pointer positions.", mend="pass pointer_pos.")
        angles = pointer_pos.unsqueeze(-1) / self.wavelengths
        position = self.projection(torch.cat((angles.sin(), angles.cos()), dim=-1))  # [B, P, D]
        position = position.unsqueeze(2).expand(-1, -1, self.split, -1).reshape(batch, -1, self.mem_dim)
        return keys, values, (tokens + position).transpose(1, 2)


class AttentionLayer(nn.Module):
    """One official MemoryAttentionLayer; `query` and `key` projections rotate halves, values are folded away."""

    def __init__(self, layer: Any, tokens: int) -> None:
        super().__init__()
        if layer.pos_enc_at_attn or layer.pos_enc_at_cross_attn_queries or not layer.pos_enc_at_cross_attn_keys:
            raise InputError("This memory attention's position encoding cannot be exported.", mend="use an official config.")
        own, cross = layer.self_attn, layer.cross_attn_image
        self.tokens = tokens
        self.norm1, self.norm2, self.norm3 = layer.norm1, layer.norm2, layer.norm3
        self.linear1, self.linear2, self.activation = layer.linear1, layer.linear2, layer.activation
        scale = float(own.internal_dim) ** -0.5
        self.own_q, self.own_k = linear_of(*in_halves(own.q_proj, scale)), linear_of(*in_halves(own.k_proj))
        self.own_out = linear_of(*fused(own.out_proj, own.v_proj))
        self.cross_q = linear_of(*in_halves(cross.q_proj, float(cross.internal_dim) ** -0.5))
        weight, bias = in_halves(cross.k_proj)
        self.register_buffer("cross_k_weight", weight)
        self.register_buffer("cross_k_bias", bias.unsqueeze(-1))
        self.cross_out = linear_of(*fused(cross.out_proj, cross.v_proj))
        for name, table in zip(("cos", "sin"), rope_tables(own, tokens), strict=True):
            self.register_buffer(name, table)
        for name, table in zip(("cross_cos", "cross_sin"), rope_tables(cross, tokens), strict=True):
            self.register_buffer(name, table)
            self.register_buffer(f"{name}_k", table.t().unsqueeze(1).contiguous())  # [C/2, 1, hw]

    def keys(self, keys_bdn: Tensor, pointers_bdn: Tensor) -> Tensor:
        """Keys of the memories, rotated frame by frame, then those of the pointers, which are not: [B, C, N]."""
        batch, half = keys_bdn.shape[0], self.cross_cos_k.shape[0]
        projected = torch.matmul(self.cross_k_weight, keys_bdn) + self.cross_k_bias
        first, second = projected.reshape(batch, 2, half, -1, self.tokens).unbind(1)
        cos, sin = self.cross_cos_k, self.cross_sin_k
        rotated = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=1)
        rotated = rotated.reshape(batch, 2 * half, -1)
        return torch.cat((rotated, torch.matmul(self.cross_k_weight, pointers_bdn) + self.cross_k_bias), dim=2)

    def forward(self, x: Tensor, keys_bdn: Tensor, values_bnd: Tensor, pointers_bdn: Tensor, blocks: tuple[int, int]) -> Tensor:
        """x [1 or B, hw, C] → [B, hw, C]."""
        normed = self.norm1(x)
        q = rotate_tokens(self.own_q(normed), self.cos, self.sin)
        k = rotate_tokens(self.own_k(normed), self.cos, self.sin).transpose(1, 2)
        x = x + self.own_out(attend(q, k, normed, blocks[0]))
        q = rotate_tokens(self.cross_q(self.norm2(x)), self.cross_cos, self.cross_sin)
        x = x + self.cross_out(attend(q, self.keys(keys_bdn, pointers_bdn), values_bnd, blocks[1]))
        return x + self.linear2(self.activation(self.linear1(self.norm3(x))))


class MemoryAttention(nn.Module):
    """The official MemoryAttention over gathered memory tokens.

    The first self-attention sees the same input for every object, so it runs at batch 1.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        official, size = model.memory_attention, model.sam_image_embedding_size
        tokens = size * size
        if not official.pos_enc_at_input:
            raise InputError("Memory attention without positions at its input cannot be exported.", mend="use an official config.")
        self.size, self.tokens = size, MemoryTokens(model)
        position = model.image_encoder.neck.position_encoding(torch.zeros(1, model.hidden_dim, size, size))
        self.register_buffer("position", 0.1 * position.flatten(2).transpose(1, 2))
        self.layers = nn.ModuleList(AttentionLayer(layer, tokens) for layer in official.layers)
        self.norm = official.norm
        self.blocks = (block_of(tokens, tokens), block_of(tokens, model.num_maskmem * tokens))

    def forward(
        self, embed: Tensor, bank: Tensor, slots: Tensor, tpos: Tensor, pointers: Tensor, pointer_pos: Tensor | None
    ) -> Tensor:
        """embed [1,C,h,w] and memories → conditioned features [B,C,h,w]."""
        keys, values, pointer_keys = self.tokens(bank, slots, tpos, pointers, pointer_pos)
        x = embed.flatten(2).transpose(1, 2) + self.position
        for layer in self.layers:
            x = layer(x, keys, values, pointer_keys, self.blocks)
        return self.norm(x).transpose(1, 2).reshape(-1, embed.shape[1], self.size, self.size)


class MemoryEncoder(nn.Module):
    """The official `_encode_new_memory` with the predictor's bfloat16 storage.

    Args:
        model: an official SAM2Base.
        binarize: whether masks are thresholded first (conditioning frames) or go through a sigmoid (tracked ones).
    """

    def __init__(self, model: Any, *, binarize: bool) -> None:
        super().__init__()
        if model.non_overlap_masks_for_mem_enc or not model.binarize_mask_from_pts_for_mem_enc:
            raise InputError("This memory policy cannot be exported.", mend="build the model with build_model().")
        self.encoder, self.size, self.binarize = model.memory_encoder, model.image_size, binarize
        self.scale, self.bias = model.sigmoid_scale_for_mem_enc, model.sigmoid_bias_for_mem_enc
        occlusion = model.no_obj_embed_spatial
        self.register_buffer("occlusion", None if occlusion is None else occlusion.detach()[..., None, None].clone())

    def forward(self, embed: Tensor, low_res: Tensor, object_score: Tensor) -> Tensor:
        """embed [1,C,h,w], low_res [B,1,S/4,S/4], object_score [B,1] → memory [B,D,h,w]."""
        mask = F.interpolate(low_res, size=(self.size, self.size), mode="bilinear", align_corners=False)
        mask = (mask > 0).to(low_res.dtype) if self.binarize else torch.sigmoid(mask)
        mask = self.encoder.mask_downsampler(mask * self.scale + self.bias)
        memory = self.encoder.out_proj(self.encoder.fuser(self.encoder.pix_feat_proj(embed) + mask))
        if self.occlusion is not None:
            absent = (object_score <= 0).to(memory.dtype)
            memory = memory + absent[..., None, None] * self.occlusion
        return memory.to(torch.bfloat16).to(torch.float32)
