"""`alref-edge eval`: how good a bundle is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from alref_edge.cli.console import (
    EPILOG,
    AllowFallback,
    BundleOption,
    Clean,
    Debug,
    Device,
    Precision,
    Quiet,
    Threads,
    Verbose,
    announce,
    echo,
    guarded,
    look_for_leftovers,
    progress_line,
    seed_range,
    warn,
)
from alref_edge.cli.reasoning import (
    LLM_SELECTORS,
    AllowRemote,
    AllowUnusable,
    AnswerCache,
    EndpointUrl,
    InFlight,
    MaxTokens,
    ModelName,
    NoAnswerCache,
    PixelBudget,
    Reasoning,
    TemplatesFolder,
    Thinking,
    Timeout,
    TranscriptFolder,
)
from alref_edge.errors import InputError

if TYPE_CHECKING:
    from alref_edge.evaluation import Evaluation, SoundEvaluation
    from alref_edge.pipeline import Pipeline, ProgressCallback

_eval = typer.Typer(help="Quality, measured against a truth.", no_args_is_help=True, rich_markup_mode=None)

Seeds: TypeAlias = Annotated[str, typer.Option(metavar="A:B", help="Seeds of the scenes, A up to B - 1; or one.")]
Size: TypeAlias = Annotated[int, typer.Option(max=4096, help="Height and width of a scene in pixels.")]
Scores: TypeAlias = Annotated[Path | None, typer.Option("--json", help="Write all scores to this file.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(_eval, name="eval")


@_eval.command(epilog=EPILOG)
@guarded
def synthetic(
    seeds: Seeds = "0:100",
    bundle: BundleOption = None,
    device: Device = "auto",
    precision: Precision = "float32",
    selector: Annotated[
        list[str] | None,
        typer.Option("--selector", help="Whose pivots: grounding (if left out), mllm, mixed; may stand many times."),
    ] = None,
    endpoint: EndpointUrl = None,
    allow_remote: AllowRemote = False,
    llm: ModelName = None,
    templates: TemplatesFolder = None,
    llm_pixels: PixelBudget = None,
    in_flight: InFlight = 32,
    llm_timeout: Timeout = 600.0,
    llm_max_tokens: MaxTokens = 1024,
    llm_thinking: Thinking = False,
    allow_unusable: AllowUnusable = False,
    answer_cache: AnswerCache = None,
    no_answer_cache: NoAnswerCache = False,
    transcript: TranscriptFolder = None,
    every: Annotated[int, typer.Option(min=1, help="Ask Grounding DINO alone on every so many frames.")] = 5,
    size: Size = 256,
    frames: Annotated[int, typer.Option(max=10_000, help="Frames of a scene.")] = 40,
    json: Scores = None,
    clean: Clean = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    allow_fallback: AllowFallback = False,
    threads: Threads = 0,
    debug: Debug = False,
) -> None:
    """Run the pipeline on generated scenes whose truth is known.

    J, F and J&F are those of DAVIS 2017, over all frames. "Oracle" is the tracker with perfect pivots; a box is right
    from an IoU of 0.5 on. Intervals hold the mean with 95 %.
    """
    from alref_edge.evaluation import evaluate_synthetic
    from alref_edge.models.grounding_dino import GroundingDino
    from alref_edge.pipeline import GroundingSelector

    reasoning = Reasoning(
        endpoint=endpoint,
        allow_remote=allow_remote,
        llm=llm,
        templates=templates,
        llm_pixels=llm_pixels,
        in_flight=in_flight,
        llm_timeout=llm_timeout,
        llm_max_tokens=llm_max_tokens,
        llm_thinking=llm_thinking,
        allow_unusable=allow_unusable,
        answer_cache=answer_cache,
        no_answer_cache=no_answer_cache,
        transcript=transcript,
    )
    names = list(dict.fromkeys(selector or ["grounding"]))
    if wrong := [name for name in names if name not in ("grounding", *LLM_SELECTORS)]:
        raise InputError("There is no such selector.", expected="grounding, mllm or mixed", got=wrong[0])
    asks = any(name in LLM_SELECTORS for name in names)
    if not asks:
        reasoning.refuse()
    with reasoning.asking() if asks else nullcontext() as asking:
        selectors = [
            asking.selector(name) if asking and name in LLM_SELECTORS else GroundingSelector() for name in names
        ]

        def measure(pipeline: Pipeline, detector: Any, chosen: range, progress: ProgressCallback | None) -> Evaluation:
            return evaluate_synthetic(
                pipeline, detector, chosen, selectors, every=every, size=size, frames=frames, progress=progress
            )

        _Engine(
            bundle=bundle,
            device=device,
            precision=precision,
            allow_fallback=allow_fallback,
            threads=threads,
            clean=clean,
            quiet=quiet,
        ).report(measure, "grounding_dino", GroundingDino, seed_range(seeds), f"{frames} frames, {size}x{size}", json)


@_eval.command(epilog=EPILOG)
@guarded
def sound(
    seeds: Seeds = "0:100",
    bundle: BundleOption = None,
    device: Device = "auto",
    precision: Precision = "float32",
    size: Size = 256,
    frames: Annotated[int, typer.Option(max=80, help="Frames of a scene, whole seconds of 8.")] = 40,
    json: Scores = None,
    clean: Clean = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    allow_fallback: AllowFallback = False,
    threads: Threads = 0,
    debug: Debug = False,
) -> None:
    """Segment what sounds in generated scenes whose truth is known, with one source and with many, without an LLM.

    MJ and MF are those of AVSBench, as AL-Ref-SAM 2 computes them: on the last frame of each second; where nothing
    sounds, J is the share of the frame that is left out, and F is 0. Intervals hold the mean with 95 %.
    """
    from alref_edge.evaluation import evaluate_sound
    from alref_edge.models.languagebind import LanguageBind

    def measure(pipeline: Pipeline, language: Any, chosen: range, progress: ProgressCallback | None) -> SoundEvaluation:
        return evaluate_sound(pipeline, language, chosen, size=size, frames=frames, progress=progress)

    _Engine(
        bundle=bundle,
        device=device,
        precision=precision,
        allow_fallback=allow_fallback,
        threads=threads,
        clean=clean,
        quiet=quiet,
    ).report(measure, "languagebind", LanguageBind, seed_range(seeds), f"{frames} frames, {size}x{size}", json)


@dataclass(frozen=True, kw_only=True)
class _Engine:
    """What is measured, and where it runs."""

    bundle: Path | None
    device: str
    precision: str
    allow_fallback: bool
    threads: int
    clean: bool
    quiet: bool

    def report(
        self,
        measure: Callable[[Pipeline, Any, range, ProgressCallback | None], Evaluation | SoundEvaluation],
        component: str,
        network: Any,
        seeds: range,
        scenes: str,
        json: Path | None,
    ) -> None:
        """Measure a pipeline and one network of its bundle by itself; print the table, write the scores."""
        from alref_edge.datasets.synthetic import TRAINING_SEEDS
        from alref_edge.files import written_beside
        from alref_edge.pipeline import Pipeline
        from alref_edge.runtime import SessionOptions

        if json is not None:
            look_for_leftovers(json, self.clean)
        options = SessionOptions(threads=self.threads, allow_fallback=self.allow_fallback)
        with (
            nullcontext() if json is None else written_beside(json) as file,
            Pipeline.from_bundle(
                self.bundle,
                self.device,
                precision=self.precision,
                allow_fallback=self.allow_fallback,
                threads=self.threads,
            ) as pipeline,
            network.from_component(
                pipeline.bundle.component(component, self.precision), self.device, options=options
            ) as alone,
            progress_line(quiet=self.quiet) as progress,
        ):
            announce(pipeline, self.quiet)
            if seeds.stop > TRAINING_SEEDS:
                warn(f"seeds from {TRAINING_SEEDS} on are those of training: these figures say little.")
            evaluation = measure(pipeline, alone, seeds, progress)
            name = pipeline.bundle.manifest.name
            if file is not None:
                file.write(_encoded(evaluation.to_json()))
        echo(f"bundle {name}, {self.precision}: {len(seeds)} scenes of {scenes}")
        echo(*evaluation.to_text().splitlines())
        for warning in evaluation.facts.get("warnings", ()):
            warn(warning)
        if json is not None:
            echo(f"wrote {json}")


def _encoded(values: dict[str, Any]) -> bytes:
    import json

    return json.dumps(values, indent=1, allow_nan=False).encode() + b"\n"
