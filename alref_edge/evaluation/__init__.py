"""The pipeline measured against a known truth: stage by stage, kind by kind of expression."""

from alref_edge.evaluation.scene_source import SceneSource
from alref_edge.evaluation.summary import Summary, summaries
from alref_edge.evaluation.synthetic import (
    Evaluation,
    ExpressionScores,
    TopBox,
    Tracked,
    box_iou,
    evaluate_scene,
    evaluate_synthetic,
    oracle,
)

__all__ = [
    "Evaluation",
    "ExpressionScores",
    "SceneSource",
    "Summary",
    "TopBox",
    "Tracked",
    "box_iou",
    "evaluate_scene",
    "evaluate_synthetic",
    "oracle",
    "summaries",
]
