"""Prompt encoder and mask decoder, rewritten for export."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alref_edge.errors import InputError

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

    def hyper(self, hidden: Tensor, first: int) -> Tensor:
        """Hyper-network outputs of mask tokens `first`..3: [B, 4 - first, C/8]."""
        heads = list(self.official.output_hypernetworks_mlps)[first:]
        return torch.stack([head(hidden[:, 2 + first + i]) for i, head in enumerate(heads)], dim=1)

    def ious(self, hidden: Tensor) -> Tensor:
        """Predicted IoU of the four mask tokens, [B, 4]."""
        predicted: Tensor = self.official.iou_prediction_head(hidden[:, 1])
        return predicted

    def object_score(self, hidden: Tensor) -> Tensor:
        """Object score logits [B, 1]; positive where the object is present."""
        score: Tensor = self.official.pred_obj_score_head(hidden[:, 0])
        return score

    def pointer(self, token: Tensor, object_score: Tensor) -> Tensor:
        """Object pointers of mask tokens [B,...,C]; the no-object pointer where the object is absent."""
        present = object_score > 0
        for _ in range(token.ndim - 2):
            present = present.unsqueeze(1)
        return torch.where(present, self.pointer_head(token), self.no_object_pointer)


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
