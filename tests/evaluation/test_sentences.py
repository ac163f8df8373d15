"""Any dataset is measured: here one in this file, of three clips whose scores are known by counting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alref_edge import Pipeline
from alref_edge.datasets.base import Clip, Dataset, Sentence
from alref_edge.datasets.synthetic import make_scene
from alref_edge.errors import InputError
from alref_edge.evaluation import evaluate_sentences
from alref_edge.media import FrameSource
from alref_edge.pipeline import GroundingSelector, Progress

FRAMES = 12
TEXT = "the circle"


@pytest.fixture(scope="module")
def pipeline(nano_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.from_bundle(nano_bundle, "cpu", threads=1) as made:
        yield made


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """uint8 `[T, H, W, 3]`."""
    scene = make_scene(5, 112, 112, FRAMES)
    return np.stack([scene.frame(frame) for frame in range(FRAMES)])


@pytest.fixture(scope="module")
def found(pipeline: Pipeline, frames: np.ndarray) -> np.ndarray:
    """What the pipeline makes of the frames, bool `[T, H, W]`: something on every frame."""
    (result,) = pipeline.rvos(frames, TEXT)
    masks_thw = np.stack([mask for _, mask in result.masks()])
    assert masks_thw.any(axis=(1, 2)).all()
    return masks_thw


@pytest.fixture(scope="module")
def dataset(frames: np.ndarray, found: np.ndarray) -> Dataset:
    """The same frames thrice: the truth is what will be found, that on every other frame alone, and nothing at all."""
    every_other = found & (np.arange(FRAMES) % 2 == 0)[:, None, None]
    truths = {"right": found, "half": every_other, "wrong": np.zeros_like(found)}
    return [
        Clip(name, lambda: FrameSource(frames, fps=8), (Sentence(TEXT, lambda truth=truth: truth, f"{name} kind"),))
        for name, truth in truths.items()
    ]


def test_three_clips_have_the_scores_that_are_counted_by_hand(pipeline: Pipeline, dataset: Dataset) -> None:
    told: list[Progress] = []
    evaluation = evaluate_sentences(pipeline, dataset, progress=told.append)
    assert [(each.clip, each.text, each.kind) for each in evaluation.scores] == [
        ("right", TEXT, "right kind"),
        ("half", TEXT, "half kind"),
        ("wrong", TEXT, "wrong kind"),
    ]
    grounding = [each.tracked["grounding"] for each in evaluation.scores]
    assert [(each.j, each.f) for each in grounding] == [(1, 1), (0.5, 0.5), (0, 0)]
    # Nothing is found where there is nothing, which is right.
    assert evaluation.scores[2].tracked["oracle"].j_and_f == 1
    assert evaluation.scores[2].tracked["oracle"].pivots == ()
    assert evaluation.scores[0].tracked["oracle"].pivots_right == (True,)
    assert [each.kind for each in evaluation.summaries] == ["right kind", "half kind", "wrong kind", "all"]
    summary = evaluation.summaries[-1]
    assert (summary.clips, summary.expressions) == (3, 3)
    assert summary.measures["grounding_j"].mean == pytest.approx(0.5)
    assert "top_box_right" not in summary.measures
    assert told[-1] == Progress("clips", 6, 6)
    record = evaluation.to_json()
    assert [row["clip"] for row in record["expressions"]] == ["right", "half", "wrong"]
    assert "wrong kind" in evaluation.to_text()


def test_clips_without_a_sentence_are_passed_over(pipeline: Pipeline, dataset: Dataset, frames: np.ndarray) -> None:
    right = next(iter(dataset))
    silent = Clip("silent", lambda: FrameSource(frames, fps=8))
    evaluation = evaluate_sentences(pipeline, [silent, right, silent])
    assert [each.clip for each in evaluation.scores] == ["right"]


def test_nothing_to_measure_is_refused(pipeline: Pipeline, dataset: Dataset) -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        evaluate_sentences(pipeline, [])
    with pytest.raises(InputError, match="nothing to measure"):
        evaluate_sentences(pipeline, dataset, every=0)
    with pytest.raises(InputError, match="told apart"):
        evaluate_sentences(pipeline, dataset, [GroundingSelector("oracle")])
