"""What every command shares: lines for a person, JSON, progress, and how a mistake ends a program.

Whatever is printed goes through here: text that comes from elsewhere (sentences, names, logs) can neither steer the
terminal nor begin a line, and a stream that is closed, full or no longer read stops no command.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import typer
from typer.core import TyperGroup

from alref_edge.cli.grouping import GroupedCommand, with_flat_options
from alref_edge.errors import AlrefError, InputError

if TYPE_CHECKING:
    from alref_edge.pipeline import Pipeline, Progress, ProgressCallback

T = TypeVar("T")

EXIT_CODES = (
    "Exit codes: 0 done, 1 or 2 a request that makes no sense, 3 the video, 4 the bundle, 5 a graph, 6 an execution "
    "provider, 7 the LLM's server, 8 memory, disk or time, 9 done, but stdout did not take all that was printed, 129, "
    "130 or 143 interrupted. Nothing half-written is left behind; --clean removes what a killed run left."
)

_UNPRINTED = 9
_shown: list[_ProgressLine | _ProgressLog] = []
# Click's own, or the copy of it that Typer brings.
_UsageError: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
# What moves the cursor, begins a line, hides or turns around what follows: C0, DEL, C1, separators, bidi controls.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_EVERY_S = 0.1
_WIDTH = 24
_LINE_S, _LATEST_S = 10.0, 60.0
# A mend names an argument of the Python API in `backquotes`; this is what it is called here.
_AS_OPTION = {
    "sentences": "--text",
    "sound": "--audio FILE.wav",
    "categories": "--categories FILE",
    "spill_dir": "--out",
    "Limits(bytes=...)": "--limit-bytes",
    "Limits(pixels=...)": "--limit-pixels",
    "Limits(frames=...)": "--limit-frames",
    "Limits(duration_s=...)": "--limit-seconds",
    "AudioLimits(bytes=...)": "--limit-bytes",
    "AudioLimits(duration_s=...)": "--limit-seconds",
    "AudioLimits(rate=...)": "AudioLimits(rate=...) from Python",
    "AudioLimits(channels=...)": "AudioLimits(channels=...) from Python",
}


def add_command(app: typer.Typer, command: Callable[..., None], name: str | None = None) -> None:
    """Add a command of the user's: guarded, its options in groups (see `grouping`); its own name if none is given."""
    app.command(name, cls=GroupedCommand, epilog=EXIT_CODES)(_guarded(command))


def _guarded(command: Callable[..., T]) -> Callable[..., T]:
    """A command with flat options, as Typer takes it (see `grouping`), that ends as a user expects.

    A user's mistake ends in one line and its exit code, an interruption in 130; `--debug` lets both through. With
    `--verbose` the log of the package goes to stderr.
    """
    flat = with_flat_options(command)

    @wraps(flat)
    def run(**options: Any) -> T:
        from alref_edge.files import unwound_by_signals

        try:
            with unwound_by_signals(), _log_shown() if options.get("verbose") else nullcontext():
                return flat(**options)
        except AlrefError as error:
            if options.get("debug"):
                raise
            say(f"error: {in_options(error)}", colour=typer.colors.RED)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            say("interrupted: nothing half-written is left.", colour=typer.colors.YELLOW)
            raise typer.Exit(130) from error

    return run


class _LogLines(logging.Handler):
    """Each record as a line for a person."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging`."""
        say(self.format(record))


@contextmanager
def _log_shown() -> Iterator[None]:
    """Inside, what the package logs, but for details, is shown on stderr."""
    log, lines = logging.getLogger("alref_edge"), _LogLines(logging.INFO)
    lines.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    before = log.level
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(lines)
        log.setLevel(before)


def in_options(error: AlrefError) -> str:
    """What an error says, with the options of the command line in place of Python's arguments."""
    return error.told(error.mend and re.sub("`([^`]+)`", lambda found: _AS_OPTION.get(found[1], found[0]), error.mend))


class Program(TyperGroup):
    """The whole command line, whose own complaints quote what was typed on one line."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """See click."""
        with _quoting():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """See click."""
        with _quoting():
            return super().invoke(ctx)


@contextmanager
def _quoting() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        error.message = one_line(error.message)  # type: ignore[attr-defined]
        raise


class _Outlet(io.RawIOBase):
    """A standard stream that takes everything: what cannot be written is lost.

    Attributes:
        lost: why something was; None as long as nothing was.
    """

    def __init__(self, descriptor: int, closed: bool) -> None:
        self._descriptor, self._closed = descriptor, closed
        self.lost: OSError | None = None

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The stream's descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return not self._closed and os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """All of it, or what can be."""
        if self._closed:
            self.lost = OSError(errno.EBADF, "it is closed")
        try:
            return len(data) if self.lost else os.write(self._descriptor, data)
        except OSError as error:
            self.lost = error
            return len(data)


@contextmanager
def streams_that_hold() -> Iterator[None]:
    """Inside, nothing fails because stdout or stderr is closed, full, or read by nobody any more.

    A program that ends well though something for stdout was lost exits with 9; of stderr only lines for a person are
    lost. Descriptors 0 to 2 that are closed are opened on /dev/null: a file that is written must not be one of them.
    """
    closed = [number for number in (0, 1, 2) if not _is_open(number)]
    for number in closed:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
        assert _is_open(number)
    out = _Outlet(1, 1 in closed)
    before = sys.stdout, sys.stderr
    sys.stdout = _text_stream(out, sys.stdout, "strict")
    sys.stderr = _text_stream(_Outlet(2, 2 in closed), sys.stderr, "backslashreplace")
    try:
        yield
    except SystemExit as end:
        sys.stdout.flush()
        if end.code or out.lost is None:
            raise
        if out.lost.errno != errno.EPIPE:
            say(f"error: stdout did not take all that was printed: {out.lost.strerror}. Files are as they should be.")
        raise SystemExit(_UNPRINTED) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _text_stream(outlet: _Outlet, like: TextIO | None, errors: str) -> TextIO:
    encoding, errors = (like.encoding, like.errors or errors) if like is not None else ("utf-8", errors)
    return io.TextIOWrapper(io.BufferedWriter(outlet), encoding, errors, line_buffering=True)


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


def say(text: str, colour: str | None = None) -> None:
    """A line for a person, on stderr, in place of the line of progress if one is shown."""
    for line in _shown:
        line.clear()
    typer.secho(printable(" ".join(text.split()), sys.stderr), err=True, fg=colour)


def echo(*lines: str) -> None:
    """Lines on stdout."""
    typer.echo("\n".join(printable(line, sys.stdout) for line in lines))


def one_line(text: str) -> str:
    """The text without a control character, each of which is shown as Python writes it, such as \\x1b or \\n."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def printable(text: str, stream: TextIO) -> str:
    """The text on one line, as far as the stream's encoding has it; what is no UTF-8 of a file name becomes U+FFFD."""
    return _encodable(one_line(text), stream)


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return _SURROGATE.sub("\ufffd", text).encode(encoding, "replace").decode(encoding)


def print_json(values: dict[str, Any]) -> None:
    """JSON on stdout; control characters are escaped as JSON does it."""
    import json

    text = json.dumps(values, indent=1, ensure_ascii=(sys.stdout.encoding or "").lower() != "utf-8")
    lines = (_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in text.split("\n"))
    typer.echo(_encodable("\n".join(lines), sys.stdout))


def warn(text: str) -> None:
    """A warning for a person, on stderr."""
    say(f"warning: {text}", colour=typer.colors.YELLOW)


def look_for_leftovers(path: Path, clean: bool) -> None:
    """Say what killed runs left beside an output, or remove it."""
    from alref_edge.files import leftovers

    for left in leftovers(path, remove=clean):
        if not clean:
            warn(f"a run that was killed left {left}: the same command with --clean removes it.")
        elif os.path.lexists(left):
            warn(f"{left} stays: look what a run that was killed left in it, and remove it yourself.")


def announce(pipeline: Pipeline, quiet: bool = False) -> None:
    """What a person should know of a pipeline before it works, on stderr."""
    if pipeline.notice is not None and not quiet:
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


class _ProgressLog:
    """Lines for a log, at least ten seconds apart: one for each tenth of a stage, or after a minute.

    Args:
        stream: anything but a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._tenth = 0
        self._told = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self._stage, self._tenth = progress.stage, 0
        tenth = 10 * progress.done // max(1, progress.total)
        passed = time.monotonic() - self._told
        if passed < _LINE_S or (tenth == self._tenth and passed < _LATEST_S):
            return
        self._tenth, self._told = tenth, time.monotonic()
        self._stream.write(f"{progress.stage} {progress.done}/{progress.total}\n")
        self._stream.flush()

    def clear(self) -> None:
        """A log keeps its lines."""


@contextmanager
def progress_line(stream: TextIO | None = None, *, quiet: bool = False) -> Iterator[ProgressCallback | None]:
    """What shows progress on stderr while the block runs; None if it is to be quiet."""
    stream = stream or sys.stderr
    if quiet:
        yield None
        return
    line = _ProgressLine(stream) if stream.isatty() and os.environ.get("TERM") != "dumb" else _ProgressLog(stream)
    _shown.append(line)
    try:
        yield line
    finally:
        _shown.remove(line)
        line.clear()
