"""The method of AL-Ref-SAM 2: `Pipeline`, its settings, results, and the selectors that decide."""

from alref_edge.pipeline.measure import Progress, ProgressCallback
from alref_edge.pipeline.pipeline import Pipeline
from alref_edge.pipeline.results import AvsResult, AvsRun, RunReport, RvosResult, RvosRun
from alref_edge.pipeline.selectors.base import PivotSelector, Segment, SoundingCategory, SoundSelector, SoundWindow
from alref_edge.pipeline.selectors.grounding import GroundingSelector, GroundingSoundSelector
from alref_edge.pipeline.selectors.mllm import MllmSelector, MllmSoundSelector
from alref_edge.pipeline.selectors.replay import ReplaySelector
from alref_edge.pipeline.selectors.sound_replay import ReplaySoundSelector, Setting
from alref_edge.pipeline.settings import REF_DAVIS17, AvsSettings, RvosSettings

__all__ = [
    "REF_DAVIS17",
    "AvsResult",
    "AvsRun",
    "AvsSettings",
    "GroundingSelector",
    "GroundingSoundSelector",
    "MllmSelector",
    "MllmSoundSelector",
    "Pipeline",
    "PivotSelector",
    "Progress",
    "ProgressCallback",
    "ReplaySelector",
    "ReplaySoundSelector",
    "RunReport",
    "RvosResult",
    "RvosRun",
    "RvosSettings",
    "Segment",
    "Setting",
    "SoundSelector",
    "SoundWindow",
    "SoundingCategory",
]
