"""Options in groups: in code a dataclass that a command takes as one argument, in the help a heading.

A field of such a dataclass, and a parameter of a command, is annotated as Typer has it; `rich_help_panel` names the
heading. Options under the headings of `RARE` are shown by `--help-all` only, so that `--help` fits on a screen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, TypeAlias, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

T = TypeVar("T")

OPTIONS, INPUT, MODEL, DECIDES, OUTPUT = "Options", "Input", "Model and device", "Who decides", "Output"
SOUND, LLM, RECORDED, LIMITS = "What sounds", "The LLM", "Recorded decisions", "Limits and tracking"
RUNNING, HELP = "Running", "Help"
RARE = (SOUND, LLM, RECORDED, LIMITS, RUNNING)
_ORDER = (OPTIONS, INPUT, MODEL, DECIDES, OUTPUT, *RARE, HELP)
_ALL = f"{__name__}.all"
_COLUMN = 26


def _help_all(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        ctx.meta[_ALL] = True
        typer.echo(ctx.get_help())
        raise typer.Exit


HelpAll: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--help-all", is_eager=True, callback=_help_all, rich_help_panel=HELP, help="Show all options, and exit codes."
    ),
]


def with_flat_options(command: Callable[..., T]) -> Callable[..., T]:
    """The command as Typer takes it: with the fields of a parameter's dataclass in its place, and `--help-all`."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hints[name] for name in signature(command).parameters if is_dataclass(hints[name])}
    options = []
    for name, parameter in signature(command).parameters.items():
        if name in groups:
            options += _options_of(groups[name])
        else:
            options.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name]))
    options.append(Parameter("help_all", Parameter.KEYWORD_ONLY, default=False, annotation=HelpAll))

    @wraps(command)
    def run(**given: Any) -> T:
        del given["help_all"]
        gathered = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        return command(**given, **gathered)

    run.__signature__ = Signature(options)  # type: ignore[attr-defined]
    return run


def _options_of(group: Any) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]


class GroupedCommand(TyperCommand):
    """A command whose help has its options under headings, the rare ones and the exit codes with `--help-all` only."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """See click."""
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in _ORDER}
        params: list[Any] = self.get_params(ctx)
        for param in params:
            record = param.get_help_record(ctx)
            if record is not None:
                groups[HELP if param.name == "help" else param.rich_help_panel or OPTIONS].append(record)
        shown = {name: rows for name, rows in groups.items() if rows and (ctx.meta.get(_ALL) or name not in RARE)}
        width = min(_COLUMN, max(len(option) for rows in shown.values() for option, _ in rows))
        for name, rows in shown.items():
            with formatter.section(name):
                formatter.write_dl([(option.ljust(width), text) for option, text in rows], _COLUMN)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """See click."""
        if ctx.meta.get(_ALL):
            super().format_epilog(ctx, formatter)
