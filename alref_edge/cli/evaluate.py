"""`alref-edge eval`: how good a bundle is."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from alref_edge.cli.console import (
    EPILOG,
    AllowFallback,
    BundleOption,
    Debug,
    Device,
    Precision,
    Threads,
    announce,
    echo,
    guarded,
    progress_line,
    seed_range,
    warn,
)

_eval = typer.Typer(help="Quality, measured against a truth.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(_eval, name="eval")


@_eval.command(epilog=EPILOG)
@guarded
def synthetic(
    seeds: Annotated[str, typer.Option(metavar="A:B", help="Seeds of the scenes, A up to B - 1; or one.")] = "0:100",
    bundle: BundleOption = None,
    device: Device = "auto",
    precision: Precision = "float32",
    every: Annotated[int, typer.Option(min=1, help="Ask Grounding DINO alone on every so many frames.")] = 5,
    size: Annotated[int, typer.Option(max=4096, help="Height and width of a scene in pixels.")] = 256,
    frames: Annotated[int, typer.Option(max=10_000, help="Frames of a scene.")] = 40,
    json: Annotated[Path | None, typer.Option("--json", help="Write all scores to this file.")] = None,
    allow_fallback: AllowFallback = False,
    threads: Threads = 0,
    debug: Debug = False,
) -> None:
    """Run the pipeline on generated scenes whose truth is known.

    J, F and J&F are those of DAVIS 2017, over all frames. "Oracle" is the tracker with perfect pivots; a box is right
    from an IoU of 0.5 on. Intervals hold the mean with 95 %.
    """
    chosen = seed_range(seeds)
    from alref_edge.datasets.synthetic import TRAINING_SEEDS
    from alref_edge.evaluation import evaluate_synthetic
    from alref_edge.media.partial import written_beside
    from alref_edge.models.grounding_dino import GroundingDino
    from alref_edge.pipeline import Pipeline
    from alref_edge.runtime import SessionOptions

    options = SessionOptions(threads=threads, allow_fallback=allow_fallback)
    with (
        nullcontext() if json is None else written_beside(json) as file,
        Pipeline.from_bundle(
            bundle, device, precision=precision, allow_fallback=allow_fallback, threads=threads
        ) as pipeline,
        GroundingDino.from_component(
            pipeline.bundle.component("grounding_dino", precision), device, options=options
        ) as detector,
        progress_line() as progress,
    ):
        announce(pipeline)
        if chosen.stop > TRAINING_SEEDS:
            warn(f"seeds from {TRAINING_SEEDS} on are those of training: these figures say little.")
        evaluation = evaluate_synthetic(
            pipeline, detector, chosen, every=every, size=size, frames=frames, progress=progress
        )
        name = pipeline.bundle.manifest.name
        if file is not None:
            file.write(_encoded(evaluation.to_json()))
    echo(f"bundle {name}, {precision}: {len(chosen)} scenes of {frames} frames, {size}x{size}")
    echo(evaluation.to_text())
    if json is not None:
        echo(f"wrote {json}")


def _encoded(values: dict[str, Any]) -> bytes:
    import json

    return json.dumps(values, indent=1, allow_nan=False).encode() + b"\n"
