"""The report of a run with sound: true to what was heard, on one axis of time."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.errors import InputError
from alref_edge.media import open_video
from alref_edge.models.audio.mel import mel_filters
from alref_edge.report import Shown, write_report
from alref_edge.report.pictures import spectrogram
from tests.report.parsed import Parsed, outward
from tests.report.runs import Run, make_run, make_sound_run

RATE = 16_000
HOSTILE = "</title></style>\"'><script>window.hurt = 1</script>&amp;&lt;"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_sound_run(tmp_path_factory.mktemp("run"), warnings=["something to know"])


def report(run: Run, path: Path, *, with_truth: bool = True) -> Parsed:
    write_report(path, run.record, run.source, run.results, run.truth if with_truth else None)
    return Parsed.of(path.read_text(encoding="utf-8"))


def seconds_of(parsed: Parsed, style: str) -> list[list[tuple[float, float]]]:
    """From and to of each bar, of every row that has bars of a style."""
    paths = [each["d"] or "" for each in parsed.all("path") if each["class"] == style]
    return [[(float(a), float(b)) for a, b in re.findall(r"M([\d.]+) [\d.]+H([\d.]+)v", path)] for path in paths]


def tone(hertz: float, seconds: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def test_each_row_shows_the_seconds_that_it_is_about(run: Run, tmp_path: Path) -> None:
    parsed = report(run, tmp_path / "report.html")
    assert outward(parsed) == []
    assert [each.label for each in run.results] == ["triangle", "star"]
    assert seconds_of(parsed, "sounds") == [[(0, 2)], [(1, 4)]]
    assert seconds_of(parsed, "truth") == [[(0, 1)], [(1, 3)]]
    assert seconds_of(parsed, "silence") == [[(4, 5)]]
    assert seconds_of(parsed, "segment") == [[(0, 1), (2, 3), (4, 5)]]
    assert seconds_of(parsed, "segment other") == [[(1, 2), (3, 4)]]
    # Behind every row, the silence once more: segments, the four tags, two objects, and its own.
    assert seconds_of(parsed, "absent") == [[(4, 5)]] * 8
    tags = [
        (each["x"], each["width"], each["fill-opacity"]) for each in parsed.all("rect") if each.get("class") == "tag"
    ]
    assert tags[:3] == [("0", "2", "0.75"), ("2", "2", "0.75"), ("4", "1", "0.75")]
    assert sorted(tags[3:]) == [("0", "2", "0.25"), ("2", "2", "0.25"), ("4", "1", "0.25")]
    (borders,) = [each["d"] for each in parsed.all("path") if each["class"] == "border"][:1]
    assert borders == "M2 0V10M4 0V10"
    labels = [each["aria-label"] for each in parsed.all("svg") if "sounds in" in (each.get("aria-label") or "")]
    assert labels == [
        "triangle sounds in 0 to 2 s; in truth in 0 to 1 s",
        "star sounds in 1 to 4 s; in truth in 1 to 3 s",
    ]


def test_what_was_heard_stands_on_the_page(run: Run, tmp_path: Path) -> None:
    text = report(run, tmp_path / "report.html").text
    for words in (
        "objects 2",
        "seconds with sound 4 of 5",
        "triangle frame 7 0 to 2 s",
        "star frames 7, 23 1 to 4 s",
        "Bell 0.75",
        "0 to 2 s Bell 0.75, only 0 0.25",
        "4 to 5 s Bell 0.75, only 4 0.25",
        "Sounds in: 1 to 4 s.",
        "frame 7, score 0.90",
        "Boxes considered: 4 on 2 frames",
        "not to be heard",
        "something to know",
        "silence db",
        "Bright: the mask, which is empty where the object does not sound.",
    ):
        assert words in text
    for truth in run.truth:
        assert f"J {truth.scores.j:.3f}, F {truth.scores.f:.3f}, J&F {truth.scores.j_and_f:.3f}" in text


def test_without_a_truth_none_is_spoken_of(run: Run, tmp_path: Path) -> None:
    parsed = report(run, tmp_path / "report.html", with_truth=False)
    assert "truth" not in parsed.text
    assert "J&F" not in parsed.text
    assert seconds_of(parsed, "truth") == []


def test_a_spectrogram_shows_when_and_how_high() -> None:
    wave = np.concatenate([tone(500, 1), np.zeros(RATE, np.float32), tone(4000, 2)])
    shades = np.asarray(spectrogram(wave, 5))
    assert shades.shape == (128, 500)
    filters_fb = mel_filters(64, 512, RATE, 125.0, 7500.0)
    for column, hertz in ((50, 500), (250, 4000)):
        band = int(filters_fb[round(hertz * 512 / RATE)].argmax())
        assert abs(int(shades[:, column].argmax()) // 2 - (63 - band)) <= 1
        assert shades[:, column].max() > 200
    # The gap, and what is missing at the end, are dark.
    assert shades[:, 105:195].max() == 0
    assert shades[:, 405:].max() == 0
    # What is beyond the end is left out: another tone there changes nothing.
    other = np.concatenate([wave[: 2 * RATE], tone(1000, 1)])
    np.testing.assert_array_equal(spectrogram(other, 2), spectrogram(wave[: 2 * RATE], 2))


def test_a_spectrogram_of_silence_is_dark_and_of_a_long_sound_no_wider() -> None:
    assert np.asarray(spectrogram(np.zeros(RATE, np.float32), 2)).max() == 0
    assert np.asarray(spectrogram(np.zeros(0, np.float32), 1)).max() == 0
    long = np.asarray(spectrogram(np.concatenate([tone(1000, 30), np.zeros(30 * RATE, np.float32)]), 60))
    assert long.shape == (128, 1000)
    assert (long[:, :499].max(axis=0) > 200).all()
    assert long[:, 501:].max() == 0


def test_the_spectrogram_on_the_page_is_that_of_the_run(run: Run, tmp_path: Path) -> None:
    (picture,) = [
        each["src"] or ""
        for each in report(run, tmp_path / "report.html").all("img")
        if (each["alt"] or "").startswith("Spectrogram of 5 s")
    ]
    with Image.open(io.BytesIO(base64.b64decode(picture.removeprefix("data:image/png;base64,")))) as image:
        assert image.format == "PNG"
        drawn = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(drawn, np.asarray(spectrogram(run.results.wave_16khz, 5).convert("RGB")))  # type: ignore[attr-defined]
    assert drawn.std() > 10


def test_a_run_in_which_nothing_sounds_has_a_page_that_says_so(tmp_path: Path) -> None:
    run = make_sound_run(tmp_path, labels=((),) * 5)
    assert len(run.results) == 0
    for with_truth in (True, False):
        parsed = report(run, tmp_path / "report.html", with_truth=with_truth)
        assert "Nothing was found that sounds and is in view, so there are no masks." in parsed.text
        assert "seconds with sound 0 of 5" in parsed.text
        assert "Masks along the clip" not in parsed.text
        assert seconds_of(parsed, "silence") == [[(0, 5)]]
        assert len(parsed.all("img")) == 1


def test_hostile_tags_and_names_stay_words(tmp_path: Path) -> None:
    run = make_sound_run(tmp_path, labels=((HOSTILE, "star"),) * 5, tag=HOSTILE, warnings=[HOSTILE])
    parsed = report(run, tmp_path / "report.html")
    assert outward(parsed) == []
    assert sum(words.startswith(HOSTILE[:30]) for words in parsed.words) >= 6
    assert any((each.get("aria-label") or "").startswith(HOSTILE) for each in parsed.all("svg"))


def test_a_long_sound_with_many_objects_makes_a_page_of_bounded_size(tmp_path: Path) -> None:
    seconds = 66
    folder = tmp_path / "frames"
    folder.mkdir()
    for frame in range(seconds // 2 + 1):
        Image.new("RGB", (256, 256), (frame * 4, 90, 90)).save(folder / f"{frame:05d}.png")
    source = open_video(folder, fps=0.5)
    labels = [tuple(f"{n} " + "&" * 300 for n in range(26) if (second + n) % 3) for second in range(seconds + 1)]
    noise = np.random.default_rng(0).normal(0, 0.1, seconds * RATE).clip(-1, 1).astype(np.float32)
    run = make_sound_run(tmp_path, labels=labels, source=source, wave_16khz=noise, tag="<" * 400)
    parsed = report(run, tmp_path / "report.html", with_truth=False)
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    assert f"seconds with sound {seconds + 1} of {seconds + 1}" in parsed.text
    assert "2 more objects stand in result.json." in parsed.text
    assert "more windows stand in result.json." in parsed.text
    words = [(each["x"], each["text-anchor"]) for each in parsed.all("text")]
    assert 3 <= len(words) <= 7
    assert words[0] == ("0.00%", "start")


def test_two_runs_share_a_page(run: Run, tmp_path: Path) -> None:
    said = make_run(tmp_path, frames=40)
    path = tmp_path / "report.html"
    also = [Shown(run.record, run.results, run.truth)]
    write_report(path, said.record, said.source, said.results, said.truth, title="Both", also=also)
    parsed = Parsed.of(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 3_000_000
    assert parsed.text.startswith("Both")
    assert parsed.text.index("What is said") < parsed.text.index(said.record["sentences"][0]["text"])
    assert parsed.text.index("Masks along the clip") < parsed.text.index("What sounds") < parsed.text.index("Bell")
    assert len(parsed.all("img")) == 3 * (8 + 2) + 1 + 2 * 8 + 3


def test_results_record_and_truth_are_of_one_run(run: Run, tmp_path: Path) -> None:
    said = make_run(tmp_path, frames=2)
    path = tmp_path / "report.html"
    with pytest.raises(InputError, match="equal numbers"):
        write_report(path, run.record, run.source, run.results, run.truth[:1])
    for record, results in ((run.record, said.results), (said.record, run.results), (run.record, list(run.results))):
        with pytest.raises(InputError, match="of one run"):
            write_report(path, record, run.source, results)
    assert not path.exists()
