"""The pipeline on synthetic scenes: its masks with pivots of its own and with perfect ones, and its boxes alone.

Perfect pivots show what the tracker loses, the difference to the pipeline's own what the choice of pivots loses, and
the top boxes how much of that Grounding DINO is to answer for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alref_edge.datasets.synthetic import Expression, Scene, make_scene
from alref_edge.errors import InputError
from alref_edge.evaluation.boxes import RIGHT_IOU, box_iou
from alref_edge.evaluation.environment import bundle_facts, environment
from alref_edge.evaluation.scene_source import SceneSource
from alref_edge.evaluation.summary import Summary, summaries, to_text
from alref_edge.metrics import j_and_f
from alref_edge.models.grounding_dino import GroundingDino
from alref_edge.pipeline import GroundingSelector, Pipeline, PivotSelector, Progress, ReplaySelector, RvosSettings
from alref_edge.pipeline.measure import ProgressCallback
from alref_edge.pipeline.pivots import windows
from alref_edge.types import Pivot

SCHEMA = "alref-edge.eval-synthetic/1"


@dataclass(frozen=True)
class TopBox:
    """Grounding DINO's best box of an expression on a frame where the target is seen, whatever its score.

    Attributes:
        frame: the frame.
        pixels: how many pixels of the target are seen.
        iou: with the box of these pixels; 0 where no box was proposed.
        score: of the box.
    """

    frame: int
    pixels: int
    iou: float
    score: float

    @property
    def is_right(self) -> bool:
        return self.iou >= RIGHT_IOU


@dataclass(frozen=True)
class Tracked:
    """What the pipeline made of an expression.

    Attributes:
        j, f, j_and_f: means over all frames of the clip.
        pivots: frame of each pivot, and the IoU of its box with the target's on that frame.
        fell_back: whether frame 0 had to serve.
    """

    j: float
    f: float
    j_and_f: float
    pivots: tuple[tuple[int, float], ...]
    fell_back: bool

    @property
    def pivots_right(self) -> tuple[bool, ...]:
        """Whether each pivot's box is right; without a pivot, the one that is missing is wrong."""
        return tuple(iou >= RIGHT_IOU for _, iou in self.pivots) or (False,)


@dataclass(frozen=True)
class ExpressionScores:
    """All that was measured of one expression.

    Attributes:
        seed: of the scene.
        text, kind, target: the expression.
        oracle: with perfect pivots.
        grounding: with the pivots of the grounding selector.
        top_boxes: Grounding DINO alone, on every so many frames.
    """

    seed: int
    text: str
    kind: str
    target: int
    oracle: Tracked
    grounding: Tracked
    top_boxes: tuple[TopBox, ...]


@dataclass(frozen=True)
class Evaluation:
    """What was measured on scenes, and on what.

    Attributes:
        facts: bundle, precision, provider, seeds, sizes, settings and environment, as plain values.
        scores: of each expression, scene by scene.
    """

    facts: dict[str, Any]
    scores: tuple[ExpressionScores, ...]

    @property
    def summaries(self) -> tuple[Summary, ...]:
        """One of each kind of expression, and one of all."""
        return summaries(self.scores)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "schema": SCHEMA,
            **self.facts,
            "summaries": [asdict(each) for each in self.summaries],
            "expressions": [asdict(each) for each in self.scores],
        }

    def to_text(self) -> str:
        """The table for a person."""
        return to_text(self.summaries)


def evaluate_synthetic(
    pipeline: Pipeline,
    detector: GroundingDino,
    seeds: range,
    *,
    every: int = 5,
    size: int = 256,
    frames: int = 40,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Measure a pipeline on the scenes of some seeds.

    Args:
        pipeline: of the bundle that is to be measured.
        detector: Grounding DINO of the same bundle, in the same precision.
        seeds: of the scenes.
        every: Grounding DINO alone is asked on frame 0 and every so many frames after it.
        size: height and width of a scene in pixels.
        frames: length of a scene.
        progress: called after every scene, with frames of video.

    Raises:
        InputError: no seeds, or a size, a length or a step that makes no sense.
        BundleError, EngineError, ProviderError, CapacityError: see `Pipeline`.
    """
    if not seeds or min(seeds) < 0 or every < 1:
        raise InputError(
            "There is nothing to measure.", expected="seeds from 0, and a step of frames from 1", got=(seeds, every)
        )
    scores: list[ExpressionScores] = []
    for done, seed in enumerate(seeds, 1):
        scores += evaluate_scene(pipeline, detector, make_scene(seed, size, size, frames), every)
        if progress is not None:
            progress(Progress("scenes", done * frames, len(seeds) * frames))
    facts = {
        "bundle": bundle_facts(pipeline),
        "precision": pipeline.precision,
        "provider": detector.provider,
        "seeds": [seeds.start, seeds.stop, seeds.step],
        "scenes": {"width": size, "height": size, "frames": frames},
        "settings": asdict(pipeline.settings),
        "top_boxes": {"every_frames": every, "right_iou": RIGHT_IOU},
        "environment": environment(),
    }
    return Evaluation(facts, tuple(scores))


def evaluate_scene(pipeline: Pipeline, detector: GroundingDino, scene: Scene, every: int = 5) -> list[ExpressionScores]:
    """Measure every expression of a scene; all share one run of the pipeline for each way to choose the pivots.

    Args:
        pipeline, detector, every: see `evaluate_synthetic`.
        scene: it.
    """
    if not scene.expressions:
        return []
    labels_thw = np.stack([scene.labels(frame) for frame in range(scene.num_frames)])
    boxes_tn4 = np.stack([scene.boxes(frame) for frame in range(scene.num_frames)])
    perfect = oracle(scene.expressions, labels_thw, boxes_tn4, pipeline.settings)
    by_oracle = _track(pipeline, scene, perfect, labels_thw, boxes_tn4)
    by_grounding = _track(pipeline, scene, GroundingSelector(), labels_thw, boxes_tn4)
    tops = _top_boxes(detector, scene, range(0, scene.num_frames, every), labels_thw, boxes_tn4)
    return [
        ExpressionScores(scene.seed, each.text, each.kind, each.target, with_truth, with_grounding, boxes)
        for each, with_truth, with_grounding, boxes in zip(
            scene.expressions, by_oracle, by_grounding, tops, strict=True
        )
    ]


def oracle(
    expressions: Sequence[Expression], labels_thw: np.ndarray, boxes_tn4: np.ndarray, settings: RvosSettings
) -> ReplaySelector:
    """A selector that knows the truth: the sampled frame of a segment that shows most of the target, and its true box.

    Where no sampled frame of the whole clip shows the target, the one of all frames that shows most of it serves.

    Args:
        expressions: of the scene.
        labels_thw: the object seen at each pixel, int8 `[T, H, W]`.
        boxes_tn4: boxes of what is seen of each object, float32 xyxy `[T, N, 4]`.
        settings: which frames are sampled.
    """
    cuts = [window.sampled for window in windows(len(labels_thw), settings) if window.is_segment]
    pivots = {}
    for expression in expressions:
        target = expression.target
        pixels_t = np.count_nonzero(labels_thw == target, axis=(1, 2))
        best = [max(sampled, key=lambda frame: int(pixels_t[frame])) for sampled in cuts]
        if not pixels_t[best].any():
            best = [int(pixels_t.argmax())]
        pivots[expression.text] = tuple(Pivot(frame, boxes_tn4[frame, target]) for frame in best if pixels_t[frame])
    return ReplaySelector(pivots, {}, name="oracle")


def _track(
    pipeline: Pipeline, scene: Scene, selector: PivotSelector, labels_thw: np.ndarray, boxes_tn4: np.ndarray
) -> list[Tracked]:
    tracked = []
    texts = [expression.text for expression in scene.expressions]
    for result, expression in zip(
        pipeline.rvos(SceneSource(scene), texts, selector=selector), scene.expressions, strict=True
    ):
        measured = j_and_f((mask_hw for _, mask_hw in result.masks()), labels_thw == expression.target)
        pivots = tuple(
            (pivot.frame, box_iou(pivot.box_xyxy, boxes_tn4[pivot.frame, expression.target])) for pivot in result.pivots
        )
        tracked.append(Tracked(measured.j, measured.f, measured.j_and_f, pivots, result.fell_back))
    return tracked


def _top_boxes(
    detector: GroundingDino, scene: Scene, looked_at: range, labels_thw: np.ndarray, boxes_tn4: np.ndarray
) -> list[tuple[TopBox, ...]]:
    images = {frame: detector.encode_image(scene.frame(frame)) for frame in looked_at}
    found = []
    for expression in scene.expressions:
        words = detector.encode_text(expression.text)
        tops = []
        for frame, image in images.items():
            pixels = int(np.count_nonzero(labels_thw[frame] == expression.target))
            if not pixels:
                continue
            best = detector.detect(image, words, box_threshold=0, text_threshold=0).top(1)
            iou = box_iou(best.boxes_n4[0], boxes_tn4[frame, expression.target]) if len(best) else 0.0
            tops.append(TopBox(frame, pixels, iou, float(best.scores_n[0]) if len(best) else 0.0))
        found.append(tuple(tops))
    return found
