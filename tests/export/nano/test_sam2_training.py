"""Training of SAM 2 nano: its forward pass is the official one, it learns, it goes on where it ended, and it saves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the export environment")
pytest.importorskip("sam2", reason="training needs the export environment")

from export.nano.sam2 import Outlines, Sam2Task, Stage  # noqa: E402
from export.nano.sam2_model import condition, encode, moment_of, prompt, track  # noqa: E402
from export.nano.sam2_scenes import draw_clips, draw_prompts  # noqa: E402
from export.nano.training import Recipe, train  # noqa: E402
from export.sam2 import build_model, reference  # noqa: E402

VARIANT, SEED = "sam2.1_nano", 3
SCORE_BIAS = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
SHORT = (Stage(until=10**9, clips=1, frames=3, rows=2),)


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model(VARIANT, seed=SEED)


@pytest.mark.parametrize(("presence", "reverse"), [(100.0, False), (100.0, True), (-100.0, False)])
def test_the_forward_pass_is_the_official_one(model: Any, presence: float, reverse: bool) -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 256, 256)).astype(np.float32)
    masks = np.zeros((2, 1, 256, 256), np.float32)
    masks[0, 0, 50:120, 60:133] = masks[1, 0, 150:190, 3:90] = 1
    bias = model.get_parameter(SCORE_BIAS)
    bias.data += presence
    try:
        with torch.inference_mode():
            official = reference.image_encoder(model, image)
            features = encode(model, torch.from_numpy(image)).rows(torch.tensor([0, 0]))
            _close(features.s1[:1], official["feat_s1"])

            coords = np.random.default_rng(1).uniform(0, 256, (2, 2, 2)).astype(np.float32)
            labels = np.array([[2, 3], [1, 0]], np.int32)
            wanted = reference.prompt(model, official, coords, labels, None)
            found = prompt(model, features, torch.from_numpy(coords), torch.from_numpy(labels))
            _close(found.masks, wanted["masks"])
            _close(found.ious, wanted["ious"])

            start = reference.mask_prompt(model, official, masks)
            memory = reference.memory_encoder(model, official, start["low_res"], start["object_score"])["memory"]
            past = [condition(model, features, torch.from_numpy(masks) > 0, 0)[1]]
            _close(past[0].pointer, start["pointer"])
            moments = [reference.Moment(20, True, torch.from_numpy(memory), torch.from_numpy(start["pointer"]))]
            for time in range(1, 6):
                frame = 20 - time if reverse else 20 + time
                wanted = reference.track(model, official, moments, frame, 40, reverse=reverse)
                decoded, best = track(model, features, past, time)
                logits, moment = moment_of(model, features, decoded, best, time)
                # The official memory is kept in bfloat16.
                _close(logits, wanted["low_res"], 0.02)
                _close(moment.pointer, wanted["pointer"], 0.02)
                _close(moment.memory.transpose(1, 2).reshape(wanted["memory"].shape), wanted["memory"], 0.1)
                past.append(moment)
                kept = torch.from_numpy(wanted["memory"]), torch.from_numpy(wanted["pointer"])
                moments.append(reference.Moment(frame, False, *kept))
    finally:
        bias.data -= presence


def _close(found: Any, wanted: np.ndarray, tolerance: float = 1e-3) -> None:
    np.testing.assert_allclose(found.numpy(), wanted, atol=tolerance, rtol=1e-3)


def test_batches_follow_from_the_step_and_are_prompted_where_something_is_seen() -> None:
    clips = draw_clips(0, 5, clips=2, frames=4, rows=3)
    again = draw_clips(0, 5, clips=2, frames=4, rows=3)
    assert torch.equal(clips.images, again.images)
    assert torch.equal(clips.masks, again.masks)
    assert clips.images.shape == (4, 2, 3, 256, 256)
    assert clips.masks.shape[0] == 4
    assert set(clips.clip_of_row.tolist()) == {0, 1}
    assert bool((clips.areas()[0] >= 60).all())
    assert not torch.equal(clips.images, draw_clips(0, 6, clips=2, frames=4, rows=3).images)


def test_prompts_are_of_their_masks() -> None:
    masks = torch.zeros(2, 256, 256, dtype=torch.bool)
    masks[0, 40:80, 100:160] = masks[1, 200:256, 0:30] = True
    kinds = set()
    for step in range(20):
        coords, labels = draw_prompts(np.random.default_rng(step), masks)
        kinds.add(tuple(labels.shape))
        for mask, points, kind in zip(masks, coords, labels, strict=True):
            for (x, y), label in zip(points.tolist(), kind.tolist(), strict=True):
                if label in (0, 1):
                    assert bool(mask[int(y), int(x)]) == bool(label)
            if kind.tolist() == [2, 3]:
                rows, columns = torch.where(mask.any(1))[0], torch.where(mask.any(0))[0]
                edges = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
                assert float((points.reshape(-1) - edges).abs().max()) <= 0.12 * 60
    assert kinds == {(2, 1), (2, 2), (2, 3)}


def test_fifty_steps_lower_the_loss_and_the_checkpoint_loads(tmp_path: Path) -> None:
    task = Sam2Task(curriculum=(Stage(until=40, clips=1, frames=1, rows=3), *SHORT), clips=0)
    recipe = Recipe(steps=50, lr=1e-3, warmup=10)
    assert train(task, recipe, tmp_path, log_every=10, evaluate_every=10**9) == 50
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 5
    assert losses[-1] < 0.6 * losses[0]
    loaded = build_model(VARIANT, tmp_path / f"{VARIANT}.pt").state_dict()
    for name, value in task.model.state_dict().items():
        assert torch.equal(loaded[name], value.half().float()), name


class _Interrupted(Sam2Task):
    """A task during whose third step the process is asked to end."""

    def loss(self, step: int) -> dict[str, Any]:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(step)


def test_a_stretch_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    recipe = Recipe(steps=5, lr=1e-3, warmup=2)
    through = Sam2Task(curriculum=SHORT, clips=0)
    train(through, recipe, tmp_path / "through", evaluate_every=10**9)
    assert train(_Interrupted(curriculum=SHORT, clips=0), recipe, tmp_path / "parts", evaluate_every=10**9) == 3
    resumed = Sam2Task(curriculum=SHORT, clips=0, seed=0)
    assert train(resumed, recipe, tmp_path / "parts", evaluate_every=10**9) == 5
    for name, value in through.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_quality_is_measured_on_unseen_clips_and_presence_is_calibrated() -> None:
    task = Sam2Task(clips=1)
    task.model.eval()
    bias = task.model.get_parameter(SCORE_BIAS)
    before = bias.detach().clone()
    with torch.inference_mode():
        reached = task.evaluate()
        offset = task.calibrate(range(600_000, 600_001))
    assert reached["j"] < 0.5  # it has learnt nothing yet
    assert 0 <= reached["prompt_j"] <= 1
    assert float((bias - before).detach()) == pytest.approx(offset, abs=1e-5)


def test_outlines_have_the_gradient_of_their_losses() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(11, 16, 16, generator=generator, requires_grad=True)
    masks = torch.rand(11, 64, 64, generator=generator) > 0.7
    weights = torch.rand(11, generator=generator) * (torch.arange(11) != 4)
    total, entropy, dice = Outlines.apply(logits, masks, weights)
    (found,) = torch.autograd.grad(total * 2, logits)

    fine = torch.nn.functional.interpolate(logits.unsqueeze(1), scale_factor=4.0, mode="bilinear").squeeze(1)
    chance, truth = fine.sigmoid(), masks.float()
    crossed = -(truth * chance.log() + (1 - truth) * (1 - chance).log()).mean(dim=(1, 2))
    both, sizes = (chance * truth).sum(dim=(1, 2)), (chance + truth).sum(dim=(1, 2))
    apart = 1 - (2 * both + 16) / (sizes + 16)
    wanted = (20 * crossed * weights).sum() + (apart * weights).sum()
    torch.testing.assert_close(total, wanted)
    torch.testing.assert_close(20 * entropy + dice, wanted)
    torch.testing.assert_close(found, torch.autograd.grad(wanted * 2, logits)[0])
