"""One way to train: seeded, in stretches that go on where the last one ended, with what was reached in a log."""

from __future__ import annotations

import atexit
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor, nn

from alref_edge.errors import InputError

STATE, LOG = "state.pt", "log.jsonl"


class Task(Protocol):
    """A network and what it is to learn.

    Attributes:
        name: the network's name; checkpoints are called after it.
        model: the network in training mode, on its device.

    A task may bring its own optimiser: `optimizer(weight_decay)`, whose groups may state a "scale" of the rate.
    """

    name: str
    model: nn.Module

    def loss(self, step: int) -> dict[str, Tensor]:
        """The losses of a step; "loss" is what is made smaller. The batch follows from the step alone, which may be
        past the recipe's last where several processes share it."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Quality on scenes that are never trained on."""
        ...

    def finish(self) -> None:
        """What is done to the weights once, after the last step."""
        ...

    def save(self, path: Path) -> None:
        """Write the weights as an official checkpoint; see `save_checkpoint`."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How the weights are moved.

    Attributes:
        steps: steps in all, over every stretch. A step is a batch: several processes do several at once.
        lr: learning rate, which the task's optimiser may scale, reached after `warmup` steps, falling to 0 over the
            last `decay_share` of the steps.
        weight_decay: of what the optimiser decays: by default matrices, not vectors.
        clip: largest norm of the gradient.
        start: the step that a run with earlier weights begins at.
    """

    steps: int
    lr: float
    warmup: int = 200
    decay_share: float = 0.25
    weight_decay: float = 0.01
    clip: float = 1.0
    start: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        left = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return self.lr * max(0.0, min(1.0, (step - self.start + 1) / max(1, self.warmup), left))


def train(
    task: Task,
    recipe: Recipe,
    folder: Path,
    *,
    minutes: float | None = None,
    until: int | None = None,
    log_every: int = 20,
    evaluate_every: int = 500,
    save_every_s: float = 180.0,
) -> int:
    """Train until the recipe's end, or for a stretch; SIGTERM ends a stretch too.

    Started by torchrun, on one machine, each process computes a batch of its own, and all move the weights once by the
    mean of the gradients: half as often with two. What is logged of the losses is the first one's.

    `folder` holds `state.pt` (weights, optimiser, step: what the next stretch goes on from), `log.jsonl` (a line for
    every `log_every` steps and each evaluation), and the official checkpoint `<name>.pt`, written with the state.

    Args:
        task: the network and what it learns.
        recipe: how.
        folder: of the run.
        minutes: length of this stretch; to the recipe's end if None.
        until: the step that ends this stretch; the recipe's last if None.
        log_every: steps that a line of the log sums up.
        evaluate_every: steps between evaluations.
        save_every_s: seconds between two savings.

    Returns:
        The number of steps done so far.

    Raises:
        InputError: the state in the folder is of another network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make = getattr(task, "optimizer", None)
    optimizer = (
        torch.optim.AdamW(_groups(task.model, recipe.weight_decay), lr=recipe.lr, betas=(0.9, 0.98))
        if make is None
        else make(recipe.weight_decay)
    )
    step = _restore(task, optimizer, folder, recipe.start)
    processes = _Processes(task.model)
    started, begun = step, time.monotonic()
    saved = begun
    sums: dict[str, float] = {}
    summed = 0
    ended = False
    target = folder / LOG if processes.is_main else Path(os.devnull)
    with target.open("a", encoding="utf-8") as log, _stop_signal() as stop:
        cores = {"threads": torch.get_num_threads(), "processes": processes.world_size}
        _note(log, {"step": step, "recipe": asdict(recipe), **cores})
        while step < min(recipe.steps, until or recipe.steps) and not ended:
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step) * group.get("scale", 1.0)
            task.model.train()
            losses = task.loss(step + processes.rank)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            late = minutes is not None and time.monotonic() - begun > 60 * minutes
            ended = processes.average_gradients(task.model, ended=late or bool(stop))
            norm = nn.utils.clip_grad_norm_(task.model.parameters(), recipe.clip)
            if torch.isfinite(norm):
                optimizer.step()
            step += processes.world_size
            for name, value in {**losses, "norm": norm, "skipped": 1.0 - torch.isfinite(norm).float()}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            summed += 1
            if step % log_every < processes.world_size:
                means = {name: round(value / summed, 5) for name, value in sums.items()}
                _note(log, {"step": step, "lr": recipe.rate(step), "s": round(time.monotonic() - begun, 1), **means})
                sums, summed = {}, 0
            due = not ended and step % evaluate_every < processes.world_size
            if processes.is_main and (due or step >= recipe.steps):
                task.model.eval()
                with torch.inference_mode():
                    reached = task.evaluate()
                _note(log, {"step": step, "s": round(time.monotonic() - begun, 1), "evaluated": reached})
            if processes.is_main and time.monotonic() - saved > save_every_s:
                _save(task, optimizer, step, folder)
                saved = time.monotonic()
        if processes.is_main:
            if started < recipe.steps <= step:
                task.model.eval()
                with torch.inference_mode():
                    task.finish()
            _save(task, optimizer, step, folder)
    return step


class _Processes:
    """Those that torchrun started; without it, this one alone.

    Attributes:
        rank, world_size: number of this process, from 0, and how many there are.
        is_main: whether this process evaluates and writes what all have reached.
    """

    def __init__(self, model: nn.Module) -> None:
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ["RANK"]) if self.world_size > 1 else 0
        self.is_main = self.rank == 0
        if self.world_size > 1:
            if not torch.distributed.is_initialized():
                torch.distributed.init_process_group("gloo")
                atexit.register(torch.distributed.destroy_process_group)  # its threads would abort the process
            for value in model.state_dict().values():
                torch.distributed.broadcast(value, 0)

    def average_gradients(self, model: nn.Module, *, ended: bool) -> bool:
        """Replace gradients by their mean over the processes; a parameter that none has one for keeps none.

        Returns:
            Whether any process has ended its stretch.
        """
        if self.world_size == 1:
            return ended
        parameters = [each for each in model.parameters() if each.requires_grad]
        said = parameters[0].new_tensor([float(ended), *(float(each.grad is not None) for each in parameters)])
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        flat = torch.cat([*(each.flatten() for each in gradients), said])
        torch.distributed.all_reduce(flat)
        *parts, said = flat.split([*(each.numel() for each in parameters), len(said)])
        for each, part, given in zip(parameters, parts, said[1:].tolist(), strict=True):
            each.grad = part.view_as(each) / self.world_size if given else None
        return bool(said[0] > 0)


def save_checkpoint(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write an official checkpoint, `{"model": weights}`, in float16: numbers that a bundle stores once for all
    precisions."""
    halves = {name: value.detach().cpu() for name, value in weights.items()}
    halves = {name: value.half() if value.is_floating_point() else value for name, value in halves.items()}
    torch.save({"model": halves}, path)


def plot(folder: Path) -> Path:
    """Draw a run's losses and quality over its steps as `curve.png` in its folder.

    Raises:
        InputError: the folder holds no run, or matplotlib is missing.
    """
    if not (folder / LOG).is_file():
        raise InputError(f"{folder} holds no run.", expected=LOG, mend="give the folder of a training run.")
    try:
        import matplotlib
    except ImportError as error:
        raise InputError("Plots need matplotlib.", mend='pip install -e ".[train]"') from error

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    losses = [line for line in lines if "loss" in line]
    evaluated = [line for line in lines if "evaluated" in line]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4), layout="constrained")
    names = [name for name in (losses[-1] if losses else {}) if name not in ("step", "lr", "s", "norm", "skipped")]
    for name in names:
        points = [(line["step"], line[name]) for line in losses if name in line]
        left.plot(*zip(*points, strict=True), label=name, linewidth=0.8)
    left.set(xlabel="step", yscale="log", title="loss")
    left.legend(fontsize=7)
    for name in evaluated[-1]["evaluated"] if evaluated else ():
        points = [(line["step"], line["evaluated"][name]) for line in evaluated if name in line["evaluated"]]
        right.plot(*zip(*points, strict=True), label=name, marker=".")
    right.set(xlabel="step", ylim=(0, 1), title="quality on unseen scenes")
    right.grid(alpha=0.3)
    right.legend(fontsize=7)
    target = folder / "curve.png"
    figure.savefig(target, dpi=75)
    pyplot.close(figure)
    return target


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [each for each in model.parameters() if each.requires_grad]
    return [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]


def _restore(task: Task, optimizer: Any, folder: Path, start: int) -> int:
    path = folder / STATE
    if not path.exists():
        return start
    state = torch.load(path, map_location="cpu", weights_only=True)
    own, stored = task.model.state_dict(), state["model"]
    if state["name"] != task.name or own.keys() != stored.keys():
        raise InputError(
            f"{path} is of another network, or of an earlier form of this one.",
            expected=task.name,
            got=state["name"],
            mend="train in another folder; --initial takes the weights of a checkpoint along.",
        )
    task.model.load_state_dict(stored)
    if state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _save(task: Task, optimizer: Any, step: int, folder: Path) -> None:
    state = {
        "name": task.name,
        "step": step,
        "model": task.model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    partial = folder / f"{STATE}.partial"
    torch.save(state, partial)
    os.replace(partial, folder / STATE)
    task.save(folder / f"{task.name}.pt")


def _note(log: Any, values: dict[str, Any]) -> None:
    log.write(json.dumps(values) + "\n")
    log.flush()


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """A list that SIGTERM puts something into."""
    stop: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: stop.append(number))
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
