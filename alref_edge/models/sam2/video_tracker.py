"""Objects followed through a video: SAM 2 as `SAM2VideoPredictor` of sam2 1.1.0 runs it, in bounded memory."""

from __future__ import annotations

from types import TracebackType

from alref_edge.bundle import Component
from alref_edge.models.sam2.graphs import Sam2Graphs
from alref_edge.models.sam2.tracking import TrackingOptions, TrackingState
from alref_edge.runtime import SessionOptions


class Sam2VideoTracker:
    """Makes tracking states, one a video.

    Args:
        graphs: may be shared with an image predictor.
        fill_hole_area: see `TrackingOptions`, as the next two.
        max_pivots_in_attention: officially no limit.
        max_batch: officially 1.

    Raises:
        InputError: an option is out of range.
    """

    def __init__(
        self,
        graphs: Sam2Graphs,
        *,
        fill_hole_area: int = 0,
        max_pivots_in_attention: int | None = None,
        max_batch: int | None = None,
    ) -> None:
        self.graphs = graphs
        self.options = TrackingOptions(fill_hole_area, max_pivots_in_attention, max_batch)

    @classmethod
    def from_component(
        cls,
        component: Component,
        device: str = "auto",
        *,
        fill_hole_area: int = 0,
        max_pivots_in_attention: int | None = None,
        max_batch: int | None = None,
        options: SessionOptions | None = None,
    ) -> Sam2VideoTracker:
        """A tracker with graphs of its own; arguments and errors as `Sam2Graphs.open` and the class."""
        return cls(
            Sam2Graphs.open(component, device, options),
            fill_hole_area=fill_hole_area,
            max_pivots_in_attention=max_pivots_in_attention,
            max_batch=max_batch,
        )

    @property
    def provider(self) -> str:
        """The execution provider that runs the graphs."""
        return self.graphs.provider

    def start(self, num_frames: int, height: int, width: int) -> TrackingState:
        """Begin a video.

        Args:
            num_frames: its length, which sets the unit of distance in time; it must be known beforehand.
            height: of its frames.
            width: of its frames.

        Raises:
            InputError: a size is not positive.
        """
        return TrackingState(self.graphs, self.options, num_frames, height, width)

    def close(self) -> None:
        """Close the graphs, shared or not."""
        self.graphs.close()

    def __enter__(self) -> Sam2VideoTracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
