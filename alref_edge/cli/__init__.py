"""The command line: parses and prints, decides nothing. Nothing heavy is imported before a command needs it.

Each command or group is a module here; its `register` adds it to the program.
"""

from __future__ import annotations

from typing import Annotated

import typer

from alref_edge.cli import agree, avs, demo, doctor, evaluate, mllm, rvos, synth
from alref_edge.cli.console import EXIT_CODES, Program, echo, streams_that_hold

app = typer.Typer(
    name="alref-edge",
    cls=Program,
    help="Segment, in a video, what a sentence refers to, or what sounds. Offline, without PyTorch.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from alref_edge import __version__

        echo(f"alref-edge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


# In the order of `--help`.
for _module in (demo, rvos, avs, mllm, evaluate, agree, synth, doctor):
    _module.register(app)


def main() -> None:
    """Run the command line."""
    with streams_that_hold():
        app()
