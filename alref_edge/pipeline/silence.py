"""Seconds in which nothing is to be heard, and why nothing sounds in a whole video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from alref_edge.models.audio.log_mel import SAMPLE_RATE
from alref_edge.pipeline.jobs import WindowResult
from alref_edge.pipeline.selectors.base import SoundSelector
from alref_edge.pipeline.settings import AvsSettings
from alref_edge.pipeline.sound import Sound

# Two steps of a 16-bit sample: a track that never leaves them is silent.
_AUDIBLE = 2.0**-14


def silent_seconds(wave_16khz: np.ndarray, seconds: int, silence_db: float | None) -> tuple[bool, ...]:
    """Whether each second's RMS level is below `silence_db`, relative to full scale; no sound at all is silence too.

    None asks for no gate: nothing is silent, unless there is no sample of it in the whole window.
    """
    if silence_db is None:
        return (len(wave_16khz) == 0,) * seconds
    power = 10 ** (silence_db / 10)
    parts = [wave_16khz[s * SAMPLE_RATE : (s + 1) * SAMPLE_RATE].astype(np.float64) for s in range(seconds)]
    return tuple(len(part) == 0 or bool(np.mean(part**2) < power) for part in parts)


def why_nothing(
    found: Sequence[WindowResult], sound: Sound, selector: SoundSelector, settings: AvsSettings
) -> tuple[str, ...]:
    """Where nothing at all sounds, why, in words; nothing where something does.

    Args:
        found: what `analyse_windows` gave.
        sound, selector, settings: what it was given.
    """
    if any(each.pivot is not None and each.name in names for h in found for each in h.objects for names in h.labels):
        return ()
    last = found[-1]
    wave = sound.wave_16khz[: (last.start_s + len(last.silent)) * SAMPLE_RATE]
    if not len(wave):
        return ("nothing sounds: no sound falls into the time of the video",)
    if np.abs(wave).max() < _AUDIBLE:
        return ("nothing sounds: the sound is silent from beginning to end",)
    reasons = Counter(_why_nothing(window, wave, selector, settings) for window in found)
    if len(reasons) == 1:
        return (f"nothing sounds: {next(iter(reasons))}",)
    told = [f"in {count} of {len(found)} windows {reason}" for reason, count in reasons.most_common()]
    return (f"nothing sounds: {'; '.join(told)}",)


def _why_nothing(window: WindowResult, wave_16khz: np.ndarray, selector: SoundSelector, settings: AvsSettings) -> str:
    """Why nothing sounds in a window; the same words for windows that are alike."""
    gate_db = settings.silence_db
    if all(window.silent):
        if gate_db is None:
            return "the sound has ended before"
        starts = range(0, len(wave_16khz), SAMPLE_RATE)
        loudest = max(np.mean(wave_16khz[s : s + SAMPLE_RATE].astype(np.float64) ** 2) for s in starts)
        return (
            f"every second is below the silence gate of {gate_db:g} dB, the loudest of the video has "
            f"{10 * np.log10(loudest):.1f} dB; --no-silence-gate opens it"
        )
    if window.objects:
        if not any(each.pivot for each in window.objects):
            return "no box was found on the pivot frames"
        return f"what has a box is heard in no second{'' if gate_db is None else ' that the silence gate leaves open'}"
    best = max((tag.probability for tag in window.tags), default=1.0)
    if best < settings.tag_threshold:
        return f"no tag reaches the threshold of {settings.tag_threshold:g}, the best has {best:.2g}"
    if not window.tags and selector.name != "replay":
        return "the sound is too short to be tagged"
    return f"the selector {selector.name!r} names no object in view"
