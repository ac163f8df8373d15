"""How well a bundle hears: its audio networks, as the runtime runs them, on the tracks of scenes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alref_edge.bundle import Bundle
from alref_edge.models.beats import Beats
from alref_edge.models.languagebind import LanguageBind
from alref_edge.models.yamnet import YamNet
from alref_edge.pipeline.audio_segments import AudioSegmentSettings, segment_audio
from export.nano.sounds import NAMES, SHAPES, clips, cutting_quality, sounding_quality, tagging_quality

TAGGERS = ("beats_as20k", "beats_as2m")


def hear(
    bundle: Bundle,
    first: int = 0,
    count: int = 100,
    *,
    precision: str = "float32",
    segments: AudioSegmentSettings | None = None,
) -> Mapping[str, Mapping[str, float]]:
    """Figures of a bundle's taggers, alone and together, of YAMNet's cuts, and of LanguageBind's answers.

    Args:
        bundle: with "beats_as20k", "beats_as2m", "yamnet" and "languagebind" as the nano ones are.
        first: seed of the first scene.
        count: of scenes.
        precision: of the graphs.
        segments: how sound is cut; None takes the defaults.
    """
    many, single = clips(first, count), clips(first, count, "single")
    heard: dict[bytes, np.ndarray] = {}

    def tags(wave_16khz: np.ndarray) -> np.ndarray:
        key = wave_16khz.tobytes()
        if key not in heard:
            names = [name for _, name in tagger.labels]
            heard[key] = tagger.probabilities(wave_16khz)[[names.index(each) for each in NAMES]]
        return heard[key]

    quality: dict[str, Mapping[str, float]] = {}
    by_tagger = []
    for name in TAGGERS:
        with Beats.from_component(bundle.component(name, precision), "cpu") as tagger:
            heard = {}
            quality[name] = tagging_quality(many, tags) | {"single_top": tagging_quality(single, tags)["top"]}
            by_tagger.append(heard)
    quality["either tagger"] = tagging_quality(
        many, lambda wave: np.maximum(*(heard[wave.tobytes()] for heard in by_tagger))
    )
    with (
        YamNet.from_component(bundle.component("yamnet", precision), "cpu") as yamnet,
        LanguageBind.from_component(bundle.component("languagebind", precision), "cpu") as language,
    ):
        cut = lambda wave: segment_audio(wave, yamnet, segments)  # noqa: E731
        quality["yamnet"] = cutting_quality(many, cut)
        names = language.nearest(NAMES, SHAPES)
        quality["languagebind"] = {
            "true_segments": sounding_quality(many, language.sounding),
            "cut_segments": sounding_quality(many, language.sounding, lambda clip: cut(clip.sound.wave_16khz)),
            "names": float(np.mean([one == other for one, other in zip(names, SHAPES, strict=True)])),
        }
    return quality
