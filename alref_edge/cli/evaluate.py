"""`alref-edge eval`: how good a bundle is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alref_edge.cli.console import add_command, announce, echo, look_for_leftovers, progress_line, seed_range, warn
from alref_edge.cli.grouping import DECIDES, OUTPUT
from alref_edge.cli.llm import LlmOptions
from alref_edge.cli.options import Clean, EngineOptions, GeneralOptions
from alref_edge.cli.selectors import PIVOT_SELECTORS, PivotOptions, choose, listed, open_selectors

if TYPE_CHECKING:
    from alref_edge.evaluation import Evaluation, SoundEvaluation
    from alref_edge.pipeline import Pipeline, ProgressCallback

_eval = typer.Typer(help="Quality, measured against a truth.", no_args_is_help=True, rich_markup_mode=None)

# A replay is of a video that was recorded.
_SELECTORS = {name: choice for name, choice in PIVOT_SELECTORS.items() if not choice.replays}


def register(app: typer.Typer) -> None:
    """Add the group."""
    for command in (synthetic, sound):
        add_command(_eval, command)
    app.add_typer(_eval, name="eval")


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """Which scenes."""

    seeds: Annotated[str, typer.Option(metavar="A:B", help="A up to B - 1; or one.")] = "0:100"
    size: Annotated[int, typer.Option(max=4096, help="Frames' sides in pixels.")] = 256


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Where the scores go."""

    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", rich_help_panel=OUTPUT, help="Write all scores to it.")
    ] = None
    clean: Clean = False


def synthetic(
    *,
    scenes: SceneOptions,
    frames: Annotated[int, typer.Option(max=10_000, help="Frames of a scene.")] = 40,
    every: Annotated[int, typer.Option(min=1, help="Ask Grounding DINO alone on every so many frames.")] = 5,
    engine: EngineOptions,
    selector: Annotated[
        list[str] | None,
        typer.Option(
            "--selector",
            metavar="NAME",
            rich_help_panel=DECIDES,
            help=f"{listed(_SELECTORS)} May stand many times.",
        ),
    ] = None,
    llm: LlmOptions,
    scores: ScoreOptions,
    general: GeneralOptions,
) -> None:
    """Run the pipeline on generated scenes whose truth is known.

    J, F and J&F are those of DAVIS 2017, over all frames. "Oracle" is the tracker with perfect pivots; a box is right
    from an IoU of 0.5 on. Intervals hold the mean with 95 %.
    """
    from alref_edge.evaluation import evaluate_synthetic

    choices = choose(_SELECTORS, list(dict.fromkeys(selector or ["grounding"])), llm)
    with open_selectors(choices, PivotOptions(), llm) as selectors:

        def measure(pipeline: Pipeline, seeds: range, progress: ProgressCallback | None) -> Evaluation:
            return evaluate_synthetic(
                pipeline, seeds, selectors, every=every, size=scenes.size, frames=frames, progress=progress
            )

        _report(measure, scenes, frames, engine, scores, general)


def sound(
    *,
    scenes: SceneOptions,
    frames: Annotated[int, typer.Option(max=80, help="Frames of a scene, whole seconds of 8.")] = 40,
    engine: EngineOptions,
    scores: ScoreOptions,
    general: GeneralOptions,
) -> None:
    """Segment what sounds in generated scenes whose truth is known, with one source and with many, without an LLM.

    MJ and MF are those of AVSBench, as AL-Ref-SAM 2 computes them: on the last frame of each second; where nothing
    sounds, J is the share of the frame that is left out, and F is 0. Intervals hold the mean with 95 %.
    """
    from alref_edge.evaluation import evaluate_sound

    def measure(pipeline: Pipeline, seeds: range, progress: ProgressCallback | None) -> SoundEvaluation:
        return evaluate_sound(pipeline, seeds, size=scenes.size, frames=frames, progress=progress)

    _report(measure, scenes, frames, engine, scores, general)


def _report(
    measure: Callable[[Pipeline, range, ProgressCallback | None], Evaluation | SoundEvaluation],
    scenes: SceneOptions,
    frames: int,
    engine: EngineOptions,
    scores: ScoreOptions,
    general: GeneralOptions,
) -> None:
    """Measure a pipeline; print the table, write the scores."""
    from alref_edge.datasets.synthetic import TRAINING_SEEDS
    from alref_edge.files import written_beside

    seeds = seed_range(scenes.seeds)
    if scores.json is not None:
        look_for_leftovers(scores.json, scores.clean)
    with (
        nullcontext() if scores.json is None else written_beside(scores.json) as file,
        engine.pipeline() as pipeline,
        progress_line(quiet=general.quiet) as progress,
    ):
        announce(pipeline, general.quiet)
        if seeds.stop > TRAINING_SEEDS:
            warn(f"seeds from {TRAINING_SEEDS} on are those of training: these figures say little.")
        evaluation = measure(pipeline, seeds, progress)
        name, precision = pipeline.bundle.manifest.name, pipeline.precision
        if file is not None:
            file.write(_encoded(evaluation.to_json()))
    size = f"{scenes.size}x{scenes.size}"
    echo(f"bundle {name}, {precision}: {len(seeds)} scenes of {frames} frames, {size}")
    echo(*evaluation.to_text().splitlines())
    for warning in evaluation.facts.get("warnings", ()):
        warn(warning)
    if scores.json is not None:
        echo(f"wrote {scores.json}")


def _encoded(values: dict[str, Any]) -> bytes:
    import json

    return json.dumps(values, indent=1, allow_nan=False).encode() + b"\n"
