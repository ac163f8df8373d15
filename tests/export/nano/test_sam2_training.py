"""Training of SAM 2 nano: its forward pass is the official one, it learns, it goes on where it ended, and it saves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the export environment")
pytest.importorskip("sam2", reason="training needs the export environment")

from alref_edge.datasets.synthetic import COLOURS, SHAPES, SIZES, make_scene  # noqa: E402
from export.nano.attributes import LOOKS, classes_of  # noqa: E402
from export.nano.sam2 import Outlines, Sam2Task, Stage, _exchanged  # noqa: E402
from export.nano.sam2_dense import DenseHeads  # noqa: E402
from export.nano.sam2_model import Moment, condition, encode, moment_of, prompt, track  # noqa: E402
from export.nano.sam2_scenes import draw_clips, draw_prompts  # noqa: E402
from export.nano.training import Recipe, train  # noqa: E402
from export.sam2 import build_model, reference  # noqa: E402

VARIANT, SEED = "sam2.1_nano", 3
SCORE_BIAS = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
WEIGHTS = Path(__file__).parents[3] / "export" / "nano" / "weights" / f"{VARIANT}.pt"
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
                decoded, best, _ = track(model, features, past, time)
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
    for row, (clip, number) in enumerate(zip(clips.clip_of_row, clips.object_of_row, strict=True)):
        pixels = clips.images[0, clip][:, clips.masks[0, row]].median(dim=1).values
        rgb = (pixels * torch.tensor([0.229, 0.224, 0.225]) + torch.tensor([0.485, 0.456, 0.406])) * 255
        nearest = (torch.tensor(list(COLOURS.values())) - rgb).norm(dim=1).argmin()
        assert int(clips.attributes_of_rows()[row, 1]) == int(nearest)
        assert int(clips.attributes[clip, number, 1]) == int(nearest)


def test_heads_learn_what_features_show() -> None:
    """Features that say which object is in a cell, and a pointer for each: the losses must be near nothing soon."""
    labels = torch.full((1, 64, 64), -1, dtype=torch.int8)
    labels[0, :16, :32], labels[0, 32:, 48:] = 0, 1
    attributes = torch.tensor([[[2, 5, 1], [4, 0, 2], [-100] * 3]])
    there = torch.nn.functional.one_hot(labels.long() + 1, 3).permute(0, 3, 1, 2).float()
    strides = (4, 8, 16, 32)
    pooled = [torch.nn.functional.avg_pool2d(there, each).permute(0, 2, 3, 1) for each in strides]
    embed = pooled[2].permute(0, 3, 1, 2)
    heads = DenseHeads((3, 3, 3, 3), 3, 4)
    covered = (labels == 0, labels == 1)
    memory = torch.stack([torch.nn.functional.avg_pool2d(each.float(), 16).flatten() for each in covered])
    remembered = torch.stack((memory[0], memory[1], memory[0] * 0, memory[0] * 0), dim=-1).expand(2, -1, -1)
    moment = Moment(False, 1, remembered, torch.eye(3)[:2])
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.1)
    losses = []
    for _ in range(150):
        told = (
            heads.feature_loss(pooled, embed, labels, attributes),
            heads.location_loss(embed, covered[0]),
            heads.attribute_loss(moment, torch.cat(covered), attributes[0, :2]),
        )
        losses.append([float(each.detach()) for each in told])
        optimizer.zero_grad()
        sum(told).backward()
        optimizer.step()
    assert (np.array(losses[-1]) < 0.05 * np.array(losses[0])).all(), losses[-1]


def test_classes_are_those_of_the_objects() -> None:
    scene = make_scene(3)
    names = [tuple(SHAPES), tuple(COLOURS), tuple(SIZES)]
    for each, row in zip(scene.objects, classes_of(scene.objects, LOOKS).tolist(), strict=True):
        assert [values[index] for values, index in zip(names, row, strict=True)] == [each.shape, each.colour, each.size]
    assert classes_of((), LOOKS).shape == (0, 3)


def test_two_processes_step_with_the_mean_of_their_gradients(tmp_path: Path) -> None:
    script = tmp_path / "learn.py"
    script.write_text(
        "import os, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from export.nano.training import Recipe, train\n"
        "class Task:\n"
        "    name = 'line'\n"
        "    def __init__(self):\n"
        "        self.model = torch.nn.Linear(1, 1)\n"
        "    def optimizer(self, weight_decay):\n"
        "        return torch.optim.SGD(self.model.parameters(), lr=1.0)\n"
        "    def loss(self, step):\n"
        "        if step == int(sys.argv[2]):\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "        return {'loss': (self.model.bias * (step + self.model.bias.detach())).sum()}\n"
        "    def evaluate(self):\n"
        "        return {'bias': float(self.model.bias)}\n"
        "    def finish(self):\n"
        "        pass\n"
        "    def save(self, path):\n"
        "        torch.save({}, path)\n"
        "recipe = Recipe(steps=4, lr=1.0, warmup=1, decay_share=0.0, clip=1e9)\n"
        "task = Task()\n"
        "torch.nn.init.constant_(task.model.bias, float(os.environ['RANK']) + 1)\n"
        "train(task, recipe, Path(sys.argv[1]), log_every=2, evaluate_every=2)\n"
        "Path(sys.argv[1], os.environ['RANK']).write_text(f'{float(task.model.bias)}')\n"
        "assert task.model.weight.grad is None\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}

    def told(folder: Path, stopped_at: int) -> tuple[list[dict[str, Any]], list[float]]:
        subprocess.run([*command, str(folder), str(stopped_at)], check=True, env=environment, timeout=120)
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return lines, [float((folder / rank).read_text()) for rank in "01"]

    lines, reached = told(tmp_path / "run", -1)
    biases = [line["evaluated"]["bias"] for line in lines if "evaluated" in line]
    assert [line["step"] for line in lines if "evaluated" in line] == [2, 4]
    assert lines[0]["processes"] == 2
    # From the first one's 1, batches 0 and 1, then 2 and 3: each time the bias itself and the mean of the two go off.
    assert biases == pytest.approx([-0.5, -2.5])
    assert reached == [biases[1]] * 2
    # Batch 1 is the second one's: asked to end there, both do, and both go on.
    assert told(tmp_path / "parts", 1)[1] == [biases[0]] * 2
    assert told(tmp_path / "parts", -1)[1] == [biases[1]] * 2


def test_memories_are_exchanged_within_their_clip() -> None:
    clips = np.array([0, 0, 0, 1, 1, 2])
    for seed in range(10):
        order = _exchanged(np.random.default_rng(seed), clips, 1.0)
        assert (clips[order] == clips).all()
        assert sorted(order) == list(range(6))
        assert (order[:5] != np.arange(5)).all()
    assert (_exchanged(np.random.default_rng(0), clips, 0.0) == np.arange(6)).all()


def test_the_curriculum_goes_from_single_frames_to_clips_that_go_astray() -> None:
    first = Stage(until=7, clips=2, frames=1, rows=2)
    told = {}
    for astray in (0.0, 1.0):
        then = Stage(until=10**9, clips=1, frames=6, rows=4, calm=True, astray=astray)
        task = Sam2Task(initial=WEIGHTS, curriculum=(first, then), clips=0)
        told[astray] = [{name: float(each.detach()) for name, each in task.loss(step).items()} for step in (6, 7)]
    (single, straight), (again, exchanged) = told[0.0], told[1.0]
    assert single == again
    assert "location" not in single
    assert np.isfinite(list(exchanged.values())).all()
    assert exchanged["features"] == straight["features"]
    assert exchanged["mask"] > straight["mask"]


def test_tracking_is_learnt_too() -> None:
    """A batch of three frames, over and over: all but the first are tracked."""
    task = Sam2Task(curriculum=SHORT, clips=0)
    optimizer = task.optimizer(0.0)
    for group in optimizer.param_groups:
        group["lr"] = 2e-3 * group.get("scale", 1.0)
    told = []
    for _ in range(25):
        losses = task.loss(5)
        told.append({name: float(value.detach()) for name, value in losses.items()})
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    for name in ("loss", "location", "attributes", "mask"):
        assert told[-1][name] < 0.8 * told[0][name], name


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
    task = Sam2Task(curriculum=(Stage(until=10**9, clips=2, frames=1, rows=3),), clips=0)
    recipe = Recipe(steps=50, lr=2e-3, warmup=10)
    assert train(task, recipe, tmp_path, log_every=10, evaluate_every=10**9) == 50
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    assert len(logged) == 5
    assert logged[-1]["loss"] < 0.8 * logged[0]["loss"]
    assert logged[-1]["mask"] < 0.6 * logged[0]["mask"]
    loaded = build_model(VARIANT, tmp_path / f"{VARIANT}.pt").state_dict()
    for name, value in task.sam2.state_dict().items():
        assert torch.equal(loaded[name], value.half().float()), name


class _Interrupted(Sam2Task):
    """A task during whose third step the process is asked to end."""

    def loss(self, step: int) -> dict[str, Any]:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(step)


def test_a_stretch_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    recipe = Recipe(steps=50, lr=1e-3, warmup=2)
    through = Sam2Task(curriculum=SHORT, clips=0)
    train(through, recipe, tmp_path / "through", until=5)
    assert train(_Interrupted(curriculum=SHORT, clips=0), recipe, tmp_path / "parts") == 3
    resumed = Sam2Task(curriculum=SHORT, clips=0)
    assert train(resumed, recipe, tmp_path / "parts", until=5) == 5
    for name, value in through.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_quality_is_measured_on_unseen_clips_and_presence_is_calibrated() -> None:
    task = Sam2Task(clips=1)
    task.model.eval()
    bias = task.sam2.get_parameter(SCORE_BIAS)
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
    crossed = -(truth * chance.log() + (1 - truth) * (1 - chance).log()).sum(dim=(1, 2))
    crossed = (1 + crossed / (truth.sum(dim=(1, 2)) + 200)).log()
    both, sizes = (chance * truth).sum(dim=(1, 2)), (chance + truth).sum(dim=(1, 2))
    apart = 1 - (2 * both + 16) / (sizes + 16)
    wanted = (crossed * weights).sum() + 2 * (apart * weights).sum()
    torch.testing.assert_close(total, wanted)
    torch.testing.assert_close(entropy + 2 * dice, wanted)
    torch.testing.assert_close(found, torch.autograd.grad(wanted * 2, logits)[0])
