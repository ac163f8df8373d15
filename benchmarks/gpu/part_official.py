"""The official code beside ours, on the same frames: sam2 1.1.0 in bfloat16 autocast, Grounding DINO as transformers
has it. Eager, and as its `vos_optimized` compiles it. Each part is a process of its own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.gpu.part_tracker import WARM
from benchmarks.gpu.profiling import torch_kernels
from benchmarks.gpu.record import Record, Row, needs
from benchmarks.gpu.subject import FRAME_HW, Subject, drawn_boxes, drawn_frames

OPTIMISED = "sam2.1_tiny"


def sam2(subject: Subject, record: Record) -> None:
    """The image encoder, and the tracker with 1, 10 and 16 objects, of the bundle's variant."""
    with needs("the official sam2 package with torch"):
        import torch

        model = build_official(subject.bundle.manifest.components["sam2"].variant, subject.device)
    with torch.inference_mode(), _autocast(subject.device):
        image = torch.randn(1, 3, model.image_size, model.image_size, device=subject.device)
        record.measure("official image_encoder, eager", partial(_encoder, subject, model, image))
        for objects in (1, 10, 16):
            name = f"official tracker, {objects} object{'s' * (objects > 1)}, eager"
            record.measure(name, partial(_frames, subject, model, objects))


def vos_optimized(subject: Subject, record: Record) -> None:
    """The official tracker as `vos_optimized` compiles it, in the size that compiles within the part's time."""
    with needs("the official sam2 package with torch"):
        import torch

        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(subject.work / "inductor"))  # a second call goes on there
        began = time.perf_counter()
        model = build_official(OPTIMISED, subject.device, optimised=True)
    with torch.inference_mode(), _autocast(subject.device):
        record.measure("official tracker, 1 object, vos_optimized", partial(_frames, subject, model, 1))
    record.note(seconds_with_compilation=time.perf_counter() - began)


def grounding_dino(subject: Subject, record: Record) -> None:
    """transformers' Grounding DINO of the bundle's variant: the image's backbone, and image, caption and decoder."""
    with needs("transformers with torch"):
        import torch

        from alref_edge.models.grounding_dino.preprocess import network_size
        from export.grounding_dino.checkpoint import empty_model
        from export.grounding_dino.configs import bert_config, transformers_config

        entry = subject.bundle.manifest.components["grounding_dino"]
        config = transformers_config(entry.variant)
        model: Any = empty_model(config)
        model.to(subject.device)
        words = bert_config(config).vocab_size
    short, long = (int(entry.config[key]) for key in ("resize_short", "resize_long"))
    height, width = network_size(*FRAME_HW, short=short, long=long)
    pixels = torch.randn(1, 3, height, width, device=subject.device)
    mask = torch.ones(1, height, width, dtype=torch.long, device=subject.device)
    ids = torch.randint(110, words, (1, 12), device=subject.device)

    def whole() -> object:
        return model(pixel_values=pixels, pixel_mask=mask, input_ids=ids)

    calls: dict[str, Callable[[], object]] = {
        "image": lambda: model.model.backbone(pixels, mask),
        "image, caption and decoder": whole,
    }
    for half in (False, True):
        if half and subject.device == "cpu":
            continue
        with torch.inference_mode(), _autocast(subject.device) if half else nullcontext():
            for what, call in calls.items():
                name = f"official grounding_dino {what}, {'bfloat16 autocast' if half else 'float32'}"
                record.measure(name, partial(_timed, subject, call))


def build_official(variant: str, device: str, *, optimised: bool = False) -> Any:
    """The official predictor with seeded weights, hole filling off: its extension is not built."""
    from hydra.utils import instantiate

    from export.sam2.seeding import seed_weights
    from export.sam2.variants import model_config
    from export.torchvision_ops import declare_operators

    declare_operators()
    config = {**model_config(variant, video_policy=True), "fill_hole_area": 0}
    if optimised:
        config |= {
            "_target_": "sam2.sam2_video_predictor.SAM2VideoPredictorVOS",
            "compile_image_encoder": True,
        }
    model = instantiate(config, _recursive_=True)
    seed_weights(model, 0)
    return model.eval().to(device)


def _autocast(device: str) -> AbstractContextManager[object]:
    """bfloat16 where the official code runs in it."""
    import torch

    return nullcontext() if device == "cpu" else torch.autocast(device, dtype=torch.bfloat16)


def _timed(subject: Subject, call: Callable[[], object]) -> Row:
    row = subject.samples(call)
    kernels = torch_kernels(call)
    return Row(row.samples, facts={**row.facts, **({"profile": kernels} if kernels else {})})


def _encoder(subject: Subject, model: Any, image: Any) -> Row:
    return _timed(subject, lambda: model.forward_image(image))


def _frames(subject: Subject, model: Any, objects: int) -> Row:
    """Milliseconds a frame from `propagate_in_video` to boolean masks in the host's memory.

    The official code resizes all frames before it begins; that is told apart.
    """
    # Above ten objects a frame takes a quarter of a second: fewer of them tell as much.
    count = WARM + (subject.runs if objects == 1 else max(3, subject.runs // 2)) + 1
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, image in enumerate(drawn_frames()):
            paths.append(Path(folder) / f"drawn-{number}.jpeg")
            Image.fromarray(image).save(paths[-1], quality=95)
        frames = Path(folder) / "frames"
        frames.mkdir()
        for number in range(count):
            turn = [*paths, *paths[-2:0:-1]]
            (frames / f"{number:05d}.jpg").symlink_to(turn[number % len(turn)])
        began = time.perf_counter()
        state = model.init_state(str(frames))
        loading = time.perf_counter() - began
    for number, box in enumerate(drawn_boxes(objects)):
        model.add_new_points_or_box(state, frame_idx=0, obj_id=number, box=np.array(box, np.float32))
    stamps = []
    for _, _, logits in model.propagate_in_video(state):
        (logits > 0).cpu().numpy()
        stamps.append(time.perf_counter())
    model.reset_state(state)
    taken = 1000 * np.diff(stamps[WARM:])
    return Row(taken.tolist(), facts={"loading_ms_a_frame": 1000 * loading / count, **subject.memory()})
