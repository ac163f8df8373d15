"""A run as a page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alref_edge.errors import InputError
from alref_edge.pipeline import AvsRun, MaskResult
from alref_edge.report.truth import Truth


@dataclass(frozen=True, eq=False)
class Shown:
    """A run of sentences, or one with sound.

    Attributes:
        record: what `ResultFolder.write` gave.
        results: of the run, in the order of the record's sentences or objects: an `AvsRun`, which may be empty, or one
            or more of sentences.
        truth: one of each result, in their order.
        sounding_j: J of all that sounds on the frame that stands for a second, mean over the seconds; None if unknown.

    Raises:
        InputError: results, record and truth differ in kind or number.
    """

    record: Mapping[str, Any]
    results: Sequence[MaskResult]
    truth: Sequence[Truth] | None = None
    sounding_j: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.results, AvsRun) != (self.what == "objects"):
            raise InputError("A report needs its results and their record of one run.", expected=self.what)
        counts = [len(self.results), len(self.entries), len(self.results if self.truth is None else self.truth)]
        least = 0 if self.what == "objects" else 1
        if min(counts) < least or len(set(counts)) > 1:
            raise InputError(
                "A report needs its results, their record and their truth in equal numbers.",
                expected=f"{least} or more",
                got=counts,
            )

    @property
    def what(self) -> str:
        """What its results are of: "sentences" or "objects"."""
        return "objects" if "objects" in self.record else "sentences"

    @property
    def entries(self) -> Sequence[Mapping[str, Any]]:
        """What the record says of each result."""
        entries: Sequence[Mapping[str, Any]] = self.record[self.what]
        return entries


def name_of(entry: Mapping[str, Any]) -> str:
    """A sentence, or the category of an object."""
    name: str = entry["name"] if "name" in entry else entry["text"]
    return name
