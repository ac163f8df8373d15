"""The official modules, called as the official video predictor calls them, on the inputs of the graphs.

Every function takes an official SAM2VideoPredictor of `build_model` and returns numpy arrays named as the outputs of
the graph of its name. Needs torch and sam2 only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Moment:
    """One frame that an object was seen on before.

    Attributes:
        frame: its number.
        conditioning: whether it was prompted.
        memory: [B, D, h, w], bfloat16 values.
        pointer: [B, C].
    """

    frame: int
    conditioning: bool
    memory: Tensor
    pointer: Tensor


def _numpy(**outputs: Tensor) -> Arrays:
    return {name: value.detach().float().contiguous().numpy() for name, value in outputs.items()}


def _vision(model: Any, features: Arrays, batch: int) -> tuple[list[Tensor], list[Tensor], list[tuple[int, int]]]:
    maps = [torch.from_numpy(features[name]) for name in ("feat_s0", "feat_s1", "embed")]
    encoding = model.image_encoder.neck.position_encoding
    backbone = {
        "backbone_fpn": [each.expand(batch, -1, -1, -1) for each in maps],
        "vision_pos_enc": [
            encoding(each.new_zeros(1, model.hidden_dim, *each.shape[2:])).expand(batch, -1, -1, -1) for each in maps
        ],
    }
    _, feats, positions, sizes = model._prepare_backbone_features(backbone)
    return feats, positions, sizes


@torch.inference_mode()
def image_encoder(model: Any, image: np.ndarray) -> Arrays:
    """`forward_image` of a normalised image [1,3,S,S]."""
    s0, s1, embed = model.forward_image(torch.from_numpy(image))["backbone_fpn"]
    return _numpy(embed=embed, feat_s0=s0, feat_s1=s1)


@torch.inference_mode()
def mask_prompt(model: Any, features: Arrays, mask: np.ndarray) -> Arrays:
    """`_use_mask_as_output` of masks [B,1,S,S]."""
    s0, s1, embed = (
        torch.from_numpy(features[name]).expand(len(mask), -1, -1, -1) for name in ("feat_s0", "feat_s1", "embed")
    )
    low_res, _, _, _, _, pointer, score = model._use_mask_as_output(embed, [s0, s1], torch.from_numpy(mask))
    return _numpy(low_res=low_res, pointer=pointer, object_score=score)


@torch.inference_mode()
def prompt(
    model: Any, features: Arrays, coords: np.ndarray | None, labels: np.ndarray | None, mask: np.ndarray | None
) -> Arrays:
    """Prompt encoder and mask decoder on a frame without memory.

    coords [B,K,2] and labels [B,K] come without padding point: the official encoder adds one.
    """
    batch = len(coords) if coords is not None else len(mask) if mask is not None else 1
    s0, s1, embed = (
        torch.from_numpy(features[name]).expand(batch, -1, -1, -1) for name in ("feat_s0", "feat_s1", "embed")
    )
    points = None if coords is None or labels is None else (torch.from_numpy(coords), torch.from_numpy(labels))
    sparse, dense = model.sam_prompt_encoder(
        points=points, boxes=None, masks=None if mask is None else torch.from_numpy(mask)
    )
    masks, ious, tokens, score = model.sam_mask_decoder.predict_masks(
        image_embeddings=embed + model.no_mem_embed.reshape(1, -1, 1, 1),
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=[s0, s1],
    )
    present = (score > 0).float().unsqueeze(1)
    pointers = present * model.obj_ptr_proj(tokens) + (1 - present) * model.no_obj_ptr
    return _numpy(masks=masks, ious=ious, pointers=pointers, object_score=score)


@torch.inference_mode()
def memory_encoder(model: Any, features: Arrays, low_res: np.ndarray, object_score: np.ndarray) -> Arrays:
    """Memory of a conditioning frame, as `propagate_in_video_preflight` encodes and stores it."""
    feats, _, sizes = _vision(model, features, len(low_res))
    size = (model.image_size, model.image_size)
    high_res = F.interpolate(torch.from_numpy(low_res), size=size, mode="bilinear", align_corners=False)
    memory, _ = model._encode_new_memory(feats, sizes, high_res, torch.from_numpy(object_score), is_mask_from_pts=True)
    return _numpy(memory=memory.to(torch.bfloat16))


@torch.inference_mode()
def track(
    model: Any, features: Arrays, past: list[Moment], frame: int, num_frames: int, *, reverse: bool = False
) -> Arrays:
    """`track_step` of B objects with the same past, as `propagate_in_video` runs it."""
    batch = len(past[0].pointer)
    feats, positions, sizes = _vision(model, features, batch)
    side = model.sam_image_embedding_size
    position = model.memory_encoder.position_encoding(torch.zeros(batch, model.mem_dim, side, side))
    outputs: dict[str, dict[int, dict[str, Any]]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    for moment in past:
        outputs["cond_frame_outputs" if moment.conditioning else "non_cond_frame_outputs"][moment.frame] = {
            "maskmem_features": moment.memory.to(torch.bfloat16),
            "maskmem_pos_enc": [position],
            "obj_ptr": moment.pointer,
        }
    _, heads, _, _ = model._track_step(
        frame, False, feats, positions, sizes, None, None, outputs, num_frames, reverse, None
    )
    _, _, ious, low_res, high_res, pointer, score = heads
    memory, _ = model._encode_new_memory(feats, sizes, high_res, score, is_mask_from_pts=False)
    return _numpy(
        low_res=low_res,
        pointer=pointer,
        object_score=score,
        iou=ious.amax(dim=1, keepdim=True),
        memory=memory.to(torch.bfloat16),
    )


def track_feeds(model: Any, past: list[Moment], frame: int, num_frames: int, *, reverse: bool = False) -> Arrays:
    """The feeds of graph `track` that say what `track` above is given: bank, slots, tpos, pointers, pointer_pos.

    Every moment is attended to, so non-conditioning ones lie within `num_maskmem - 1` frames of `frame`.
    """
    batch, sign = len(past[0].pointer), -1 if reverse else 1
    bank = torch.cat([moment.memory.float() for moment in past])
    slots = torch.arange(len(past)).unsqueeze(0) * batch + torch.arange(batch).unsqueeze(1)
    away = [(frame - moment.frame) * sign for moment in past]
    tpos = [0 if past[i].conditioning else model.num_maskmem - away[i] for i in range(len(past))]
    seen = [i for i in range(len(past)) if not past[i].conditioning or away[i] >= 0]
    scale = min(num_frames, model.max_obj_ptrs_in_encoder) - 1
    distance = torch.tensor([away[i] for i in seen]) / scale
    feeds = {
        "bank": bank.numpy(),
        "slots": slots.numpy(),
        "tpos": np.tile(np.array(tpos, np.int64), (batch, 1)),
        "pointers": torch.stack([past[i].pointer for i in seen], dim=1).numpy(),
    }
    if model.add_tpos_enc_to_obj_ptrs:
        feeds["pointer_pos"] = distance.expand(batch, -1).contiguous().numpy()
    return feeds
