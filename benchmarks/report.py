"""All results as one page: tables, plots, and floors beside the figures; nothing outside it is ever asked for."""

from __future__ import annotations

import argparse
import base64
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alref_edge.errors import AlrefError
from alref_edge.files import written_beside
from alref_edge.report.markup import Html, element
from alref_edge.report.style import STYLE
from benchmarks import report_gpu, report_others
from benchmarks.gpu import targets
from benchmarks.gpu.record import read_json
from benchmarks.report_plots import PLOT_STYLE

_RESULTS = Path(__file__).parent / "results"


def main(argv: list[str]) -> int:
    """Write the page; with --table print the table of targets alone, as benchmarks/README.md has it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__)
    parser.add_argument("--results", type=Path, action="append", help=f"JSON files or folders of them; {_RESULTS}")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.html"))
    parser.add_argument("--table", action="store_true", help="print the table of targets instead")
    arguments = parser.parse_args(argv)
    try:
        results = read_results(arguments.results or [_RESULTS])
        if arguments.table:
            print("\n".join(targets.markdown(report_gpu.merged(results))))
            return 0
        with written_beside(arguments.out) as file:
            file.write(page(results).encode())
    except AlrefError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(arguments.out)
    return 0


def read_results(places: list[Path]) -> dict[str, dict[str, Any]]:
    """The results in some files and folders that a program of this package wrote, by their files' names."""
    files = [file for place in places for file in (sorted(place.glob("*.json")) if place.is_dir() else [place])]
    found = {file.stem: read_json(file) for file in files}
    # The parts of a run on a GPU lie beside the file that they are merged into.
    return {name: each for name, each in found.items() if "program" in each and "subject" not in each}


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The document. Its policy forbids whatever is not in it: scripts, and requests to anywhere."""
    style = STYLE + PLOT_STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'",
        ),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("link", rel="icon", href="data:,"),
        element("title", "alref-edge: figures"),
        element("style", Html(style)),
    )
    main_part = element(
        "main",
        element("h1", "Figures"),
        element("p", "Medians, with their 95 % interval in brackets. Every result names its machine.", class_="soft"),
        *report_gpu.sections(results),
        *report_others.sections(results),
    )
    return "<!doctype html>\n" + element("html", head, element("body", main_part), lang="en") + "\n"
