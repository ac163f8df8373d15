"""The pipeline on the sentences of synthetic scenes; see `evaluate_sentences`."""

from __future__ import annotations

from collections.abc import Sequence

from alref_edge.datasets.synthetic import SyntheticScenes, make_scene
from alref_edge.errors import InputError
from alref_edge.evaluation.scores import ExpressionScores
from alref_edge.evaluation.sentences import Evaluation, evaluate_sentences
from alref_edge.pipeline import GroundingSelector, Pipeline, PivotSelector, Progress, ProgressCallback

SCHEMA = "alref-edge.eval-synthetic/2"


def evaluate_synthetic(
    pipeline: Pipeline,
    seeds: range,
    selectors: Sequence[PivotSelector] = (GroundingSelector(),),
    *,
    every: int = 5,
    size: int = 256,
    frames: int = 40,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Measure a pipeline on the scenes of some seeds.

    Args:
        pipeline: of the bundle that is to be measured.
        seeds: of the scenes.
        selectors: whose pivots are measured beside perfect ones, each in a run over all scenes.
        every: the detector alone is asked on frame 0 and every so many frames after it.
        size: height and width of a scene in pixels.
        frames: length of a scene.
        progress: called after every scene of every way to choose the pivots, with frames of video.

    Raises:
        InputError: no seeds, or a size, a length or a step that makes no sense.
        MllmError, BundleError, EngineError, ProviderError, CapacityError: see `evaluate_sentences`.
    """
    if not seeds or min(seeds) < 0 or every < 1:
        raise InputError(
            "There is nothing to measure.", expected="seeds from 0, and a step of frames from 1", got=(seeds, every)
        )

    def in_frames(told: Progress) -> None:
        if progress is not None:
            progress(Progress("scenes", told.done * frames, told.total * frames))

    measured = evaluate_sentences(
        pipeline,
        SyntheticScenes(seeds, size, frames),
        selectors,
        every=every,
        progress=in_frames,
    )
    expressions = (
        (seed, expression) for seed in seeds for expression in make_scene(seed, size, size, frames).expressions
    )
    scores = tuple(
        ExpressionScores(each.clip, each.text, each.kind, each.tracked, each.top_boxes, seed, expression.target)
        for each, (seed, expression) in zip(measured.scores, expressions, strict=True)
    )
    facts = {
        "bundle": measured.facts["bundle"],
        "precision": pipeline.precision,
        "provider": pipeline.networks.detector.provider,
        "seeds": [seeds.start, seeds.stop, seeds.step],
        "scenes": {"width": size, "height": size, "frames": frames},
        **measured.facts,
    }
    return Evaluation(facts, scores, SCHEMA)
