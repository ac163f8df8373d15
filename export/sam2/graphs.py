"""The five graphs of SAM 2, as torch modules with named inputs, outputs and dynamic axes.

Sizes: S = image_size, C = hidden_dim, D = mem_dim, h = w = S / 16. B objects, M memories and P pointers of each, N
memories in the bank, K prompt points. Everything is float32 unless said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from alref_edge.errors import InputError
from export.sam2.attention import with_fusable_gelu
from export.sam2.heads import NO_OBJECT, Decoder, FusedDecoder, PromptEncoder
from export.sam2.image_encoder import FusedImageEncoder, ImageEncoder
from export.sam2.memory import FusedMemoryAttention, FusedMemoryEncoder, MemoryAttention, MemoryEncoder


@dataclass(frozen=True)
class Graph:
    """A module to export.

    Attributes:
        name: graph name in the bundle.
        module: its forward takes `inputs` in order and returns `outputs` in order.
        inputs: name to shape, where a letter is a dynamic axis; int64 for slots and tpos, int32 for point_labels.
        outputs: names in order.
    """

    name: str
    module: nn.Module
    inputs: dict[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """The modules that graphs are put together from, in one form."""

    image_encoder: type[ImageEncoder]
    memory_attention: type[MemoryAttention]
    memory_encoder: type[MemoryEncoder]
    decoder: type[Decoder]


FORMS: Mapping[str, Parts] = {
    "standard": Parts(ImageEncoder, MemoryAttention, MemoryEncoder, Decoder),
    "cuda": Parts(FusedImageEncoder, FusedMemoryAttention, FusedMemoryEncoder, FusedDecoder),
}


class Track(nn.Module):
    """One tracked frame of B objects: memory attention, decoder by the tracking policy, memory encoder."""

    sparse: Tensor
    dense: Tensor
    rows: Tensor

    def __init__(self, model: Any, parts: Parts) -> None:
        super().__init__()
        if not (
            model.multimask_output_in_sam and model.multimask_output_for_tracking and model.multimask_min_pt_num == 0
        ):
            raise InputError("Tracking without multimask output cannot be exported.", mend="use an official config.")
        self.attention, self.decoder = parts.memory_attention(model), parts.decoder(model)
        self.encoder = parts.memory_encoder(model, binarize=False)
        prompts = PromptEncoder(model)
        self.register_buffer("sparse", prompts.padding(2).clone())
        self.register_buffer("dense", prompts.no_mask.clone())
        self.register_buffer("rows", torch.arange(3).unsqueeze(0))

    def forward(
        self,
        embed: Tensor,
        feat_s0: Tensor,
        feat_s1: Tensor,
        bank: Tensor,
        slots: Tensor,
        tpos: Tensor,
        pointers: Tensor,
        pointer_pos: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See `graphs_of` for shapes; returns low_res, pointer, object_score, iou, memory."""
        features = self.attention(embed, bank, slots, tpos, pointers, pointer_pos)
        hidden, image = self.decoder.transform(features, self.sparse.expand(slots.shape[0], -1, -1), self.dense)
        ious = self.decoder.ious(hidden)[:, 1:]
        best = (torch.argmax(ious, dim=1, keepdim=True) == self.rows).to(ious.dtype)  # [B, 3], one-hot
        score = self.decoder.object_score(hidden)
        token = torch.matmul(best.unsqueeze(1), hidden[:, 3:6]).squeeze(1)
        hyper = torch.matmul(best.unsqueeze(1), self.decoder.hyper(hidden, 1))
        mask = self.decoder.masks(hyper, image, feat_s0, feat_s1)
        low_res = torch.where((score > 0)[..., None, None], mask, NO_OBJECT)
        memory = self.encoder(embed, low_res, score)
        iou = (ious * best).sum(dim=1, keepdim=True)
        return low_res, self.decoder.pointer(token, score), score, iou, memory


class Prompt(nn.Module):
    """Points, boxes and low-resolution mask logits on a frame without memory; all four mask tokens' outputs."""

    no_memory: Tensor

    def __init__(self, model: Any, parts: Parts) -> None:
        super().__init__()
        if not model.directly_add_no_mem_embed:
            raise InputError(
                "A model without directly_add_no_mem_embed cannot be exported.", mend="use an official config."
            )
        self.prompts, self.decoder = PromptEncoder(model), parts.decoder(model)
        self.register_buffer("no_memory", model.no_mem_embed.detach().reshape(1, -1, 1, 1).clone())

    def forward(
        self,
        embed: Tensor,
        feat_s0: Tensor,
        feat_s1: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask: Tensor,
    ) -> tuple[Tensor, ...]:
        """See `graphs_of` for shapes; returns masks, ious, pointers, object_score."""
        sparse = self.prompts.points(point_coords, point_labels)
        given = (has_mask > 0.5)[..., None, None]
        dense = torch.where(given, self.prompts.mask(mask_input), self.prompts.no_mask)
        hidden, image = self.decoder.transform(embed + self.no_memory, sparse, dense)
        score = self.decoder.object_score(hidden)
        masks = self.decoder.masks(self.decoder.hyper(hidden, 0), image, feat_s0, feat_s1)
        return masks, self.decoder.ious(hidden), self.decoder.pointer(hidden[:, 2:6], score), score


class MaskPrompt(nn.Module):
    """A mask given by the user (`_use_mask_as_output`): its logits, and a pointer from the decoder."""

    sparse: Tensor
    pixels: Tensor
    centres: Tensor

    def __init__(self, model: Any, parts: Parts) -> None:
        super().__init__()
        if not model.use_mask_input_as_output_without_sam:
            raise InputError("A model that decodes mask prompts cannot be exported.", mend="use an official config.")
        self.prompts, self.decoder, self.downsample = PromptEncoder(model), parts.decoder(model), model.mask_downsample
        self.register_buffer("sparse", self.prompts.padding(2).clone())
        # The antialiased resize of one axis: each of S/4 rows weighs the pixels by their distance from its centre.
        self.register_buffer("pixels", torch.arange(model.image_size) + 0.5)
        self.register_buffer("centres", 4.0 * torch.arange(model.image_size // 4).unsqueeze(1) + 2.0)

    def forward(self, embed: Tensor, feat_s0: Tensor, feat_s1: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """See `graphs_of` for shapes; returns low_res, pointer, object_score."""
        rows = torch.relu(1.0 - (self.pixels - self.centres).abs() / 4.0)
        rows = rows / rows.sum(dim=1, keepdim=True)
        low_res = torch.matmul(rows, torch.matmul(mask * 20.0 - 10.0, rows.t()))
        dense = self.prompts.mask(self.downsample(mask))
        hidden, _ = self.decoder.transform(embed, self.sparse.expand(mask.shape[0], -1, -1), dense)
        pointer = self.decoder.pointer(hidden[:, 2], self.decoder.object_score(hidden))
        present = mask.amax(dim=(2, 3)) > 0
        pointer = torch.where(present, pointer, self.decoder.no_object_pointer)
        return low_res, pointer, present.to(mask.dtype) * 20.0 - 10.0


class EncodeMemory(nn.Module):
    """The memory of a conditioning frame, from its low-resolution mask (`propagate_in_video_preflight`)."""

    def __init__(self, model: Any, parts: Parts) -> None:
        super().__init__()
        self.encoder = parts.memory_encoder(model, binarize=True)

    def forward(self, embed: Tensor, low_res: Tensor, object_score: Tensor) -> Tensor:
        """See `graphs_of` for shapes; returns memory."""
        memory: Tensor = self.encoder(embed, low_res, object_score)
        return memory


def graphs_of(official: Any, form: str = "standard") -> dict[str, Graph]:
    """The graphs of an official SAM2Base, which is left as it is, with the shapes of their inputs.

    Args:
        official: the model.
        form: a key of `FORMS`; the graphs of all forms have the same inputs and outputs.

    Raises:
        InputError: the model's policy is one that the graphs do not express.
    """
    model: Any = with_fusable_gelu(official)
    parts = FORMS[form]
    size, hidden, mem, side = model.image_size, model.hidden_dim, model.mem_dim, model.image_size // 16
    embed: dict[str, tuple[int | str, ...]] = {"embed": (1, hidden, side, side)}
    features = {
        **embed,
        "feat_s0": (1, hidden // 8, 4 * side, 4 * side),
        "feat_s1": (1, hidden // 4, 2 * side, 2 * side),
    }
    low_res = ("B", 1, size // 4, size // 4)
    track = {
        **features,
        "bank": ("N", mem, side, side),
        "slots": ("B", "M"),
        "tpos": ("B", "M"),
        "pointers": ("B", "P", hidden),
    }
    if model.add_tpos_enc_to_obj_ptrs:
        track["pointer_pos"] = ("B", "P")
    prompt = {
        **features,
        "point_coords": ("B", "K", 2),
        "point_labels": ("B", "K"),
        "mask_input": low_res,
        "has_mask": ("B", 1),
    }
    integers = {"slots": torch.int64, "tpos": torch.int64, "point_labels": torch.int32}
    graphs = (
        Graph("image_encoder", parts.image_encoder(model), {"image": (1, 3, size, size)}, tuple(features)),
        Graph("track", Track(model, parts), track, ("low_res", "pointer", "object_score", "iou", "memory"), integers),
        Graph("prompt", Prompt(model, parts), prompt, ("masks", "ious", "pointers", "object_score"), integers),
        Graph(
            "mask_prompt",
            MaskPrompt(model, parts),
            {**features, "mask": ("B", 1, size, size)},
            ("low_res", "pointer", "object_score"),
        ),
        Graph(
            "memory_encoder",
            EncodeMemory(model, parts),
            {**embed, "low_res": low_res, "object_score": ("B", 1)},
            ("memory",),
        ),
    )
    return {graph.name: graph for graph in graphs}
