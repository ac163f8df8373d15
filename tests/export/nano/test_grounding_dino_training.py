"""Grounding DINO's training: its forward pass is the official one, and it learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alref_edge.datasets.synthetic import make_scene
from alref_edge.errors import InputError
from export.grounding_dino.checkpoint import build_model, load_official
from export.grounding_dino.configs import transformers_config
from export.grounding_dino.reference import run_reference
from export.grounding_dino.seeding import save_seeded_checkpoint
from export.nano.grounding_dino import GroundingDinoTask, Stage, iou
from export.nano.grounding_forward import forward
from export.nano.training import Recipe, plot, train


def test_the_forward_pass_is_the_official_one(tmp_path: Path) -> None:
    """Two scenes with several captions of different lengths at once, against each of them alone."""
    checkpoint = save_seeded_checkpoint("nano", 3, tmp_path / "seeded.pth")
    task = GroundingDinoTask(initial=checkpoint)
    config = transformers_config("nano")
    reference = build_model(config, load_official(checkpoint, config))
    batch = task.batch([(make_scene(seed, 160, 160, num_frames=4), 1) for seed in (11, 12)], None)
    assert len(set(batch.captions.real.sum(1).tolist())) > 1
    with torch.inference_mode():
        found = forward(task.model.eval().network, batch.images, batch.captions)
    for row, image in enumerate(batch.captions.image.tolist()):
        length = int(batch.captions.real[row].sum())
        ids = batch.captions.input_ids[row, :length][None].numpy()
        expected = run_reference(reference, batch.images[image][None].numpy(), ids, task.tokenizer.delimiter_ids)
        np.testing.assert_allclose(found.logits[-1][row, :, :length], expected["logits"][0], atol=2e-3)
        np.testing.assert_allclose(found.boxes[-1][row], expected["boxes"][0], atol=2e-4)


def test_a_target_is_where_the_scene_has_it() -> None:
    task = GroundingDinoTask()
    scene = make_scene(21)
    batch = task.batch([(scene, 20)], None)
    wanted = [each for each in scene.expressions if each.kind == "appearance"]
    assert len(batch.boxes) == len(wanted) > 0
    for expression, boxes in zip(wanted, batch.boxes, strict=True):
        x1, y1, x2, y2 = scene.boxes(20)[expression.target]
        truth = torch.tensor([[(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]]) / 256
        assert float(iou(boxes, truth)) > 0.999


def test_fifty_steps_lower_the_losses_and_a_stretch_goes_on(tmp_path: Path) -> None:
    """Both stages, small; a stretch that ends in the middle of the second changes nothing."""
    curriculum = (Stage(20, ((8, 96, 2, 0),)), Stage(50, ((4, 96, 3, 2),)))

    def run(folder: Path, until: int) -> list[dict[str, float]]:
        task, recipe = GroundingDinoTask(curriculum=curriculum), Recipe(50, 1e-3, warmup=10)
        train(task, recipe, folder, log_every=5, evaluate_every=10**6, until=until)
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [line for line in lines if "loss" in line]

    whole = run(tmp_path / "whole", 50)
    backbone, all_of_it = whole[:4], whole[4:]
    assert backbone[-1]["loss"] < 0.9 * backbone[0]["loss"]
    for name in ("loss", "dense", "queries"):
        assert all_of_it[-1][name] < 0.5 * all_of_it[0][name], name
    run(tmp_path / "parts", 30)
    parts = run(tmp_path / "parts", 50)
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], rel=1e-3)
    assert plot(tmp_path / "parts").stat().st_size > 1000
    config = transformers_config("nano")
    assert build_model(config, load_official(tmp_path / "parts" / "grounding_dino_nano.pt", config))


def test_a_missing_run_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run"):
        plot(tmp_path)
