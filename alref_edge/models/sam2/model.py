"""SAM 2 as a whole: one set of graphs for masks in images and through videos."""

from __future__ import annotations

from alref_edge.bundle import Component
from alref_edge.models.protocols import TrackingOptions
from alref_edge.models.sam2.graphs import Sam2Graphs
from alref_edge.models.sam2.image_predictor import Sam2ImagePredictor
from alref_edge.models.sam2.video_tracker import Sam2VideoTracker
from alref_edge.runtime import SessionOptions


class Sam2:
    """What makes image predictors and video trackers that share their graphs.

    Args:
        graphs: closed with it.
    """

    def __init__(self, graphs: Sam2Graphs) -> None:
        self.graphs = graphs

    @classmethod
    def from_component(
        cls, component: Component, device: str = "auto", *, options: SessionOptions | None = None
    ) -> Sam2:
        """Load the component's graphs; arguments and errors as `Sam2Graphs.open`."""
        return cls(Sam2Graphs.open(component, device, options))

    @property
    def provider(self) -> str:
        """The execution provider that runs the graphs."""
        return self.graphs.provider

    def image_segmenter(self) -> Sam2ImagePredictor:
        """Masks for boxes; cheap to make."""
        return Sam2ImagePredictor(self.graphs)

    def video_tracker(self, tracking: TrackingOptions) -> Sam2VideoTracker:
        """Masks through time; cheap to make."""
        return Sam2VideoTracker(self.graphs, tracking)

    def close(self) -> None:
        """Close the graphs."""
        self.graphs.close()
