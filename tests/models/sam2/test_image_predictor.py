"""The image predictor beside the official one, in one process, on seeded nano weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alref_edge.bundle import Component
from alref_edge.errors import InputError
from alref_edge.models.sam2 import Sam2Graphs, Sam2ImagePredictor
from tests.models.sam2.jobs import read_frames, worst_iou

PROMPTS: list[dict[str, Any]] = [
    {"box": [200, 120, 640, 420]},
    {"box": [200, 120, 640, 420], "multimask": True},
    {"points": [[480, 270]], "labels": [1]},
    {"points": [[480, 270], [100, 80]], "labels": [1, 0], "multimask": True},
    {"box": [300, 50, 900, 500], "points": [[500, 200], [800, 90]], "labels": [1, 0]},
    {"mask_from": 0},
    {"mask_from": 2, "points": [[300, 300]], "labels": [0]},
    {"mask_from": 1, "box": [100, 100, 500, 500], "multimask": True},
]


@pytest.fixture(scope="module")
def official(sam2_component: Component, sam2_checkpoint: Path, frames10: Path) -> dict[str, np.ndarray]:
    import torch

    from benchmarks.official.sam2_image import image_predictor, run_job
    from benchmarks.official.sam2_video import build_official

    with torch.inference_mode():
        predictor = image_predictor(build_official(sam2_component.variant, sam2_checkpoint, video=False))
        return run_job(predictor, frames10 / "00004.jpg", PROMPTS)


@pytest.fixture(scope="module")
def predictor(sam2_graphs: Sam2Graphs, frames10: Path) -> Sam2ImagePredictor:
    predictor = Sam2ImagePredictor(sam2_graphs)
    predictor.set_image(read_frames(frames10)[4])
    return predictor


@pytest.mark.parametrize("number", range(len(PROMPTS)))
def test_prompts_equal_the_official_predictor(
    number: int, official: dict[str, np.ndarray], predictor: Sam2ImagePredictor
) -> None:
    prompt = {key: value for key, value in PROMPTS[number].items() if key != "mask_from"}
    if "mask_from" in PROMPTS[number]:
        prompt["mask_input"] = official[f"low_res_{PROMPTS[number]['mask_from']}"][0]
    masks, ious, low_res = predictor.predict(**prompt)
    expected = official[f"low_res_{number}"]
    assert masks.dtype == bool
    assert len(masks) == (3 if prompt.get("multimask") else 1)
    np.testing.assert_allclose(low_res, expected, rtol=0, atol=max(1e-3, 1e-4 * expected.std()))
    np.testing.assert_allclose(ious, official[f"ious_{number}"], rtol=0, atol=1e-3)
    assert worst_iou(official[f"masks_{number}"], masks) >= 0.999


def test_the_official_masks_are_not_trivial(official: dict[str, np.ndarray]) -> None:
    share = np.array([official[f"masks_{number}"].mean() for number in range(len(PROMPTS))])
    assert ((share > 0.01) & (share < 0.99)).mean() > 0.5


def test_boxes_decode_in_one_call_as_they_do_alone(predictor: Sam2ImagePredictor) -> None:
    boxes = np.array([[200, 120, 640, 420], [10, 10, 300, 500], [500, 100, 950, 530]], np.float32)
    together = predictor.predict_boxes(boxes)
    for row, box in enumerate(boxes):
        for one, many in zip(predictor.predict(box=box), together, strict=True):
            np.testing.assert_allclose(one[0].astype(np.float32), many[row].astype(np.float32), rtol=0, atol=1e-4)


def test_a_prompt_needs_an_image(sam2_graphs: Sam2Graphs) -> None:
    with pytest.raises(InputError, match="No image"):
        Sam2ImagePredictor(sam2_graphs).predict(box=np.array([0, 0, 5, 5]))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "no prompt"),
        ({"points": [[1, 1]]}, "come together"),
        ({"points": [[1, 1]], "labels": [7]}, "unknown label"),
        ({"box": [1, 2, 3]}, "not four"),
        ({"mask_input": np.zeros((5, 5))}, "not low-resolution"),
    ],
)
def test_bad_prompts(predictor: Sam2ImagePredictor, prompt: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        predictor.predict(**prompt)
