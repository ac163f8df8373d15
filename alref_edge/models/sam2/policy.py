"""The decisions SAM 2 takes outside its networks: which mask counts, and which memories a frame may see."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from alref_edge.bundle.configs import Sam2Config
from alref_edge.errors import InputError

NO_OBJECT_LOGIT = np.float32(-1024.0)
PROMPT_CLAMP = 32.0

NEGATIVE, POSITIVE, BOX_FIRST, BOX_SECOND = 0, 1, 2, 3
PADDING = -1


@dataclass(frozen=True)
class ChosenMask:
    """The mask a prompt ends in: logits float32 `[h, w]`, its predicted IoU, its object pointer float32 `[C]`."""

    logits_hw: np.ndarray
    iou: float
    pointer_c: np.ndarray


def choose_mask(
    masks_4hw: np.ndarray, ious_4: np.ndarray, pointers_4c: np.ndarray, point_count: int, config: Sam2Config
) -> ChosenMask:
    """Pick one of the decoder's four masks as `SAM2Base._forward_sam_heads` and `MaskDecoder.forward` do.

    For few points the best of masks 1 to 3 is taken with its own pointer. Else mask 0, or, if that is unstable, the
    best of the three; the pointer is mask 0's in either case.
    """
    best = 1 + int(np.argmax(ious_4[1:]))
    if config.multimask_min_points <= point_count <= config.multimask_max_points:
        return ChosenMask(masks_4hw[best], float(ious_4[best]), pointers_4c[best])
    chosen = 0 if stability(masks_4hw[0], config.stability_delta) >= config.stability_threshold else best
    return ChosenMask(masks_4hw[chosen], float(ious_4[chosen]), pointers_4c[0])


def stability(logits_hw: np.ndarray, delta: float) -> float:
    """IoU of a mask at the thresholds `+delta` and `-delta`, 1 where both are empty."""
    union = np.count_nonzero(logits_hw > np.float32(-delta))
    return np.count_nonzero(logits_hw > np.float32(delta)) / union if union else 1.0


def closest_prompts(frame: int, prompted: Collection[int], limit: int | None) -> list[int]:
    """The prompted frames nearest in time, as `select_closest_cond_frames` of sam2/modeling/sam2_utils.py picks them.

    Args:
        frame: the present frame.
        prompted: frames with prompts, in the order in which they were given.
        limit: how many to take, at least 2; None takes all.
    """
    if limit is None or len(prompted) <= limit:
        return list(prompted)
    before = max((other for other in prompted if other < frame), default=None)
    after = min((other for other in prompted if other >= frame), default=None)
    picked = [other for other in (before, after) if other is not None]
    rest = sorted((other for other in prompted if other not in picked), key=lambda other: abs(other - frame))
    return picked + rest[: limit - len(picked)]


@dataclass(frozen=True)
class MemoryPlan:
    """What a frame attends to.

    Attributes:
        memories: (frame, position) of spatial memories; position 0 is a prompted frame, 1 the oldest recent frame.
        pointers: (frame, distance) of object pointers, in frames.
    """

    memories: tuple[tuple[int, int], ...]
    pointers: tuple[tuple[int, int], ...]

    @property
    def lengths(self) -> tuple[int, int]:
        """Number of memories and of pointers: objects that share it can be tracked in one call."""
        return len(self.memories), len(self.pointers)


def plan_memory(
    frame: int,
    prompted: Collection[int],
    recent: Collection[int],
    num_frames: int,
    *,
    reverse: bool,
    config: Sam2Config,
    max_prompts: int | None = None,
) -> MemoryPlan:
    """What one object's next frame attends to, as `SAM2Base._prepare_memory_conditioned_features`.

    Args:
        frame: the frame to be tracked.
        prompted: the object's frames with prompts, in the order in which they were given.
        recent: the object's tracked frames that are remembered.
        num_frames: length of the video.
        reverse: whether the sweep runs backward.
        max_prompts: how many prompted frames may take part; None for all of them.
    """
    step = -1 if reverse else 1
    selected = closest_prompts(frame, prompted, max_prompts)
    others = set(prompted) - set(selected)

    def remembered(distance: int) -> int | None:
        other = frame - step * distance
        return other if other in recent or other in others else None

    memories = [(other, 0) for other in selected]
    for position in range(1, config.num_maskmem):
        other = remembered(config.num_maskmem - position)
        if other is not None:
            memories.append((other, position))

    pointers = [
        (other, step * (frame - other) if config.pointer_tpos_signed else abs(frame - other))
        for other in selected
        if not config.only_past_pointers or step * (frame - other) >= 0
    ]
    for distance in range(1, pointer_span(num_frames, config) + 1):
        if not 0 <= frame - step * distance < num_frames:
            break
        other = remembered(distance)
        if other is not None:
            pointers.append((other, distance))
    return MemoryPlan(tuple(memories), tuple(pointers))


def pointer_span(num_frames: int, config: Sam2Config) -> int:
    """How far back pointers reach in a video, which is also the unit of their distance (`t_diff_max`)."""
    return min(num_frames, config.max_obj_ptrs_in_encoder) - 1


def check_points(points: np.ndarray, labels: np.ndarray, allowed: Collection[int] = (NEGATIVE, POSITIVE)) -> None:
    """Raise an InputError unless these are N finite points, xy, with a label each."""
    if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1] or not np.isfinite(points).all():
        raise InputError(
            "Points and labels do not fit together.",
            expected="finite points [N, 2] and labels [N]",
            got=f"points {list(points.shape)} and labels {list(labels.shape)}",
        )
    if not np.isin(labels, list(allowed)).all():
        raise InputError("A point has an unknown label.", expected="1 (object) or 0 (not)", got=labels.tolist())


def check_box(box: np.ndarray) -> None:
    """Raise an InputError unless this is a finite box, xyxy."""
    if box.shape[-1:] != (4,) or box.ndim > 2 or not np.isfinite(box).all():
        raise InputError("A box is not four finite numbers.", expected="x0 y0 x1 y1 in pixels", got=box.tolist())
