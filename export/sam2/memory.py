"""Memory attention and memory encoder, rewritten for export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alref_edge.errors import InputError
from export.fused import add_norm, attention, bias_gelu, gelu, project, relu_layers, rotated
from export.sam2.attention import (
    GridTable,
    RopeTables,
    ScaledLinear,
    attend,
    fused,
    in_halves,
    linear_of,
    rotate_tokens,
)

_MANY = 64  # channels: of fewer, a normalisation as one operator would cost more than as several
_BESIDE = 8  # channels beside the keys of fused operators


@dataclass(frozen=True)
class Memories:
    """What memory attention attends to; N = M * h * w + P * C / D tokens.

    Attributes:
        keys: [B, D + 1, N], positions added, and a row of ones that carries the projection's bias.
        values: [B, N, D].
        cos: [1, C / 2, N], of every token's rotation; 1 for pointers.
        sin: the same; 0 for pointers.
    """

    keys: Tensor
    values: Tensor
    cos: Tensor
    sin: Tensor


class MemoryTokens(nn.Module):
    """Gathers memories and object pointers into the tokens that memory attention attends to.

    Args:
        model: an official SAM2Base.
    """

    temporal: Tensor
    wavelengths: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        size = model.sam_image_embedding_size
        self.mem_dim, self.split = model.mem_dim, model.hidden_dim // model.mem_dim
        position = model.memory_encoder.position_encoding(torch.zeros(1, model.mem_dim, size, size))
        self.position = GridTable(position[0].flatten(1).t(), rows_first=True)
        temporal = model.maskmem_tpos_enc.detach().reshape(model.num_maskmem, model.mem_dim)
        self.register_buffer("temporal", temporal.flip(0).unsqueeze(-1).clone())  # row t_pos
        self.projected = bool(model.add_tpos_enc_to_obj_ptrs)
        if self.projected:
            if not model.proj_tpos_enc_in_obj_ptrs:
                raise InputError(
                    "Pointer positions without a projection cannot be exported.", mend="use an official config."
                )
            self.projection = model.obj_ptr_tpos_proj
            half = model.hidden_dim // 2
            index = torch.arange(half, dtype=torch.float32)
            self.register_buffer("wavelengths", 10000 ** (2 * (index // 2) / half))

    def forward(
        self,
        bank: Tensor,
        slots: Tensor,
        tpos: Tensor,
        pointers: Tensor,
        pointer_pos: Tensor | None,
        rope: tuple[Tensor, Tensor],
    ) -> Memories:
        """Tokens of M memories, then those of P pointers, which are not rotated."""
        memory = bank.flatten(2)[slots]  # [B, M, D, hw]
        batch = slots.shape[0]
        keys = torch.cat((memory + self.position().t() + self.temporal[tpos], torch.ones_like(memory[:, :, :1])), dim=2)
        keys = keys.transpose(1, 2).reshape(batch, self.mem_dim + 1, -1)
        tokens = pointers.reshape(batch, -1, self.mem_dim)
        values = torch.cat((memory.transpose(2, 3).reshape(batch, -1, self.mem_dim), tokens), dim=1)
        if self.projected:
            tokens = tokens + self.pointer_positions(pointer_pos, batch)
        tokens = torch.cat((tokens, torch.ones_like(tokens[..., :1])), dim=2).transpose(1, 2)
        still = torch.zeros_like(tokens[:1, :1])  # angle 0
        tables = [table.t().unsqueeze(1) for table in rope]  # [C/2, 1, hw]
        repeated = [table.expand(-1, slots.shape[1], -1).flatten(1).unsqueeze(0) for table in tables]
        still = still.expand(-1, repeated[0].shape[1], -1)
        return Memories(
            keys=torch.cat((keys, tokens), dim=2),
            values=values,
            cos=torch.cat((repeated[0], still + 1.0), dim=2),
            sin=torch.cat((repeated[1], still), dim=2),
        )

    def pointer_positions(self, pointer_pos: Tensor | None, batch: int) -> Tensor:
        """`get_1d_sine_pe` of distances [B,P], projected, for every token of a pointer: [B, P*C/D, D]."""
        if pointer_pos is None:
            raise InputError("This model needs pointer positions.", mend="pass pointer_pos.")
        angles = pointer_pos.unsqueeze(-1) / self.wavelengths
        position = self.projection(torch.cat((angles.sin(), angles.cos()), dim=-1))
        return position.unsqueeze(2).expand(-1, -1, self.split, -1).reshape(batch, -1, self.mem_dim)


class AttentionLayer(nn.Module):
    """One official MemoryAttentionLayer; `query` and `key` projections rotate halves, values are folded away."""

    cross_k: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        if layer.pos_enc_at_attn or layer.pos_enc_at_cross_attn_queries or not layer.pos_enc_at_cross_attn_keys:
            raise InputError(
                "This memory attention's position encoding cannot be exported.", mend="use an official config."
            )
        own, cross = layer.self_attn, layer.cross_attn_image
        self.norm1, self.norm2, self.norm3 = layer.norm1, layer.norm2, layer.norm3
        self.linear1, self.linear2, self.activation = layer.linear1, layer.linear2, layer.activation
        self.own_q = ScaledLinear(*in_halves(own.q_proj), float(own.internal_dim) ** -0.5)
        self.own_k = linear_of(*in_halves(own.k_proj))
        self.own_out = linear_of(*fused(own.out_proj, own.v_proj))
        self.cross_q = ScaledLinear(*in_halves(cross.q_proj), float(cross.internal_dim) ** -0.5)
        weight, bias = in_halves(cross.k_proj)
        self.register_buffer("cross_k", torch.cat((weight, bias.unsqueeze(-1)), dim=1))
        self.cross_out = linear_of(*fused(cross.out_proj, cross.v_proj))
        if not torch.equal(own.freqs_cis, cross.freqs_cis):
            raise InputError("Self- and cross-attention rotate differently.", mend="use an official config.")

    def forward(self, x: Tensor, memory: Memories, rope: tuple[Tensor, Tensor]) -> Tensor:
        """x [1 or B, hw, C] → [B, hw, C]; rope as `RopeTables` gives it."""
        normed = self.norm1(x)
        q = rotate_tokens(self.own_q(normed), *rope)
        k = rotate_tokens(self.own_k(normed), *rope).transpose(1, 2)
        x = x + self.own_out(attend(q, k, normed))
        k = torch.matmul(self.cross_k, memory.keys)
        first, second = k.chunk(2, dim=1)
        k = torch.cat((first * memory.cos - second * memory.sin, first * memory.sin + second * memory.cos), dim=1)
        x = x + self.cross_out(attend(rotate_tokens(self.cross_q(self.norm2(x)), *rope), k, memory.values))
        return x + self.linear2(self.activation(self.linear1(self.norm3(x))))


class MemoryAttention(nn.Module):
    """The official MemoryAttention over gathered memory tokens.

    The first self-attention sees the same input for every object, so it runs at batch 1.
    """

    gather: type[MemoryTokens] = MemoryTokens
    layer: type[AttentionLayer] = AttentionLayer

    def __init__(self, model: Any) -> None:
        super().__init__()
        official, size = model.memory_attention, model.sam_image_embedding_size
        if not official.pos_enc_at_input:
            raise InputError(
                "Memory attention without positions at its input cannot be exported.", mend="use an official config."
            )
        self.size, self.tokens = size, self.gather(model)
        position = model.image_encoder.neck.position_encoding(torch.zeros(1, model.hidden_dim, size, size))
        self.position = GridTable(0.1 * position[0].flatten(1).t(), rows_first=True)
        self.layers = nn.ModuleList(self.layer(layer) for layer in official.layers)
        own = [layer.self_attn for layer in official.layers]
        self.rope = RopeTables(own[0], size * size)
        if not all(torch.equal(each.freqs_cis, own[0].freqs_cis) for each in own):
            raise InputError("Layers of memory attention rotate differently.", mend="use an official config.")
        self.norm = official.norm

    def forward(
        self, embed: Tensor, bank: Tensor, slots: Tensor, tpos: Tensor, pointers: Tensor, pointer_pos: Tensor | None
    ) -> Tensor:
        """embed [1,C,h,w] and memories → conditioned features [B,C,h,w]."""
        rope = self.rope()
        memories = self.tokens(bank, slots, tpos, pointers, pointer_pos, rope)
        x = embed.flatten(2).transpose(1, 2) + self.position()
        for layer in self.layers:
            x = layer(x, memories, rope)
        return self.norm(x).transpose(1, 2).reshape(-1, embed.shape[1], self.size, self.size)


class FusedMemoryTokens(MemoryTokens):
    """The same for fused operators: keys are [B, N, D + 8], tables are [N, C / 2].

    Beside the keys are a channel of ones, which carries the projection's bias, and seven of zeros: products want widths
    that eight divides.
    """

    ones: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.register_buffer("ones", torch.eye(_BESIDE)[0])

    def forward(
        self,
        bank: Tensor,
        slots: Tensor,
        tpos: Tensor,
        pointers: Tensor,
        pointer_pos: Tensor | None,
        rope: tuple[Tensor, Tensor],
    ) -> Memories:
        """As the standard form's."""
        batch, count = slots.shape
        memory = bank.flatten(2)[slots].transpose(2, 3)  # [B, M, hw, D]
        keys = memory + self.position() + self.temporal[tpos].transpose(2, 3)
        tokens = pointers.reshape(batch, -1, self.mem_dim)
        values = torch.cat((memory.reshape(batch, -1, self.mem_dim), tokens), dim=1)
        if self.projected:
            tokens = tokens + self.pointer_positions(pointer_pos, batch)
        keys = torch.cat((keys.reshape(batch, -1, self.mem_dim), tokens), dim=1)
        keys = torch.cat((keys, self.ones.expand(*keys.shape[:2], -1)), dim=2)
        cos, sin = (table.unsqueeze(0).expand(count, -1, -1).flatten(0, 1) for table in rope)
        still = torch.zeros_like(tokens[0, :, :1]).expand(-1, cos.shape[1])  # angle 0
        return Memories(keys, values, torch.cat((cos, still + 1.0)), torch.cat((sin, still)))


class FusedAttentionLayer(AttentionLayer):
    """The layer in fused operators, on a residual stream; values are projected to the width of keys, as flash wants."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.cross_v, self.cross_o = layer.cross_attn_image.v_proj, layer.cross_attn_image.out_proj

    def forward_stream(
        self, x: Tensor, branch: Tensor, bias: Tensor | None, memory: Memories, rope: tuple[Tensor, Tensor], batch: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The residual stream before and after the layer: a sum so far, what is to be added to it, and a bias too.

        Args:
            x: [1 or B, hw, C].
            branch: of its shape.
            bias: [C] or None.
            memory: of B objects.
            rope: as `RopeTables` gives it.
            batch: the objects where x is one for all, else 0.
        """
        x, normed = add_norm(x, branch, self.norm1, bias)
        q, k = self.turned(normed, self.own_q, rope), self.turned(normed, self.own_k, rope)
        branch = project(attention(q, k, normed, 1, self.own_q.pending), self.own_out)
        x, normed = add_norm(x, branch, self.norm2, self.own_out.bias)
        q = self.turned(normed, self.cross_q, rope)
        q = q.expand(batch, -1, -1) if batch else q
        k = rotated(memory.keys @ F.pad(self.cross_k, (0, _BESIDE - 1)).t(), memory.cos, memory.sin)
        v = project(memory.values, self.cross_v)
        branch = project(attention(q, k, v, 1, self.cross_q.pending), self.cross_o)
        x, normed = add_norm(x, branch, self.norm3, self.cross_out.bias)
        layers = [(each.weight.t(), each.bias) for each in (self.linear1, self.linear2)]
        return x, *relu_layers(normed, layers)

    def turned(self, x: Tensor, linear: nn.Linear | ScaledLinear, rope: tuple[Tensor, Tensor]) -> Tensor:
        """A projection of the image's tokens, rotated; its bias is a table that engines make when they load a graph."""
        weight = linear.matrix() if isinstance(linear, ScaledLinear) else linear.weight
        return rotated(x @ weight.t(), *rope) + rotate_tokens(linear.bias.reshape(-1), *rope)


class FusedMemoryAttention(MemoryAttention):
    """The same in fused operators."""

    gather = FusedMemoryTokens
    layer = FusedAttentionLayer

    def forward(
        self, embed: Tensor, bank: Tensor, slots: Tensor, tpos: Tensor, pointers: Tensor, pointer_pos: Tensor | None
    ) -> Tensor:
        """embed [1,C,h,w] and memories → conditioned tokens [B,hw,C]."""
        rope = self.rope()
        memories = self.tokens(bank, slots, tpos, pointers, pointer_pos, rope)
        stream = self.position().unsqueeze(0), _as_tokens(embed), None
        layers: Any = self.layers
        for index, layer in enumerate(layers):
            stream = layer.forward_stream(*stream, memories, rope, 0 if index else slots.shape[0])
        x, branch, bias = stream
        return add_norm(x, branch, self.norm, bias)[1]


class MemoryEncoder(nn.Module):
    """The official `_encode_new_memory` with the predictor's bfloat16 storage.

    Args:
        model: an official SAM2Base.
        binarize: whether masks are thresholded first (conditioning frames) or go through a sigmoid (tracked ones).
    """

    occlusion: Tensor | None

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
        memory = self.encoded(embed, mask * self.scale + self.bias)
        if self.occlusion is not None:
            absent = (object_score <= 0).to(memory.dtype)
            memory = memory + absent[..., None, None] * self.occlusion
        return memory.to(torch.bfloat16).to(torch.float32)

    def encoded(self, embed: Tensor, mask: Tensor) -> Tensor:
        """The official encoder: embed [1,C,h,w], mask [B,1,S,S] → [B,D,h,w]."""
        mask = self.encoder.mask_downsampler(mask)
        memory: Tensor = self.encoder.out_proj(self.encoder.fuser(self.encoder.pix_feat_proj(embed) + mask))
        return memory


class FusedMemoryEncoder(MemoryEncoder):
    """The same by tokens [B,hw,C] where there are many channels: a normalisation is one kernel then."""

    def encoded(self, embed: Tensor, mask: Tensor) -> Tensor:
        """As the standard form's."""
        official = self.encoder
        *stages, last = official.mask_downsampler.encoder
        for conv, norm, _ in zip(stages[::3], stages[1::3], stages[2::3], strict=True):
            mask = conv(mask)
            if conv.out_channels < _MANY:
                mask = gelu(norm(mask))
                continue
            tokens = gelu(_normed(mask, norm))
            mask = _as_map(tokens, mask.shape[-1])
        side = embed.shape[-1]
        image, bias = official.pix_feat_proj, official.pix_feat_proj.bias + last.bias
        x = tokens @ last.weight.flatten(1).t() + (_as_tokens(embed) @ image.weight.flatten(1).t() + bias)
        for block in official.fuser.layers:
            normed = _normed(block.dwconv(_as_map(x, side)), block.norm)
            hidden = bias_gelu(project(normed, block.pwconv1), block.pwconv1.bias)
            weight, bias = block.pwconv2.weight.t(), block.pwconv2.bias
            if block.gamma is not None:
                weight, bias = weight * block.gamma, bias * block.gamma
            x = (x + bias) + hidden @ weight
        outward = official.out_proj
        return _as_map(x @ outward.weight.flatten(1).t(), side) + outward.bias[:, None, None]


def _as_tokens(x: Tensor) -> Tensor:
    """[B, C, h, w] → [B, hw, C]."""
    return x.flatten(2).transpose(1, 2)


def _as_map(tokens: Tensor, side: int) -> Tensor:
    """[B, hw, C] → [B, C, h, w]."""
    return tokens.transpose(1, 2).reshape(-1, tokens.shape[-1], side, side)


def _normed(x: Tensor, norm: Any) -> Tensor:
    """An official LayerNorm2d, [B, C, h, w] → [B, hw, C]."""
    return F.layer_norm(_as_tokens(x), (x.shape[1],), norm.weight, norm.bias, norm.eps)
