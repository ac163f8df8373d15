"""The method of AL-Ref-SAM 2: `Pipeline`, its settings, results, and the selectors that decide."""

from alref_edge.pipeline.avs_results import AvsResult, AvsRun
from alref_edge.pipeline.jobs import SoundingObject, WindowResult
from alref_edge.pipeline.measure import Progress, ProgressCallback
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.pipeline import Pipeline
from alref_edge.pipeline.results import MaskResult, RunReport
from alref_edge.pipeline.rvos import cut_into_segments
from alref_edge.pipeline.rvos_results import RvosResult, RvosRun
from alref_edge.pipeline.saving import MaskSink
from alref_edge.pipeline.selectors.base import (
    Decision,
    Ground,
    GroundSound,
    PivotSelector,
    Segment,
    SoundingCategory,
    SoundSelector,
    SoundWindow,
    Span,
)
from alref_edge.pipeline.selectors.grounding import GroundingSelector, GroundingSoundSelector
from alref_edge.pipeline.selectors.mllm import MllmSelector, MllmSoundSelector, unusable_warnings
from alref_edge.pipeline.selectors.replay import Answer, RecordedBoxes, ReplaySelector
from alref_edge.pipeline.selectors.sound_replay import RecordedAnswers, ReplaySoundSelector, Setting
from alref_edge.pipeline.settings import REF_DAVIS17, AvsSettings, RvosSettings
from alref_edge.pipeline.silence import silent_seconds
from alref_edge.pipeline.stages import Stages

__all__ = [
    "REF_DAVIS17",
    "Answer",
    "AvsResult",
    "AvsRun",
    "AvsSettings",
    "Decision",
    "Ground",
    "GroundSound",
    "GroundingSelector",
    "GroundingSoundSelector",
    "MaskResult",
    "MaskSink",
    "MllmSelector",
    "MllmSoundSelector",
    "Networks",
    "Pipeline",
    "PivotSelector",
    "Progress",
    "ProgressCallback",
    "RecordedAnswers",
    "RecordedBoxes",
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
    "SoundingObject",
    "Span",
    "Stages",
    "WindowResult",
    "cut_into_segments",
    "silent_seconds",
    "unusable_warnings",
]
