"""What a part has measured, written down after every row: a part that was cut short goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.errors import InputError
from alref_edge.files import written_beside
from benchmarks.timing import bootstrap_median

SCHEMA = "alref-edge.gpu-benchmark/1"
_SCATTER, _DRIFT, _ENOUGH, _MOSTLY = 0.1, 0.1, 8, 0.5


class Skipped(Exception):
    """A part cannot run here; the message says what it lacks."""


@dataclass(frozen=True)
class Row:
    """Samples of one thing.

    Attributes:
        samples: one a run or a frame, in the order in which they were taken.
        unit: "ms" or "s"; less is better.
        facts: what else is known of it.
    """

    samples: Sequence[float]
    unit: str = "ms"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a result: median and its 95 % interval, and the middle half's width beside the median."""
        values = np.asarray(self.samples, np.float64)
        low, high = bootstrap_median(values)
        first, third = np.percentile(values, [25, 75])
        median = float(np.median(values))
        return {
            "median": median,
            "interval_95": [low, high],
            "scatter": float((third - first) / median) if median else 0.0,
            "unit": self.unit,
            "samples": [float(f"{value:.6g}") for value in values],
            **self.facts,
        }


def doubts(name: str, row: Mapping[str, Any]) -> Iterator[str]:
    """Why a row's figures should be taken with care."""
    values = np.asarray(row["samples"])
    if row.get("masks_not_empty", 1) < _MOSTLY:
        yield f"{name}: {row['masks_not_empty']:.0%} of the masks hold anything: the others cost less"
    if row["scatter"] > _SCATTER:
        yield f"{name}: the middle half of the samples spreads over {row['scatter']:.0%} of the median"
    if len(values) >= _ENOUGH:
        early, late = np.median(values[: len(values) // 2]), np.median(values[len(values) // 2 :])
        if abs(late / early - 1) > _DRIFT:
            yield f"{name}: the second half of the samples is {late / early - 1:+.0%} off the first: no steady state"


class Record:
    """The file of one part. Rows that it holds are not measured again.

    Args:
        path: of the file, which may stand there already.
        subject: what is measured, plain values; a file about another subject is begun anew.
        again: begin anew whatever stands there.
    """

    def __init__(self, path: Path, subject: Mapping[str, Any], *, again: bool = False) -> None:
        self.path = path
        self._content: dict[str, Any] = {
            "schema": SCHEMA, "program": "gpu", "subject": dict(subject), "done": False, "rows": {}, "facts": {},
            "failures": {},
        }  # fmt: skip
        if path.is_file() and not again:
            standing = read_json(path)
            if standing.get("schema") == SCHEMA and standing["subject"] == self._content["subject"]:
                self._content = standing

    @property
    def done(self) -> bool:
        """Whether the part came to its end."""
        return bool(self._content["done"])

    @property
    def rows(self) -> Mapping[str, Any]:
        """The rows measured so far, as JSON values by name."""
        return self._content["rows"]

    @property
    def failures(self) -> Mapping[str, str]:
        """What was said by rows that failed."""
        return self._content["failures"]

    def measure(self, name: str, call: Callable[[], Row]) -> None:
        """Measure a row, unless it is there; one that fails is noted, and the part goes on."""
        if name in self.rows:
            return
        self._content["failures"].pop(name, None)
        try:
            row = call().to_json()
        except Skipped:
            raise
        except Exception as error:  # of torch, ONNX Runtime, or a process: all have their own
            self._content["failures"][name] = str(error)[:500]
            print(f"  {name}: failed: {str(error)[:200]}", flush=True)
        else:
            self._content["rows"][name] = row
            low, high = row["interval_95"]
            print(f"  {name}: {row['median']:.4g} {row['unit']} [{low:.4g}, {high:.4g}]", flush=True)
            for doubt in doubts(name, row):
                print(f"  warning: {doubt}", flush=True)
        self._write()

    def note(self, **facts: Any) -> None:
        """Add facts about the whole part."""
        self._content["facts"].update(facts)
        self._write()

    def finish(self, environment: Mapping[str, Any], warnings: Sequence[str] = ()) -> None:
        """The part came to its end, but for rows that failed; with the environment, and what is doubtful."""
        found = [doubt for name, row in self.rows.items() for doubt in doubts(name, row)]
        self._content |= {"done": not self.failures, "environment": dict(environment), "warnings": [*warnings, *found]}
        self._content.pop("skipped", None)
        self._write()

    def skip(self, reason: str) -> None:
        """The part cannot run here."""
        self._content["skipped"] = reason
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self._content)


def write_json(path: Path, content: object) -> None:
    """Write a file that is whole or not there."""
    with written_beside(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file.

    Raises:
        InputError: the file cannot be read, or holds none.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read.", expected="a JSON file", got=str(error)) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no object of JSON.", got=type(content).__name__)
    return content


def read_result(path: Path) -> dict[str, Any]:
    """The parts of a result: of the folder of a run, or of the one file that it is merged into.

    Raises:
        InputError: there is no such result.
    """
    file = path / "gpu.json" if path.is_dir() else path
    content = read_json(file)
    if content.get("program") != "gpu" or "parts" not in content:
        raise InputError(f"{file} is no result of `python -m benchmarks gpu`.", mend="name its gpu.json or its folder.")
    return content


def all_rows(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every row of a result by what was measured and its own name: "sam2.1_large: tracker, 1 object, float16"."""
    return {
        f"{part['subject']['variant']}: {name}": row
        for part in result["parts"].values()
        for name, row in part["rows"].items()
    }


@contextmanager
def needs(what: str) -> Iterator[None]:
    """Inside, a module that cannot be imported makes the part one that is skipped."""
    try:
        yield
    except ImportError as error:
        raise Skipped(f"{what} cannot be imported here: {error}") from error
