"""The official SAM 2 modules in a forward pass made for training: many objects of many clips as rows of one batch.

What the official predictor computes is what these functions compute (a test holds them to it); they differ in layout
and in what they leave out: nothing is stored per frame number, the feature maps of strides 4 and 8 are projected in one
step, and rotary encodings are real-valued. In shapes N is images, R rows (one object of one clip each), C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.sam2.build import build_model
from export.sam2.variants import model_config
from export.torchvision_ops import declare_operators

VARIANT = "sam2.1_nano"
LONGEST = 16
"""Frames of a clip, for the positions of pointers: the official scale for every clip of at least so many frames."""
ABSENT = -1024.0
"""The official mask logit of an absent object."""


def build_trainable(initial: Path | None = None, *, seed: int = 0) -> Any:
    """The official `SAM2Base` of the nano variant, to be trained, with its official initial weights or a checkpoint's.

    Raises:
        InputError: the checkpoint is of another variant or no checkpoint.
    """
    declare_operators()
    from hydra.utils import instantiate

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = instantiate(model_config(VARIANT), _recursive_=True)
    if initial is not None:
        model.load_state_dict(build_model(VARIANT, initial).state_dict())
    return model.train()


@dataclass(frozen=True)
class Features:
    """Image features, as the mask decoder takes them.

    Attributes:
        s0: [N, C/8, 4h, 4w].
        s1: [N, C/4, 2h, 2w].
        embed: [N, C, h, w].
    """

    s0: Tensor
    s1: Tensor
    embed: Tensor

    def rows(self, images: Tensor) -> Features:
        """The features of each row's image, whose numbers are given: int64 [R]."""
        return Features(*(each.index_select(0, images) for each in (self.s0, self.s1, self.embed)))


@dataclass(frozen=True)
class Decoded:
    """What the mask decoder says; masks of absent objects are not yet gated.

    Attributes:
        masks: logits at stride 4, [R, 4, 4h, 4w]: the single mask, then the three of the multimask output.
        ious: [R, 4].
        tokens: [R, 4, C].
        score: object score logits, [R, 1].
    """

    masks: Tensor
    ious: Tensor
    tokens: Tensor
    score: Tensor


@dataclass(frozen=True)
class Moment:
    """What is remembered of a frame.

    Attributes:
        conditioning: whether it was prompted.
        time: its frame number, counted in the direction of tracking.
        memory: [R, h*w, D].
        pointer: [R, C].
    """

    conditioning: bool
    time: int
    memory: Tensor
    pointer: Tensor

    def rows(self, rows: Tensor) -> Moment:
        """The moment in which each row has what another one had, whose numbers are given: int64 [R]."""
        return replace(self, memory=self.memory[rows], pointer=self.pointer[rows])


def encode(model: Any, images: Tensor) -> Features:
    """`forward_image` of normalised images [N, 3, S, S], without the maps that nothing reads."""
    return encode_with_maps(model, images)[0]


def encode_with_maps(model: Any, images: Tensor) -> tuple[Features, tuple[Tensor, ...]]:
    """Features of normalised images [N, 3, S, S], and the maps of the trunk that they are made of, [N, h, w, C]."""
    trunk, neck, decoder = model.image_encoder.trunk, model.image_encoder.neck, model.sam_mask_decoder
    x0, x1, x2, x3 = maps = tuple(each.permute(0, 2, 3, 1) for each in trunk(images))
    laterals = [each.conv for each in neck.convs]  # coarsest first
    top = F.interpolate(_pointwise(x3, laterals[0]), scale_factor=2.0, mode="nearest")
    s0 = _pointwise(x0, laterals[3], decoder.conv_s0)
    s1 = _pointwise(x1, laterals[2], decoder.conv_s1)
    return Features(s0, s1, _pointwise(x2, laterals[1]) + top), maps


def _pointwise(x_nhwc: Tensor, first: nn.Conv2d, second: nn.Conv2d | None = None) -> Tensor:
    """One 1x1 convolution, or two in a row as one: [N, C, H, W]."""
    weight, bias = first.weight.flatten(1), first.bias
    assert bias is not None
    if second is not None:
        assert second.bias is not None
        outer = second.weight.flatten(1)
        weight, bias = outer @ weight, outer @ bias + second.bias
    return F.linear(x_nhwc, weight, bias).permute(0, 3, 1, 2).contiguous()


def decode(
    model: Any,
    features: Features,
    image_embed: Tensor,
    *,
    points: tuple[Tensor, Tensor] | None = None,
    mask: Tensor | None = None,
) -> Decoded:
    """Prompt encoder and mask decoder, as `_forward_sam_heads` calls them, with all four masks.

    Args:
        features: of the rows; `embed` is not read.
        image_embed: conditioned features [R, C, h, w].
        points: coordinates [R, K, 2] and labels [R, K] in pixels of the input; none: one padding point.
        mask: mask logits [R, 1, 4h, 4w].
    """
    rows = len(image_embed)
    if points is None:
        points = image_embed.new_zeros(rows, 1, 2), -torch.ones(rows, 1, dtype=torch.int32, device=image_embed.device)
    sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=mask)
    return Decoded(
        *model.sam_mask_decoder.predict_masks(
            image_embeddings=image_embed,
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=[features.s0, features.s1],
        )
    )


def prompt(model: Any, features: Features, coords: Tensor, labels: Tensor) -> Decoded:
    """The image predictor: boxes (corners labelled 2 and 3) and points of each row, on its image alone."""
    return decode(model, features, features.embed + model.no_mem_embed.reshape(1, -1, 1, 1), points=(coords, labels))


def condition(model: Any, features: Features, masks: Tensor, time: int) -> tuple[Decoded, Moment]:
    """A mask prompt, used as output: bool masks [R, 1, S, S], each with at least one pixel. Its pointer is decoded."""
    logits = F.interpolate(masks.float() * 20.0 - 10.0, scale_factor=0.25, mode="bilinear", antialias=True)
    decoded = decode(model, features, features.embed, mask=model.mask_downsample(masks.float()))
    pointer = _pointer(model, decoded, decoded.tokens[:, 0])
    memory = remember(model, features.embed, logits, torch.ones_like(decoded.score), binary=True)
    return decoded, Moment(True, time, memory, pointer)


def track(model: Any, features: Features, past: list[Moment], time: int) -> tuple[Decoded, Tensor, Tensor]:
    """One frame of `track_step`.

    Returns:
        What is decoded; the index (0 to 2) of the multimask that the model prefers, int64 [R]; and the features that
        the past conditioned, float32 [R, C, h, w].
    """
    conditioned = attend_memory(model, features.embed, past, time)
    decoded = decode(model, features, conditioned)
    return decoded, decoded.ious[:, 1:].argmax(dim=1), conditioned


def moment_of(model: Any, features: Features, decoded: Decoded, best: Tensor, time: int) -> tuple[Tensor, Moment]:
    """Gated logits [R, 1, 4h, 4w] of a tracked frame, and what is remembered of it."""
    rows = torch.arange(len(best), device=best.device)
    present = decoded.score > 0
    logits = torch.where(present[..., None, None], decoded.masks[rows, best + 1].unsqueeze(1), ABSENT)
    memory = remember(model, features.embed, logits, present.float())
    return logits, Moment(False, time, memory, _pointer(model, decoded, decoded.tokens[rows, best + 1]))


def _pointer(model: Any, decoded: Decoded, tokens: Tensor) -> Tensor:
    """The pointer of tokens [R, C], or the one of an absent object."""
    present = (decoded.score > 0).float()
    pointer: Tensor = present * model.obj_ptr_proj(tokens) + (1 - present) * model.no_obj_ptr
    return pointer


def remember(model: Any, embed: Tensor, logits: Tensor, present: Tensor, *, binary: bool = False) -> Tensor:
    """`_encode_new_memory` of logits [R, 1, 4h, 4w]: [R, h*w, D]."""
    # Rows as channels of one image: a batch of one channel takes a slow way.
    high = F.interpolate(logits.transpose(0, 1), scale_factor=4.0, mode="bilinear", align_corners=False).transpose(0, 1)
    masks = (high > 0).float() if binary else torch.sigmoid(high)
    masks = masks * model.sigmoid_scale_for_mem_enc + model.sigmoid_bias_for_mem_enc
    memory = model.memory_encoder(embed, masks, skip_mask_sigmoid=True)["vision_features"]
    return memory.flatten(2).transpose(1, 2) + ((1 - present) * model.no_obj_embed_spatial).unsqueeze(1)


def attend_memory(model: Any, embed: Tensor, past: list[Moment], time: int) -> Tensor:
    """`_prepare_memory_conditioned_features`: image features [R, C, h, w] conditioned on the past.

    Args:
        past: every prompted frame, and any number of others: the nearest few of them count.
    """
    rows, width, side = embed.shape[0], model.hidden_dim, embed.shape[-1]
    prompted = [each for each in past if each.conditioning]
    recent = [each for each in past if not each.conditioning and 0 < time - each.time < model.num_maskmem]
    place = model.memory_encoder.position_encoding(embed.new_zeros(1, 1, side, side)).flatten(2).transpose(1, 2)
    slots = [model.num_maskmem - 1] * len(prompted) + [time - each.time - 1 for each in recent]
    frames = [each.memory for each in prompted + recent]
    places = [place + model.maskmem_tpos_enc[slot].reshape(1, 1, -1) for slot in slots]

    spoken = [each for each in past if time - each.time >= 0 and (each.conditioning or time - each.time < LONGEST)]
    values = torch.cat(frames, dim=1)
    keys = torch.cat([each + where for each, where in zip(frames, places, strict=True)], dim=1)
    pointers = torch.stack([each.pointer for each in spoken], dim=1)
    parts = width // model.mem_dim
    pointers = pointers.reshape(rows, len(spoken) * parts, model.mem_dim)
    away = torch.tensor([float(time - each.time) for each in spoken], device=embed.device) / (LONGEST - 1)
    when = model.obj_ptr_tpos_proj(_sine_pe(away, width)).repeat_interleave(parts, dim=0)
    values = torch.cat((values, pointers), dim=1)
    keys = torch.cat((keys, pointers + when), dim=1)

    attention = model.memory_attention
    here = model.image_encoder.neck.position_encoding(embed.new_zeros(1, 1, side, side)).flatten(2).transpose(1, 2)
    x = embed.flatten(2).transpose(1, 2) + 0.1 * here
    freqs = attention.layers[0].self_attn.freqs_cis.to(embed.device)
    cos, sin = freqs.real, freqs.imag
    for layer in attention.layers:
        normed = layer.norm1(x)
        x = x + _attention(layer.self_attn, normed, normed, normed, cos, sin, 1, 0)
        x = x + _attention(
            layer.cross_attn_image, layer.norm2(x), keys, values, cos, sin, len(frames), pointers.shape[1]
        )
        x = x + layer.linear2(layer.activation(layer.linear1(layer.norm3(x))))
    return attention.norm(x).transpose(1, 2).reshape(rows, width, side, side)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, repeats: int, pointers: int
) -> Tensor:
    """`RoPEAttention` of one head: keys of `repeats` frames, rotated, then those of pointers, not rotated."""
    q = _rotate(_halved(module.q_proj, query), cos, sin)
    k = _halved(module.k_proj, key)
    places = k.shape[1] - pointers
    rotated = _rotate(k[:, :places], cos.repeat(repeats, 1), sin.repeat(repeats, 1))
    if pointers:
        rotated = torch.cat((rotated, k[:, places:]), dim=1)
    q = q * q.shape[-1] ** -0.5
    if torch.is_grad_enabled():
        mixed = _Attend.apply(q, rotated, value)
    else:
        mixed = torch.bmm(torch.softmax(torch.bmm(q, rotated.transpose(1, 2)), dim=-1), value)
    return F.linear(mixed, module.out_proj.weight @ module.v_proj.weight, _bias(module))


class _Attend(torch.autograd.Function):
    """softmax(q k) v of [R, Lq, C], [R, Lk, C] and [R, Lk, D] in bfloat16, which takes two thirds of the time."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
        chance = torch.softmax(torch.bmm(q, k.transpose(1, 2)), dim=-1)
        ctx.save_for_backward(q, k, v, chance)
        return torch.bmm(chance, v).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        q, k, v, chance = ctx.saved_tensors
        gradient = gradients[0].bfloat16()
        gv = torch.bmm(chance.transpose(1, 2), gradient)
        scores = torch.bmm(gradient, v.transpose(1, 2))
        scores = torch._softmax_backward_data(scores, chance, -1, torch.bfloat16)
        return torch.bmm(scores, k).float(), torch.bmm(scores.transpose(1, 2), q).float(), gv.float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary encoding of tokens [R, L, C] whose channels are halves, not interleaved pairs."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def _bias(module: Any) -> Tensor:
    bias: Tensor = module.out_proj.weight @ module.v_proj.bias + module.out_proj.bias
    return bias


def _halved(linear: nn.Linear, x: Tensor) -> Tensor:
    """A projection whose even channels come first, then the odd ones, so that rotations act on halves."""
    weight, bias = linear.weight, linear.bias
    return F.linear(x, torch.cat((weight[0::2], weight[1::2])), torch.cat((bias[0::2], bias[1::2])))


def _sine_pe(position: Tensor, width: int) -> Tensor:
    """The official `get_1d_sine_pe`: [L, width]."""
    half = width // 2
    scale = 10000.0 ** (2 * (torch.arange(half, dtype=torch.float32, device=position.device) // 2) / half)
    angles = position.unsqueeze(-1) / scale
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
