"""What referring segmentation gives back: one result a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from alref_edge.errors import quoted
from alref_edge.pipeline.jobs import Query
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.results import MaskResult, Run, RunReport
from alref_edge.pipeline.selectors.base import Decision
from alref_edge.pipeline.selectors.replay import RESULT_SCHEMA


@dataclass(frozen=True)
class RvosResult(MaskResult):
    """What one sentence came to; `label` is the sentence.

    Attributes:
        decisions: what the selector decided, by number of the segment; those that it dropped are missing.
        start_frame: the pivot from which tracking began; None without one.
        fell_back: whether frame 0 had to serve, no segment having a pivot.
    """

    decisions: Mapping[int, Decision]
    start_frame: int | None
    fell_back: bool

    @classmethod
    def of(cls, index: int, query: Query, general: Sequence[str], report: RunReport, masks: MaskStore) -> RvosResult:
        """The result of a query that went through the method; its boxes are clipped to the frame."""
        size = report.info.width, report.info.height
        return cls(
            index=index,
            label=query.text,
            pivots=tuple(pivot.clipped(*size) for pivot in query.pivots),
            considered={frame: found.clipped(*size) for frame, found in sorted(query.considered.items())},
            warnings=(*general, *query.warnings),
            run=report,
            _masks=masks,
            decisions=dict(sorted(query.decisions.items())),
            start_frame=query.start if query.pivots else None,
            fell_back=query.fell_back,
            own_warnings=tuple(query.warnings),
        )

    @property
    def sentence(self) -> str:
        """The sentence."""
        return self.label

    def to_json(self) -> dict[str, Any]:
        """See `MaskResult.to_json`."""
        own = {"text": self.label, "start_frame": self.start_frame, "fell_back": self.fell_back}
        return {**own, **super().to_json()}


@dataclass(frozen=True, eq=False)
class RvosRun(Run[RvosResult]):
    """What each of the sentences about a video came to, in their order."""

    schema: ClassVar[str] = RESULT_SCHEMA
    listed_as: ClassVar[str] = "sentences"

    @classmethod
    def of(cls, results: Sequence[RvosResult]) -> RvosRun:
        """The run of these results, one at least, or of some of them."""
        return cls(tuple(results), results[0].run)

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """See `Run.all_warnings`; those about a sentence alone name it."""
        return tuple(
            dict.fromkeys(
                f"{quoted(result.label)}: {warning}" if warning in result.own_warnings else warning
                for result in self
                for warning in result.warnings
            )
        )
