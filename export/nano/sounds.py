"""Sounds to learn from: the scenes' timbres, mixed without a scene; and tracks of scenes, to see what was learned.

Mixtures are drawn wider than the tracks': other levels, noises and plans, so that nothing but the timbres is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby

import numpy as np

from alref_edge.datasets.synthetic import COLOURS, SIZES, TRAINING_SEEDS, Scene, make_scene
from alref_edge.datasets.synthetic.sound import SoundTrack, has_single, make_sound
from alref_edge.datasets.synthetic.timbres import RATE, TIMBRES, pitch_of, play
from alref_edge.pipeline.audio_segments import AudioSegment

SHAPES = tuple(TIMBRES)
NAMES = ("Flute", "Reed", "Bell", "Siren", "Shaker", "Heartbeat")
"""What each shape's sound is called, in the order of `TIMBRES`."""

UNSEEN = 500_000
"""First seed of the tracks that a training is watched by."""

_HOW_MANY = (0.1, 0.35, 0.3, 0.15, 0.1)
_LEVEL_DB, _NOISE_DB = (-26.0, -15.0), (-70.0, -45.0)
_NOISY = 0.5
_LATE_S, _FADE_S = 0.08, 0.015
# Voices of a shape, and their length: to play one takes longer than all that is learned from a sound.
_VOICES, _VOICE_SAMPLES = 48, 11 * RATE


@dataclass(frozen=True, eq=False)
class Clip:
    """A sound and its scene.

    Attributes:
        heard_st: which shapes sound in which seconds, seen or not: bool [seconds, shapes].
    """

    scene: Scene
    sound: SoundTrack
    heard_st: np.ndarray

    @property
    def segments(self) -> tuple[AudioSegment, ...]:
        """Stretches in which the same shapes sound."""
        runs = [list(run) for _, run in groupby(range(len(self.heard_st)), key=lambda s: self.heard_st[s].tobytes())]
        return tuple(AudioSegment(run[0], run[-1] + 1) for run in runs)


@lru_cache(maxsize=8)
def clips(first: int, count: int, mode: str = "multi") -> tuple[Clip, ...]:
    """The tracks of so many scenes, from a seed on; scenes that have none in the mode "single" are left out."""
    made = []
    for seed in range(first, first + count):
        scene = make_scene(seed)
        if mode == "single" and not has_single(scene):
            continue
        sound = make_sound(scene, mode)
        heard = [[shape in label.shapes + label.off_screen for shape in SHAPES] for label in sound.labels]
        made.append(Clip(scene, sound, np.array(heard)))
    return tuple(made)


def draw_plan(generator: np.random.Generator, seconds: int) -> np.ndarray:
    """Which shapes sound in which seconds, bool [seconds, shapes]: up to four, each for a stretch or two."""
    heard_st = np.zeros((seconds, len(SHAPES)), bool)
    for shape in generator.permutation(len(SHAPES))[: generator.choice(len(_HOW_MANY), p=_HOW_MANY)]:
        for _ in range(generator.integers(1, 3)):
            start = generator.integers(seconds)
            heard_st[start : start + generator.integers(1, seconds + 1), shape] = True
    return heard_st


def mix(generator: np.random.Generator, heard_st: np.ndarray) -> np.ndarray:
    """A sound that keeps to a plan, float32 [seconds * rate]: one or two voices for each shape, at times some noise."""
    samples = len(heard_st) * RATE
    wave = np.zeros(samples)
    for shape, heard_s in zip(SHAPES, heard_st.T, strict=True):
        for _ in range(1 + (generator.random() < 0.25)):
            voice = _voice(shape, int(generator.integers(_VOICES)))
            for start_s, end_s in _stretches(heard_s):
                early, late = generator.uniform(0, _LATE_S, 2)
                start, end = round((start_s + early) * RATE), round((end_s - late) * RATE)
                ramp = np.arange(1, end - start + 1) / (_FADE_S * RATE)
                fade = np.minimum(1, np.minimum(ramp, ramp[::-1]))
                gain = 10 ** (generator.uniform(*_LEVEL_DB) / 20)
                # As an event begins, with a beat, or out of its midst.
                offset = int(generator.integers(len(voice) - (end - start))) * int(generator.integers(2))
                sound = voice[offset : offset + end - start]
                wave[start:end] += gain / np.sqrt(np.mean(sound**2)) * fade * sound
    if generator.random() < _NOISY:
        spectrum = np.fft.rfft(generator.standard_normal(samples))
        spectrum /= np.arange(1, len(spectrum) + 1) ** generator.uniform(0.3, 0.6)
        noise = np.fft.irfft(spectrum, samples)
        wave += noise / noise.std() * 10 ** (generator.uniform(*_NOISE_DB) / 20)
    return (wave * min(1.0, 0.9 / max(float(np.abs(wave).max()), 1e-9))).astype(np.float32)


def tagging_quality(heard: Sequence[Clip], probabilities: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    """How well whole clips are tagged.

    Args:
        heard: clips.
        probabilities: a wave to those of `NAMES`, [6].

    Returns:
        Precision and recall at 0.5, and the share of clips whose most probable shape sounds ("top").
    """
    wanted = np.stack([clip.heard_st.any(axis=0) for clip in heard])
    got = np.stack([probabilities(clip.sound.wave_16khz) for clip in heard])
    right = int((wanted & (got >= 0.5)).sum())
    return {
        "precision": _share(right, int((got >= 0.5).sum())),
        "recall": _share(right, int(wanted.sum())),
        "top": _share(int(wanted[np.arange(len(got)), got.argmax(axis=1)].sum()), len(got)),
    }


def cutting_quality(heard: Sequence[Clip], cut: Callable[[np.ndarray], Sequence[AudioSegment]]) -> dict[str, float]:
    """How well sounds are cut where the shapes that sound change.

    Args:
        heard: clips.
        cut: a wave to segments.

    Returns:
        Precision and recall of the cuts.
    """
    right = found = wanted = 0
    for clip in heard:
        true, got = ({each.start_s for each in segments} for segments in (clip.segments, cut(clip.sound.wave_16khz)))
        right, found, wanted = right + len(true & got) - 1, found + len(got) - 1, wanted + len(true) - 1
    return {"cut_precision": _share(right, found), "cut_recall": _share(right, wanted)}


def sounding_quality(
    heard: Sequence[Clip],
    sounding: Callable[[list[np.ndarray], list[str]], Sequence[Sequence[str]]],
    cut: Callable[[Clip], Sequence[AudioSegment]] = lambda clip: clip.segments,
) -> float:
    """The share of seconds for which exactly those of a scene's shapes are told that sound.

    Scenes of one shape are left out, and seconds in which none of the scene's shapes sounds: none cannot be told.

    Args:
        heard: clips.
        sounding: waves and shapes to the shapes that sound in each wave, as `LanguageBind.sounding`.
        cut: a clip to segments; the true ones if left out.
    """
    right = total = 0
    for clip in heard:
        shapes = list(dict.fromkeys(each.shape for each in clip.scene.objects))
        if len(shapes) < 2:
            continue
        segments = cut(clip)
        told = sounding([each.of(clip.sound.wave_16khz) for each in segments], shapes)
        for segment, answer in zip(segments, told, strict=True):
            for heard_s in clip.heard_st[segment.start_s : segment.end_s]:
                wanted = {shape for shape, yes in zip(SHAPES, heard_s, strict=True) if yes} & set(shapes)
                total += bool(wanted)
                right += bool(wanted) and wanted == set(answer)
    return _share(right, total)


@cache
def _voice(shape: str, number: int) -> np.ndarray:
    """One of a shape's voices, float32 [samples]."""
    generator = np.random.default_rng([TRAINING_SEEDS, SHAPES.index(shape), number])
    pitch = pitch_of(generator, str(generator.choice(list(COLOURS))), str(generator.choice(list(SIZES))))
    return play(generator, shape, _VOICE_SAMPLES, pitch).astype(np.float32)


def _stretches(heard_s: np.ndarray) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.r_[False, heard_s, False]))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _share(part: int, whole: int) -> float:
    return round(part / max(whole, 1), 4)
