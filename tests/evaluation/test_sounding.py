"""Any dataset of sounds is measured: here one in this file, of three clips whose scores are known by counting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alref_edge import Pipeline
from alref_edge.datasets.base import Clip, Sound
from alref_edge.datasets.synthetic import SceneSource, make_scene
from alref_edge.datasets.synthetic.sound import make_sound
from alref_edge.evaluation import evaluate_sounding
from alref_edge.pipeline import Progress


def test_three_clips_have_the_scores_that_are_counted_by_hand(nano_bundle: Path) -> None:
    scene = make_scene(49)
    wave, judged = make_sound(scene).wave_16khz, (7, 15, 23, 31, 39)
    told: list[Progress] = []
    with Pipeline.from_bundle(nano_bundle, "cpu", threads=1) as pipeline:
        run = pipeline.avs(SceneSource(scene), wave)
        found = np.stack([run.mask(frame) for frame in judged])
        seen = found.any(axis=(1, 2))
        assert 2 <= seen.sum() < len(judged)  # some seconds are silent
        truths = {"right": found, "none": np.zeros_like(found), "all": np.ones_like(found)}
        dataset = [
            Clip(name, lambda: SceneSource(scene), sound=Sound(wave, judged, lambda truth=truth: truth))
            for name, truth in truths.items()
        ]
        mute = Clip("mute", lambda: SceneSource(scene))
        scores = evaluate_sounding(pipeline, [*dataset, mute], progress=told.append)
    share = found.mean(axis=(1, 2))
    assert [each.clip for each in scores] == ["right", "none", "all"]
    # Where nothing sounds, J is the share of the frame that is left out.
    np.testing.assert_allclose([each.j for each in scores], [np.ones(5), 1 - share, share], atol=1e-5)
    np.testing.assert_allclose(scores[0].f, seen, atol=1e-5)
    assert scores[1].f == (0,) * 5
    assert told[-1] == Progress("clips", 4, 4)
    assert pytest.approx(1) == np.mean(scores[0].j)
