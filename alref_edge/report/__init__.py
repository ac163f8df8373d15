"""One HTML file that shows what a run came to; nothing outside it is ever asked for."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alref_edge.errors import InputError
from alref_edge.media import VideoSource
from alref_edge.media.partial import written_beside
from alref_edge.pipeline.results import RvosResult
from alref_edge.report import parts
from alref_edge.report.markup import Html, element, given
from alref_edge.report.pictures import Album
from alref_edge.report.sentences import Subject, section, take_pictures
from alref_edge.report.style import STYLE
from alref_edge.report.truth import Truth

__all__ = ["Truth", "write_report"]

_ROOM = 1_800_000
_MOST_DETAILED = 24


def write_report(
    path: str | os.PathLike[str],
    record: Mapping[str, Any],
    source: VideoSource,
    results: Sequence[RvosResult],
    truth: Sequence[Truth] | None = None,
    *,
    title: str | None = None,
) -> None:
    """Write the report of a run: one HTML file of at most 3 MB, without scripts, that needs nothing beside it.

    Of many sentences the first 24 are shown at length, the first 200 in the table.

    Args:
        path: of the file; one that is there is replaced at the end.
        record: what `ResultFolder.write` gave.
        source: the video; the frames that are shown are decoded once more.
        results: of the run, in the order of the record's sentences.
        truth: one of each result, in their order.
        title: heads the page; the input's name if None.

    Raises:
        InputError: results, record and truth differ in number; the place cannot be written.
        CapacityError: the disk is full.
        MediaError: the video cannot be decoded again.
    """
    counts = [len(results), len(record["sentences"]), len(results if truth is None else truth)]
    if min(counts) < 1 or len(set(counts)) > 1:
        raise InputError(
            "A report needs its results, their record and their truth in equal numbers.",
            expected="1 or more",
            got=counts,
        )
    page = _page(record, source, results, truth, title or Path(record["input"]["path"]).name)
    with written_beside(Path(path)) as file:
        file.write(page.encode("utf-8"))


def _page(
    record: Mapping[str, Any],
    source: VideoSource,
    results: Sequence[RvosResult],
    truth: Sequence[Truth] | None,
    title: str,
) -> str:
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
        element("header", element("h1", given(title)), parts.summary(record)),
        parts.tiles(record, truth),
        parts.warnings(record["warnings"]),
        parts.overview(record, truth),
        _sections(record, source, results, truth, album),
        parts.times(record),
        parts.counters(record),
        parts.what_was_run(record),
        element("p", f"{album.refused} pictures are left out to keep the page small.") if album.refused else None,
    )
    return "<!DOCTYPE html>\n" + element("html", head, element("body", body), lang="en") + "\n"


def _sections(
    record: Mapping[str, Any],
    source: VideoSource,
    results: Sequence[RvosResult],
    truth: Sequence[Truth] | None,
    album: Album,
) -> list[Html]:
    """A section for each of the first sentences."""
    subjects = [
        Subject(n, record["sentences"][n], result, None if truth is None else truth[n])
        for n, result in enumerate(results[:_MOST_DETAILED])
    ]
    take_pictures(subjects, source, album)
    times_s = source.times_s()
    seconds = results[0].frame_count / source.info.fps
    return [section(subject, times_s - times_s[0], seconds) for subject in subjects]
