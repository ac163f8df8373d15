"""Audio-visual segmentation of synthetic clips, without an LLM: its masks, and each stage of it alone.

Masks are compared on the last frame of each second, as in AVSBench. Beside the pipeline's own stand those that it makes
when some of its decisions are the truth's, which shows where the rest is lost; and since it tracks one object of each
category, while all objects of a shape sound together, how far the best mask of one object goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alref_edge.datasets.synthetic import Scene, SceneSource, make_scene
from alref_edge.datasets.synthetic.sound import MODES, class_map, frame_of_second, has_single
from alref_edge.datasets.synthetic.timbres import TIMBRES
from alref_edge.errors import InputError
from alref_edge.evaluation.boxes import RIGHT_IOU
from alref_edge.evaluation.environment import bundle_facts, environment
from alref_edge.evaluation.sound_scores import ClipScores
from alref_edge.evaluation.sound_stages import stages, tagged
from alref_edge.evaluation.sound_summary import SoundSummary, summaries, to_text
from alref_edge.evaluation.sound_truth import KnowingSelector, SoundTruth
from alref_edge.metrics import ClassScores, sounding_f, sounding_j
from alref_edge.pipeline import AvsRun, AvsSettings, Pipeline, Progress, ProgressCallback, Setting, silent_seconds

SCHEMA = "alref-edge.eval-sound/1"

_SETTINGS = dict(zip(MODES, (Setting.S4, Setting.MS3), strict=True))


@dataclass(frozen=True)
class SoundEvaluation:
    """What was measured on clips, and on what.

    Attributes:
        facts: bundle, precision, provider, seeds, sizes, settings and environment, as plain values.
        scores: of each clip, by mode, then by seed.
    """

    facts: dict[str, Any]
    scores: tuple[ClipScores, ...]

    @property
    def summaries(self) -> tuple[SoundSummary, ...]:
        """One of each mode in which there is a clip."""
        return summaries(self.scores)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values; of the class maps, the summaries' figures alone."""
        clips = [asdict(each) for each in self.scores]
        for clip in clips:
            del clip["classes"]
        return {
            "schema": SCHEMA,
            **self.facts,
            "summaries": [asdict(each) for each in self.summaries],
            "clips": clips,
        }

    def to_text(self) -> str:
        """The tables for a person."""
        return to_text(self.summaries)


def evaluate_sound(
    pipeline: Pipeline,
    seeds: range,
    *,
    size: int = 256,
    frames: int = 40,
    progress: ProgressCallback | None = None,
) -> SoundEvaluation:
    """Measure a pipeline on the scenes of some seeds with their sound.

    A clip of a single source has the numbers of S4, one of many those of MS3, and over both go those of the bundle.

    Args:
        pipeline: of the bundle that is to be measured.
        seeds: of the scenes; one in which no shape is in view all the time has no clip of a single source.
        size: height and width of a scene in pixels.
        frames: length of a scene, whole seconds of 8 frames, as many as are looked at together at most.
        progress: called after every clip, with frames of video.

    Raises:
        InputError: no seeds, or a size or a length that makes no sense.
        BundleError: the bundle has no networks that hear, or its settings make no sense.
        EngineError, ProviderError, CapacityError: see `Pipeline`.
    """
    if not seeds or min(seeds) < 0:
        raise InputError("There is nothing to measure.", expected="seeds from 0", got=seeds)
    settings = {mode: clip_settings(pipeline, mode) for mode in MODES}
    silence_db = _silence_db(pipeline)
    scores: list[ClipScores] = []
    for mode in MODES:
        for seed in seeds:
            scene = make_scene(seed, size, size, frames)
            if mode == "multi" or has_single(scene):
                scores.append(evaluate_clip(pipeline, scene, mode))
            if progress is not None:
                done = MODES.index(mode) * len(seeds) + seeds.index(seed) + 1
                progress(Progress("clips", done * frames, len(MODES) * len(seeds) * frames))
    facts = {
        "bundle": bundle_facts(pipeline),
        "precision": pipeline.precision,
        "provider": pipeline.networks.sound_text_matcher.provider,
        "seeds": [seeds.start, seeds.stop, seeds.step],
        "scenes": {"width": size, "height": size, "frames": frames},
        "settings": {mode: asdict(each) for mode, each in settings.items()},
        "silence_db": silence_db,
        "right_iou": RIGHT_IOU,
        "environment": environment(),
    }
    return SoundEvaluation(facts, tuple(scores))


def clip_settings(pipeline: Pipeline, mode: str) -> AvsSettings:
    """The numbers for a mode: the categories are the shapes, and there is no silence gate.

    Raises:
        BundleError: those of the bundle make no sense.
    """
    base = pipeline.avs_settings(_SETTINGS[mode].settings)
    return base.changed({"categories": tuple(TIMBRES), "silence_db": None})


def evaluate_clip(pipeline: Pipeline, scene: Scene, mode: str) -> ClipScores:
    """Measure a scene with its sound in a mode.

    Raises:
        InputError: it has no such sound, or is longer than what is looked at together.
        BundleError, EngineError, ProviderError, CapacityError: see `Pipeline`.
    """
    truth, settings = SoundTruth.of(scene, mode), clip_settings(pipeline, mode)
    seconds, labels = range(truth.seconds), truth.sound.labels
    if truth.seconds > settings.window_s:
        raise InputError("The scene is too long.", expected=f"at most {settings.window_s} s", got=f"{truth.seconds} s")
    wave = truth.sound.wave_16khz
    silent = silent_seconds(wave, truth.seconds, _silence_db(pipeline))
    last = [frame_of_second(scene, second) for second in seconds]
    own = pipeline.avs(SceneSource(scene), wave, settings=settings)
    sparse = pipeline.avs(SceneSource(scene, every=scene.fps), wave, settings=settings)
    knowing = KnowingSelector(truth)
    known = pipeline.avs(SceneSource(scene), wave, selector=knowing, settings=settings)
    masks = {
        "own": [own.mask(frame) for frame in last],
        "gated": [own.mask(frame) & (not closed) for frame, closed in zip(last, silent, strict=True)],
        "sparse": [sparse.mask(second) for second in seconds],
        "known_boxes": [known.mask(frame) for frame in last],
        "known_labels": [_tracked(known, frame, label.shapes) for frame, label in zip(last, labels, strict=True)],
        "one_object": [truth.one_object(second) for second in seconds],
    }
    true = [truth.mask(second) for second in seconds]
    by_way = {way: list(zip(made, true, strict=True)) for way, made in masks.items()}
    maps = [(own.class_map(frame), class_map(scene, truth.sound, second)) for second, frame in enumerate(last)]
    return ClipScores(
        seed=scene.seed,
        mode=mode,
        sounding=tuple(bool(each.any()) for each in true),
        j={way: tuple(sounding_j(*each) for each in pairs) for way, pairs in by_way.items()},
        f={way: tuple(sounding_f(*each) for each in pairs) for way, pairs in by_way.items()},
        stages={
            **stages(own.windows[0], tagged(pipeline, own.windows[0], settings), truth),
            "silence_empty": tuple(not masks["gated"][s].any() for s in seconds if labels[s].silent),
            "sound_kept": tuple(not silent[s] for s in seconds if not labels[s].silent),
        },
        classes=ClassScores.total(ClassScores.of(*each, 1 + len(TIMBRES)) for each in maps),
    )


def _silence_db(pipeline: Pipeline) -> float | None:
    return pipeline.avs_settings().silence_db


def _tracked(known: AvsRun, frame: int, shapes: Sequence[str]) -> np.ndarray:
    """The masks on a frame of the objects of some shapes, whatever was heard."""
    merged_hw = np.zeros_like(known.mask(frame))
    for each in known:
        if each.name in shapes:
            merged_hw |= each.tracked(frame)
    return merged_hw
