"""The README's Python runs as it stands; its JSON is what the readers of such files take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from alref_edge.pipeline import ReplaySelector
from tests.conftest import ROOT
from tests.docs.reading import blocks

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = blocks(README, "python")


def test_the_first_example_fits_on_a_screen() -> None:
    assert 5 < len(EXAMPLES[0].splitlines()) <= 24


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number: int, place: Path, reader: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLES[number]],
        cwd=place,
        env=reader,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the ") >= 2  # a line, or a list, of each sentence


def test_the_file_of_pivots_is_read(tmp_path: Path) -> None:
    (example,) = blocks(README, "json")
    (tmp_path / "pivots.json").write_text(example, encoding="utf-8")
    selector = ReplaySelector.from_file(tmp_path / "pivots.json")
    assert [pivot.frame for pivot in selector.given("the dog on the left") or ()] == [20]
    assert selector.given("the red ball") is None
    assert [answer.target_frame_id for answer in selector.answers["the red ball"]] == [3]
