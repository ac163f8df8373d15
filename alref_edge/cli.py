"""The command line: parses and prints, decides nothing. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
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
    from alref_edge.pipeline import PivotSelector, RvosSettings
    from alref_edge.pipeline.measure import Progress, ProgressCallback

P = ParamSpec("P")
T = TypeVar("T")

_EPILOG = (
    "Exit codes: 0 done, 1 or 2 a request that makes no sense, 3 the video, 4 the bundle, 5 a graph, 6 an execution "
    "provider, 7 the LLM's server, 8 memory, disk or time, 130 interrupted. Nothing half-written is left behind."
)

_EVERY_S = 0.1
_WIDTH = 24

app = typer.Typer(
    name="alref-edge",
    help="Segment, in a video, what a sentence refers to. Offline, without PyTorch.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
bundle_app = typer.Typer(help="Bundles: folders of exported networks.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(bundle_app, name="bundle")

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command line."""
    app()


def _guarded(command: Callable[P, T]) -> Callable[P, T]:
    """A user's mistake ends in one line and its exit code, an interruption in 130; `--debug` lets both through."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with _ended_by_sigterm():
                return command(*args, **kwargs)
        except AlrefError as error:
            if kwargs.get("debug"):
                raise
            _say(f"error: {error}", colour=typer.colors.RED)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            _say("interrupted: nothing was written.", colour=typer.colors.YELLOW)
            raise typer.Exit(130) from error

    return run


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


def _say(text: str, colour: str | None = None) -> None:
    """A line for a person, on stderr."""
    typer.secho(_printable(" ".join(text.split()), sys.stderr), err=True, fg=colour)


def _echo(text: str) -> None:
    """A line on stdout."""
    typer.echo(_printable(text, sys.stdout))


def _printable(text: str, stream: TextIO) -> str:
    """The text as far as the stream's encoding has it; bytes of a file name that are no UTF-8 become U+FFFD."""
    encoding = stream.encoding or "utf-8"
    return re.sub("[\ud800-\udfff]", "\ufffd", text).encode(encoding, "replace").decode(encoding)


def _version(wanted: bool) -> None:
    if wanted:
        from alref_edge import __version__

        _echo(f"alref-edge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command(epilog=_EPILOG)
@_guarded
def run(
    video: Annotated[str, typer.Argument(metavar="INPUT", help="A video file, a folder of frames, or an image.")],
    text: Annotated[list[str] | None, typer.Option("--text", help="A sentence; may stand many times.")] = None,
    text_file: Annotated[Path | None, typer.Option(help="A file with one sentence a line.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="The bundle's folder; the shipped one if left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; INPUT's name with -alref if left out.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    selector: Annotated[str, typer.Option(help="Who picks the pivots: grounding or replay.")] = "grounding",
    pivots: Annotated[Path | None, typer.Option(help="The file that --selector replay reads.")] = None,
    masks: Annotated[str, typer.Option(help="How masks are written: png, rle or none.")] = "png",
    overlay: Annotated[bool, typer.Option(help="Also write a video with the masks over the frames.")] = True,
    as_json: AsJson = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
    allow_fallback: Annotated[
        bool, typer.Option("--allow-fallback", help="Take the CPU where the device does not work.")
    ] = False,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads for one operator; 0: the backend's choice.")] = 0,
    fill_holes: Annotated[
        int | None, typer.Option(help="Fill holes of masks of up to so many low-resolution pixels (officially 8 or 0).")
    ] = None,
    max_pivots_in_attention: Annotated[
        int | None, typer.Option(help="Attend to so many pivots only, the closest in time; 2 or more.")
    ] = None,
    limit_bytes: Annotated[int | None, typer.Option(help="Largest input in bytes.")] = None,
    limit_pixels: Annotated[int | None, typer.Option(help="Largest frame in pixels.")] = None,
    limit_frames: Annotated[int | None, typer.Option(help="Most frames.")] = None,
    limit_seconds: Annotated[float | None, typer.Option(help="Longest video in seconds.")] = None,
    debug: Debug = False,
) -> None:
    """Segment what one or many sentences refer to."""
    from alref_edge.media import Limits, open_video
    from alref_edge.pipeline import Pipeline
    from alref_edge.pipeline.measure import Watch
    from alref_edge.pipeline.output import ResultFolder

    sentences = _sentences(text or [], text_file)
    caps = {"bytes": limit_bytes, "pixels": limit_pixels, "frames": limit_frames, "duration_s": limit_seconds}
    chosen = _selector(selector, pivots)
    source = open_video(video, Limits(**{name: cap for name, cap in caps.items() if cap is not None}))  # type: ignore[arg-type]
    with (
        ResultFolder(
            out or Path(f"{Path(os.path.abspath(video)).stem}-alref"), overwrite=overwrite, masks=masks, overlay=overlay
        ) as folder,
        Pipeline.from_bundle(bundle, device, allow_fallback=allow_fallback, threads=threads) as pipeline,
        _progress_line() as progress,
    ):
        for warning in pipeline.warnings:
            _say(f"warning: {warning}", colour=typer.colors.YELLOW)
        results = list(
            pipeline.rvos(
                source,
                sentences,
                selector=chosen,
                settings=_settings(pipeline.settings, fill_holes, max_pivots_in_attention),
                progress=progress,
                spill_dir=folder.partial,
            )
        )
        record = folder.write(results, source, Watch(progress=progress))
    for warning in record["warnings"]:
        if warning not in pipeline.warnings:
            _say(f"warning: {warning}", colour=typer.colors.YELLOW)
    _print_run(record, folder.path, as_json)


def _sentences(texts: list[str], file: Path | None) -> list[str]:
    if file is None:
        return texts
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The file of sentences {file} cannot be read.",
            expected="UTF-8 text, one sentence a line",
            got=getattr(error, "strerror", None) or error,
            mend="check the path.",
        ) from error
    return [*texts, *(line for line in lines if line.strip())]


def _selector(name: str, pivots: Path | None) -> PivotSelector:
    from alref_edge.pipeline import GroundingSelector, ReplaySelector

    if name not in ("grounding", "replay"):
        raise InputError("There is no such selector.", expected="grounding or replay", got=name, mend="choose one.")
    if (name == "replay") != (pivots is not None):
        raise InputError(
            "--selector replay and --pivots FILE go together.", mend="give both, or neither for the grounding selector."
        )
    return GroundingSelector() if pivots is None else ReplaySelector.from_file(pivots)


def _settings(settings: RvosSettings, fill_holes: int | None, max_pivots: int | None) -> RvosSettings:
    from dataclasses import replace

    given = {"fill_hole_area": fill_holes, "max_pivots_in_attention": max_pivots}
    return replace(settings, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _print_run(record: dict[str, Any], out: Path, as_json: bool) -> None:
    """Nothing of what is printed without `--json` depends on the machine or the hour."""
    if as_json:
        _print_json(record)
        return
    for entry in record["sentences"]:
        pivots = ", ".join(f"frame {pivot['frame']} ({pivot['score']:.2f})" for pivot in entry["pivots"]) or "none"
        where = entry["masks"].get("folder") or entry["masks"].get("file") or "not written"
        _echo(f"{entry['text']}: pivots {pivots}; masks {where}")
    _echo(f"{record['input']['frames']} frames, {len(record['sentences'])} sentences: {out}")


def _print_json(values: dict[str, Any]) -> None:
    import json

    _echo(json.dumps(values, indent=1, ensure_ascii=(sys.stdout.encoding or "").lower() != "utf-8"))


@app.command()
@_guarded
def doctor(
    bundle: Annotated[Path | None, typer.Option(help="A bundle to verify; the shipped one if left out.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what is installed, what works, and what is missing; exits 0 if videos can be run."""
    from alref_edge.doctor import examine

    report = examine(bundle)
    if as_json:
        _print_json(report.to_json())
    else:
        _echo(report.to_text())
    if not report.can_run:
        raise typer.Exit(1)


@bundle_app.command("verify")
@_guarded
def bundle_verify(
    folder: Annotated[Path, typer.Argument(help="The bundle's folder.")], as_json: AsJson = False, debug: Debug = False
) -> None:
    """Compare a bundle with its manifest, file by file, hash by hash."""
    from alref_edge.bundle import Bundle

    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    if as_json:
        components = {
            name: {"variant": entry.variant, "precision": entry.precision, "licence": entry.licence}
            for name, entry in manifest.components.items()
        }
        facts = {"name": manifest.name, "sha256": bundle.sha256, "trained": manifest.trained, "components": components}
        _print_json(facts)
        return
    _echo(f"{manifest.name}: whole, {len(manifest.files)} files, {bundle.sha256}")
    for name, entry in manifest.components.items():
        _echo(f"  {name}: {entry.variant}, {entry.precision}, {entry.licence}")
    if not manifest.trained:
        _echo("  UNTRAINED: random weights")


@app.command()
@_guarded
def sample(
    path: Annotated[Path, typer.Argument(help="The video to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    debug: Debug = False,
) -> None:
    """Write a small generated clip with moving shapes, to try things on."""
    from alref_edge.media.sample import write_sample_clip

    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already.", mend="give another name, or replace it with --overwrite.")
    write_sample_clip(path)
    _echo(f"wrote {path}")


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
def _progress_line(stream: TextIO | None = None) -> Iterator[ProgressCallback | None]:
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
