"""`alref-edge demo`: a first look."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alref_edge.cli.console import add_command, announce, echo, look_for_leftovers, print_json, progress_line, warn
from alref_edge.cli.grouping import OUTPUT
from alref_edge.cli.options import AsJson, Clean, EngineOptions, GeneralOptions, Overwrite


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, demo)


def demo(
    *,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Number of the scene; one that is fixed if left out."),
    ] = None,
    engine: EngineOptions,
    out: Annotated[Path, typer.Option(metavar="FOLDER", rich_help_panel=OUTPUT, help="Output folder.")] = Path(
        "alref-demo"
    ),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    clean: Clean = False,
    general: GeneralOptions,
) -> None:
    """Draw a clip, segment three sentences in it and what sounds, and compare the masks with the truth."""
    from alref_edge.demo import CLIP, REPORT, SEED, run_demo
    from alref_edge.writing.result_folder import OVERLAY

    look_for_leftovers(out, clean)
    with engine.pipeline() as pipeline, progress_line(quiet=general.quiet) as progress:
        announce(pipeline, general.quiet)
        shown = run_demo(pipeline, out, SEED if seed is None else seed, overwrite=overwrite, progress=progress)
    for warning in dict.fromkeys([*shown.record["warnings"], *(shown.sound or {"warnings": ()})["warnings"]]):
        if warning not in pipeline.warnings:
            warn(warning)
    if as_json:
        print_json(shown.to_json())
        return
    echo(*shown.lines(), "", f"open {out / REPORT}; the masks over the clip: {out / OVERLAY}; the clip: {out / CLIP}")
