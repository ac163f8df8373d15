"""`alref-edge synth`: generated scenes, as folders that readers of public datasets read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alref_edge.cli.console import (
    add_command,
    echo,
    look_for_leftovers,
    print_json,
    progress_line,
    seed_range,
)
from alref_edge.cli.options import AsJson, Clean, GeneralOptions


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, synth)


def synth(
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    *,
    seeds: Annotated[str, typer.Option(metavar="A:B", help="Seeds of the scenes, A up to B - 1; or one.")] = "0:10",
    layout: Annotated[
        str,
        typer.Option(
            help="ref-youtube-vos, ref-davis17, mevis, avsbench-s4, avsbench-ms3, avsbench-avss, or mp4: plain clips."
        ),
    ] = "mp4",
    split: Annotated[
        str | None, typer.Option(help="The dataset's split; the one to be evaluated on if left out.")
    ] = None,
    width: Annotated[int, typer.Option(help="Of the frames, in pixels.")] = 256,
    height: Annotated[int, typer.Option(help="Of the frames, in pixels.")] = 256,
    as_json: AsJson = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier dataset of this command.")] = False,
    clean: Clean = False,
    general: GeneralOptions,
) -> None:
    """Write generated scenes, with sound, masks and sentences, in the layout of a public dataset."""
    from alref_edge.datasets.synthetic.layouts import LAYOUTS, write_dataset
    from alref_edge.pipeline import Progress

    chosen = seed_range(seeds)
    look_for_leftovers(out, clean)
    with progress_line(quiet=general.quiet) as line:
        written = write_dataset(
            out,
            layout,
            chosen,
            split=split,
            width=width,
            height=height,
            overwrite=overwrite,
            progress=None if line is None else lambda done, total: line(Progress("write", done, total)),
        )
    if as_json:
        print_json(
            {
                "path": str(written.path),
                "layout": written.layout,
                "split": written.split,
                "videos": list(written.videos),
                "left_out": list(written.left_out),
            }
        )
        return
    needs = LAYOUTS[written.layout].needs
    left = f"; {len(written.left_out)} scenes are left out that lack {needs}" if written.left_out else ""
    echo(f"{len(written.videos)} videos as {written.layout} ({written.split}): {out}{left}")
