"""The official code in a process of its own, in the reference environment, which runs a part of it when asked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from benchmarks.official_side import ROOT, reference_python


class OfficialWorker:
    """A module of `benchmarks.official` that serves; a context manager.

    Args:
        runner: name of the module; it is given the settings as a JSON file and calls `serve`.
        folder: for the files of both sides, kept while the worker runs.
        settings: JSON values.

    Raises:
        RuntimeError: the worker ended before it was ready.
    """

    def __init__(self, runner: str, folder: Path, settings: Mapping[str, object]) -> None:
        path, self._said = folder / "settings.json", folder / "stderr.txt"
        path.write_text(json.dumps(settings))
        command = [reference_python(), "-m", f"benchmarks.official.{runner}", str(path)]
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
            )
        self._wait("ready")

    def run(self, part: str) -> None:
        """Run a part once.

        Raises:
            RuntimeError: the worker ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(part + "\n")
        self._process.stdin.flush()
        self._wait("done")

    def __enter__(self) -> OfficialWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()

    def _wait(self, word: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == word:
                return
        status = self._process.wait()
        raise RuntimeError(f"the official worker ended, exit status {status}:\n{self._said.read_text()[-3000:]}")
