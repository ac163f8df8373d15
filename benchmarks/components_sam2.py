"""SAM 2's graphs beside the official modules of the sam2 package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from alref_edge.bundle import Component
from alref_edge.runtime import SessionOptions, open_session
from export.sam2 import build_model

Case = tuple[str, Callable[[], object], Callable[[], object]]
FRAME, FRAMES = 20, 100  # deep enough in a long video for every memory and pointer to be there


def cases(variant: str, component: Component, threads: int) -> Iterator[Case]:
    """Image encoder, tracking of 1 and 3 objects, prompts and memory: graph and official module."""
    model = build_model(variant, seed=0)
    options = SessionOptions(threads=threads)
    sessions = {name: open_session(path, device="cpu", options=options) for name, path in component.graphs.items()}
    size = model.image_size
    image = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    with torch.inference_mode():
        backbone = model.forward_image(torch.from_numpy(image))
        features = sessions["image_encoder"].run({"image": image})
        yield (
            "image_encoder",
            lambda: sessions["image_encoder"].run({"image": image}),
            _inference(lambda: model.forward_image(torch.from_numpy(image))),
        )
        for objects in (1, 3):
            feeds = _track_feeds(model, features, objects, sessions["track"].inputs)
            yield (
                f"track, {objects} object{'s' * (objects > 1)}, 7 memories",
                partial(sessions["track"].run, feeds),
                _official_track(model, backbone, objects),
            )
        yield "prompt, 1 box", *_prompt(model, sessions["prompt"], backbone, features)
        yield "memory_encoder", *_memory(model, sessions["memory_encoder"], backbone, features)


def _inference(call: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return call()

    return run


def _track_feeds(model: Any, features: dict[str, np.ndarray], objects: int, names: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    side = model.image_size // 16
    bank = rng.standard_normal((7 * objects, model.mem_dim, side, side)).astype(np.float32)
    feeds = {
        **features,
        "bank": bank,
        "slots": np.arange(7 * objects, dtype=np.int64).reshape(objects, 7),
        "tpos": np.tile(np.arange(7, dtype=np.int64), (objects, 1)),
        "pointers": rng.standard_normal((objects, 16, model.hidden_dim)).astype(np.float32),
        "pointer_pos": np.tile(np.arange(16, dtype=np.float32) / 15, (objects, 1)),
    }
    return {name: value for name, value in feeds.items() if name in names}


def _official_track(model: Any, backbone: dict[str, Any], objects: int) -> Callable[[], object]:
    """As `SAM2VideoPredictor` tracks: one object after another, on the features of the one frame."""
    _, vision, positions, sizes = model._prepare_backbone_features(backbone)
    generator = torch.Generator().manual_seed(1)
    side = model.image_size // 16
    # The memory encoder returns its position encoding with the features; it is the same for every frame.
    masks = torch.zeros(1, 1, model.image_size, model.image_size)
    position = model._encode_new_memory(vision, sizes, masks, torch.ones(1, 1), False)[1]

    def output() -> dict[str, Any]:
        return {
            "maskmem_features": torch.randn(1, model.mem_dim, side, side, generator=generator).to(torch.bfloat16),
            "maskmem_pos_enc": position,
            "obj_ptr": torch.randn(1, model.hidden_dim, generator=generator),
        }

    state = {
        "cond_frame_outputs": {0: output()},
        "non_cond_frame_outputs": {frame: output() for frame in range(FRAME - 15, FRAME)},
    }

    def run() -> None:
        with torch.inference_mode():
            for _ in range(objects):
                model.track_step(
                    frame_idx=FRAME,
                    is_init_cond_frame=False,
                    current_vision_feats=vision,
                    current_vision_pos_embeds=positions,
                    feat_sizes=sizes,
                    point_inputs=None,
                    mask_inputs=None,
                    output_dict=state,
                    num_frames=FRAMES,
                )

    return run


def _prompt(
    model: Any, session: Any, backbone: dict[str, Any], features: dict[str, np.ndarray]
) -> tuple[Callable[[], object], Callable[[], object]]:
    size = model.image_size
    coords = np.array([[[0.2, 0.3], [0.6, 0.7], [0, 0]]], np.float32) * size
    labels = np.array([[2, 3, -1]], np.int32)
    low = np.zeros((1, 1, size // 4, size // 4), np.float32)
    feeds = {
        **features,
        "point_coords": coords,
        "point_labels": labels,
        "mask_input": low,
        "has_mask": np.zeros((1, 1), np.float32),
    }
    points = {"point_coords": torch.from_numpy(coords[:, :2]), "point_labels": torch.from_numpy(labels[:, :2])}
    embed = backbone["backbone_fpn"][-1] + model.no_mem_embed.transpose(1, 2)[..., None]
    fine = backbone["backbone_fpn"][:2]

    def official() -> object:
        return model._forward_sam_heads(
            backbone_features=embed, point_inputs=points, high_res_features=fine, multimask_output=False
        )

    return lambda: session.run(feeds), _inference(official)


def _memory(
    model: Any, session: Any, backbone: dict[str, Any], features: dict[str, np.ndarray]
) -> tuple[Callable[[], object], Callable[[], object]]:
    _, vision, _, sizes = model._prepare_backbone_features(backbone)
    size = model.image_size
    low = np.random.default_rng(2).standard_normal((1, 1, size // 4, size // 4)).astype(np.float32)
    score = np.ones((1, 1), np.float32)

    def official() -> object:
        high = torch.nn.functional.interpolate(
            torch.from_numpy(low), size=(size, size), mode="bilinear", align_corners=False
        )
        return model._encode_new_memory(vision, sizes, high, torch.from_numpy(score), True)

    feeds = {"embed": features["embed"], "low_res": low, "object_score": score}
    return lambda: session.run(feeds), _inference(official)
