"""Qwen3-VL in plain torch, for training: the official state-dict keys, an image once for many questions about it.

After `modeling_qwen3_vl.py` of transformers 5. Left out is what the nano has no use for: video, DeepStack, images of
several sizes in one batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH, MERGE = 16, 2
GRID = PATCH * MERGE
"""Side in pixels of what one image token covers."""

_THETA = 10_000.0
_SECTIONS = (6, 5, 5)
_MEAN = _STD = 0.5


@dataclass(frozen=True)
class MllmConfig:
    """Sizes.

    Attributes:
        vocab_size: tokens.
        vision_hidden, vision_mlp, vision_depth, vision_heads: of the vision tower.
        grid_side: learned absolute positions lie on a grid of so many by so many, stretched over the image.
        hidden, mlp, depth, heads, kv_heads: of the language model; `hidden` is `heads * 32`.
    """

    vocab_size: int
    vision_hidden: int = 96
    vision_mlp: int = 256
    vision_depth: int = 5
    vision_heads: int = 3
    grid_side: int = 24
    hidden: int = 128
    mlp: int = 160
    depth: int = 4
    heads: int = 4
    kv_heads: int = 2

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def official(self, ids: dict[str, int]) -> dict[str, Any]:
        """The `config.json` that transformers and vLLM read.

        Args:
            ids: of the special tokens, by their text.
        """
        rope = {
            "rope_type": "default",
            "rope_theta": _THETA,
            "mrope_section": list(_SECTIONS),
            "mrope_interleaved": True,
        }
        text = {
            "model_type": "qwen3_vl_text",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": rope,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        }
        vision = {
            "model_type": "qwen3_vl_vision",
            "depth": self.vision_depth,
            "hidden_size": self.vision_hidden,
            "intermediate_size": self.vision_mlp,
            "num_heads": self.vision_heads,
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            # An image is one frame here, not the same twice.
            "temporal_patch_size": 1,
            "num_position_embeddings": self.grid_side**2,
            "out_hidden_size": self.hidden,
            "deepstack_visual_indexes": [],
        }
        return {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "model_type": "qwen3_vl",
            "dtype": "float16",
            "tie_word_embeddings": True,
            "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_end_token_id": ids["<|vision_end|>"],
            "text_config": text,
            "vision_config": vision,
        }


class _VisionBlock(nn.Module):
    def __init__(self, config: MllmConfig) -> None:
        super().__init__()
        width = config.vision_hidden
        self.heads = config.vision_heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict(
            {"linear_fc1": nn.Linear(width, config.vision_mlp), "linear_fc2": nn.Linear(config.vision_mlp, width)}
        )

    def forward(self, x_bnc: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        batch, count, width = x_bnc.shape
        qkv = self.attn["qkv"](self.norm1(x_bnc)).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(_rotate(qkv[0], rotary), _rotate(qkv[1], rotary), qkv[2])
        x_bnc = x_bnc + self.attn["proj"](mixed.transpose(1, 2).reshape(batch, count, width))
        inner = functional.gelu(self.mlp["linear_fc1"](self.norm2(x_bnc)), approximate="tanh")
        return x_bnc + self.mlp["linear_fc2"](inner)


class VisionTower(nn.Module):
    """Images to tokens, one for every 32 x 32 pixels, row by row."""

    def __init__(self, config: MllmConfig) -> None:
        super().__init__()
        self.config = config
        width, merged = config.vision_hidden, config.vision_hidden * MERGE**2
        self.patch_embed = nn.ModuleDict({"proj": nn.Linear(3 * PATCH**2, width)})
        self.pos_embed = nn.Embedding(config.grid_side**2, width)
        self.blocks = nn.ModuleList(_VisionBlock(config) for _ in range(config.vision_depth))
        self.merger = nn.ModuleDict(
            {
                "norm": nn.LayerNorm(width, eps=1e-6),
                "linear_fc1": nn.Linear(merged, merged),
                "linear_fc2": nn.Linear(merged, config.hidden),
            }
        )

    def forward(self, images_bhw3: Tensor) -> Tensor:
        """Tokens, `[B, (H / 32) * (W / 32), hidden]`, of uint8 images whose sides are multiples of 32."""
        return self.look(images_bhw3)[0]

    def look(self, images_bhw3: Tensor, early: int = 2) -> tuple[Tensor, Tensor]:
        """Tokens as `forward` gives them, and what the patches are after so many blocks.

        Those lie in the order of the tokens that they are merged to, `[B, tokens * 4, vision_hidden]`.
        """
        batch, height, width, _ = images_bhw3.shape
        rows, columns = height // GRID, width // GRID
        patches = images_bhw3.view(batch, rows, MERGE, PATCH, columns, MERGE, PATCH, 3)
        patches = patches.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(batch, -1, 3 * PATCH**2)
        x_bnc = self.patch_embed["proj"]((patches.float() / 255 - _MEAN) / _STD) + self._places(rows, columns)
        rotary = self._rotary(rows, columns, x_bnc.device)
        patches_bnc = x_bnc
        for index, block in enumerate(self.blocks, 1):
            x_bnc = block(x_bnc, rotary)
            patches_bnc = x_bnc if index == early else patches_bnc
        merged = self.merger["norm"](x_bnc).reshape(batch, rows * columns, -1)
        return self.merger["linear_fc2"](functional.gelu(self.merger["linear_fc1"](merged))), patches_bnc

    def _places(self, rows: int, columns: int) -> Tensor:
        """Learned positions of the patches, in the order of the tokens, `[N, C]`."""
        side = self.config.grid_side
        grid = self.pos_embed.weight.view(1, side, side, -1).permute(0, 3, 1, 2)
        size = (rows * MERGE, columns * MERGE)
        grid = functional.interpolate(grid, size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
        return _by_token(grid, rows, columns)

    def _rotary(self, rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
        width = self.config.vision_hidden // self.config.vision_heads // 2
        speeds = 1.0 / _THETA ** (torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
        y, x = torch.meshgrid(
            torch.arange(rows * MERGE, device=device), torch.arange(columns * MERGE, device=device), indexing="ij"
        )
        angles = torch.cat([y[..., None] * speeds, x[..., None] * speeds], dim=-1)
        angles = _by_token(torch.cat([angles, angles], dim=-1), rows, columns)
        return angles.cos(), angles.sin()


class _Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, 1e-6)


class _TextLayer(nn.Module):
    def __init__(self, config: MllmConfig) -> None:
        super().__init__()
        width, each = config.hidden, config.head_dim
        self.config = config
        self.input_layernorm, self.post_attention_layernorm = _Norm(width), _Norm(width)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(width, config.heads * each, bias=False),
                "k_proj": nn.Linear(width, config.kv_heads * each, bias=False),
                "v_proj": nn.Linear(width, config.kv_heads * each, bias=False),
                "o_proj": nn.Linear(config.heads * each, width, bias=False),
                "q_norm": _Norm(each),
                "k_norm": _Norm(each),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(width, config.mlp, bias=False),
                "up_proj": nn.Linear(width, config.mlp, bias=False),
                "down_proj": nn.Linear(config.mlp, width, bias=False),
            }
        )

    def project(self, x_bnc: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens, `[B, heads, N, head_dim]`."""
        x_bnc = self.input_layernorm(x_bnc)
        parts = [
            self.self_attn[name](x_bnc).view(*x_bnc.shape[:2], -1, self.config.head_dim)
            for name in ("q_proj", "k_proj", "v_proj")
        ]
        query = _rotate(self.self_attn["q_norm"](parts[0]).transpose(1, 2), rotary)
        key = _rotate(self.self_attn["k_norm"](parts[1]).transpose(1, 2), rotary)
        return query, key, parts[2].transpose(1, 2)

    def finish(self, x_bnc: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """The layer's output; without a mask, attention is causal."""
        times = self.config.heads // self.config.kv_heads
        key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None)
        x_bnc = x_bnc + self.self_attn["o_proj"](mixed.transpose(1, 2).flatten(2))
        inner = self.post_attention_layernorm(x_bnc)
        inner = functional.silu(self.mlp["gate_proj"](inner)) * self.mlp["up_proj"](inner)
        return x_bnc + self.mlp["down_proj"](inner)


Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer."""


class LanguageModel(nn.Module):
    """Tokens to tokens; what many texts begin with alike is worked out once."""

    def __init__(self, config: MllmConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden)
        self.layers = nn.ModuleList(_TextLayer(config) for _ in range(config.depth))
        self.norm = _Norm(config.hidden)

    def begin(self, x_bnc: Tensor, places_3n: Tensor) -> Cache:
        """Keys and values of the beginnings.

        Args:
            x_bnc: embeddings.
            places_3n: time, row and column of each token.
        """
        rotary = self._rotary(places_3n)
        cache = []
        for layer in self._text_layers():
            query, key, value = layer.project(x_bnc, rotary)
            cache.append((key, value))
            x_bnc = layer.finish(x_bnc, query, key, value, None)
        return cache

    def go_on(self, ids_qn: Tensor, places_qn: Tensor, mask: Tensor, before: Cache) -> tuple[Tensor, Cache]:
        """Hidden states of texts, `[Q, N, hidden]`, and keys and values of all so far.

        Args:
            ids_qn: tokens.
            places_qn: place of each, the same in time, row and column.
            mask: bool, what each token may see: `[Q or 1, 1, N, before + N]`.
            before: what `begin`, or a step before this one, gave; one for every text.
        """
        x_qnc = self.embed_tokens(ids_qn)
        rotary = self._rotary(places_qn.expand(3, *places_qn.shape))
        cache = []
        for layer, (keys, values) in zip(self._text_layers(), before, strict=True):
            query, key, value = layer.project(x_qnc, rotary)
            key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
            cache.append((key, value))
            x_qnc = layer.finish(x_qnc, query, key, value, mask)
        return self.norm(x_qnc), cache

    def scores(self, x_nc: Tensor) -> Tensor:
        """Logits of the next token; the embeddings serve once more."""
        return x_nc @ self.embed_tokens.weight.T

    def _text_layers(self) -> Iterable[_TextLayer]:
        return cast("Iterable[_TextLayer]", self.layers)

    def _rotary(self, places_3n: Tensor) -> tuple[Tensor, Tensor]:
        """Interleaved: of each three frequencies one turns with the time, one with the row, one with the column."""
        half = self.config.head_dim // 2
        speeds = 1.0 / _THETA ** (torch.arange(half, dtype=torch.float32, device=places_3n.device) / half)
        angles = places_3n[..., None].float() * speeds
        mixed = angles[0].clone()
        for axis in (1, 2):
            which = slice(axis, 3 * _SECTIONS[axis], 3)
            mixed[..., which] = angles[axis][..., which]
        mixed = torch.cat([mixed, mixed], dim=-1)
        if mixed.ndim == 3:
            mixed = mixed[:, None]
        return mixed.cos(), mixed.sin()


class Mllm(nn.Module):
    """Both together."""

    def __init__(self, config: MllmConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = VisionTower(config)
        self.language_model = LanguageModel(config)
        for name, each in self.named_parameters():
            if each.ndim > 1:
                nn.init.trunc_normal_(each, std=0.02 if "embed" in name else each.shape[1] ** -0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(each)

    def begin(self, first_ids: Tensor, last_ids: Tensor, columns: int, images_bnc: Tensor) -> tuple[Cache, int]:
        """What every text about an image begins with, and the place of the token that comes next.

        Args:
            first_ids, last_ids: tokens before and after the image's, `[N]`.
            columns: of the tokens' grid.
            images_bnc: tokens of the images.
        """
        batch, count, _ = images_bnc.shape
        embed = self.language_model.embed_tokens
        first, last = (embed(each).expand(batch, -1, -1) for each in (first_ids, last_ids))
        start, rows = len(first_ids), count // columns
        index = torch.arange(count, device=images_bnc.device)
        image_3n = start + torch.stack([torch.zeros_like(index), index // columns, index % columns])
        after = start + max(rows, columns)
        before_3n = torch.arange(start, device=index.device).expand(3, -1)
        after_3n = after + torch.arange(len(last_ids), device=index.device).expand(3, -1)
        places_3n = torch.cat([before_3n, image_3n, after_3n], dim=1)
        return self.language_model.begin(torch.cat([first, images_bnc, last], dim=1), places_3n), after + len(last_ids)

    def official_weights(self) -> dict[str, Tensor]:
        """The weights under the names, and of the shapes, that transformers and vLLM know."""
        weights = {f"model.{name}": value.detach() for name, value in self.state_dict().items()}
        name = "model.visual.patch_embed.proj.weight"
        weights[name] = weights[name].view(-1, 3, 1, PATCH, PATCH)
        return weights

    def load_official_weights(self, weights: dict[str, Tensor]) -> None:
        """The opposite of `official_weights`."""
        own = {name.removeprefix("model."): value.float() for name, value in weights.items()}
        name = "visual.patch_embed.proj.weight"
        own[name] = own[name].flatten(1)
        self.load_state_dict(own)


def _by_token(grid: Tensor, rows: int, columns: int) -> Tensor:
    """Patches `[2 rows, 2 columns, C]` in the order of the tokens that they are merged to, `[N, C]`."""
    return grid.view(rows, MERGE, columns, MERGE, -1).permute(0, 2, 1, 3, 4).reshape(4 * rows * columns, -1)


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotary
    one, other = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-other, one], dim=-1) * sin
