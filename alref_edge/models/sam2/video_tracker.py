"""Objects followed through a video: SAM 2 as `SAM2VideoPredictor` of sam2 1.1.0 runs it, in bounded memory."""

from __future__ import annotations

from types import TracebackType

from alref_edge.bundle import Component
from alref_edge.errors import InputError
from alref_edge.models.protocols import TrackingOptions
from alref_edge.models.sam2.graphs import Sam2Graphs
from alref_edge.models.sam2.tracking import TrackingState
from alref_edge.runtime import SessionOptions


class Sam2VideoTracker:
    """Makes tracking states, one a video.

    Args:
        graphs: may be shared with an image predictor.
        tracking: how objects are tracked; as officially if None.
        max_batch: most objects in one call, to bound the memory that attention takes; None: all (officially 1).

    Raises:
        InputError: `max_batch` is not positive.
    """

    def __init__(
        self, graphs: Sam2Graphs, tracking: TrackingOptions | None = None, *, max_batch: int | None = None
    ) -> None:
        if max_batch is not None and max_batch < 1:
            raise InputError("Too few objects may be tracked at once.", expected="1 or more", got=max_batch)
        self.graphs = graphs
        self._tracking = tracking or TrackingOptions()
        self._max_batch = max_batch

    @classmethod
    def from_component(
        cls,
        component: Component,
        device: str = "auto",
        tracking: TrackingOptions | None = None,
        *,
        max_batch: int | None = None,
        options: SessionOptions | None = None,
    ) -> Sam2VideoTracker:
        """A tracker with graphs of its own; arguments and errors as `Sam2Graphs.open` and the class."""
        return cls(Sam2Graphs.open(component, device, options), tracking, max_batch=max_batch)

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
        return TrackingState(self.graphs, self._tracking, self._max_batch, num_frames, height, width)

    def close(self) -> None:
        """Close the graphs, shared or not."""
        self.graphs.close()

    def __enter__(self) -> Sam2VideoTracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
