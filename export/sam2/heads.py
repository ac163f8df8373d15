"""Prompt encoder and mask decoder, rewritten for export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alref_edge.errors import InputError
from export.fused import add_norm, attention, bias_gelu, gelu, project, relu_layers

NO_OBJECT = -1024.0  # sam2_base.NO_OBJ_SCORE


class Decoder(nn.Module):
    """The official mask decoder, cut where graphs need less than all of it.

    Args:
        model: an official SAM2Base with object scores, high-resolution features and a fixed no-object pointer.
    """

    tokens: Tensor
    gaussian: Tensor
    places: Tensor
    no_object_pointer: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        official = model.sam_mask_decoder
        needed = {
            "pred_obj_scores": model.pred_obj_scores,
            "fixed_no_obj_ptr": model.fixed_no_obj_ptr,
            "use_high_res_features_in_sam": model.use_high_res_features_in_sam,
            "use_obj_ptrs_in_encoder": model.use_obj_ptrs_in_encoder,
            "use_multimask_token_for_obj_ptr": model.use_multimask_token_for_obj_ptr,
            "soft_no_obj_ptr=false": not model.soft_no_obj_ptr,
        }
        lacking = [name for name, held in needed.items() if not held]
        if lacking:
            raise InputError(
                "This decoder cannot be exported.", expected=", ".join(lacking), mend="use an official config."
            )
        self.official, self.pointer_head = official, model.obj_ptr_proj
        self.size = model.sam_image_embedding_size
        tokens = (official.obj_score_token.weight, official.iou_token.weight, official.mask_tokens.weight)
        self.register_buffer("tokens", torch.cat(tokens).detach().unsqueeze(0).clone())
        self.register_buffer("gaussian", model.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.clone())
        self.register_buffer("places", 2 * ((torch.arange(self.size) + 0.5) / self.size) - 1)
        self.register_buffer("no_object_pointer", model.no_obj_ptr.detach().clone())

    def transform(self, features: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Two-way transformer: features [1 or B,C,h,w], sparse [B,K,C], dense → tokens [B,6+K,C], image [B,C,h,w]."""
        tokens = torch.cat((self.tokens.expand(sparse.shape[0], -1, -1), sparse), dim=1)
        hidden, image = self.official.transformer(features + dense, self.image_positions(), tokens)
        return hidden, image.transpose(1, 2).reshape(-1, features.shape[1], self.size, self.size)

    def image_positions(self) -> Tensor:
        """`get_dense_pe` of the official prompt encoder, [1, C, h, w]."""
        columns = self.places[:, None] * self.gaussian[0]
        rows = self.places[:, None] * self.gaussian[1]
        angles = (columns[None] + rows[:, None]) * (2 * torch.pi)
        return torch.cat((angles.sin(), angles.cos()), dim=-1).permute(2, 0, 1).unsqueeze(0)

    def upscale(self, image: Tensor, feat_s0: Tensor, feat_s1: Tensor) -> Tensor:
        """Upscaled features [B, C/8, S/4 * S/4]."""
        first, norm, act1, second, act2 = self.official.output_upscaling
        upscaled = act1(norm(first(image) + feat_s1))
        return act2(second(upscaled) + feat_s0).flatten(2)

    def masks(self, hyper: Tensor, image: Tensor, feat_s0: Tensor, feat_s1: Tensor) -> Tensor:
        """Mask logits [B,K,S/4,S/4] of hyper-networks' outputs [B,K,C/8]."""
        side = 4 * self.size
        return torch.matmul(hyper, self.upscale(image, feat_s0, feat_s1)).reshape(-1, hyper.shape[1], side, side)

    def hyper(self, hidden: Tensor, first: int) -> Tensor:
        """Hyper-network outputs of mask tokens `first`..3: [B, 4 - first, C/8]."""
        heads = list(self.official.output_hypernetworks_mlps)[first:]
        return torch.stack([head(hidden[:, 2 + first + i]) for i, head in enumerate(heads)], dim=1)

    def ious(self, hidden: Tensor) -> Tensor:
        """Predicted IoU of the four mask tokens, [B, 4]."""
        return self.head(self.official.iou_prediction_head, hidden[:, 1])

    def object_score(self, hidden: Tensor) -> Tensor:
        """Object score logits [B, 1]; positive where the object is present."""
        return self.head(self.official.pred_obj_score_head, hidden[:, 0])

    def pointer(self, token: Tensor, object_score: Tensor) -> Tensor:
        """Object pointers of mask tokens [B,...,C]; the no-object pointer where the object is absent."""
        present = object_score > 0
        for _ in range(token.ndim - 2):
            present = present.unsqueeze(1)
        return torch.where(present, self.head(self.pointer_head, token), self.no_object_pointer)

    def head(self, module: Any, x: Tensor) -> Tensor:
        """An MLP."""
        made: Tensor = module(x)
        return made


class FusedDecoder(Decoder):
    """The same in fused operators: images are tokens [B,hw,C]."""

    def transform(self, features: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """As the standard form's; features may be tokens [B,hw,C] already."""
        transformer = self.official.transformer
        points = torch.cat((self.tokens.expand(sparse.shape[0], -1, -1), sparse), dim=1)
        features, dense, places = (
            each if each.ndim == 3 else each.flatten(2).transpose(1, 2)
            for each in (features, dense, self.image_positions())
        )
        tokens, image = points, features + dense
        for layer in transformer.layers:
            own = layer.self_attn
            if layer.skip_first_layer_pe:
                tokens = layer.norm1(_attended(own, tokens, tokens, tokens) + own.out_proj.bias)
            else:
                placed = tokens + points
                branch = _attended(own, placed, placed, tokens)
                _, tokens = add_norm(tokens, branch, layer.norm1, own.out_proj.bias)
            cross, placed_image = layer.cross_attn_token_to_image, image + places
            branch = _attended(cross, tokens + points, placed_image, image)
            _, tokens = add_norm(tokens, branch, layer.norm2, cross.out_proj.bias)
            branch, bias = relu_layers(tokens, [(each.weight.t(), each.bias) for each in layer.mlp.layers])
            _, tokens = add_norm(tokens, branch, layer.norm3, bias)
            cross = layer.cross_attn_image_to_token
            branch = _attended(cross, placed_image, tokens + points, tokens)
            _, image = add_norm(image, branch, layer.norm4, cross.out_proj.bias)
        last = transformer.final_attn_token_to_image
        branch = _attended(last, tokens + points, image + places, image)
        _, tokens = add_norm(tokens, branch, transformer.norm_final_attn, last.out_proj.bias)
        return tokens, image

    def masks(self, hyper: Tensor, image: Tensor, feat_s0: Tensor, feat_s1: Tensor) -> Tensor:
        """As the standard form's. Pixels come each beside those of the same token; only masks are put in order."""
        side = self.size
        logits = torch.matmul(hyper, self.upscale(image, feat_s0, feat_s1).transpose(1, 2))
        logits = logits.reshape(-1, side, side, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return logits.reshape(-1, hyper.shape[1], 4 * side, 4 * side)

    def upscale(self, image: Tensor, feat_s0: Tensor, feat_s1: Tensor) -> Tensor:
        """Upscaled features [B, 16 hw, C/8]: four by four pixels of a token, as four times four."""
        first, norm, _, second, _ = self.official.output_upscaling
        side = self.size
        halves = feat_s1.reshape(-1, side, 2, side, 2).permute(1, 3, 2, 4, 0).reshape(1, 4 * side**2, -1)
        quarters = feat_s0.reshape(-1, side, 2, 2, side, 2, 2).permute(1, 4, 2, 5, 3, 6, 0)
        _, x = add_norm(halves, _enlarged(image, first), norm, first.bias)
        return bias_gelu(_enlarged(gelu(x), second) + quarters.reshape(1, 16 * side**2, -1), second.bias)

    def hyper(self, hidden: Tensor, first: int) -> Tensor:
        """As the standard form's, all heads at once."""
        heads = list(self.official.output_hypernetworks_mlps)[first:]
        return _heads(heads, hidden[:, 2 + first : 6].transpose(0, 1)).transpose(0, 1)

    def head(self, module: Any, x: Tensor) -> Tensor:
        """An MLP."""
        made = _heads([module], x.unsqueeze(0)).squeeze(0)
        return torch.sigmoid(made) if module.sigmoid_output else made


def _heads(heads: Sequence[Any], x: Tensor) -> Tensor:
    """Official MLPs of the same sizes, side by side: [heads, ..., C] → [heads, ..., C']."""
    layers = []
    for level in zip(*(head.layers for head in heads), strict=True):
        weight = torch.stack([each.weight for each in level]).transpose(1, 2)
        layers.append((weight, torch.stack([each.bias for each in level]).unsqueeze(1)))
    made, bias = relu_layers(x, layers)
    return made + bias


def _attended(official: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """An official Attention, but for the bias of its output's projection."""
    bias = torch.cat((official.q_proj.bias, official.k_proj.bias, official.v_proj.bias))
    q, k, v = project(q, official.q_proj), project(k, official.k_proj), project(v, official.v_proj)
    scale = float(official.internal_dim // official.num_heads) ** -0.5
    return project(attention(q, k, v, official.num_heads, scale, bias), official.out_proj)


def _enlarged(tokens: Tensor, conv: nn.ConvTranspose2d) -> Tensor:
    """A token becomes two by two pixels, beside each other, without the bias: [B, L, C] → [B, 4 L, C']."""
    weight = conv.weight.flatten(2).transpose(1, 2).reshape(conv.in_channels, -1)
    return (tokens @ weight).reshape(tokens.shape[0], -1, conv.out_channels)


class PromptEncoder(nn.Module):
    """The official prompt encoder; padding points (label -1) are given, not added."""

    kinds: Tensor
    gaussian: Tensor
    no_mask: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        official = model.sam_prompt_encoder
        self.downscaling, self.image_size = official.mask_downscaling, float(model.image_size)
        rows = [each.weight for each in official.point_embeddings]
        kinds = torch.cat((official.not_a_point_embed.weight, *rows)).detach()
        self.register_buffer("kinds", kinds.clone())  # row label + 1
        self.register_buffer("gaussian", official.pe_layer.positional_encoding_gaussian_matrix.clone())
        self.register_buffer("no_mask", official.no_mask_embed.weight.detach().reshape(1, -1, 1, 1).clone())

    def padding(self, count: int) -> Tensor:
        """Embeddings of `count` padding points, [1, count, C]."""
        return self.kinds[:1].expand(count, -1).unsqueeze(0)

    def points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """coords [B,K,2] in image pixels, labels [B,K] in -1..3 → [B,K,C]."""
        angles = torch.matmul(2 * ((coords + 0.5) / self.image_size) - 1, self.gaussian) * (2 * torch.pi)
        encoded = torch.cat((torch.sin(angles), torch.cos(angles)), dim=-1)
        kind = self.kinds[labels.long() + 1]
        return torch.where((labels == -1).unsqueeze(-1), kind, encoded + kind)

    def mask(self, mask: Tensor) -> Tensor:
        """mask logits [B,1,S/4,S/4] → dense embeddings [B,C,h,w]."""
        dense: Tensor = self.downscaling(mask)
        return dense
