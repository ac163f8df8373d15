"""The command that measures the targets, with the shipped bundle on a CPU: the code that runs on a GPU, but for it."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from alref_edge.runtime.device import Placement, backend
from benchmarks.gpu.command import _run_process, main
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.record import Record, Row, doubts
from benchmarks.gpu.targets import TARGETS, Target, beside_official, markdown

ROOT = Path(__file__).parent.parent.parent
ROWS = {
    "tracker-1": ["tracker, 1 object, float32"],
    "image_encoder": ["image_encoder, float32"],
    "track-1": ["track, 1 object, float32"],
    "grounding_dino": [
        *(f"grounding_dino {step}, float32" for step in ("image", "caption", "decoder")),
        *(f"grounding_dino {graph} graph, float32" for graph in ("backbone", "decoder")),
    ],
}


def _arguments(out: Path, *parts: str) -> list[str]:
    named = [option for part in parts for option in ("--part", part)]
    return ["--device", "cpu", "--threads", "1", "--runs", "2", "--out", str(out), *named]


@pytest.fixture
def no_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV cannot be imported, as where only speed is measured."""
    monkeypatch.setitem(sys.modules, "av", None)


@pytest.mark.usefixtures("no_video")
@pytest.mark.parametrize("part", ROWS)
def test_a_part_measures_its_rows(part: str, tmp_path: Path) -> None:
    assert main([*_arguments(tmp_path, part), "--here"]) == 0
    (file,) = tmp_path.glob("*.json")
    content = json.loads(file.read_text())
    assert content["done"]
    assert content["failures"] == {}
    assert list(content["rows"]) == ROWS[part]
    assert content["environment"]["packages"]["onnxruntime"]
    for row in content["rows"].values():
        assert len(row["samples"]) == 2
        assert row["interval_95"][0] <= row["median"] <= row["interval_95"][1]
        assert row["peak_host_mb"] > 50
    for profile in (row["profile"] for row in content["rows"].values() if "profile" in row):
        assert profile["launches"] == profile["nodes"] > 100
        assert profile["nodes_elsewhere"] == 0
        assert profile["operations"] > 1e8
        assert profile["device_ms"] == pytest.approx(sum(profile["ms_by_operator"].values()), rel=0.01)
    if part == "tracker-1":
        assert content["rows"][ROWS[part][0]]["masks_not_empty"] == 1


def test_it_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(tmp_path, "image_encoder", "grounding_dino")
    assert main(arguments) == 0
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"].keys() == {
        "image_encoder.sam2.1_nano",
        "grounding_dino.nano",
    }
    file = tmp_path / "grounding_dino.nano.json"
    first = json.loads(file.read_text())
    cut = {**first, "done": False, "rows": {name: first["rows"][name] for name in ROWS["grounding_dino"][:-1]}}
    file.write_text(json.dumps(cut))
    assert main(arguments) == 0
    assert "image_encoder: done before" in capsys.readouterr().out
    second = json.loads(file.read_text())
    assert second["done"]
    assert list(second["rows"]) == ROWS["grounding_dino"]
    assert all(second["rows"][name] == cut["rows"][name] for name in cut["rows"])
    last = ROWS["grounding_dino"][-1]
    assert second["rows"][last]["samples"] != first["rows"][last]["samples"]


def test_a_part_ends_at_its_limit(tmp_path: Path, nano_bundle: Path) -> None:
    arguments = Namespace(device="cpu", out=tmp_path, work=tmp_path, runs=10_000, threads=1, again=False)
    began = time.monotonic()
    assert _run_process("tracker-16", nano_bundle, arguments, 3.0) is None
    assert time.monotonic() - began < 8


def test_no_part_starts_after_the_time_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*_arguments(tmp_path, "tracker-1"), "--seconds", "0"]) == 1
    assert "tracker-1 (no time left)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bundle", "nowhere"], "There is no bundle at nowhere"),
        (["--device", "cuda"], "CUDAExecutionProvider was asked for but does not work here"),
    ],
)
def test_what_no_part_could_run_with_is_told_once(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "cuda" in options and backend("cuda").probe(Placement("cuda")).works:
        pytest.skip("CUDA works here")
    assert main([*_arguments(tmp_path), *options]) not in (0, 1)
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.usefixtures("no_video")
def test_what_cannot_run_here_is_skipped_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*_arguments(tmp_path, "nano_demo"), "--here"]) == 0
    assert "skipped: PyAV" in capsys.readouterr().out
    content = json.loads((tmp_path / "nano_demo.nano.json").read_text())
    assert not content["done"]
    assert "PyAV" in content["skipped"]


def test_the_official_code_stands_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of it, before its steady state; the others take their time."""
    pytest.importorskip("sam2")
    from benchmarks.gpu import part_official
    from benchmarks.gpu.subject import Subject

    monkeypatch.setattr(part_official, "WARM", 1)
    subject = Subject(ROOT / "engines" / "nano", "cpu", 2, 1, tmp_path)
    model = part_official.build_official("sam2.1_nano", "cpu")
    import torch

    with torch.inference_mode():
        row = part_official._frames(subject, model, 1).to_json()
    assert len(row["samples"]) == 2
    assert row["median"] > 1


def test_the_longest_parts_fit_their_time() -> None:
    for name, part in PARTS.items():
        assert part.seconds <= (150 if part.by_default else 300), name


def test_a_file_about_another_bundle_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    record = Record(path, {"bundle": "one"})
    record.measure("row", lambda: Row([1.0, 2.0]))
    assert Record(path, {"bundle": "one"}).rows.keys() == {"row"}
    assert not Record(path, {"bundle": "other"}).rows
    assert not Record(path, {"bundle": "one"}, again=True).rows


def test_a_row_that_fails_is_noted_and_tried_again(tmp_path: Path) -> None:
    def fail() -> Row:
        raise RuntimeError("no such kernel")

    record = Record(tmp_path / "part.json", {})
    record.measure("row", fail)
    record.measure("other", lambda: Row([1.0]))
    content = json.loads((tmp_path / "part.json").read_text())
    assert content["failures"] == {"row": "no such kernel"}
    assert content["rows"].keys() == {"other"}
    again = Record(tmp_path / "part.json", {})
    again.measure("row", lambda: Row([3.0]))
    content = json.loads((tmp_path / "part.json").read_text())
    assert content["failures"] == {}
    assert content["rows"].keys() == {"row", "other"}


@pytest.mark.parametrize(
    ("samples", "facts", "said"),
    [
        ([10.0] * 20, {}, []),
        ([10.0, 14.0] * 10, {}, ["spreads over"]),
        ([10.0] * 10 + [12.0] * 10, {}, ["spreads over", "no steady state"]),
        ([10.0] * 20, {"masks_not_empty": 0.25}, ["25% of the masks"]),
    ],
)
def test_doubtful_samples_are_said(samples: list[float], facts: dict[str, Any], said: list[str]) -> None:
    found = list(doubts("row", Row(samples, facts=facts).to_json()))
    assert len(found) == len(said)
    assert all(
        part in doubt for part, doubt in zip(said, sorted(found, key=lambda each: "steady" in each), strict=True)
    )


def test_the_table_tells_what_is_measured_and_what_is_due() -> None:
    rows = Row([12.0] * 9).to_json()
    result = {"parts": {"t": {"subject": {"variant": "sam2.1_large"}, "rows": {"tracker, 1 object, float16": rows}}}}
    lines = list(markdown(result))
    assert len(lines) == 2 + len(TARGETS)
    assert lines[2] == ("| tracker, 1 object, a frame | 56.5 ms | 38 ms | 15 ms | 10 ms | 12 ms | accepted |")
    assert all(line.endswith("| due |") for line in lines[3:])


@pytest.mark.parametrize(
    ("figure", "beside", "verdict"),
    [(9, (), "goal"), (10, (), "goal"), (14, (), "accepted"), (16, (), "short"), (16, ("x",), "goal")],
)
def test_verdicts(figure: float, beside: tuple[str, ...], verdict: str) -> None:
    target = Target("it", "row", 15 if not beside else 1.2, 10 if not beside else 1.5, beside=beside)
    assert target.verdict(figure) == verdict


def test_a_contender_counts_at_its_best() -> None:
    target = Target("it", "ours", 1.3, 2, beside=("theirs", "theirs, graph"), unit="x")
    rows = {name: Row([ms] * 9).to_json() for name, ms in (("ours", 2.0), ("theirs", 5.0))}
    assert target.figure(rows) == pytest.approx((2.5, 2.5, 2.5))
    rows["theirs, graph"] = Row([3.0] * 9).to_json()
    assert target.figure(rows) == pytest.approx((1.5, 1.5, 1.5))
    assert target.figure({"ours": rows["ours"]}) is None


def test_rows_find_the_official_ones() -> None:
    names = ["a: tracker, 1 object, float16", "a: tracker, 1 object, float32", "a: official tracker, 1 object, eager"]
    rows = {name: Row([1.0]).to_json() for name in names}
    assert list(beside_official(rows)) == [(names[0], names[2])]
    assert list(beside_official({name: rows[name] for name in names[1:]})) == [(names[1], names[2])]
