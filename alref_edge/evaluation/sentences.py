"""The pipeline on any dataset of sentences: its masks with perfect pivots and with those of selectors, and its boxes
alone.

Perfect pivots show what the tracker loses, the difference to a selector's what the choice of pivots loses, and the top
boxes how much of that the detector is to answer for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alref_edge.datasets.base import Clip, Dataset, Sentence
from alref_edge.errors import InputError
from alref_edge.evaluation.boxes import RIGHT_IOU, box_iou, box_of
from alref_edge.evaluation.environment import bundle_facts, environment
from alref_edge.evaluation.scores import SentenceScores, TopBox, Tracked
from alref_edge.evaluation.summary import Summary, summaries, to_text
from alref_edge.metrics import j_and_f
from alref_edge.pipeline import (
    GroundingSelector,
    Pipeline,
    PivotSelector,
    Progress,
    ProgressCallback,
    ReplaySelector,
    RvosResult,
    RvosSettings,
    cut_into_segments,
    unusable_warnings,
)
from alref_edge.types import Pivot

SCHEMA = "alref-edge.eval/1"


@dataclass(frozen=True)
class Evaluation:
    """What was measured on clips, and on what.

    Attributes:
        facts: bundle, precision, settings, selectors, environment and more, as plain values.
        scores: of each sentence, clip by clip.
        schema: of the JSON.
    """

    facts: dict[str, Any]
    scores: tuple[SentenceScores, ...]
    schema: str = SCHEMA

    @property
    def summaries(self) -> tuple[Summary, ...]:
        """One of each kind of sentence, and one of all."""
        return summaries(self.scores)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "schema": self.schema,
            **self.facts,
            "summaries": [asdict(each) for each in self.summaries],
            "expressions": [each.to_json() for each in self.scores],
        }

    def to_text(self) -> str:
        """The table for a person."""
        return to_text(self.summaries)


def evaluate_sentences(
    pipeline: Pipeline,
    dataset: Dataset,
    selectors: Sequence[PivotSelector] = (GroundingSelector(),),
    *,
    every: int | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Measure a pipeline on the sentences of a dataset; a clip that has none is passed over.

    Args:
        pipeline: of the bundle that is to be measured.
        dataset: gone through once for perfect pivots, and once for each selector.
        selectors: whose pivots are measured beside perfect ones, each in a run over all clips.
        every: the detector is also asked alone, on frame 0 and every so many frames after it; None: it is not.
        progress: called after every clip of every way to choose the pivots, with clips.

    Raises:
        InputError: no clips, a step that makes no sense, or selectors that cannot be told apart.
        MllmError: a selector's LLM cannot be reached, or gives no usable answer.
        BundleError, EngineError, ProviderError, CapacityError, MediaError: see `Pipeline`.
    """
    if not len(dataset) or (every is not None and every < 1):
        raise InputError(
            "There is nothing to measure.", expected="clips, and a step of frames from 1", got=(len(dataset), every)
        )
    names = [each.name for each in selectors]
    if len({"oracle", *names}) <= len(names):
        raise InputError("Selectors are told apart by their names.", expected="each once, none 'oracle'", got=names)
    ways: dict[str, list[Tracked]] = {"oracle": []}
    tops: list[tuple[TopBox, ...]] = []
    reasoning: dict[str, Counter[str]] = {}
    rows: list[tuple[Clip, Sentence]] = []

    def clips() -> Iterator[Clip]:
        return (clip for clip in dataset if clip.sentences)

    def tell(done: int) -> None:
        if progress is not None:
            progress(Progress("clips", done, len(dataset) * (1 + len(selectors))))

    for done, clip in enumerate(clips(), 1):
        rows += [(clip, sentence) for sentence in clip.sentences]
        perfect = oracle(clip.sentences, pipeline.settings)
        with pipeline.rvos(clip.open(), _texts(clip), selector=perfect) as run:
            ways["oracle"] += _measure(clip, run)
        tops += _top_boxes(pipeline, clip, every)
        tell(done)
    for number, selector in enumerate(selectors, 1):
        tracked = ways.setdefault(selector.name, [])
        counted = reasoning.setdefault(selector.name, Counter())
        found = pipeline.rvos_many(((clip.open(), _texts(clip)) for clip in clips()), selector=selector)
        for done, (clip, run) in enumerate(zip(clips(), found, strict=True), 1):
            with run:
                tracked += _measure(clip, run)
            counted.update({name: count for name, count in run.report.reasoning.items() if isinstance(count, int)})
            tell(number * len(dataset) + done)
    scores = tuple(
        SentenceScores(clip.name, each.text, each.kind, dict(zip(ways, tracked, strict=True)), boxes)
        for (clip, each), boxes, *tracked in zip(rows, tops, *ways.values(), strict=True)
    )
    facts = {
        "bundle": bundle_facts(pipeline),
        "precision": pipeline.precision,
        "settings": asdict(pipeline.settings),
        "selectors": {each.name: {**each.facts, **reasoning[each.name]} for each in selectors},
        "warnings": [
            f"{name}: {warning}" for name, counted in reasoning.items() for warning in unusable_warnings(counted)
        ],
        "top_boxes": {"every_frames": every, "right_iou": RIGHT_IOU},
        "environment": environment(),
    }
    return Evaluation(facts, scores)


def oracle(sentences: Sequence[Sentence], settings: RvosSettings) -> ReplaySelector:
    """A selector that knows the truth: the sampled frame of a segment that shows most of the target, and its true box.

    Where no sampled frame of the whole clip shows the target, the one of all frames that shows most of it serves.

    Args:
        sentences: about a clip.
        settings: which frames are sampled.
    """
    pivots = {}
    for sentence in sentences:
        masks_thw = sentence.masks()
        pixels_t = np.count_nonzero(masks_thw, axis=(1, 2))
        cuts = [span.sampled for span in cut_into_segments(len(masks_thw), settings) if span.is_segment]
        best = [max(sampled, key=lambda frame: int(pixels_t[frame])) for sampled in cuts]
        if not pixels_t[best].any():
            best = [int(pixels_t.argmax())]
        pivots[sentence.text.strip()] = tuple(
            Pivot(frame, box_of(masks_thw[frame])) for frame in best if pixels_t[frame]
        )
    return ReplaySelector(pivots, {}, name="oracle")


def _texts(clip: Clip) -> list[str]:
    return [each.text for each in clip.sentences]


def _measure(clip: Clip, results: Sequence[RvosResult]) -> list[Tracked]:
    """One a sentence of the clip, in order."""
    tracked = []
    for result, sentence in zip(results, clip.sentences, strict=True):
        truth_thw = sentence.masks()
        measured = j_and_f((mask_hw for _, mask_hw in result.masks()), truth_thw)
        pivots = tuple((each.frame, box_iou(each.prompt_xyxy, box_of(truth_thw[each.frame]))) for each in result.pivots)
        tracked.append(Tracked(measured.j, measured.f, measured.j_and_f, pivots, result.fell_back))
    return tracked


def _top_boxes(pipeline: Pipeline, clip: Clip, every: int | None) -> list[tuple[TopBox, ...]]:
    """One tuple a sentence of the clip, in order; empty where the detector is not asked."""
    if every is None:
        return [()] * len(clip.sentences)
    detector = pipeline.networks.detector
    images = {frame: detector.encode_image(image) for frame, image in clip.open().frames(step=every)}
    found = []
    for sentence in clip.sentences:
        words, truth_thw = detector.encode_text(sentence.text), sentence.masks()
        tops = []
        for frame, image in images.items():
            pixels = int(np.count_nonzero(truth_thw[frame]))
            if not pixels:
                continue
            best = detector.detect(image, words, box_threshold=0, text_threshold=0).top(1)
            iou = box_iou(best.boxes_n4[0], box_of(truth_thw[frame])) if len(best) else 0.0
            tops.append(TopBox(frame, pixels, iou, float(best.scores_n[0]) if len(best) else 0.0))
        found.append(tuple(tops))
    return found
