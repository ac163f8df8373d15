"""YAMNet on log-mel patches (official `research/audioset/yamnet` of tensorflow/models)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from alref_edge.bundle import Component
from alref_edge.errors import BundleError, InputError
from alref_edge.models.audio.log_mel import MEL_BANDS, PATCH_FRAMES, log_mel_patches
from alref_edge.runtime import Session, SessionOptions, open_session

HOP_S = 0.48
"""Seconds from one frame to the next, officially."""

# Patches that go through the network together: the first layers of one take about 1 MB.
_BATCH = 32
_MEND = "export the component again with `python -m export yamnet`."


@dataclass(frozen=True)
class SoundFrames:
    """What YAMNet makes of N frames of 0.975 s, the first at the start of the sound.

    Attributes:
        scores_nc: float32 `[N, classes]`, 0 to 1, each by itself.
        features_nd: float32 `[N, D]`, 0 or more: what the scores are made of.
        hop_s: seconds from one frame to the next.
    """

    scores_nc: np.ndarray
    features_nd: np.ndarray
    hop_s: float

    def __len__(self) -> int:
        return len(self.features_nd)


class YamNet:
    """Scores and features of a sound.

    Args:
        network: session of the component's graph.
        config: the component's config.
        labels: names of the classes; empty if the bundle has none.

    Raises:
        BundleError: the graph takes other patches than are made here, or has other classes than the labels.
    """

    def __init__(self, network: Session, config: Mapping[str, Any], labels: Sequence[str] = ()) -> None:
        here = {"patch_frames": PATCH_FRAMES, "mel_bands": MEL_BANDS}
        there = {name: config.get(name) for name in here}
        shapes = {name: spec.shape for name, spec in network.outputs.items()}
        if there != here or set(network.inputs) != {"patches"} or not {"scores", "features"} <= set(shapes):
            raise BundleError(
                "The YAMNet component is of another kind than this release runs.",
                expected=f"{here}, patches to scores and features",
                got=f"{there}, {sorted(network.inputs)} to {sorted(shapes)}",
                mend=_MEND,
            )
        if labels and shapes["scores"][-1] != len(labels):
            raise BundleError(
                "YAMNet's labels are not those of its graph.",
                expected=shapes["scores"][-1],
                got=len(labels),
                mend=_MEND,
            )
        self._network = network
        self.labels = tuple(labels)

    @classmethod
    def from_component(
        cls, component: Component, device: str = "auto", *, options: SessionOptions | None = None
    ) -> YamNet:
        """Load the component's graph.

        Args:
            component: "yamnet" of a verified bundle.
            device: "cpu", "cuda", "cuda:N", or "auto".
            options: threads, fall-back and provider settings.

        Raises:
            BundleError: the graph is missing or another, or the map of classes cannot be read.
            EngineError: the graph cannot be loaded.
            ProviderError: the device does not work here.
        """
        labels = _labels(component.file("class_map")) if "class_map" in component.files else ()
        network = open_session(component.graph("yamnet"), device=device, options=options)
        return cls(network, component.config, labels)

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graph."""
        return self._network.provider

    def frames(self, wave_16khz: np.ndarray, *, hop_s: float = HOP_S) -> SoundFrames:
        """Scores and features of every frame; the last one is padded with silence.

        Args:
            wave_16khz: float32 `[samples]` in [-1, 1], at least one sample.
            hop_s: seconds from one frame to the next.

        Raises:
            InputError: there is no sound, it is no waveform, or the hop makes no sense.
        """
        if np.size(wave_16khz) == 0:
            raise InputError("There is no sound to run YAMNet on.", expected="at least one sample", got="none")
        patches_ntm = log_mel_patches(wave_16khz, hop_s=hop_s)
        batches = [
            self._network.run({"patches": patches_ntm[start : start + _BATCH]})
            for start in range(0, len(patches_ntm), _BATCH)
        ]
        scores_nc, features_nd = (np.concatenate([each[name] for each in batches]) for name in ("scores", "features"))
        return SoundFrames(scores_nc, features_nd, hop_s)

    def features(self, wave_16khz: np.ndarray, *, hop_s: float = HOP_S) -> np.ndarray:
        """The features alone, float32 `[N, D]`; see `frames`."""
        return self.frames(wave_16khz, hop_s=hop_s).features_nd

    def close(self) -> None:
        """Give back what the session holds."""
        self._network.close()

    def __enter__(self) -> YamNet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _labels(path: Path) -> tuple[str, ...]:
    """The display names of the official map of classes."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(row["display_name"] for row in csv.DictReader(file))
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise BundleError("YAMNet's map of classes cannot be read.", got=repr(error), mend=_MEND) from error
