"""The report in a real browser: no complaint, no request, nothing beyond the edge of a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from alref_edge.report import Shown, write_report
from tests.report.chromium import COMMAND, Page, new_page
from tests.report.runs import make_run, make_sound_run

pytestmark = pytest.mark.skipif(COMMAND is None, reason="no chromium here: apt-get install chromium")

HOSTILE = "<script>window.hurt = 1</script><img src=http://127.0.0.1:9/x onerror='window.hurt = 2'>\"'&amp;"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with new_page(tmp_path / "profile") as opened:
        yield opened


@pytest.mark.parametrize("with_truth", [True, False])
def test_the_report_asks_for_nothing_and_nobody_complains(page: Page, tmp_path: Path, with_truth: bool) -> None:
    run = make_run(
        tmp_path, texts=["the large yellow triangle", HOSTILE, "word" * 60], phrase=HOSTILE, warnings=[HOSTILE]
    )
    report = tmp_path / "report.html"
    write_report(report, run.record, run.source, run.results, run.truth if with_truth else None, title=HOSTILE)
    page.open(report.as_uri())
    pictures = "[...document.images].map(each => each.complete && each.naturalWidth > 0)"
    shown = page.evaluate(pictures)
    assert len(shown) == 3 * (8 + 2)
    assert all(shown)
    assert page.evaluate("window.hurt === undefined && document.scripts.length === 0")
    for width in (1280, 400, 320):
        page.resize(width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    light, dark = tmp_path / "light.png", tmp_path / "dark.png"
    colours = []
    for path, is_dark in ((light, False), (dark, True)):
        page.screenshot(path, 400, dark=is_dark)
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(244, 245, 247)", "rgb(18, 21, 25)"]
    assert page.requests == [report.as_uri()]
    assert page.complaints == []


def test_everything_that_was_heard_lies_on_one_axis(page: Page, tmp_path: Path) -> None:
    said = make_run(tmp_path / "said", texts=["the large yellow triangle"], frames=40)
    labels = [("triangle", HOSTILE), ("triangle",), (), ("word" * 60,), ("star",)]
    run = make_sound_run(tmp_path, labels=labels, tag="long words " * 20)
    report = tmp_path / "report.html"
    also = [Shown(run.record, run.results, run.truth)]
    write_report(report, said.record, said.source, said.results, said.truth, also=also)
    page.open(report.as_uri())
    assert all(page.evaluate("[...document.images].map(each => each.complete && each.naturalWidth > 0)"))
    shown = "[...document.querySelectorAll('.timeline > div:nth-child(even) > *')]"
    for width in (1280, 400, 320):
        page.resize(width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        edges = page.evaluate(shown + ".map(each => [each.getBoundingClientRect().left, each.clientWidth])")
        # Sound, segments, four tags, four objects, silence, the axis.
        assert len(edges) == 12
        assert len({tuple(each) for each in edges}) == 1
        assert edges[0][1] > 0.5 * width
    for path, is_dark in ((tmp_path / "light.png", False), (tmp_path / "dark.png", True)):
        page.screenshot(path, 400, dark=is_dark)
    assert page.requests == [report.as_uri()]
    assert page.complaints == []


def test_the_browser_would_tell_of_a_request_and_of_a_mistake(page: Page, tmp_path: Path) -> None:
    """That the test above can fail."""
    (tmp_path / "open.html").write_text("<img src=missing.png><script>console.warn('hm')</script>")
    page.open((tmp_path / "open.html").as_uri())
    assert (tmp_path / "missing.png").as_uri() in page.requests
    assert any("hm" in each or "warning" in each for each in page.complaints)
    page.complaints.clear()
    policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">"
    (tmp_path / "closed.html").write_text(f"{policy}<img src=missing.png>")
    page.open((tmp_path / "closed.html").as_uri())
    assert any("Content Security Policy" in each for each in page.complaints)
