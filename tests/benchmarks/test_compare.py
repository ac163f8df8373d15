"""Two results beside each other: stored samples of two runs of the same code, at the same time on a busy machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import main

SAMPLES = Path(__file__).parent / "samples"
ONE, OTHER = SAMPLES / "one.json", SAMPLES / "other.json"


def _slowed(path: Path, by: float, to: Path, only: str = "") -> Path:
    """A result whose every sample took so many times as long, of those rows whose name begins so."""
    result: dict[str, Any] = json.loads(path.read_text())
    for part in result["parts"].values():
        for name, row in part["rows"].items():
            if name.startswith(only):
                row["samples"] = [by * each for each in row["samples"]]
                row["median"] *= by
    to.write_text(json.dumps(result))
    return to


@pytest.mark.parametrize(("old", "new"), [(ONE, OTHER), (OTHER, ONE), (ONE, ONE)])
def test_noise_is_no_regression(old: Path, new: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(old), str(new), "--max-regression", "0.1"]) == 0
    assert "3 rows, 0 slower by more than 10%" in capsys.readouterr().out


@pytest.mark.parametrize(("old", "new"), [(ONE, OTHER), (OTHER, ONE)])
def test_a_fifth_more_is_one(old: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slowed = _slowed(new, 1.2, tmp_path / "slowed.json", only="tracker")
    assert main([str(old), str(slowed), "--max-regression", "0.1"]) == 1
    marked = [line for line in capsys.readouterr().out.splitlines() if line.endswith("SLOWER")]
    assert len(marked) == 1
    assert marked[0].startswith("sam2.1_nano: tracker, 1 object, float32")
    assert main([str(old), str(slowed), "--max-regression", "0.3"]) == 0


def test_what_is_faster_is_none(tmp_path: Path) -> None:
    assert main([str(ONE), str(_slowed(OTHER, 0.5, tmp_path / "faster.json"))]) == 0


def test_results_without_a_row_in_common_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads(ONE.read_text())
    for part in result["parts"].values():
        part["subject"]["variant"] = "another"
    (tmp_path / "another.json").write_text(json.dumps(result))
    assert main([str(ONE), str(tmp_path / "another.json")]) != 0
    assert "no row in common" in capsys.readouterr().err


def test_another_machine_and_a_row_that_is_gone_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads(ONE.read_text())
    del result["parts"][next(iter(result["parts"]))]
    for part in result["parts"].values():
        part["environment"]["processor"] = "another"
    (tmp_path / "less.json").write_text(json.dumps(result))
    assert main([str(ONE), str(tmp_path / "less.json")]) == 0
    said = capsys.readouterr().out
    assert "processor was AMD EPYC, and is another" in said
    assert said.count("in the old result alone") == 1
