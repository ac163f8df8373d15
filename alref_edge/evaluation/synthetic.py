"""The pipeline on synthetic scenes: its masks with perfect pivots and with those of selectors, and its boxes alone.

Perfect pivots show what the tracker loses, the difference to a selector's what the choice of pivots loses, and the top
boxes how much of that Grounding DINO is to answer for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alref_edge.datasets.synthetic import Expression, Scene, make_scene
from alref_edge.errors import InputError
from alref_edge.evaluation.boxes import RIGHT_IOU, box_iou
from alref_edge.evaluation.environment import bundle_facts, environment
from alref_edge.evaluation.scene_source import SceneSource
from alref_edge.evaluation.scores import ExpressionScores, TopBox, Tracked
from alref_edge.evaluation.summary import Summary, summaries, to_text
from alref_edge.metrics import j_and_f
from alref_edge.models.grounding_dino import GroundingDino
from alref_edge.pipeline import (
    GroundingSelector,
    Pipeline,
    PivotSelector,
    Progress,
    ReplaySelector,
    RvosResult,
    RvosSettings,
)
from alref_edge.pipeline.measure import ProgressCallback
from alref_edge.pipeline.rvos import cut_into_segments
from alref_edge.pipeline.selectors.mllm import unusable_warnings
from alref_edge.types import Pivot

SCHEMA = "alref-edge.eval-synthetic/2"


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


@dataclass(frozen=True, eq=False)
class _Truth:
    """What is true of a scene, pixel by pixel.

    Attributes:
        scene: it.
        labels_thw: the object seen at each pixel, int8 `[T, H, W]`.
        boxes_tn4: boxes of what is seen of each object, float32 xyxy `[T, N, 4]`.
    """

    scene: Scene
    labels_thw: np.ndarray
    boxes_tn4: np.ndarray

    @classmethod
    def of(cls, scene: Scene) -> _Truth:
        frames = range(scene.num_frames)
        labels = [scene.labels(frame) for frame in frames]
        return cls(scene, np.stack(labels), np.stack([scene.boxes(frame) for frame in frames]))

    @property
    def sentences(self) -> list[str]:
        return [expression.text for expression in self.scene.expressions]


def evaluate_synthetic(
    pipeline: Pipeline,
    detector: GroundingDino,
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
        detector: Grounding DINO of the same bundle, in the same precision.
        seeds: of the scenes.
        selectors: whose pivots are measured beside perfect ones, each in a run over all scenes.
        every: Grounding DINO alone is asked on frame 0 and every so many frames after it.
        size: height and width of a scene in pixels.
        frames: length of a scene.
        progress: called after every scene of every way to choose the pivots, with frames of video.

    Raises:
        InputError: no seeds, or a size, a length or a step that makes no sense.
        MllmError: a selector's LLM cannot be reached, or gives no usable answer.
        BundleError, EngineError, ProviderError, CapacityError: see `Pipeline`.
    """
    if not seeds or min(seeds) < 0 or every < 1:
        raise InputError(
            "There is nothing to measure.", expected="seeds from 0, and a step of frames from 1", got=(seeds, every)
        )
    names = [each.name for each in selectors]
    if len({"oracle", *names}) <= len(names):
        raise InputError("Selectors are told apart by their names.", expected="each once, none 'oracle'", got=names)
    ways: dict[str, list[Tracked]] = {"oracle": []}
    tops: list[tuple[TopBox, ...]] = []
    reasoning: dict[str, Counter[str]] = {}
    rows: list[tuple[int, Expression]] = []
    total = len(seeds) * (1 + len(selectors))

    def scenes() -> Iterator[Scene]:
        return (scene for seed in seeds if (scene := make_scene(seed, size, size, frames)).expressions)

    def tell(done: int) -> None:
        if progress is not None:
            progress(Progress("scenes", done * frames, total * frames))

    for done, scene in enumerate(scenes(), 1):
        truth = _Truth.of(scene)
        rows += [(scene.seed, expression) for expression in scene.expressions]
        perfect = oracle(scene.expressions, truth.labels_thw, truth.boxes_tn4, pipeline.settings)
        ways["oracle"] += _measure(truth, pipeline.rvos(SceneSource(scene), truth.sentences, selector=perfect))
        tops += _top_boxes(detector, truth, range(0, scene.num_frames, every))
        tell(done)
    for number, selector in enumerate(selectors, 1):
        tracked = ways.setdefault(selector.name, [])
        counted = reasoning.setdefault(selector.name, Counter())
        jobs = ((SceneSource(scene), [each.text for each in scene.expressions]) for scene in scenes())
        found = pipeline.rvos_many(jobs, selector=selector)
        for done, (scene, results) in enumerate(zip(scenes(), found, strict=True), 1):
            tracked += _measure(_Truth.of(scene), results)
            report = results[0].run
            counted.update({name: count for name, count in report.reasoning.items() if isinstance(count, int)})
            tell(number * len(seeds) + done)
            results[0].close()
    scores = tuple(
        ExpressionScores(seed, each.text, each.kind, each.target, dict(zip(ways, tracked, strict=True)), boxes)
        for (seed, each), boxes, *tracked in zip(rows, tops, *ways.values(), strict=True)
    )
    facts = {
        "bundle": bundle_facts(pipeline),
        "precision": pipeline.precision,
        "provider": detector.provider,
        "seeds": [seeds.start, seeds.stop, seeds.step],
        "scenes": {"width": size, "height": size, "frames": frames},
        "settings": asdict(pipeline.settings),
        "selectors": {each.name: {**each.facts, **reasoning[each.name]} for each in selectors},
        "warnings": [
            f"{name}: {warning}" for name, counted in reasoning.items() for warning in unusable_warnings(counted)
        ],
        "top_boxes": {"every_frames": every, "right_iou": RIGHT_IOU},
        "environment": environment(),
    }
    return Evaluation(facts, scores)


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
    cuts = [span.sampled for span in cut_into_segments(len(labels_thw), settings) if span.is_segment]
    pivots = {}
    for expression in expressions:
        target = expression.target
        pixels_t = np.count_nonzero(labels_thw == target, axis=(1, 2))
        best = [max(sampled, key=lambda frame: int(pixels_t[frame])) for sampled in cuts]
        if not pixels_t[best].any():
            best = [int(pixels_t.argmax())]
        pivots[expression.text] = tuple(Pivot(frame, boxes_tn4[frame, target]) for frame in best if pixels_t[frame])
    return ReplaySelector(pivots, {}, name="oracle")


def _measure(truth: _Truth, results: Sequence[RvosResult]) -> list[Tracked]:
    """One a sentence of the scene, in order."""
    tracked = []
    for result, expression in zip(results, truth.scene.expressions, strict=True):
        target = expression.target
        measured = j_and_f((mask_hw for _, mask_hw in result.masks()), truth.labels_thw == target)
        pivots = tuple(
            (pivot.frame, box_iou(pivot.prompt_xyxy, truth.boxes_tn4[pivot.frame, target])) for pivot in result.pivots
        )
        tracked.append(Tracked(measured.j, measured.f, measured.j_and_f, pivots, result.fell_back))
    return tracked


def _top_boxes(detector: GroundingDino, truth: _Truth, looked_at: range) -> list[tuple[TopBox, ...]]:
    images = {frame: detector.encode_image(truth.scene.frame(frame)) for frame in looked_at}
    found = []
    for expression in truth.scene.expressions:
        words = detector.encode_text(expression.text)
        tops = []
        for frame, image in images.items():
            pixels = int(np.count_nonzero(truth.labels_thw[frame] == expression.target))
            if not pixels:
                continue
            best = detector.detect(image, words, box_threshold=0, text_threshold=0).top(1)
            iou = box_iou(best.boxes_n4[0], truth.boxes_tn4[frame, expression.target]) if len(best) else 0.0
            tops.append(TopBox(frame, pixels, iou, float(best.scores_n[0]) if len(best) else 0.0))
        found.append(tuple(tops))
    return found
