"""The pipeline measured against a known truth, stage by stage: by sentences, kind by kind, and by sound."""

from alref_edge.evaluation.boxes import box_iou
from alref_edge.evaluation.scores import ExpressionScores, SentenceScores, TopBox, Tracked
from alref_edge.evaluation.sentences import Evaluation, evaluate_sentences, oracle
from alref_edge.evaluation.sound import SoundEvaluation, evaluate_clip, evaluate_sound
from alref_edge.evaluation.sound_scores import ClipScores
from alref_edge.evaluation.sound_summary import SoundSummary
from alref_edge.evaluation.sound_truth import KnowingSelector, SoundTruth
from alref_edge.evaluation.sounding import SoundingScores, evaluate_sounding
from alref_edge.evaluation.summary import Summary, summaries
from alref_edge.evaluation.synthetic import evaluate_synthetic

__all__ = [
    "ClipScores",
    "Evaluation",
    "ExpressionScores",
    "KnowingSelector",
    "SentenceScores",
    "SoundEvaluation",
    "SoundSummary",
    "SoundTruth",
    "SoundingScores",
    "Summary",
    "TopBox",
    "Tracked",
    "box_iou",
    "evaluate_clip",
    "evaluate_sentences",
    "evaluate_sound",
    "evaluate_sounding",
    "evaluate_synthetic",
    "oracle",
    "summaries",
]
