"""`python -m export.nano`: train the nano networks, stretch by stretch."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from alref_edge.cli.console import one_line
from alref_edge.errors import AlrefError, InputError
from export.nano.training import Recipe, plot, train

# Module and class of each network's task; steps, largest learning rate, share of the steps over which it falls.
_NETWORKS = {
    "sam2": ("sam2", "Sam2Task", 8360, 1.5e-3, 0.45),
    "grounding_dino": ("grounding_dino", "GroundingDinoTask", 4300, 1e-3, 0.25),
    "beats_as20k": ("beats", "As20kTask", 900, 2e-3, 0.4),
    "beats_as2m": ("beats", "As2mTask", 700, 2e-3, 0.4),
    "languagebind": ("languagebind", "LanguageBindTask", 1000, 2e-3, 0.4),
    "yamnet": ("yamnet", "YamNetTask", 900, 3e-3, 0.4),
    "mllm": ("mllm", "MllmTask", 5000, 2e-3, 0.5),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.nano",
        description="Train a nano network on generated scenes and sounds. Run the same command again to go on.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, _, steps, rate, decay) in _NETWORKS.items():
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
        sub.add_argument(
            "--start", type=int, default=0, help="the recipe's step to start at with --initial (default 0)"
        )
    drawing = commands.add_parser("plot", help="draw a run's curves")
    drawing.add_argument("folder", type=Path)
    hearing = commands.add_parser("hear", help="how well a bundle's audio networks hear the tracks of unseen scenes")
    hearing.add_argument("bundle", type=Path)
    hearing.add_argument("--first", type=int, default=0, help="seed of the first scene (default 0)")
    hearing.add_argument("--count", type=int, default=100, help="scenes (default 100)")
    hearing.add_argument("--precision", default="float32", help="of the graphs (default float32)")
    serving = commands.add_parser("mllm_folder", help="write the nano MLLM as the folder that vLLM serves")
    serving.add_argument("folder", type=Path)
    source = serving.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="mllm.pt of a training run, or a folder written before")
    source.add_argument("--random", action="store_true", help="random weights, for tests of the plumbing")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "plot":
            print(plot(arguments.folder))
            return 0
        if arguments.command == "mllm_folder":
            from export.nano.mllm_folder import write_folder

            print(write_folder(arguments.folder, arguments.checkpoint))
            return 0
        if arguments.command == "hear":
            from alref_edge.bundle import Bundle
            from export.nano.hearing import hear

            bundle = Bundle.open(arguments.bundle)
            for name, figures in hear(bundle, arguments.first, arguments.count, precision=arguments.precision).items():
                print(f"{name}: " + ", ".join(f"{figure} {value:.3f}" for figure, value in figures.items()))
            return 0
        _prepare(arguments.device, arguments.threads)
        module, kind, *_ = _NETWORKS[arguments.command]
        extra = {"scenes": arguments.folder / "scenes"} if arguments.command == "mllm" else {}
        task = getattr(import_module(f"export.nano.{module}"), kind)(
            device=arguments.device, initial=arguments.initial, **extra
        )
        recipe = Recipe(
            steps=arguments.steps, lr=arguments.lr, decay_share=arguments.decay_share, start=arguments.start
        )
        steps = train(task, recipe, arguments.folder, minutes=arguments.minutes)
    except AlrefError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    print(f"{arguments.folder}: {steps} of {arguments.steps} steps done")
    return 0


def _prepare(device: str, threads: int) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("torch finds no CUDA here.", expected="a CUDA device", got=device, mend="--device cpu")
    if device.startswith("cuda") and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("Several processes share CPUs alone.", got=device, mend="leave torchrun out, or --device cpu")


if __name__ == "__main__":
    sys.exit(main())
