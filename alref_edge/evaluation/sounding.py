"""The pipeline on any dataset of sounds: its masks of all that sounds, by AVSBench's measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alref_edge.datasets.base import Dataset
from alref_edge.metrics import sounding_f, sounding_j
from alref_edge.pipeline import AvsSettings, Pipeline, Progress, ProgressCallback, SoundSelector


@dataclass(frozen=True)
class SoundingScores:
    """What was measured of one clip.

    Attributes:
        clip: its name.
        j, f: AVSBench's measures, frame by frame of those that the clip is judged on.
    """

    clip: str
    j: tuple[float, ...]
    f: tuple[float, ...]


def evaluate_sounding(
    pipeline: Pipeline,
    dataset: Dataset,
    selector: SoundSelector | None = None,
    settings: AvsSettings | None = None,
    *,
    progress: ProgressCallback | None = None,
) -> tuple[SoundingScores, ...]:
    """Measure a pipeline on the sounds of a dataset; a clip that has none is passed over.

    Args:
        pipeline: of the bundle that is to be measured.
        dataset: gone through once.
        selector, settings: see `Pipeline.avs`.
        progress: called after every clip, with clips.

    Raises:
        As `Pipeline.avs`.
    """
    scores = []
    for done, clip in enumerate(dataset, 1):
        if clip.sound is not None:
            with pipeline.avs(clip.open(), clip.sound.sound, selector=selector, settings=settings) as run:
                masks = [run.mask(frame) for frame in clip.sound.frames]
            pairs = list(zip(masks, np.asarray(clip.sound.masks()), strict=True))
            j, f = (tuple(measure(*pair) for pair in pairs) for measure in (sounding_j, sounding_f))
            scores.append(SoundingScores(clip.name, j, f))
        if progress is not None:
            progress(Progress("clips", done, len(dataset)))
    return tuple(scores)
