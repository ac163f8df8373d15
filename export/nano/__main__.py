"""`python -m export.nano`: train the nano networks, stretch by stretch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from alref_edge.errors import AlrefError, InputError
from export.nano.training import Recipe, plot, train


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.nano",
        description="Train a nano network on generated scenes. Run the same command again to go on.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, steps, rate, decay in (("sam2", 8000, 8e-4, 0.6), ("grounding_dino", 4300, 1e-3, 0.25)):
        sub = commands.add_parser(name)
        sub.add_argument("--folder", required=True, type=Path, help="of the run: state, log, checkpoint")
        sub.add_argument("--steps", type=int, default=steps, help=f"in all, over every stretch (default {steps})")
        sub.add_argument("--minutes", type=float, help="of this stretch; to the recipe's end if left out")
        sub.add_argument("--lr", type=float, default=rate, help=f"largest learning rate (default {rate})")
        sub.add_argument(
            "--decay-share",
            type=float,
            default=decay,
            help=f"share of the steps over which the rate falls to 0 (default {decay})",
        )
        sub.add_argument("--device", default="cpu", help="cpu or cuda")
        sub.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
        sub.add_argument(
            "--initial", type=Path, help="an official checkpoint to start from, where there is no state yet"
        )
    drawing = commands.add_parser("plot", help="draw a run's curves")
    drawing.add_argument("folder", type=Path)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "plot":
            print(plot(arguments.folder))
            return 0
        _prepare(arguments.device, arguments.threads)
        if arguments.command == "sam2":
            from export.nano.sam2 import Sam2Task as MadeTask
        else:
            from export.nano.grounding_dino import GroundingDinoTask as MadeTask
        task = MadeTask(device=arguments.device, initial=arguments.initial)
        recipe = Recipe(steps=arguments.steps, lr=arguments.lr, decay_share=arguments.decay_share)
        steps = train(task, recipe, arguments.folder, minutes=arguments.minutes)
    except AlrefError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{arguments.folder}: {steps} of {arguments.steps} steps done")
    return 0


def _prepare(device: str, threads: int) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("torch finds no CUDA here.", expected="a CUDA device", got=device, mend="--device cpu")


if __name__ == "__main__":
    sys.exit(main())
