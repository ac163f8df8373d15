"""How a run ends that does not end well: at once, with its named error, and with nothing left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alref_edge.errors import CapacityError
from tests.media.clips import make_clip

ROOT = Path(__file__).parent.parent.parent
WITHIN_S = 2.0
TRIES = 3
"""An end takes as long as the quickest of so many: whatever else the machine does only adds."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command that tracks an object from the first frame on."""
    folder = tmp_path_factory.mktemp("ends")
    make_clip(folder / "clip.mp4", frames=80, size=(960, 720))
    pivots = {"text": "a ball", "pivots": [{"frame": 0, "box": [8, 8, 40, 40]}]}
    (folder / "pivots.json").write_text(json.dumps({"schema": "alref-edge.pivots/1", "sentences": [pivots]}))
    command = [sys.executable, "-m", "alref_edge", "rvos", str(folder / "clip.mp4"), "--text", "a ball"]
    return [*command, "--selector", "replay", "--pivots", str(folder / "pivots.json"), "--device", "cpu", "--quiet"]


def started(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def until(true: Callable[[], bool], process: subprocess.Popen[str]) -> float:
    """When it came to be true, or the process ended."""
    deadline = time.monotonic() + 120
    while not true() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return time.monotonic()


def quickest(ends: Iterator[float]) -> float:
    """Seconds, in as many tries as it takes to be within them."""
    return next((took_s for took_s in ends if took_s < WITHIN_S), WITHIN_S)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("written", ["masks/*/00020.png", ".overlay*"])
def test_a_run_that_is_told_to_end(
    job: list[str], tmp_path: Path, written: str, number: signal.Signals, code: int
) -> None:
    """While frames are tracked and masks written, and while the overlay is."""

    def ends() -> Iterator[float]:
        for _ in range(TRIES):
            process = started([*job, "--out", str(tmp_path / "out")])
            until(lambda: any(tmp_path.glob(f".out.partial-*/{written}")), process)
            time.sleep(0.1)
            process.send_signal(number)
            sent = time.monotonic()
            _, errors = process.communicate(timeout=120)
            took_s = time.monotonic() - sent
            assert process.returncode == code, errors
            assert "Traceback" not in errors
            assert list(tmp_path.iterdir()) == []
            yield took_s

    assert quickest(ends()) < WITHIN_S


def test_a_run_whose_disk_is_full(job: list[str], tmp_path: Path) -> None:
    """A disk in memory, in a name space of its own, that has room for some of the masks."""
    disk = tmp_path / "disk"
    disk.mkdir()
    alone = ["unshare", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=200k tmpfs {disk}"
    if (
        not shutil.which("unshare")
        or subprocess.run([*alone, "sh", "-c", mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine does not permit unshare --mount")
    script = f'{mount} && "$@"; code=$?; ls -A {disk}; exit $code'

    def ends() -> Iterator[float]:
        for _ in range(TRIES):
            process = started([*alone, "sh", "-c", script, "sh", *job, "--out", str(disk / "out")])
            inside = Path(f"/proc/{process.pid}/root{disk}")

            def is_full() -> bool:
                try:
                    return any(inside.iterdir()) and os.statvfs(inside).f_bfree == 0  # noqa: B023
                except OSError:
                    return False

            full = until(is_full, process)
            output, errors = process.communicate(timeout=120)
            took_s = time.monotonic() - full
            assert process.returncode == CapacityError.exit_code, errors
            assert output == ""
            assert "cannot be written" in errors or "cannot be stored" in errors
            assert "Traceback" not in errors
            yield took_s

    assert quickest(ends()) < WITHIN_S
