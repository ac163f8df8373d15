"""Tracking jobs that the official predictor and ours both run, and how their results are compared.

A job is the JSON of `benchmarks/official/sam2_video.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alref_edge.datasets.synthetic import Scene
from alref_edge.models.sam2 import Sam2Graphs, Sam2VideoTracker, TrackingState

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


# The standing bar is an IoU of 0.999, which for this many pixels is two of them.
BAR, BAR_PIXELS = 0.999, 2000


def ious(official: np.ndarray, other: np.ndarray) -> np.ndarray:
    """IoU of masks `[..., H, W]`, 1 where both are empty."""
    common = (official & other).sum((-1, -2))
    union = (official | other).sum((-1, -2))
    return np.where(union > 0, common / np.maximum(union, 1), 1.0)


def worst_iou(official: np.ndarray, ours: np.ndarray) -> float:
    """The least IoU of masks `[..., H, W]`, 1 where both are empty."""
    return float(ious(official, ours).min())


def assert_equal(
    official: Results, ours: Results, again: Results | None = None, *, noisy: bool = False, logits: float = 1e-3
) -> dict[str, float]:
    """Logits within `logits` or 1e-4 of their spread, scores within 1e-3, IoU at least 0.999 on every frame.

    Args:
        official: what the official code answers.
        ours: the same job.
        again: the official code once more, rounding otherwise (oneDNN off): no answer need be nearer than this one.
            Masks of fewer than 2,000 pixels may then differ by as much as the worst of these do, or by two pixels.
        noisy: the frames hold so much noise that this goes for masks of every size.
        logits: how far they may lie apart, however small their spread.

    Returns:
        The worst differences, with `again` also those of the official code from itself, as `own_...`.
    """
    worst = _differences(official, ours, logits)
    own = _differences(official, again, logits) if again else {}
    allowed = {"logits": worst.pop("allowed"), "scores": 1e-3}
    own.pop("allowed", None)
    for key, limit in allowed.items():
        assert worst[key] <= max(limit, own.get(key, 0.0)), (key, limit, worst, own)
    for sweep in (key.split("_")[1] for key in official if key.startswith("masks")):
        masks = masks_of(official, int(sweep))
        reached, pixels = ious(masks, masks_of(ours, int(sweep))), masks.sum((-1, -2))
        bar = np.full(reached.shape, BAR)
        if again:
            lenient = (pixels < BAR_PIXELS) | noisy
            two_pixels = 1 - 2 / np.maximum(pixels, 1)
            bar = np.where(lenient, np.minimum(np.minimum(bar, own["iou"]), two_pixels), bar)
        assert (reached >= bar).all(), (sweep, reached.min(), worst, own)
    return worst | {f"own_{key}": value for key, value in own.items()}


def _differences(official: Results, other: Results, logits: float) -> dict[str, float]:
    """The worst of logits, scores and IoU, and the difference of logits that is allowed, by the worst key."""
    worst = {"logits": 0.0, "allowed": logits, "scores": 0.0, "iou": 1.0}
    excess = -np.inf
    for key, value in official.items():
        if key.startswith("frames"):
            np.testing.assert_array_equal(other[key], value)
        elif key.startswith("scores"):
            worst["scores"] = max(worst["scores"], float(np.abs(other[key] - value).max()))
        elif key.startswith("masks"):
            sweep = int(key.split("_")[1])
            worst["iou"] = min(worst["iou"], worst_iou(masks_of(official, sweep), masks_of(other, sweep)))
        elif key.startswith(("prompt", "low_res")):
            present = value[value > -1000]
            allowed = max(logits, 1e-4 * float(present.std()) if present.size else 0.0)
            difference = float(np.abs(other[key] - value).max())
            if difference - allowed > excess:
                excess, worst["logits"], worst["allowed"] = difference - allowed, difference, allowed
    return worst


def assert_not_trivial(results: Results, *, absent: bool = True, share_of: float = 0.01) -> dict[str, float]:
    """The tracked masks are neither empty nor full, vary in time, and objects are scored present (and absent).

    Most masks cover more of the frame than `share_of`, and less than the rest.
    """
    sweeps = [key.split("_")[1] for key in results if key.startswith("scores")]
    scores = np.concatenate([results[f"scores_{sweep}"].ravel() for sweep in sweeps])
    logits = np.concatenate([results[f"low_res_{sweep}"].reshape(-1, *results["prompt_0"].shape) for sweep in sweeps])
    seen = logits[scores > 0]
    share = (seen > 0).mean((1, 2))
    facts = {
        "present": float((scores > 0).mean()),
        "mean_share": float(share.mean()) if len(share) else 0.0,
        "partly": float(((share > share_of) & (share < 1 - share_of)).mean()) if len(share) else 0.0,
        "score_std": float(scores.std()),
        "logit_std": float(seen.std()) if len(seen) else 0.0,
    }
    assert facts["present"] > 0.2, facts
    assert not absent or facts["present"] < 0.98, facts
    assert facts["partly"] > 0.5, facts
    assert facts["logit_std"] > 0.1, facts
    return facts


def track_scene(graphs: Sam2Graphs, scene: Scene) -> np.ndarray:
    """Masks [frames, objects, H, W] of the objects that are seen on the first frame, from their masks there."""
    frames = [scene.frame(number) for number in range(scene.num_frames)]
    state = Sam2VideoTracker(graphs).start(len(frames), scene.height, scene.width)
    for number, mask_hw in enumerate(scene.masks(0)):
        if mask_hw.any():
            state.add_mask(0, number, mask_hw, frames[0])
    return np.stack([result.masks_nhw() for result in state.propagate(enumerate(frames))])


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """IoU of masks [frames, objects, H, W], [frames, objects]; 1 where both are empty."""
    union = (one | other).sum(axis=(2, 3))
    found: np.ndarray = np.where(union > 0, (one & other).sum(axis=(2, 3)) / np.maximum(union, 1), 1.0)
    return found
