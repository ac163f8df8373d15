"""The structure of the official AVS pipeline on official modules: an object after the other, recorded answers replayed.

Run by the python of the reference environment:

    python -m benchmarks.official.avs_pipeline JOB.json

The job names official-format checkpoints, the categories that classes are of, and clips: of each its `name`, `setting`,
folder of JPEG `frames` (one a second), `sound` (16-bit mono WAV), `answers` (a folder such as `gpt_results`) and
`segments` (a file such as `ms3_audio_segment.json`). Written are one `.npz` a clip (`masks_nthw`, bool, of each object
whether it sounds or not, and `classes_thw`, uint8) and `result.json` (objects, labels of every second, classes,
seconds). Follows `avs/*` of AL-Ref-SAM 2: gdino.py, sam2.py, languagebind_stage*.py and merge.py.
"""

from __future__ import annotations

import ast
import itertools
import json
import sys
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.official import grounding_dino, languagebind, sam2_image, sam2_video

# What LanguageBind is told instead of a label.
_SPOKEN = {"dog": "dog barking", "cat": "cat meow", "gun": "gun shot"}


class Networks:
    """The official models with the weights that a job names."""

    def __init__(self, job: dict[str, Any]) -> None:
        dino, sam2, language = job["grounding_dino"], job["sam2"], job["languagebind"]
        self.detector = grounding_dino.build_official(dino["variant"], Path(dino["checkpoint"]), Path(dino["vocab"]))
        self.video = sam2_video.build_official(sam2["variant"], Path(sam2["checkpoint"]), video=True)
        self.image = sam2_image.image_predictor(
            sam2_video.build_official(sam2["variant"], Path(sam2["checkpoint"]), video=False)
        )
        self.hearing = languagebind.load("audio", Path(language["checkpoint"]).parent)
        self.seeing = languagebind.load("image", Path(language["image_checkpoint"]).parent)
        for model, _, _ in (self.hearing, self.seeing):
            languagebind.check_causal(model)


@torch.inference_mode()
def main(argv: list[str]) -> int:
    """Run one job."""
    job = json.loads(Path(argv[0]).read_text())
    torch.set_num_threads(job["threads"])
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    networks = Networks(job)
    results = []
    for clip in job["clips"]:
        start = time.perf_counter()
        frames = sorted(Path(clip["frames"]).glob("*.jpg"))
        answers = Path(clip["answers"]) / clip["setting"]
        pivots = ast.literal_eval(json.loads((answers / "cot_stage_1_outputs.json").read_text())[clip["name"]])
        boxes = json.loads((answers / "cot_stage_2_outputs.json").read_text()).get(clip["name"])
        if clip["setting"] == "s4":
            pivots = dict(itertools.islice(pivots.items(), 1))
            boxes = dict.fromkeys(pivots, boxes)
        objects = {label: _ground(networks, job, frames, label, pivot) for label, pivot in pivots.items()}
        masks = {label: _track(networks, frames, found, boxes[label]) for label, found in objects.items()}
        labels, margin = _labels(networks, clip, list(pivots), len(frames), out)
        classes = _classes(networks, list(pivots), job["categories"])
        size_hw = Image.open(frames[0]).size[::-1]
        np.savez_compressed(
            out / f"{clip['name']}.npz",
            masks_nthw=np.array(list(masks.values()), bool).reshape(-1, len(frames), *size_hw),
            classes_thw=_merge(masks, labels, classes, size_hw),
        )
        seconds = time.perf_counter() - start
        results.append({"objects": objects, "labels": labels, "margin": margin, "classes": classes, "seconds": seconds})
    (out / "result.json").write_text(json.dumps(results))
    return 0


def _ground(networks: Networks, job: dict[str, Any], frames: list[Path], label: str, pivot: int) -> dict[str, Any]:
    """gdino.py: the boxes of a label on its pivot frame; three or more by score."""
    if not 1 <= pivot <= len(frames):
        pivot = 1
    boxes, scores = grounding_dino.predict_image(
        networks.detector,
        frames[pivot - 1],
        label,
        box_threshold=job["box_threshold"],
        text_threshold=job["text_threshold"],
    )
    if len(boxes) >= job["top"]:
        boxes = boxes[torch.topk(torch.from_numpy(scores), job["top"]).indices.numpy()]
    return {"frame": pivot - 1, "boxes": boxes.tolist()}


def _track(networks: Networks, frames: list[Path], found: dict[str, Any], answer: str) -> np.ndarray:
    """sam2.py: the masks of an object, bool `[T, H, W]`; `box` is added to what was found of it."""
    width, height = Image.open(frames[0]).size
    found["box"] = None
    if not found["boxes"]:
        return np.zeros((len(frames), height, width), bool)
    chosen = 0 if len(found["boxes"]) == 1 else int(answer) - 1
    found["box"] = found["boxes"][chosen if 0 <= chosen < len(found["boxes"]) else 0]
    networks.image.set_image(np.array(Image.open(frames[found["frame"]]).convert("RGB")))
    pivot_masks, _, _ = networks.image.predict(box=np.array(found["box"], np.float32), multimask_output=False)
    state = networks.video.init_state(video_path=str(frames[0].parent))
    networks.video.add_new_mask(state, frame_idx=found["frame"], obj_id=1, mask=pivot_masks[0])
    masks = {}
    for reverse in (False, True):
        for frame, _, logits in networks.video.propagate_in_video(state, reverse=reverse):
            masks[frame] = (logits[0, 0] > 0).numpy()
    return np.stack([masks[frame] for frame in range(len(frames))])


def _labels(
    networks: Networks, clip: dict[str, Any], names: list[str], seconds: int, work: Path
) -> tuple[list[list[str]], float | None]:
    """languagebind_stage.py: what sounds in each second, and by how much the closest choice was made."""
    if len(names) < 2 or clip["setting"] == "s4":
        return [names] * seconds, None
    separator = "; " if clip["setting"] == "avss" else ", "
    spoken = [_SPOKEN.get(name, name) for name in names]
    sets = itertools.chain.from_iterable(itertools.combinations(spoken, size) for size in range(1, len(spoken) + 1))
    texts = [separator.join(each) for each in sets]
    intervals = json.loads(Path(clip["segments"]).read_text())[clip["name"]]
    model, _, processor = networks.hearing
    out = model(**processor(_split(Path(clip["sound"]), intervals, work), texts, return_tensors="pt"))
    similarity = out.text_embeds @ out.image_embeds.T
    best = similarity.topk(2, dim=0).values
    meant = {word: name for name, word in _SPOKEN.items()}
    labels = []
    for (start, end), choice in zip(intervals, similarity.max(0)[1], strict=True):
        labels += [[meant.get(word, word) for word in texts[choice].split(separator)]] * (end - start)
    labels += [labels[-1]] * (seconds - len(labels))
    return labels[:seconds], float((best[0] - best[1]).min())


def _split(sound: Path, intervals: list[list[int]], work: Path) -> list[str]:
    """Segments of a sound as files for the official processor, in 16 bits as soundfile writes them."""
    with wave.open(str(sound)) as file:
        rate, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")
    paths = []
    for start, end in intervals:
        segment = samples[start * rate : end * rate] / 32768
        paths.append(str(work / f"segment_{start}_{end}.npy"))
        np.save(paths[-1], (np.rint(segment * 32767) / 32768).astype(np.float32))
    return paths


def _classes(networks: Networks, labels: list[str], categories: list[str]) -> dict[str, int]:
    """languagebind_stage_2.py: the number of each label's category, or of the one that it is nearest to."""
    model, tokenizer, _ = networks.seeing
    classes = {}
    for label in labels:
        nearest = label
        if label not in categories:
            encoding = tokenizer(
                [label, *categories], max_length=77, padding="max_length", truncation=True, return_tensors="pt"
            )
            texts = model.get_text_features(**encoding)
            texts = texts / texts.norm(p=2, dim=-1, keepdim=True)
            nearest = categories[int((texts[1:] @ texts[0]).argmax())]
        classes[label] = 1 + categories.index(nearest)
    return classes


def _merge(
    masks: dict[str, np.ndarray], labels: list[list[str]], classes: dict[str, int], size_hw: Sequence[int]
) -> np.ndarray:
    """merge.py: the class of what sounds at each pixel, later labels over earlier ones; uint8 `[T, H, W]`."""
    classes_thw = np.zeros((len(labels), *size_hw), np.uint8)
    for second, names in enumerate(labels):
        for name in names:
            classes_thw[second][masks[name][second]] = classes[name]
    return classes_thw


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
