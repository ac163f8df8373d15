"""What every command shares: lines for a person, JSON, progress, and how a mistake ends a program."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, TextIO, TypeVar

import typer

from alref_edge.errors import AlrefError, InputError

if TYPE_CHECKING:
    from alref_edge.pipeline import Pipeline
    from alref_edge.pipeline.measure import Progress, ProgressCallback

P = ParamSpec("P")
T = TypeVar("T")

EPILOG = (
    "Exit codes: 0 done, 1 or 2 a request that makes no sense, 3 the video, 4 the bundle, 5 a graph, 6 an execution "
    "provider, 7 the LLM's server, 8 memory, disk or time, 130 interrupted. Nothing half-written is left behind."
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BundleOption = Annotated[Path | None, typer.Option(help="The bundle's folder; the shipped one if left out.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[str, typer.Option(help="Of the graphs: float32, or float16 where the bundle has it.")]
AllowFallback = Annotated[bool, typer.Option("--allow-fallback", help="Take the CPU where the device does not work.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads for one operator; 0: the backend's choice.")]

_EVERY_S = 0.1
_WIDTH = 24


def guarded(command: Callable[P, T]) -> Callable[P, T]:
    """A user's mistake ends in one line and its exit code, an interruption in 130; `--debug` lets both through."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with _ended_by_sigterm():
                return command(*args, **kwargs)
        except AlrefError as error:
            if kwargs.get("debug"):
                raise
            say(f"error: {error}", colour=typer.colors.RED)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            say("interrupted: nothing was written.", colour=typer.colors.YELLOW)
            raise typer.Exit(130) from error

    return run


def read_lines(file: Path, one: str, many: str) -> list[str]:
    """The lines of a text file that are not blank.

    Args:
        file: where it is.
        one, many: what a line holds, and what the file holds, for the error.

    Raises:
        InputError: it cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The file of {many} {file} cannot be read.",
            expected=f"UTF-8 text, one {one} a line",
            got=getattr(error, "strerror", None) or error,
            mend="check the path.",
        ) from error
    return [line for line in lines if line.strip()]


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM unwinds the program like an error, so that partial output is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def say(text: str, colour: str | None = None) -> None:
    """A line for a person, on stderr."""
    typer.secho(printable(" ".join(text.split()), sys.stderr), err=True, fg=colour)


def echo(text: str) -> None:
    """A line on stdout."""
    typer.echo(printable(text, sys.stdout))


def printable(text: str, stream: TextIO) -> str:
    """The text as far as the stream's encoding has it; bytes of a file name that are no UTF-8 become U+FFFD."""
    encoding = stream.encoding or "utf-8"
    return re.sub("[\ud800-\udfff]", "\ufffd", text).encode(encoding, "replace").decode(encoding)


def print_json(values: dict[str, Any]) -> None:
    import json

    echo(json.dumps(values, indent=1, ensure_ascii=(sys.stdout.encoding or "").lower() != "utf-8"))


def warn(text: str) -> None:
    """A warning for a person, on stderr."""
    say(f"warning: {text}", colour=typer.colors.YELLOW)


def announce(pipeline: Pipeline) -> None:
    """What a person should know of a pipeline before it works, on stderr."""
    if pipeline.notice is not None:
        say(pipeline.notice)
    for warning in pipeline.warnings:
        warn(warning)


def seed_range(text: str) -> range:
    """The seeds of `A:B` (A up to B - 1) or of `A` alone.

    Raises:
        InputError: another form, or none.
    """
    match = re.fullmatch(r"([0-9]{1,12})(?::([0-9]{1,12}))?", text.strip())
    first = int(match[1]) if match else 0
    end = int(match[2] or first + 1) if match else 0
    if first >= end:
        raise InputError("These are no seeds.", expected="A:B with A below B, such as 0:100", got=text)
    return range(first, end)


class _ProgressLine:
    """One line that is written over: stage, bar, frames, frames a second.

    Args:
        stream: a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._since = 0.0
        self._first = 0
        self._shown = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.perf_counter()
        if progress.stage != self._stage:
            self._stage, self._since, self._first, self._shown = progress.stage, now, progress.done, 0.0
        if now - self._shown < _EVERY_S and progress.done < progress.total:
            return
        self._shown = now
        filled = _WIDTH * progress.done // max(1, progress.total)
        passed = now - self._since
        rate = f"{(progress.done - self._first) / passed:6.1f} frames/s" if passed > 0 else ""
        bar = "#" * filled + "." * (_WIDTH - filled)
        self._stream.write(f"\r\x1b[K{progress.stage:<9} [{bar}] {progress.done}/{progress.total} {rate}")
        self._stream.flush()

    def clear(self) -> None:
        """Wipe the line."""
        if self._stage:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


@contextmanager
def progress_line(stream: TextIO | None = None) -> Iterator[ProgressCallback | None]:
    """What shows progress while the block runs; None where stderr is no terminal."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield None
        return
    line = _ProgressLine(stream)
    try:
        yield line
    finally:
        line.clear()
