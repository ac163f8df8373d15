"""`alref-edge run`: masks of one video."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alref_edge.cli.console import (
    EPILOG,
    AllowFallback,
    AsJson,
    BundleOption,
    Debug,
    Device,
    Precision,
    Threads,
    announce,
    echo,
    guarded,
    print_json,
    progress_line,
    warn,
)
from alref_edge.errors import InputError

if TYPE_CHECKING:
    from alref_edge.pipeline import PivotSelector, RvosSettings

_REPORT = "report.html"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EPILOG)(run)


@guarded
def run(
    video: Annotated[str, typer.Argument(metavar="INPUT", help="A video file, a folder of frames, or an image.")],
    text: Annotated[list[str] | None, typer.Option("--text", help="A sentence; may stand many times.")] = None,
    text_file: Annotated[Path | None, typer.Option(help="A file with one sentence a line.")] = None,
    bundle: BundleOption = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; INPUT's name with -alref if left out.")] = None,
    device: Device = "auto",
    precision: Precision = "float32",
    selector: Annotated[str, typer.Option(help="Who picks the pivots: grounding or replay.")] = "grounding",
    pivots: Annotated[Path | None, typer.Option(help="The file that --selector replay reads.")] = None,
    masks: Annotated[str, typer.Option(help="How masks are written: png, rle or none.")] = "png",
    overlay: Annotated[bool, typer.Option(help="Also write a video with the masks over the frames.")] = True,
    report: Annotated[bool, typer.Option("--report", help="Also write report.html, one page that shows it.")] = False,
    as_json: AsJson = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")] = False,
    allow_fallback: AllowFallback = False,
    threads: Threads = 0,
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
    from alref_edge.report import write_report

    sentences = read_sentences(text or [], text_file)
    caps = {"bytes": limit_bytes, "pixels": limit_pixels, "frames": limit_frames, "duration_s": limit_seconds}
    chosen = _selector(selector, pivots)
    source = open_video(video, Limits(**{name: cap for name, cap in caps.items() if cap is not None}))  # type: ignore[arg-type]
    with (
        ResultFolder(
            out or Path(f"{Path(os.path.abspath(video)).stem}-alref"),
            overwrite=overwrite,
            masks=masks,
            overlay=overlay,
            extras=(_REPORT,) if report else (),
        ) as folder,
        Pipeline.from_bundle(
            bundle, device, precision=precision, allow_fallback=allow_fallback, threads=threads
        ) as pipeline,
        progress_line() as progress,
    ):
        announce(pipeline)
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
        if report:
            write_report(folder.partial / _REPORT, record, source, results)
    for warning in record["warnings"]:
        if warning not in pipeline.warnings:
            warn(warning)
    _print_run(record, folder.path, as_json)


def read_sentences(texts: list[str], file: Path | None) -> list[str]:
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
        print_json(record)
        return
    for entry in record["sentences"]:
        pivots = ", ".join(f"frame {pivot['frame']} ({pivot['score']:.2f})" for pivot in entry["pivots"]) or "none"
        where = entry["masks"].get("folder") or entry["masks"].get("file") or "not written"
        echo(f"{entry['text']}: pivots {pivots}; masks {where}")
    echo(f"{record['input']['frames']} frames, {len(record['sentences'])} sentences: {out}")
