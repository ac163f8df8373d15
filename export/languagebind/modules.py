"""CLIP's towers as LanguageBind has them (arXiv 2103.00020, 2310.01852), with transformers' parameter names.

Written for export: embeddings come out with length 1, and the text tower takes texts of any number of tokens.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from export import fused
from export.forms import fusing, hidden_gelu, joined
from export.languagebind.configs import AudioConfig, EncoderConfig, TextConfig


class Attention(nn.Module):
    """Self-attention of several heads, with the boolean mask `[T, T]` of causal towers or without.

    `out_proj` is left to the layer.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = (config.width // config.heads) ** -0.5
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.q_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, x_btc: Tensor, mask_tt: Tensor | None) -> Tensor:
        if fusing():
            return self._fused(x_btc, causal=mask_tt is not None)
        query, key, value = (
            project(x_btc).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = (query * self.scale) @ key.transpose(2, 3)
        if mask_tt is not None:
            scores = torch.where(mask_tt, scores, float("-inf"))
        return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)

    def _fused(self, x_btc: Tensor, *, causal: bool) -> Tensor:
        layers = (self.q_proj, self.k_proj, self.v_proj)
        # Transposed each, as the other form's products have them: the file holds them once.
        weight = torch.cat([layer.weight.t() for layer in layers], dim=1).t()
        bias = torch.cat([layer.bias for layer in layers])
        return fused.self_attention(x_btc, weight, bias, self.heads, self.scale, causal=causal)


class Mlp(nn.Module):
    """Two linear layers and what bends the line between them; the second is left to the layer."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.fc1 = nn.Linear(config.width, config.inner)
        self.fc2 = nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        if self.activation == "gelu":
            return hidden_gelu(x, self.fc1)
        x = self.fc1(x)
        return x * torch.sigmoid(1.702 * x)


class Layer(nn.Module):
    """Attention and MLP, each after a norm and beside a shortcut; the last shortcut is left to the encoder."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.layer_norm1 = nn.LayerNorm(config.width, config.eps)
        self.mlp = Mlp(config)
        self.layer_norm2 = nn.LayerNorm(config.width, config.eps)

    def forward(self, x: Tensor, normed: Tensor, mask_tt: Tensor | None) -> tuple[Tensor, Tensor]:
        """x, and it normalised by `layer_norm1`, to x with attention, and what `mlp.fc2` is given to add to it."""
        x, normed = joined(x, self.self_attn(normed, mask_tt), self.self_attn.out_proj, self.layer_norm2)
        return x, self.mlp(normed)


class Encoder(nn.Module):
    """Layers, one after the other."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, mask_tt: Tensor | None = None) -> Tensor:
        layers = cast("list[Layer]", list(self.layers))
        x, hidden = layers[0](x, layers[0].layer_norm1(x), mask_tt)
        for layer, after in pairwise(layers):
            x, normed = joined(x, hidden, layer.mlp.fc2, after.layer_norm1)
            x, hidden = after(x, normed, mask_tt)
        return x + layers[-1].mlp.fc2(hidden)


class TextEmbeddings(nn.Module):
    """Tables of tokens and of the places that they stand at."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.encoder.width)
        self.position_embedding = nn.Embedding(config.positions, config.encoder.width)


class TextModel(nn.Module):
    """Tokens to what the tower has read at the first end of text."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config.encoder)
        self.final_layer_norm = nn.LayerNorm(config.encoder.width, config.encoder.eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[1]
        place = torch.arange(length, device=input_ids.device)
        # Fused, what only the length tells is cut from constants, which are on the device already.
        positions = self.embeddings.position_embedding
        x = self.embeddings.token_embedding(input_ids) + (positions.weight[:length] if fusing() else positions(place))
        x = self.encoder(x, place[:, None] >= place[None, :])
        if fusing():
            return self.final_layer_norm(self._at_end(x, input_ids))
        # The end of text has the highest id; a causal tower knows nothing of what comes after it.
        end_b = input_ids.to(torch.int32).argmax(dim=-1)
        return self.final_layer_norm(x[torch.arange(x.shape[0], device=x.device), end_b])

    def _at_end(self, x_btc: Tensor, input_ids: Tensor) -> Tensor:
        """`x` at the first of the highest ids, in operators that CUDA has; there, of equals any may be the largest."""
        most = len(self.embeddings.position_embedding.weight)
        earlier = torch.arange(most, 0, -1, dtype=torch.float32)[: input_ids.shape[1]]
        end_b11 = (input_ids.to(torch.float32) * most + earlier).argmax(dim=-1)[:, None, None]
        return torch.gather(x_btc, 1, end_b11.expand(-1, -1, x_btc.shape[2])).squeeze(1)


class VisionEmbeddings(nn.Module):
    """What makes tokens of patches, the token that stands for the whole picture, and the places of all."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        width = config.encoder.width
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(config.channels, width, config.patch, config.patch, bias=False)
        self.position_embedding = nn.Embedding(config.positions, width)


class VisionModel(nn.Module):
    """A picture of sound to what the tower has gathered at its first place."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        width, eps = config.encoder.width, config.encoder.eps
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(width, eps)
        self.encoder = Encoder(config.encoder)
        self.post_layernorm = nn.LayerNorm(width, eps)

    def forward(self, fbank: Tensor) -> Tensor:
        parts = self.embeddings
        patches = parts.patch_embedding(fbank).flatten(2).transpose(1, 2)
        whole = parts.class_embedding.expand(fbank.shape[0], 1, -1)
        x = torch.cat([whole, patches], dim=1) + parts.position_embedding.weight
        x = self.encoder(self.pre_layrnorm(x))
        return self.post_layernorm(x[:, 0])


class TextTower(nn.Module):
    """`input_ids` int64 `[B, T]`, T up to the positions that there are, to embeddings `[B, D]` of length 1."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.text_model = TextModel(config)
        self.text_projection = nn.Linear(config.encoder.width, config.projection, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        return _unit(self.text_projection(self.text_model(input_ids)))


class AudioTower(nn.Module):
    """`fbank` `[B, 3, mel_bins, frames]` to embeddings `[B, D]` of length 1."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.vision_model = VisionModel(config)
        self.visual_projection = nn.Linear(config.encoder.width, config.projection, bias=False)

    def forward(self, fbank: Tensor) -> Tensor:
        return _unit(self.visual_projection(self.vision_model(fbank)))


def _unit(x: Tensor) -> Tensor:
    return x / (x * x).sum(dim=-1, keepdim=True).sqrt()
