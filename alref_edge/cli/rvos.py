"""`alref-edge rvos`: what sentences refer to in a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alref_edge.cli.console import add_command, announce, progress_line, read_lines
from alref_edge.cli.grouping import INPUT
from alref_edge.cli.options import (
    Clip,
    EngineOptions,
    Fps,
    GeneralOptions,
    LimitOptions,
    TrackingOptions,
    VideoArgument,
)
from alref_edge.cli.results import ResultOptions, stem_of
from alref_edge.cli.selectors import PivotLlmOptions, PivotOptions, open_selectors
from alref_edge.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, rvos)


def rvos(
    video: VideoArgument,
    *,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="SENTENCE", rich_help_panel=INPUT, help="May stand many times."),
    ] = None,
    text_file: Annotated[
        Path | None, typer.Option(metavar="FILE", rich_help_panel=INPUT, help="A file with one sentence a line.")
    ] = None,
    fps: Fps = 24.0,
    engine: EngineOptions,
    pivots: PivotOptions,
    llm: PivotLlmOptions,
    result: ResultOptions,
    clip: Clip = None,
    tracking: TrackingOptions,
    limits: LimitOptions,
    general: GeneralOptions,
) -> None:
    """Segment, in a video, what one or many sentences refer to."""
    from alref_edge.media import open_video

    sentences = read_sentences(text or [], text_file)
    if not sentences:
        raise InputError(
            "There is nothing to look for: no sentences.",
            mend='give at least one with --text "...", or take `alref-edge avs` for what sounds.',
        )
    choice = pivots.choose(llm)
    if clip is not None and result.record is None:
        raise InputError("--clip is an option of --record.", mend="add --record FOLDER, or leave it out.")
    clip = stem_of(video) if clip is None else clip
    result.begin_record(clip)
    source = open_video(video, limits.of_video(), fps=fps)
    with (
        result.folder(video) as folder,
        open_selectors([choice], pivots, llm) as (selector,),
        engine.pipeline() as pipeline,
        progress_line(quiet=general.quiet) as progress,
    ):
        announce(pipeline, general.quiet)
        changes = {**tracking.changes(), **({"ask_short": True} if llm.ask_short else {})}
        results = pipeline.rvos(
            source,
            sentences,
            selector=selector,
            settings=pipeline.settings.changed(changes),
            progress=progress,
            spill_dir=folder.partial,
            sink=folder,
        )
        written = result.write(folder, results, source, progress)
    result.tell(written, folder.path, pipeline, quiet=general.quiet)
    result.end_record(clip, None, results)


def read_sentences(texts: list[str], file: Path | None) -> list[str]:
    """The sentences of both, in this order; raises InputError if the file cannot be read."""
    return texts if file is None else [*texts, *read_lines(file, "sentence", "sentences")]
