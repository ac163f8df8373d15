"""The report as a file: whole, closed to the outside, true to the run, and of bounded size."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.errors import InputError
from alref_edge.media import object_colour
from alref_edge.report import Truth, write_report
from alref_edge.report.charts import Line, bars, time_chart
from alref_edge.report.markup import Html, element, given
from alref_edge.report.pictures import Album, with_boxes, with_mask
from tests.report.parsed import Parsed, outward
from tests.report.runs import FRAMES, Run, make_run

HOSTILE = (
    "</title></style>\"'><script>window.hurt = 1</script><img src=http://x.invalid/ onerror=alert(1)>"
    "&amp;&lt; \u202edlo"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"), warnings=["something to know"])


@pytest.fixture(scope="module")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, run.record, run.source, run.results, run.truth)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(page: str) -> Parsed:
    return Parsed.of(page)


def test_nothing_on_the_page_reaches_out_of_it(page: str, parsed: Parsed) -> None:
    assert outward(parsed) == []
    assert "://" not in page
    assert "url(" not in page
    assert "@import" not in page


def test_the_policy_allows_the_one_style_sheet_and_pictures_in_place(page: str, parsed: Parsed) -> None:
    (policy,) = (each["content"] for each in parsed.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    style = re.search("<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_what_was_run_stands_on_the_page(run: Run, parsed: Parsed) -> None:
    text = parsed.text
    for words in (
        *(entry["text"] for entry in run.record["sentences"]),
        run.record["input"]["path"],
        f"256x256 pixels, {FRAMES} frames, 8 frames/s, 3.0 s, h264",
        "toy , float32 trained",
        run.record["bundle"]["sha256"],
        "cpu (CPUExecutionProvider)",
        "something to know",
        "frame 10, score 0.87",
        "“ a phrase ”.",
        "Boxes considered: 6 on 3 frames",
        "2.20 s",
        "track calls",
        "sample step",
    ):
        assert words in text
    assert "not trained" not in text


def test_scores_are_those_of_the_truth(run: Run, parsed: Parsed) -> None:
    for truth in run.truth:
        scores = truth.scores
        assert f"J {scores.j:.3f}, F {scores.f:.3f}, J&F {scores.j_and_f:.3f}" in parsed.text
        for frame in (0, FRAMES - 1):
            assert f"frame {frame}, {frame / 8:.1f} s J {scores.region_t[frame]:.2f}" in parsed.text
    # Sentence 0 is exact, the others lag behind.
    assert run.truth[0].scores.j_and_f == 1
    assert 0.1 < run.truth[1].scores.j_and_f < 0.9
    mean = np.mean([truth.scores.j_and_f for truth in run.truth])
    assert f"mean J&F {mean:.3f}" in parsed.text


def test_every_picture_is_there_and_says_what_it_shows(run: Run, parsed: Parsed) -> None:
    pictures = parsed.all("img")
    assert len(pictures) == len(run.results) * (8 + 2)
    for each in pictures:
        address = each["src"] or ""
        with Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/jpeg;base64,")))) as image:
            assert image.size == (int(each["width"] or 0), int(each["height"] or 0))
        assert re.match(r"Frame \d+", each["alt"] or "")
    assert len({each["src"] for each in pictures}) > len(pictures) // 2
    for each in parsed.all("svg"):
        assert each.get("aria-hidden") == "true" or (each["role"] == "img" and each["aria-label"])


def test_without_a_truth_the_size_of_the_mask_takes_the_place_of_scores(run: Run, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", run.record, run.source, run.results, title="A title")
    text = Parsed.of((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "Size of the mask over time" in text
    assert text.startswith("A title")
    assert "J&F" not in text
    assert "truth" not in text


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, name="<b>&\"'.mp4", texts=[HOSTILE, "a\x00b\x1b\udc80c"], phrase=HOSTILE, warnings=[HOSTILE],
        trained=False, frames=3,
    )  # fmt: skip
    write_report(tmp_path / "report.html", run.record, run.source, run.results, run.truth, title=HOSTILE)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    parsed = Parsed.of(page)
    assert outward(parsed) == []
    # Title and heading, twice as a sentence, as warning and as phrases of pivots and boxes.
    assert sum(words.startswith(HOSTILE[:40]) for words in parsed.words) >= 6
    assert "<b>&\"'.mp4" in parsed.text
    assert "a\ufffdb\ufffd\ufffdc" in parsed.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", page)
    assert "not trained" in parsed.text


def test_a_run_of_many_long_sentences_makes_a_page_of_bounded_size(tmp_path: Path) -> None:
    texts = [f"{n} " + "&" * 3990 for n in range(220)]
    run = make_run(tmp_path, texts=texts, phrase="<" * 4000, warnings=["'" * 4000] * 3, frames=12, size=(96, 96))
    write_report(tmp_path / "report.html", run.record, run.source, run.results)
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    text = Parsed.of((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "20 more sentences stand in result.json." in text
    assert text.count("Masks along the clip") == 24


def test_a_video_of_one_frame_has_a_report(tmp_path: Path) -> None:
    run = make_run(tmp_path, frames=1)
    write_report(tmp_path / "report.html", run.record, run.source, run.results, run.truth)
    parsed = Parsed.of((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(parsed.all("img")) == len(run.results) * 2


def test_an_album_gives_no_more_than_its_room() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    album = Album(20_000)
    made = [album.picture(noise, "noise") for _ in range(5)]
    given_out = sum(len(each) for each in made if each)
    assert 0 < made.count(None) == album.refused < 5
    assert given_out < 21_000


def test_results_and_truth_must_be_of_the_record(run: Run, tmp_path: Path) -> None:
    for results, truth in ((run.results[:1], None), (run.results, run.truth[:1]), ([], None)):
        with pytest.raises(InputError, match="equal numbers"):
            write_report(tmp_path / "report.html", run.record, run.source, results, truth)
    assert list(tmp_path.iterdir()) == []


def test_a_target_out_of_sight_is_shaded(run: Run) -> None:
    result = run.results[0]
    truth = Truth.of(result, lambda frame: np.full((256, 256), 4 <= frame < 6 or frame == 9))
    assert np.flatnonzero(truth.visible_t).tolist() == [4, 5, 9]
    chart = time_chart(
        [Line("J", truth.scores.region_t, "j")], label="J", top=1, unit="", seconds=3, absent_t=~truth.visible_t
    )
    step = 1000 / FRAMES
    shaded = [
        (float(each["x"] or 0) / step, float(each["width"] or 0) / step)
        for each in Parsed.of(chart).all("rect")
        if each["height"] == "100"
    ]
    np.testing.assert_allclose(shaded, [(0, 4), (6, 3), (10, FRAMES - 10)], atol=0.01)


@pytest.mark.parametrize("frames", [1, 2, 40, 10_007])
def test_a_line_goes_through_its_values(frames: int) -> None:
    values = np.linspace(0, 2, frames) if frames > 1 else np.array([0.5])
    chart = Parsed.of(time_chart([Line("a", values, "j")], label="a", top=2, unit="", seconds=1, pivots=[0]))
    (line,) = chart.all("polyline")
    points = np.array([[float(side) for side in each.split(",")] for each in (line["points"] or "").split()])
    assert len(points) <= 242
    assert (points[0, 0], points[-1, 0]) == (0, 1000)
    assert (np.diff(points[:, 0]) >= 0).all()
    middles = (np.arange(frames) + 0.5) / frames * 1000
    expected = 100 - 50 * np.interp(points[1:-1, 0], middles, values)
    np.testing.assert_allclose(points[1:-1, 1], expected, atol=0.3)


def test_bars_are_as_long_as_their_values() -> None:
    chart = Parsed.of(bars({"a": 1.0, "b": 4.0, "c": 0.0}, "s", {"a": "first"}))
    assert [each["width"] for each in chart.all("rect")] == ["250", "1000", "0"]
    assert chart.text == "a first 1.00 s 20% b 4.00 s 80% c 0.00 s 0%"
    Parsed.of(bars({}, "s", {}))


def test_a_mask_stays_bright_and_the_contour_of_the_truth_is_white() -> None:
    image = np.random.default_rng(0).integers(60, 200, (60, 80, 3), dtype=np.uint8)
    mask, truth = np.zeros((2, 60, 80), bool)
    mask[10:30, 10:30] = True
    truth[35:50, 40:60] = True
    drawn = with_mask(image, mask, truth, 80)
    np.testing.assert_array_equal(drawn[mask], image[mask])
    np.testing.assert_array_equal(drawn[34, 40:60], np.full((20, 3), 255))
    np.testing.assert_array_equal(drawn[33, 40:60], np.zeros((20, 3)))
    outside = ~mask
    outside[30:55, 35:65] = False
    assert (drawn[outside] < image[outside].max(axis=-1, keepdims=True)).all()
    assert with_mask(image, mask, None, 40).shape == (30, 40, 3)
    assert with_mask(np.zeros((4000, 3, 3), np.uint8), np.ones((4000, 3), bool), None, 40).shape == (40, 1, 3)


def test_boxes_are_drawn_where_they_are() -> None:
    image = np.full((480, 640, 3), 90, np.uint8)
    drawn = with_boxes(image, [(100, 100, 200, 200), (300, 300, 400, 400)], (300, 300, 400, 400), 1, 320)
    assert drawn.shape == (240, 320, 3)
    assert tuple(drawn[80, 50]) == (255, 255, 255)
    assert tuple(drawn[180, 150]) == (255, 255, 255)
    assert tuple(drawn[180, 151]) == object_colour(1)
    assert tuple(drawn[180, 170]) == (90, 90, 90)
    number = drawn[35:50, 50:64]
    assert number.min() == 0
    assert number.max() > 200
    # Boxes over the edge, without area, and on a picture smaller than any outline.
    with_boxes(image, [(-50, -50, 900, 900), (639, 479, 640, 480)], (700, 500, 710, 510), 0, 320)
    assert with_boxes(np.zeros((2, 2, 3), np.uint8), [(0, 0, 2, 2)], (0, 0, 1, 1), 0, 320).shape == (2, 2, 3)


def test_text_is_escaped_wherever_it_meets_markup() -> None:
    assert element("p", "<&>", Html("<i>"), None, ["a", ("b",)], 3, title='"x"', class_="c", hidden=None) == (
        '<p title="&quot;x&quot;" class="c">&lt;&amp;&gt;<i>ab3</p>'
    )
    assert element("meta", http_equiv="x") == '<meta http-equiv="x">'
    assert given(" a\n b\tc " * 3, 9) == "<bdi>a b c a …</bdi>"
