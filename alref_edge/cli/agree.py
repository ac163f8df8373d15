"""`alref-edge agree`: how far decisions agree with recorded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alref_edge.cli.console import add_command, echo, look_for_leftovers
from alref_edge.cli.options import Clean, Debug


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, agree)


def agree(
    reference: Annotated[Path, typer.Option(help="Folder of recorded decisions, such as gpt_results.")],
    ours: Annotated[Path, typer.Option(help="Folder of ours, in the same layout; `rvos --record` writes it.")],
    setting: Annotated[
        str | None, typer.Option(help="s4, ms3, avss, v2_binary or rvos; all that both hold, if left out.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    clean: Clean = False,
    debug: Debug = False,
) -> None:
    """Compare the decisions of two folders: categories, pivot frames, boxes.

    Folders are in the layout of AL-Ref-SAM 2. Shares are over what both sides decided; intervals hold the share with
    95 %, clips drawn again. Names compare without regard to case.
    """
    from alref_edge.evaluation.agreement import compare_folders, to_json
    from alref_edge.files import written_beside

    if json is not None:
        look_for_leftovers(json, clean)
    found = compare_folders(reference, ours, setting)
    for each in found:
        echo(*each.to_text().splitlines())
    if json is not None:
        import json as encoder

        with written_beside(json) as file:
            file.write(encoder.dumps(to_json(found, reference, ours), indent=1, allow_nan=False).encode() + b"\n")
        echo(f"wrote {json}")
