"""What a narrower precision is accepted by: the masks of a video, beside the official predictor in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from alref_edge.bundle import Component
from alref_edge.datasets.synthetic import Scene, make_scene
from alref_edge.errors import EngineError
from alref_edge.models.sam2 import Sam2VideoTracker

FRAMES, PROMPTED, OBJECTS = 40, 12, 3
LEAST_IOU = 0.99
LEAST_PIXELS = 100
"""Of an official mask that counts: of smaller ones a pixel is more than a hundredth."""

Masks = Mapping[tuple[int, int], np.ndarray]  # by object and frame, bool [H, W]


class OfficialMasks:
    """The official predictor's masks of objects through a generated clip, forward and back from one frame.

    Args:
        model: the official `SAM2VideoPredictor`, float32.
    """

    def __init__(self, model: Any) -> None:
        self.scene = _scene()
        self._prompts = dict(enumerate(self.scene.masks(PROMPTED)[:OBJECTS]))
        with TemporaryDirectory() as folder:
            self._frames = _write(self.scene, Path(folder))
            self.masks: Masks = dict(self._official(model, folder))

    def _official(self, model: Any, folder: str) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        filled, model.fill_hole_area = model.fill_hole_area, 0
        with torch.inference_mode():
            state = model.init_state(folder)
            for number, mask in self._prompts.items():
                model.add_new_mask(state, PROMPTED, number, mask)
            for reverse in (False, True):
                found = model.propagate_in_video(state, start_frame_idx=PROMPTED, reverse=reverse)
                for frame, numbers, logits in found:
                    for number, logits_1hw in zip(numbers, logits, strict=True):
                        yield (number, frame), (logits_1hw[0] > 0).numpy()
        model.fill_hole_area = filled

    def least_iou(self, component: Component) -> float:
        """The least IoU of our masks with them, over all frames on which theirs is of at least `LEAST_PIXELS`.

        Args:
            component: graphs that the CPU runs.

        Raises:
            EngineError: it is less than `LEAST_IOU`, or there are no such masks.
        """
        ious = {
            place: _iou(self.masks[place], ours)
            for place, ours in self._ours(component)
            if np.count_nonzero(self.masks[place]) >= LEAST_PIXELS
        }
        if not ious or min(ious.values()) < LEAST_IOU:
            worst = min(ious, key=ious.__getitem__) if ious else None
            raise EngineError(
                f"Graphs in {component.precision}, {component.form} form, track other masks than the official code.",
                expected=f"an IoU of {LEAST_IOU} on every frame with {LEAST_PIXELS} pixels",
                got=f"{ious[worst]:.4f} of object {worst[0]} on frame {worst[1]}" if worst else "no such frame",
                mend="export in float32 alone, or keep more of the graphs in float32: export/precision.py.",
            )
        return min(ious.values())

    def _ours(self, component: Component) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        with Sam2VideoTracker.from_component(component, "cpu") as tracker:
            state = tracker.start(FRAMES, self.scene.height, self.scene.width)
            for number, mask in self._prompts.items():
                state.add_mask(PROMPTED, number, mask, self._frames[PROMPTED])
            for order in (range(PROMPTED, FRAMES), range(PROMPTED, -1, -1)):
                frames = ((index, self._frames[index]) for index in order)
                for result in state.propagate(frames, reverse=order.step < 0):
                    for row, object_id in enumerate(result.object_ids):
                        yield (cast("int", object_id), result.frame), result.mask_hw(row)
            state.close()


def _scene() -> Scene:
    """The first generated scene with enough objects in view on the prompted frame."""
    for seed in range(1000):
        scene = make_scene(seed, num_frames=FRAMES)
        masks = scene.masks(PROMPTED)
        if len(masks) >= OBJECTS and all(np.count_nonzero(mask) >= 5 * LEAST_PIXELS for mask in masks[:OBJECTS]):
            return scene
    raise AssertionError("no scene has enough objects")


def _write(scene: Scene, folder: Path) -> Sequence[np.ndarray]:
    """The frames as JPEGs, which is what the official predictor reads, and as both sides then see them."""
    frames = []
    for index in range(scene.num_frames):
        path = folder / f"{index:05d}.jpg"
        Image.fromarray(scene.frame(index)).save(path, quality=95)
        with Image.open(path) as image:
            frames.append(np.asarray(image.convert("RGB")))
    return frames


def _iou(official: np.ndarray, ours: np.ndarray) -> float:
    return float(np.count_nonzero(official & ours) / np.count_nonzero(official | ours))
