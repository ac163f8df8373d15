"""Runs the official SAM 2 video predictor (sam2 1.1.0) on a folder of JPEGs. For the reference environment's Python.

    PYTHONPATH=<clone> python -m benchmarks.official.sam2_video --variant sam2.1_tiny --checkpoint FILE.pt \
        --frames FOLDER --job JOB.json --out RESULT.npz [--onednn off]

Without oneDNN the same sums are rounded otherwise: how far the two answers lie apart is the official code's own noise.
The job: `{"prompts": [...], "sweeps": [{"reverse": false, "start": null}, ...], "fill_hole_area": 0}`, where a
prompt is `{"frame": 0, "object": 1}` and one of `"mask": "a.png"` (beside the job), `"box": [x0, y0, x1, y1]`, or
`"points"` and `"labels"`, the latter two with an optional `"clear_old_points"`; `"max_pivots_in_attention"` is the
official `max_cond_frames_in_attn`.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from export.torchvision_ops import declare_operators

declare_operators()


def build_official(variant: str, checkpoint: Path, *, video: bool) -> Any:
    """An official model with official weights, on the CPU.

    Args:
        variant: "sam2_tiny", "sam2.1_base_plus", ..., or a nano of this project.
        checkpoint: `{"model": state_dict}`.
        video: SAM2VideoPredictor with the policy of `build_sam2_video_predictor`, hole filling off (its extension
            is not built); else SAM2Base without postprocessing, for SAM2ImagePredictor.
    """
    from sam2.build_sam import build_sam2, build_sam2_video_predictor

    from export.sam2.variants import SIZES, variant_of

    known = variant_of(variant)
    if known.official:
        config = f"configs/{known.family}/{known.family}_hiera_{SIZES[known.size]}.yaml"
        if video:
            model = build_sam2_video_predictor(config, str(checkpoint), device="cpu")
            model.fill_hole_area = 0
            return model
        return build_sam2(config, str(checkpoint), device="cpu", apply_postprocessing=False)
    return _build_nano(variant, checkpoint, video=video)


def _build_nano(variant: str, checkpoint: Path, *, video: bool) -> Any:
    from hydra.utils import instantiate

    from export.sam2.variants import model_config

    config = model_config(variant, video_policy=video)
    if video:
        config["fill_hole_area"] = 0
    model = instantiate(config, _recursive_=True)
    model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["model"])
    return model.eval()


def run_job(predictor: Any, frames: Path, job: dict[str, Any], masks: Path) -> dict[str, np.ndarray]:
    """Prompt and propagate.

    Returns:
        For sweep k: `frames_k` `[T]`, `low_res_k` float32 `[T, N, h, w]`, `scores_k` float32 `[T, N]`, `masks_k` packed
        bits of bool `[T, N, H, W]`, `shape_k`; for prompt k: `prompt_k` float32 `[h, w]`, its low-resolution logits.
    """
    predictor.fill_hole_area = job.get("fill_hole_area", 0)
    predictor.max_cond_frames_in_attn = job.get("max_pivots_in_attention") or -1
    if predictor.fill_hole_area:
        _replace_components()
    out: dict[str, np.ndarray] = {}
    state = predictor.init_state(str(frames))
    for number, prompt in enumerate(job["prompts"]):
        out[f"prompt_{number}"] = _add(predictor, state, prompt, masks)
    for number, sweep in enumerate(job["sweeps"]):
        rows = list(_sweep(predictor, state, sweep))
        out[f"frames_{number}"] = np.array([row[0] for row in rows], np.int64)
        out[f"low_res_{number}"] = np.stack([row[1] for row in rows])
        out[f"scores_{number}"] = np.stack([row[2] for row in rows])
        bits = np.stack([row[3] for row in rows])
        out[f"masks_{number}"], out[f"shape_{number}"] = np.packbits(bits), np.array(bits.shape)
    return out


def _add(predictor: Any, state: Any, prompt: dict[str, Any], masks: Path) -> np.ndarray:
    place = {"inference_state": state, "frame_idx": prompt["frame"], "obj_id": prompt["object"]}
    if "mask" in prompt:
        with Image.open(masks / prompt["mask"]) as image:
            mask = np.array(image.convert("L")) > 127
        predictor.add_new_mask(**place, mask=mask)
    else:
        given = {key: prompt[key] for key in ("points", "labels", "box", "clear_old_points") if key in prompt}
        predictor.add_new_points_or_box(**place, **given)
    return _stored(state, prompt["object"], prompt["frame"])["pred_masks"][0, 0].numpy()


def _stored(state: Any, object_id: int, frame: int) -> dict[str, torch.Tensor]:
    number = state["obj_id_to_idx"][object_id]
    for table in ("temp_output_dict_per_obj", "output_dict_per_obj"):
        for kind in ("cond_frame_outputs", "non_cond_frame_outputs"):
            if frame in state[table][number][kind]:
                found: dict[str, torch.Tensor] = state[table][number][kind][frame]
                return found
    raise KeyError((object_id, frame))


def _sweep(predictor: Any, state: Any, sweep: dict[str, Any]) -> Any:
    found = predictor.propagate_in_video(state, start_frame_idx=sweep.get("start"), reverse=sweep["reverse"])
    for frame, object_ids, logits in found:
        outputs = [_stored(state, object_id, frame) for object_id in object_ids]
        low_res = np.stack([output["pred_masks"][0, 0].numpy() for output in outputs])
        scores = np.array([float(output["object_score_logits"]) for output in outputs], np.float32)
        yield frame, low_res, scores, (logits[:, 0] > 0).numpy()


def _replace_components() -> None:
    """Put a flood fill in the place of the CUDA extension that labels components."""
    from sam2.utils import misc

    def components(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        planes = mask.numpy().astype(bool)
        labels, areas = np.zeros(planes.shape, np.int32), np.zeros(planes.shape, np.int32)
        for index in zip(*np.nonzero(planes), strict=True):
            if labels[index]:
                continue
            labels[index] = label = labels.max() + 1
            queue, members = deque([index]), [index]
            while queue:
                *plane, y, x = queue.popleft()
                for dy, dx in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
                    other = (*plane, y + dy, x + dx)
                    inside = 0 <= y + dy < planes.shape[-2] and 0 <= x + dx < planes.shape[-1]
                    if inside and planes[other] and not labels[other]:
                        labels[other] = label
                        queue.append(other)
                        members.append(other)
            for member in members:
                areas[member] = len(members)
        return torch.from_numpy(labels), torch.from_numpy(areas)

    misc.get_connected_components = components


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Run the official SAM 2 video predictor.")
    parser.add_argument("--variant", required=True)
    for name in ("--checkpoint", "--frames", "--job", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--onednn", choices=("on", "off"), default="on")
    options = parser.parse_args()
    predictor = build_official(options.variant, options.checkpoint, video=True)
    with torch.backends.mkldnn.flags(enabled=options.onednn == "on"):
        arrays: dict[str, Any] = run_job(
            predictor, options.frames, json.loads(options.job.read_text()), options.job.parent
        )
    np.savez(options.out, **arrays)


if __name__ == "__main__":
    main()
