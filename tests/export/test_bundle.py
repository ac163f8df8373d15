"""Settings that a bundle wants, from a file into its manifest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alref_edge.bundle import Bundle
from alref_edge.errors import InputError
from alref_edge.pipeline import Pipeline
from export.__main__ import main
from export.bundle import read_defaults

ROOT = Path(__file__).parent.parent.parent


def test_an_export_gives_a_bundle_its_settings_and_the_next_keeps_them(tmp_path: Path) -> None:
    wanted = {"avs": {"categories": ["dog", "cat"], "window_s": 5}}
    (tmp_path / "defaults.json").write_text(json.dumps(wanted))
    export = ["yamnet", "--variant", "nano", "--seed", "1", "--bundle", str(tmp_path / "bundle")]
    assert main([*export, "--defaults", str(tmp_path / "defaults.json")]) == 0
    assert main(export) == 0
    assert Bundle.open(tmp_path / "bundle").manifest.defaults == wanted
    with Pipeline.from_bundle(tmp_path / "bundle", device="cpu") as pipeline:
        settings = pipeline.avs_settings()
    assert (settings.categories, settings.window_s, settings.tags_per_tagger) == (("dog", "cat"), 5, 5)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"other": {}}', '{"avs": {"pitch": 1}}', '{"avs": {"window_s": 0}}', '{"rvos": 3}']
)
def test_what_are_no_settings_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "defaults.json").write_text(text)
    with pytest.raises(InputError):
        read_defaults(tmp_path / "defaults.json")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json holds no default settings"):
        read_defaults(tmp_path / "none.json")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_an_export_that_is_interrupted_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "export", "yamnet", "--variant", "nano", "--seed", "0", "--bundle", "deep/bundle"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while (
        not list(tmp_path.glob("deep/.bundle.partial-????????"))
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert list(tmp_path.glob("deep/.*")) == []
