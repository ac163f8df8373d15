"""What `alref-edge rvos` and `avs` make of a result: a folder, lines, a record of decisions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alref_edge.cli.console import echo, look_for_leftovers, print_json, say, warn
from alref_edge.cli.grouping import OUTPUT, RECORDED
from alref_edge.cli.options import AsJson, Clean, Overwrite

if TYPE_CHECKING:
    from alref_edge.media import VideoSource
    from alref_edge.pipeline import AvsRun, Pipeline, ProgressCallback, RvosRun
    from alref_edge.writing.result_folder import ResultFolder

_REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class ResultOptions:
    """What becomes of a result."""

    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", rich_help_panel=OUTPUT, help="VIDEO's name with -alref if left out."),
    ] = None
    masks: Annotated[str, typer.Option(rich_help_panel=OUTPUT, help="png, rle or none.")] = "png"
    overlay: Annotated[
        bool,
        typer.Option(
            show_default=False, rich_help_panel=OUTPUT, help="The masks over the frames; written if left out."
        ),
    ] = True
    report: Annotated[
        bool, typer.Option("--report", rich_help_panel=OUTPUT, help="Also report.html, one page that shows it.")
    ] = False
    as_json: AsJson = False
    overwrite: Overwrite = False
    clean: Clean = False
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", rich_help_panel=RECORDED, help="Also note the decisions there, for `alref-edge agree`."
        ),
    ] = None

    def begin_record(self, clip: str) -> None:
        """See `open_record`, if there is to be one."""
        from alref_edge.writing.recording import open_record

        if self.record is not None:
            open_record(self.record, clip)

    def folder(self, video: str, *, semantic: bool = False) -> ResultFolder:
        """See `ResultFolder`; what killed runs left beside it is named or removed."""
        from alref_edge.writing.result_folder import ResultFolder

        out = self.out or Path(f"{stem_of(video)}-alref")
        look_for_leftovers(out, self.clean)
        return ResultFolder(
            out,
            overwrite=self.overwrite,
            masks=self.masks,
            overlay=self.overlay,
            extras=(_REPORT,) if self.report else (),
            semantic=semantic,
        )

    def write(
        self, folder: ResultFolder, results: RvosRun | AvsRun, source: VideoSource, progress: ProgressCallback | None
    ) -> dict[str, Any]:
        """Fill the folder; gives what stands in `result.json`."""
        from alref_edge.report import write_report

        written = folder.write(results, source, progress)
        if self.report:
            write_report(folder.partial / _REPORT, written, source, results)
        return written

    def tell(self, written: dict[str, Any], out: Path, pipeline: Pipeline, *, quiet: bool) -> None:
        """Print the result; what is remarkable about it goes to stderr, but for what was said of the pipeline."""
        for warning in written["warnings"]:
            if warning not in pipeline.warnings:
                warn(warning)
        for note in () if quiet else written["notes"]:
            say(f"note: {note}")
        if self.as_json:
            print_json(written)
        else:
            echo(*_lines(written, out))

    def end_record(self, clip: str, setting: str | None, results: RvosRun | AvsRun) -> None:
        """See `record_decisions`, if there is to be a record."""
        from alref_edge.writing.recording import record_decisions

        if self.record is not None:
            record_decisions(self.record, setting, clip, results)


def _lines(written: dict[str, Any], out: Path) -> list[str]:
    """A result for a person; nothing of it depends on the machine or the hour."""
    what = "objects" if "objects" in written else "sentences"
    lines = []
    for entry in written[what]:
        pivots = ", ".join(f"frame {pivot['frame']} ({pivot['score']:.2f})" for pivot in entry["pivots"]) or "none"
        where = entry["masks"].get("folder") or entry["masks"].get("file") or "not written"
        sounds = f"sounds in {len(entry['seconds'])} s; " if "seconds" in entry else ""
        lines.append(f"{entry.get('text', entry.get('name'))}: {sounds}pivots {pivots}; masks {where}")
    return [*lines, f"{written['input']['frames']} frames, {len(written[what])} {what}: {out}"]


def stem_of(video: str) -> str:
    """The name of a video's file or folder, without its suffix."""
    return Path(os.path.abspath(video)).stem
