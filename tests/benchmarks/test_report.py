"""The page of results, and the table of targets that benchmarks/README.md has of them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import main, page, read_results

ROOT = Path(__file__).parent.parent.parent
RESULTS, SAMPLE = ROOT / "benchmarks" / "results", Path(__file__).parent / "samples" / "one.json"


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    return read_results([RESULTS, SAMPLE])


def _as_on_a_gpu() -> dict[str, Any]:
    """The sample, as if it came from a large bundle on a GPU."""
    content = json.loads(SAMPLE.read_text().replace("float32", "float16").replace("sam2.1_nano", "sam2.1_large"))
    for part in content["parts"].values():
        part["subject"]["device"] = "cuda"
        part["environment"]["gpu"] = {"name": "NVIDIA H200", "driver": "580.1"}
    return dict(content)


def test_the_readme_has_the_table_of_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--table"]) == 0
    assert capsys.readouterr().out in (ROOT / "benchmarks" / "README.md").read_text()


def test_the_page_shows_every_row(results: dict[str, dict[str, Any]]) -> None:
    text = page(results)
    for result in results.values():
        if result["program"] == "components":
            assert all(f"<td>{name}</td>" in text for name in result["rows"])
    for part in results["one"]["parts"].values():
        assert all(f"<td>{part['subject']['variant']}: {name}</td>" in text for name in part["rows"])
    assert "due</span>" in text
    assert "goal reached" not in text


def test_what_a_gpu_measured_is_judged() -> None:
    text = page({"gpu": _as_on_a_gpu()})
    assert "short of it" in text
    assert "989 TFLOP/s" in text  # the data sheet's, where no ceiling was measured
    assert "data sheet" in text


def test_the_page_asks_for_nothing_and_is_well_formed(results: dict[str, dict[str, Any]]) -> None:
    text = page(results)
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "<script" not in text
    assert "default-src &#x27;none&#x27;" in text
    assert "nan" not in re.sub(r"[a-z]*nano?[a-z_]*", "", text.lower().replace("finance", ""))
    assert len(text) < 1_000_000

    class Balanced(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "link"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    parser = Balanced()
    parser.feed(text)
    assert not parser.open


def test_words_in_a_result_are_no_markup(results: dict[str, dict[str, Any]]) -> None:
    hostile = json.loads(json.dumps(results["one"]).replace("track, 1 object", "<b>track</b>"))
    assert "<b>track" not in page({"one": hostile})


def test_it_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(SAMPLE), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    (tmp_path / "bad.json").write_text("[1")
    assert main(["--results", str(tmp_path / "bad.json"), "--out", str(tmp_path / "other.html")]) != 0
    assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "other.html").exists()
