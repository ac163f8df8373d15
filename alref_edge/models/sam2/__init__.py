"""SAM 2 and 2.1: masks of an image from prompts, and objects followed through a video."""

from alref_edge.models.sam2.graphs import FrameFeatures, Sam2Graphs
from alref_edge.models.sam2.image_predictor import Sam2ImagePredictor
from alref_edge.models.sam2.model import Sam2
from alref_edge.models.sam2.results import FrameResult
from alref_edge.models.sam2.tracking import TrackingState
from alref_edge.models.sam2.video_tracker import Sam2VideoTracker

__all__ = [
    "FrameFeatures",
    "FrameResult",
    "Sam2",
    "Sam2Graphs",
    "Sam2ImagePredictor",
    "Sam2VideoTracker",
    "TrackingState",
]
