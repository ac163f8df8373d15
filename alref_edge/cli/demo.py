"""`alref-edge demo`: a first look."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alref_edge.cli.console import (
    EPILOG,
    AllowFallback,
    AsJson,
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
    print_json,
    progress_line,
    warn,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(demo)


@guarded
def demo(
    seed: Annotated[int | None, typer.Option(min=0, help="Number of the scene; one that is fixed if left out.")] = None,
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("alref-demo"),
    bundle: BundleOption = None,
    device: Device = "auto",
    precision: Precision = "float32",
    as_json: AsJson = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
    clean: Clean = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    allow_fallback: AllowFallback = False,
    threads: Threads = 0,
    debug: Debug = False,
) -> None:
    """Draw a clip, segment three sentences in it and what sounds, and compare the masks with the truth."""
    from alref_edge.demo import CLIP, REPORT, SEED, run_demo
    from alref_edge.pipeline import Pipeline
    from alref_edge.writing.result_folder import OVERLAY

    look_for_leftovers(out, clean)
    with (
        Pipeline.from_bundle(
            bundle, device, precision=precision, allow_fallback=allow_fallback, threads=threads
        ) as pipeline,
        progress_line(quiet=quiet) as progress,
    ):
        announce(pipeline, quiet)
        shown = run_demo(pipeline, out, SEED if seed is None else seed, overwrite=overwrite, progress=progress)
    for warning in dict.fromkeys([*shown.record["warnings"], *(shown.sound or {"warnings": ()})["warnings"]]):
        if warning not in pipeline.warnings:
            warn(warning)
    if as_json:
        print_json(shown.to_json())
        return
    echo(*shown.lines(), "", f"open {out / REPORT}; the masks over the clip: {out / OVERLAY}; the clip: {out / CLIP}")
