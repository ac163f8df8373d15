"""Tracking jobs that the official predictor and ours both run, and how their results are compared.

A job is the JSON of `benchmarks/official/sam2_video.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alref_edge.models.sam2 import Sam2VideoTracker, TrackingState

Job = dict[str, Any]
Results = dict[str, np.ndarray]


def write_frames(video: Path, folder: Path, count: int, step: int = 1) -> Path:
    """A folder of JPEGs, every `step`-th frame of a video."""
    import av

    folder.mkdir(parents=True, exist_ok=True)
    with av.open(str(video)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index >= count * step:
                break
            if index % step == 0:
                frame.to_image().save(folder / f"{index // step:05d}.jpg", quality=95)
    return folder


def read_frames(folder: Path) -> list[np.ndarray]:
    """The frames of a folder as both sides see them."""
    images = []
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as image:
            images.append(np.array(image.convert("RGB")))
    return images


def write_mask(path: Path, shape: tuple[int, int], box: tuple[int, int, int, int]) -> str:
    """An ellipse inscribed in a box (x0, y0, x1, y1), as a PNG; its name."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    x0, y0, x1, y1 = box
    inside = (2 * x - x0 - x1) ** 2 / (x1 - x0) ** 2 + (2 * y - y0 - y1) ** 2 / (y1 - y0) ** 2 <= 1
    Image.fromarray((inside * 255).astype(np.uint8)).save(path)
    return path.name


def run_job(
    tracker: Sam2VideoTracker, images: list[np.ndarray], job: Job, masks: Path
) -> tuple[Results, TrackingState]:
    """Our side of `benchmarks.official.sam2_video.run_job`, with the same results."""
    state = tracker.start(len(images), *images[0].shape[:2])
    out: Results = {}
    for number, prompt in enumerate(job["prompts"]):
        frame, object_id = prompt["frame"], prompt["object"]
        if "mask" in prompt:
            with Image.open(masks / prompt["mask"]) as image:
                mask = np.array(image.convert("L")) > 127
            result = state.add_mask(frame, object_id, mask, images[frame])
        else:
            given = {key: prompt[key] for key in ("points", "labels", "box", "clear_old_points") if key in prompt}
            result = state.add_points_or_box(frame, object_id, images[frame], **given)
        out[f"prompt_{number}"] = result.low_res_nhw[0]
    for number, sweep in enumerate(job["sweeps"]):
        start = sweep.get("start")
        first = min(prompt["frame"] for prompt in job["prompts"]) if start is None else start
        order = range(first, -1, -1) if sweep["reverse"] else range(first, len(images))
        starts = None if start is None else dict.fromkeys(state.object_ids, start)
        frames = ((index, images[index]) for index in order)
        results = list(state.propagate(frames, reverse=sweep["reverse"], starts=starts, keep=sweep.get("keep", ())))
        out[f"frames_{number}"] = np.array([result.frame for result in results])
        out[f"low_res_{number}"] = np.stack([result.low_res_nhw for result in results])
        out[f"scores_{number}"] = np.stack([result.scores_n for result in results])
        bits = np.stack([result.masks_nhw() for result in results])
        out[f"masks_{number}"], out[f"shape_{number}"] = np.packbits(bits), np.array(bits.shape)
    return out, state


def masks_of(results: Results, sweep: int) -> np.ndarray:
    """Masks at the video's size, bool `[T, N, H, W]`."""
    shape = tuple(results[f"shape_{sweep}"])
    return np.unpackbits(results[f"masks_{sweep}"], count=int(np.prod(shape))).reshape(shape).astype(bool)


def worst_iou(official: np.ndarray, ours: np.ndarray) -> float:
    """The least IoU of masks `[..., H, W]`, 1 where both are empty."""
    common = (official & ours).sum((-1, -2))
    union = (official | ours).sum((-1, -2))
    return float(np.where(union > 0, common / np.maximum(union, 1), 1.0).min())


def assert_equal(official: Results, ours: Results) -> dict[str, float]:
    """Logits within 1e-3 or 1e-4 of their spread, IoU at least 0.999 on every frame, scores within 1e-3.

    Returns:
        The worst differences.
    """
    worst = {"logits": 0.0, "allowed": np.inf, "scores": 0.0, "iou": 1.0}
    for key, value in official.items():
        if key.startswith("frames"):
            np.testing.assert_array_equal(ours[key], value)
        elif key.startswith("scores"):
            worst["scores"] = max(worst["scores"], float(np.abs(ours[key] - value).max()))
        elif key.startswith("masks"):
            sweep = int(key.split("_")[1])
            worst["iou"] = min(worst["iou"], worst_iou(masks_of(official, sweep), masks_of(ours, sweep)))
        elif key.startswith(("prompt", "low_res")):
            present = value[value > -1000]
            allowed = max(1e-3, 1e-4 * float(present.std()) if present.size else 0.0)
            difference = float(np.abs(ours[key] - value).max())
            assert difference <= allowed, f"{key}: {difference} > {allowed}"
            worst["logits"], worst["allowed"] = max(worst["logits"], difference), min(worst["allowed"], allowed)
    assert worst["scores"] <= 1e-3, worst
    assert worst["iou"] >= 0.999, worst
    return worst


def assert_not_trivial(results: Results, *, absent: bool = True) -> dict[str, float]:
    """The tracked masks are neither empty nor full, vary in time, and objects are scored present (and absent)."""
    sweeps = [key.split("_")[1] for key in results if key.startswith("scores")]
    scores = np.concatenate([results[f"scores_{sweep}"].ravel() for sweep in sweeps])
    logits = np.concatenate([results[f"low_res_{sweep}"].reshape(-1, *results["prompt_0"].shape) for sweep in sweeps])
    seen = logits[scores > 0]
    share = (seen > 0).mean((1, 2))
    facts = {
        "present": float((scores > 0).mean()),
        "mean_share": float(share.mean()) if len(share) else 0.0,
        "partly": float(((share > 0.01) & (share < 0.99)).mean()) if len(share) else 0.0,
        "score_std": float(scores.std()),
        "logit_std": float(seen.std()) if len(seen) else 0.0,
    }
    assert facts["present"] > 0.2, facts
    assert not absent or facts["present"] < 0.98, facts
    assert facts["partly"] > 0.5, facts
    assert facts["logit_std"] > 0.1, facts
    return facts
