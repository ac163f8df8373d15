"""One HTML file that shows what a run came to; nothing outside it is ever asked for."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alref_edge.files import written_beside
from alref_edge.media import VideoSource
from alref_edge.pipeline import AvsRun, MaskResult
from alref_edge.report import parts, sound
from alref_edge.report.markup import Html, element, given
from alref_edge.report.pictures import Album
from alref_edge.report.shown import Shown
from alref_edge.report.style import STYLE
from alref_edge.report.subjects import Subject, section, take_pictures
from alref_edge.report.truth import Truth

__all__ = ["Shown", "Truth", "write_report"]

_ROOM = 1_800_000
_MOST_DETAILED = 24
_HEADINGS = {"sentences": "What is said", "objects": "What sounds"}


def write_report(
    path: str | os.PathLike[str],
    record: Mapping[str, Any],
    source: VideoSource,
    results: Sequence[MaskResult],
    truth: Sequence[Truth] | None = None,
    *,
    title: str | None = None,
    also: Sequence[Shown] = (),
) -> None:
    """Write the report of a run: one HTML file of at most 3 MB, without scripts, that needs nothing beside it.

    Of many sentences or objects the first 24 are shown at length, the first 200 in the table.

    Args:
        path: of the file; one that is there is replaced at the end.
        record: what `ResultFolder.write` gave.
        source: the video; the frames that are shown are decoded once more.
        results: of the run, in the order of the record's sentences or objects.
        truth: one of each result, in their order.
        title: heads the page; the input's name if None.
        also: further runs on the same video, shown below.

    Raises:
        InputError: results, record and truth differ in kind or number; the place cannot be written.
        CapacityError: the disk is full.
        MediaError: the video cannot be decoded again.
    """
    runs = [Shown(record, results, truth), *also]
    page = _page(runs, source, title or Path(record["input"]["path"]).name)
    with written_beside(Path(path)) as file:
        file.write(page.encode("utf-8"))


def _page(runs: Sequence[Shown], source: VideoSource, title: str) -> str:
    """The document. Its policy forbids whatever is not in it: scripts, and requests to anywhere."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("link", rel="icon", href="data:,"),
        element("title", " ".join(title.split())[:300]),
        element("style", Html(STYLE)),
    )
    album = Album(_ROOM)
    body = element(
        "main",
        element("header", element("h1", given(title)), parts.summary(runs[0].record)),
        *(_run(run, source, album, _HEADINGS[run.what] if len(runs) > 1 else None) for run in runs),
        element("p", f"{album.refused} pictures are left out to keep the page small.") if album.refused else None,
    )
    return "<!DOCTYPE html>\n" + element("html", head, element("body", body), lang="en") + "\n"


def _run(shown: Shown, source: VideoSource, album: Album, heading: str | None) -> list[Html | None]:
    """All that is said of one run."""
    return [
        element("h2", heading, class_="part") if heading else None,
        parts.tiles(shown),
        parts.warnings(shown.record["warnings"]),
        parts.overview(shown),
        sound.section(shown, shown.results, album) if isinstance(shown.results, AvsRun) else None,
        *_sections(shown, source, album),
        parts.times(shown.record),
        parts.counters(shown.record),
        parts.what_was_run(shown.record),
    ]


def _sections(shown: Shown, source: VideoSource, album: Album) -> list[Html]:
    """A section for each of the first sentences or objects."""
    subjects = [
        Subject(n, shown.entries[n], result, None if shown.truth is None else shown.truth[n])
        for n, result in enumerate(shown.results[:_MOST_DETAILED])
    ]
    if not subjects:
        return []
    take_pictures(subjects, source, album)
    times_s = source.times_s()
    seconds = subjects[0].result.frame_count / source.info.fps
    return [section(subject, times_s - times_s[0], seconds) for subject in subjects]
