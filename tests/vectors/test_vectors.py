"""The shipped bundle beside what the official code answered on the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.bundle import Bundle
from alref_edge.models.grounding_dino import GroundingDino
from alref_edge.models.sam2 import Sam2VideoTracker, transforms
from benchmarks.vectors import CAPTIONS, TEXT_THRESHOLD, drawn_masks
from tests.models.sam2.jobs import assert_equal, assert_not_trivial, read_frames, run_job

FOLDER = Path(__file__).parent


def test_sam2_tracks_as_the_official_code_did(nano_bundle: Path) -> None:
    with np.load(FOLDER / "sam2.npz") as answers:
        official = dict(answers)
    job = json.loads((FOLDER / "sam2_job.json").read_text())
    with Sam2VideoTracker.from_component(Bundle.open(nano_bundle).component("sam2"), "cpu") as tracker:
        ours, _ = run_job(tracker, read_frames(FOLDER / "frames"), job, FOLDER)
    assert_not_trivial(official, absent=False)
    assert_equal(official, ours)


@pytest.mark.parametrize("name", drawn_masks())
def test_mask_prompts_tie_as_in_the_official_code(name: str) -> None:
    mask = drawn_masks()[name]
    with np.load(FOLDER / "mask_prompts.npz") as answers:
        prompt, shown = answers[f"prompt_{name}"], answers[f"shown_{name}"]
    ours = transforms.mask_prompt(mask, 256)
    np.testing.assert_array_equal(np.packbits(ours[0, 0] > 0), prompt)
    logits = transforms.resize_bilinear(transforms.mask_logits(ours), 720, 1280)
    np.testing.assert_array_equal(np.packbits(logits > 0), shown)


@pytest.mark.parametrize("number", range(len(CAPTIONS)))
def test_grounding_dino_finds_what_the_official_code_did(nano_bundle: Path, number: int) -> None:
    with np.load(FOLDER / f"grounding_dino_{number}.npz") as answers:
        boxes_cxcywh, scores = answers["boxes_cxcywh_norm"][answers["kept"]], answers["scores_n"]
        phrases = [str(phrase) for phrase in answers["phrases"]]
    caption, resize = CAPTIONS[number]
    image = np.asarray(Image.open(FOLDER / "frames" / "00004.jpg").convert("RGB"))
    with GroundingDino.from_component(Bundle.open(nano_bundle).component("grounding_dino"), "cpu") as detector:
        features, text = detector.encode_image(image, resize=resize), detector.encode_text(caption)
        ours = detector.detect(features, text, box_threshold=0.0, text_threshold=TEXT_THRESHOLD)
    official = np.concatenate(
        [boxes_cxcywh[:, :2] - boxes_cxcywh[:, 2:] / 2, boxes_cxcywh[:, :2] + boxes_cxcywh[:, 2:] / 2], axis=1
    )
    frame = np.array(image.shape[1::-1] * 2)
    distance = np.abs(official[:, None] - (ours.boxes_n4 / frame)[None]).max(-1)
    nearest = (distance + np.abs(scores[:, None] - ours.scores_n[None])).argmin(1)
    rows = np.arange(len(official))
    assert len(official) == len(ours) > 5
    assert official.std(0).min() > 0.02, "boxes that are all alike prove nothing"
    assert distance[rows, nearest].max() < 1e-4
    assert np.abs(scores - ours.scores_n[nearest]).max() < 1e-3
    assert len(set(phrases)) > 2, "phrases that are all alike prove nothing"
    assert [ours.phrases[row] for row in nearest] == phrases
