"""Whole-second segments of a sound, cut where it changes, so that each can be asked what sounds in it.

AL-Ref-SAM 2 compares neighbouring frames' YAMNet features and cuts where their cosine falls below 0.5. It published
what came out (`audio_segment/*.json`: clip to `[[start, end], ...]` in seconds), not the program; such files are read
here too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.errors import InputError
from alref_edge.models.audio.log_mel import PATCH_SAMPLES, SAMPLE_RATE
from alref_edge.models.protocols import SoundEmbedder

FEATURES = ("features", "scores")
FRAME_S = PATCH_SAMPLES / SAMPLE_RATE
_MEND = 'write it as {"clip": [[0, 2], [2, 5]], ...}: whole seconds from 0 on, each segment from the end of the last.'
_MAX_BYTES = 64 << 20
_LONGEST_S = 24 * 3600


@dataclass(frozen=True)
class AudioSegment:
    """Sound from `start_s` up to `end_s`, whole seconds."""

    start_s: int
    end_s: int

    def __post_init__(self) -> None:
        if not 0 <= self.start_s < self.end_s:
            raise InputError(
                "A segment of sound has no length or begins before the sound.",
                expected="0 <= start_s < end_s",
                got=f"{self.start_s} to {self.end_s}",
            )

    def of(self, wave_16khz: np.ndarray) -> np.ndarray:
        """Its samples, a view; fewer than it is long where the sound ends before."""
        return wave_16khz[self.start_s * SAMPLE_RATE : self.end_s * SAMPLE_RATE]


@dataclass(frozen=True)
class AudioSegmentSettings:
    """How sound is cut.

    Attributes:
        feature: what is compared, of YAMNet: its "features" or its "scores".
        hop_s: seconds from one frame of 0.975 s to the next.
        threshold: cosine below which two neighbours are different sounds, -1 to 1.
    """

    feature: str = "features"
    hop_s: float = FRAME_S
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.feature not in FEATURES:
            raise InputError("Sound cannot be cut by this.", expected=", ".join(FEATURES), got=self.feature)
        if not 0.01 <= self.hop_s <= 60:
            raise InputError("The hop of the sound's frames is out of range.", expected="0.01 to 60 s", got=self.hop_s)
        if not -1 <= self.threshold <= 1:
            raise InputError("A cosine is never there.", expected="a threshold of -1 to 1", got=self.threshold)


def segment_audio(
    wave_16khz: np.ndarray, embedder: SoundEmbedder, settings: AudioSegmentSettings | None = None
) -> tuple[AudioSegment, ...]:
    """Cut a sound into segments that follow each other from second 0 on.

    Only whole frames are compared. A second belongs to the segments if a frame fits in from its start on, so that 5 s
    are five seconds, and 4.9 s four; the first one always does.

    Args:
        wave_16khz: float32 `[samples]` in [-1, 1], at least one sample.
        embedder: YAMNet, of the bundle.
        settings: None takes the defaults.

    Raises:
        InputError: it is no waveform.
    """
    settings = settings or AudioSegmentSettings()
    spare = max(0, len(wave_16khz) - PATCH_SAMPLES)
    hop = round(settings.hop_s * SAMPLE_RATE)
    whole = wave_16khz[: PATCH_SAMPLES + spare // hop * hop]
    frames = embedder.frames(whole, hop_s=settings.hop_s)
    values_nd = frames.features_nd if settings.feature == "features" else frames.scores_nc
    return cut(cosines(values_nd), settings.hop_s, settings.threshold, seconds=1 + spare // SAMPLE_RATE)


def cosines(values_nd: np.ndarray) -> np.ndarray:
    """Cosine of each row with the next, float64 `[N - 1]`: of two rows of zeros 1, of one with another 0."""
    norms_n1 = np.linalg.norm(values_nd.astype(np.float64), axis=1, keepdims=True)
    units_nd = values_nd / np.maximum(norms_n1, np.finfo(np.float64).tiny)
    cosines_m = np.sum(units_nd[:-1] * units_nd[1:], axis=1)
    still_n = norms_n1[:, 0] == 0
    cosines_m[still_n[:-1] & still_n[1:]] = 1
    return np.asarray(cosines_m)


def cut(cosines_m: np.ndarray, hop_s: float, threshold: float, *, seconds: int) -> tuple[AudioSegment, ...]:
    """Segments of a sound of so many seconds, from the cosines of neighbouring frames.

    Where a cosine is below the threshold, a segment begins at the whole second nearest to the start of the later frame.
    """
    starts = (np.flatnonzero(cosines_m < threshold) + 1) * hop_s
    inner = {second for second in map(round, starts.tolist()) if 0 < second < seconds}
    return tuple(AudioSegment(start, end) for start, end in pairwise(sorted({0, *inner, seconds})))


def read_audio_segments(path: str | Path) -> Mapping[str, tuple[AudioSegment, ...]]:
    """The segments of every clip, of a file as AL-Ref-SAM 2 published them.

    Raises:
        InputError: the file cannot be read, or a clip's segments are no whole seconds that follow each other from 0 on.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"The file of segments {path} is too large.", expected=f"at most {_MAX_BYTES} bytes")
        raw = json.loads(path.read_bytes().decode(), object_pairs_hook=_once)
    except OSError as error:
        raise InputError(
            f"The file of segments {path} cannot be read.", got=error.strerror or str(error), mend="check the path."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"The file of segments {path} is not JSON.", got=str(error), mend=_MEND) from error
    if not isinstance(raw, dict):
        raise _malformed(path, "an object of clips", raw)
    return {clip: _segments(value, f"{path}, clip {clip!r}") for clip, value in raw.items()}


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a clip is there twice")
    return values


def _segments(value: Any, where: str) -> tuple[AudioSegment, ...]:
    if not isinstance(value, list) or not value:
        raise _malformed(where, "a list of segments", value)
    segments: list[AudioSegment] = []
    for pair in value:
        whole = isinstance(pair, list) and len(pair) == 2 and all(type(second) is int for second in pair)
        if not whole or not pair[0] < pair[1] <= _LONGEST_S:
            raise _malformed(where, "[start, end] in whole seconds", pair)
        expected = segments[-1].end_s if segments else 0
        if pair[0] != expected:
            raise _malformed(where, f"a segment from {expected} on", pair)
        segments.append(AudioSegment(*pair))
    return tuple(segments)


def _malformed(where: object, expected: str, got: object) -> InputError:
    return InputError(
        f"The file of segments is malformed: {where}.", expected=expected, got=f"{got!r}"[:200], mend=_MEND
    )
