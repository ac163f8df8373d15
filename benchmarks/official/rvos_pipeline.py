"""The structure of the official RVOS pipeline on official modules: one predictor a sentence, recorded answers replayed.

Run by the python of the reference environment:

    python -m benchmarks.official.rvos_pipeline JOB.json

The job names a folder of JPEG frames, official-format checkpoints, and for each sentence the recorded answers
(`target_frame_id`, `target_object_id` a segment); `"onednn": false` rounds otherwise. Written are one `.npz` a sentence
(bool masks `[T, H, W]`) and `result.json` (pivot frames, boxes, seconds). Follows `rvos/ytvos` of AL-Ref-SAM 2:
concat_stage_2.py and segment_inference_stage_2.py.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from export.torchvision_ops import declare_operators

SEGMENT, STEP = 5, 10


def main(argv: list[str]) -> int:
    """Run one job."""
    declare_operators()
    import torch

    job = json.loads(Path(argv[0]).read_text())
    torch.set_num_threads(job.get("threads") or torch.get_num_threads())
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    detect = _grounding(job["grounding_dino"])
    video_predictor, image_predictor = _sam2(job["sam2"])
    frames = sorted(Path(job["frames"]).glob("*.jpg"))
    results = []
    for number, sentence in enumerate(job["sentences"]):
        start = time.perf_counter()
        with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=job.get("onednn", True)):
            pivots = _pivots(sentence, frames, detect, job["box_threshold"], job["text_threshold"], job["top"])
            masks = _track(video_predictor, image_predictor, frames, pivots)
        np.savez_compressed(out / f"{number:02d}.npz", masks_thw=masks)
        results.append({"text": sentence["text"], "pivots": pivots, "seconds": time.perf_counter() - start})
    (out / "result.json").write_text(json.dumps(results))
    return 0


def _grounding(settings: dict[str, Any]) -> Any:
    from benchmarks.official.grounding_dino import build_official, predict_image

    model = build_official(settings["variant"], Path(settings["checkpoint"]), Path(settings["vocab"]))
    return lambda path, text, box, word: predict_image(model, path, text, box_threshold=box, text_threshold=word)


def _sam2(settings: dict[str, Any]) -> tuple[Any, Any]:
    from benchmarks.official.sam2_image import image_predictor
    from benchmarks.official.sam2_video import build_official

    path = Path(settings["checkpoint"])
    video = build_official(settings["variant"], path, video=True)
    return video, image_predictor(build_official(settings["variant"], path, video=False))


def _pivots(
    sentence: dict[str, Any], frames: list[Path], detect: Any, box_threshold: float, text_threshold: float, top: int
) -> list[dict[str, Any]]:
    pivots = []
    for index, answer in enumerate(sentence["segments"]):
        frame = (index * SEGMENT + answer["target_frame_id"] - 1) * STEP
        if not 1 <= answer["target_frame_id"] <= SEGMENT or frame >= len(frames):
            continue
        boxes, scores = detect(frames[frame], sentence["text"], box_threshold, text_threshold)
        order = np.argsort(-scores, kind="stable")[:top]
        chosen = answer.get("target_object_id", -1)
        if 1 <= chosen <= len(order):
            pick = order[chosen - 1]
            pivots.append({"frame": frame, "box": boxes[pick].tolist(), "score": float(scores[pick])})
    return pivots


def _track(video_predictor: Any, image_predictor: Any, frames: list[Path], pivots: list[dict[str, Any]]) -> np.ndarray:
    from PIL import Image

    state = video_predictor.init_state(video_path=str(frames[0].parent))
    for pivot in pivots:
        image_predictor.set_image(np.array(Image.open(frames[pivot["frame"]]).convert("RGB")))
        masks, _, _ = image_predictor.predict(box=np.array(pivot["box"])[None], multimask_output=False)
        video_predictor.add_new_mask(state, frame_idx=pivot["frame"], obj_id=1, mask=masks[0])
    start = pivots[len(pivots) // 2]["frame"]
    masks_by_frame = {}
    for reverse in (False, True):
        for frame, _, logits in video_predictor.propagate_in_video(state, start_frame_idx=start, reverse=reverse):
            masks_by_frame[frame] = (logits[0, 0] > 0).numpy()
    return np.stack([masks_by_frame[frame] for frame in range(len(frames))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
