"""BEATs (arXiv 2212.09058) under the official names of its weights: a fine-tuned tagger of sounds.

After `BEATs.py` and `backbone.py` of microsoft/unilm, without what serves training: patches of the filter banks, a
convolution for positions, and a transformer whose attention has a bias by distance, gated by the query.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export import fused
from export.beats.configs import BeatsConfig
from export.forms import fusing, hidden_gelu, joined
from export.gelu import gelu

# Logits of attention are kept smaller by this until the softmax, so that float16 can hold them; a power of two, which
# rounds nothing. The official code does the same.
_ALPHA = 32.0
_GATE_SHARES = 4
# Of the form with fused operators: those of a sound of twenty minutes, whose bias takes 17 GB a head.
_MOST_TOKENS = 65_536


class BeatsModel(nn.Module):
    """Filter banks float32 `[B, T, 128]`, normalised, T at least a patch, to probabilities `[B, labels]`."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        size, width = config.input_patch_size, config.encoder_embed_dim
        self.config = config
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, size, stride=size, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        if config.embed_dim != width:
            self.post_extract_proj = nn.Linear(config.embed_dim, width)
        self.encoder = Encoder(config)
        self.predictor = nn.Linear(width, config.predictor_class)

    def forward(self, fbank_bt128: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(fbank_bt128))

    def logits(self, fbank_bt128: Tensor) -> Tensor:
        """Logits `[B, labels]`: means over the tokens."""
        patches_bdtf = self.patch_embedding(fbank_bt128[:, None])
        tokens_bld = self.layer_norm(patches_bdtf.flatten(2).transpose(1, 2))
        if hasattr(self, "post_extract_proj"):
            tokens_bld = self.post_extract_proj(tokens_bld)
        # The official code predicts for every token, then takes the mean: the same, as both are linear.
        return self.predictor(self.encoder(tokens_bld).mean(dim=1))


class Encoder(nn.Module):
    """The transformer on tokens `[B, L, d]`."""

    buckets: Tensor

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.layer_norm_first = config.layer_norm_first
        self.max_distance = config.max_distance
        self.pos_conv = nn.Sequential(PositionalConvolution(config))  # as the weights are named
        self.layer_norm = nn.LayerNorm(config.encoder_embed_dim)
        table = None
        if config.relative_position_embedding:
            table = nn.Embedding(config.num_buckets, config.encoder_attention_heads)
            self.register_buffer("buckets", bucket_table(config.num_buckets, config.max_distance), persistent=False)
        self.layers = nn.ModuleList(Layer(config, table) for _ in range(config.encoder_layers))

    def forward(self, tokens_bld: Tensor) -> Tensor:
        tokens_bld = tokens_bld + gelu(self.pos_conv(tokens_bld.transpose(1, 2))).transpose(1, 2)
        if not self.layer_norm_first:
            tokens_bld = self.layer_norm(tokens_bld)
        bias_hll = self.position_bias(tokens_bld.shape[1])
        for layer in self.layers:
            tokens_bld = layer(tokens_bld, bias_hll)
        return self.layer_norm(tokens_bld) if self.layer_norm_first else tokens_bld

    def position_bias(self, length: int) -> Tensor | None:
        """The bias of attention `[heads, L, L]` by distance, divided by `_ALPHA` where the logits are; None where there
        is none.

        Patches of one moment follow each other, low bins first: a distance counts patches in that order.
        """
        if not hasattr(self, "buckets"):
            return None
        # Fused, they are cut from a constant, which is on the device already.
        places = torch.arange(_MOST_TOKENS if fusing() else length, device=self.buckets.device)[:length]
        distances_ll = (places[None, :] - places[:, None]).clamp(-self.max_distance, self.max_distance)
        buckets_ll = torch.take(self.buckets, distances_ll + self.max_distance)
        first = cast("Layer", self.layers[0])
        bias_llh = first.self_attn.relative_attention_bias(buckets_ll)
        bias_hll = bias_llh.permute(2, 0, 1)
        return bias_hll if fusing() else bias_hll / _ALPHA


class PositionalConvolution(nn.Module):
    """A grouped convolution over time with the length kept, its weight split into direction and size a tap."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width, self.taps, self.groups = config.encoder_embed_dim, config.conv_pos, config.conv_pos_groups
        weight = torch.randn(width, width // self.groups, self.taps) * math.sqrt(4 / (self.taps * width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.weight_v = nn.Parameter(weight)
        self.weight_g = nn.Parameter(weight.square().sum(dim=(0, 1), keepdim=True).sqrt())

    def forward(self, tokens_bdl: Tensor) -> Tensor:
        norms = self.weight_v.square().sum(dim=(0, 1), keepdim=True).sqrt()
        weight = self.weight_v * (self.weight_g / norms)
        even = 1 - self.taps % 2  # with an even number of taps there is one place too many
        padded = functional.pad(tokens_bdl, (self.taps // 2, self.taps // 2 - even))
        return functional.conv1d(padded, weight, self.bias, groups=self.groups)


class Layer(nn.Module):
    """Attention and feed-forward, each with a residual and a norm, after it or before it."""

    def __init__(self, config: BeatsConfig, table: nn.Embedding | None) -> None:
        super().__init__()
        width, hidden = config.encoder_embed_dim, config.encoder_ffn_embed_dim
        self.self_attn = Attention(config, table)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.activation_fn = config.activation_fn
        self.norm_first = config.layer_norm_first
        self.residual_scale = (2 * config.encoder_layers) ** 0.25 if config.deep_norm else 1.0

    def forward(self, tokens_bld: Tensor, bias_hll: Tensor | None) -> Tensor:
        out_proj = self.self_attn.out_proj
        if self.norm_first:
            mixed = self.self_attn(self.self_attn_layer_norm(tokens_bld), bias_hll)
            tokens_bld, normed_bld = joined(tokens_bld, mixed, out_proj, self.final_layer_norm)
            return tokens_bld + self.fc2(self._hidden(normed_bld))
        scale = self.residual_scale
        scaled_bld, mixed = tokens_bld * scale, self.self_attn(tokens_bld, bias_hll)
        _, tokens_bld = joined(scaled_bld, mixed, out_proj, self.self_attn_layer_norm)
        return joined(tokens_bld * scale, self._hidden(tokens_bld), self.fc2, self.final_layer_norm)[1]

    def _hidden(self, tokens_bld: Tensor) -> Tensor:
        """What the feed-forward's last layer is given."""
        if self.activation_fn == "gelu":
            return hidden_gelu(tokens_bld, self.fc1)
        return functional.relu(self.fc1(tokens_bld))


class Attention(nn.Module):
    """Attention whose bias by distance each query scales by two gates of its own (`gru_rel_pos`).

    `out_proj` is left to the layer.
    """

    def __init__(self, config: BeatsConfig, table: nn.Embedding | None) -> None:
        super().__init__()
        width, self.heads, self.head_dim = config.encoder_embed_dim, config.encoder_attention_heads, config.head_dim
        if table is not None:
            self.relative_attention_bias = table  # one for all layers, under a name in each
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        if config.gru_rel_pos:
            self.grep_linear = nn.Linear(self.head_dim, 2 * _GATE_SHARES)
            self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))

    def forward(self, tokens_bld: Tensor, bias_hll: Tensor | None) -> Tensor:
        shape = (tokens_bld.shape[0], tokens_bld.shape[1], self.heads, self.head_dim)
        if fusing():  # the gates want the queries with their bias; fused, no logit is ever float16
            query = self.q_proj(tokens_bld)
            mask = None if bias_hll is None else self._gated(query.reshape(shape).transpose(1, 2), bias_hll)
            key, value = (fused.project(tokens_bld, layer) for layer in (self.k_proj, self.v_proj))
            bias = torch.cat([torch.zeros_like(self.q_proj.bias), self.k_proj.bias, self.v_proj.bias])
            return fused.attention(query, key, value, self.heads, self.head_dim**-0.5, bias=bias, mask=mask)
        query, key, value = (
            project(tokens_bld).reshape(shape).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        logits_bhll = (query * (self.head_dim**-0.5 / _ALPHA)) @ key.transpose(2, 3)
        if bias_hll is not None:
            logits_bhll = logits_bhll + self._gated(query, bias_hll)
        mixed_bhld = torch.softmax(logits_bhll * _ALPHA, dim=-1) @ value
        return mixed_bhld.transpose(1, 2).flatten(2)

    def _gated(self, query_bhld: Tensor, bias_hll: Tensor) -> Tensor:
        if not hasattr(self, "grep_linear"):
            return bias_hll[None]
        # Each gate is a sum of four outputs of `grep_linear`: one product with the sum of their weights.
        weight = self.grep_linear.weight.reshape(2, _GATE_SHARES, self.head_dim).sum(dim=1)
        offset = self.grep_linear.bias.reshape(2, _GATE_SHARES).sum(dim=1)
        first, second = torch.sigmoid(query_bhld @ weight.t() + offset).split(1, dim=-1)
        return (first * (second * self.grep_a - 1.0) + 2.0) * bias_hll


def bucket_table(num_buckets: int, max_distance: int) -> Tensor:
    """Bucket of every distance from -max_distance to max_distance, int64; what is further away has the end's.

    One half of the buckets is for keys after the query. Of a half, the first half holds one distance each, the others
    ranges that grow like their logarithms. Computed in float32, whose rounding decides at the ranges' ends.
    """
    half = num_buckets // 2
    exact = half // 2
    distances = torch.arange(-max_distance, max_distance + 1)
    sizes = distances.abs()
    steps = torch.log(sizes.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (half - exact)
    ranges = (exact + steps.to(torch.int64)).clamp(max=half - 1)
    return torch.where(sizes < exact, sizes, ranges) + half * (distances > 0)
