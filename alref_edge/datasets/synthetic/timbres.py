"""How each shape sounds: six timbres that differ in harmonics, attack, rhythm and band, so that mixtures come apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from alref_edge.datasets.synthetic.objects import COLOURS, SIZES
from alref_edge.errors import InputError

RATE = 16_000
"""Samples a second of every sound."""

Timbre = Callable[[np.random.Generator, int, float], np.ndarray]

_PITCH_OF_SIZE = dict(zip(SIZES, (1.4, 1.0, 0.7), strict=True))
_HIGHEST_HZ = 7200.0


def pitch_of(generator: np.random.Generator, colour: str, size: str) -> float:
    """A factor on a timbre's own pitch, about 0.68 to 1.75.

    The smaller an object, the higher; each colour is a quarter tone above the one before it in `COLOURS`; and 2 %
    either way at random. So two objects of one shape have two voices.
    """
    return _PITCH_OF_SIZE[size] * 2 ** (list(COLOURS).index(colour) / 24) * generator.uniform(0.98, 1.02)


def play(generator: np.random.Generator, shape: str, samples: int, pitch: float) -> np.ndarray:
    """A shape's sound, float64 [samples] at `RATE`, of RMS 1; its rhythm and phases are drawn.

    Raises:
        InputError: a shape that has no timbre.
    """
    if shape not in TIMBRES:
        raise InputError("There is no such timbre.", expected=", ".join(TIMBRES), got=shape)
    wave = TIMBRES[shape](generator, samples, pitch)
    return wave / max(float(np.sqrt(np.mean(wave**2))), 1e-9)


def _flute(generator: np.random.Generator, samples: int, pitch: float) -> np.ndarray:
    """Circle: nearly a sine, with vibrato and a breath of noise."""
    time = np.arange(samples) / RATE
    vibrato = np.sin(2 * math.pi * (generator.uniform(4.8, 6.2) * time + generator.uniform()))
    phase = 2 * math.pi * np.cumsum(460 * pitch * (1 + 0.02 * vibrato)) / RATE + generator.uniform(0, 2 * math.pi)
    breath = 0.02 * generator.standard_normal(samples)
    return np.asarray(np.sin(phase) + 0.16 * np.sin(2 * phase) + 0.04 * np.sin(3 * phase) + breath)


def _reed(generator: np.random.Generator, samples: int, pitch: float) -> np.ndarray:
    """Square: a steady low square wave, odd harmonics alone."""
    base = 150 * pitch
    phase = 2 * math.pi * (base * np.arange(samples) / RATE + generator.uniform())
    return np.asarray(sum(np.sin(k * phase) / k for k in range(1, 24, 2) if k * base < _HIGHEST_HZ))


def _bell(generator: np.random.Generator, samples: int, pitch: float) -> np.ndarray:
    """Triangle: struck metal, partials that are no harmonics, two to three strokes a second."""
    since = _rhythm(generator, samples, generator.uniform(2.2, 3.2))
    wave = np.zeros(samples)
    for ratio, strength, decay_s in ((1.0, 1.0, 0.22), (2.756, 0.7, 0.15), (5.404, 0.45, 0.09), (8.933, 0.25, 0.06)):
        if 560 * pitch * ratio < _HIGHEST_HZ:
            wave += strength * np.exp(-since / decay_s) * np.sin(2 * math.pi * 560 * pitch * ratio * since)
    return wave


def _siren(generator: np.random.Generator, samples: int, pitch: float) -> np.ndarray:
    """Star: rising sweeps over two octaves, five to seven a second."""
    rate = generator.uniform(5, 7)
    since = _rhythm(generator, samples, rate)
    share = np.clip(since * rate / 0.85, 0, 1)
    phase = 2 * math.pi * np.cumsum(850 * pitch * 4**share) / RATE
    return np.asarray(np.sin(phase) * np.sin(math.pi * share) ** 2)


def _shaker(generator: np.random.Generator, samples: int, pitch: float) -> np.ndarray:
    """Cross: a high band of noise in short bursts, nine to eleven a second."""
    since = _rhythm(generator, samples, generator.uniform(9, 11))
    middle = 4600 * math.sqrt(pitch)
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    hz = np.fft.rfftfreq(samples, 1 / RATE)
    band = np.fft.irfft(spectrum * np.exp(-(((hz - middle) / 900) ** 2)), samples)
    return np.asarray(band * np.exp(-since / 0.035))


def _heartbeat(generator: np.random.Generator, samples: int, pitch: float) -> np.ndarray:
    """Heart: pairs of deep thumps that fall in pitch, about one and a half pairs a second."""
    rate = generator.uniform(1.35, 1.75)
    since = _rhythm(generator, samples, rate)
    wave = np.zeros(samples)
    for delay_s, strength in ((0.0, 1.0), (0.3 / rate, 0.75)):
        after = np.maximum(since - delay_s, 0)
        fall_s = 0.05
        turns = 62 * pitch * after + 80 * pitch * fall_s * (1 - np.exp(-after / fall_s))
        wave += strength * np.exp(-after / 0.075) * np.tanh(3 * np.sin(2 * math.pi * turns)) * (since >= delay_s)
    return wave


def _rhythm(generator: np.random.Generator, samples: int, rate: float) -> np.ndarray:
    """Seconds since the last beat at each sample, float64 [samples]; the first beat comes a little before the start."""
    beats = np.arange(samples) / RATE * rate + generator.uniform(0, 0.15)
    return np.asarray(np.mod(beats, 1) / rate)


TIMBRES: dict[str, Timbre] = {
    "circle": _flute,
    "square": _reed,
    "triangle": _bell,
    "star": _siren,
    "cross": _shaker,
    "heart": _heartbeat,
}
