"""YAMNet on log-mel patches (official `research/audioset/yamnet` of tensorflow/models)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from types import TracebackType

import numpy as np

from alref_edge.bundle import Component
from alref_edge.bundle.configs import YamNetConfig
from alref_edge.bundle.files import OpenFile
from alref_edge.errors import BundleError, InputError
from alref_edge.models.audio.log_mel import MEL_BANDS, PATCH_FRAMES, log_mel_patches
from alref_edge.runtime import Session, SessionOptions, Signature, open_session

HOP_S = 0.48
"""Seconds from one frame to the next, officially."""

SIGNATURE = Signature(
    {"patches": ("float32", ("N", PATCH_FRAMES, MEL_BANDS))},
    {"scores": ("float32", ("N", "classes")), "features": ("float32", ("N", "D"))},
)
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

    def __init__(self, network: Session, config: YamNetConfig, labels: Sequence[str] = ()) -> None:
        if (config.patch_frames, config.mel_bands) != (PATCH_FRAMES, MEL_BANDS):
            raise BundleError(
                "The YAMNet component is of another kind than this release runs.",
                expected=f"patches of {PATCH_FRAMES} frames and {MEL_BANDS} bands",
                got=f"{config.patch_frames} and {config.mel_bands}",
                mend=_MEND,
            )
        shapes = {name: spec.shape[-1] for name, spec in network.outputs.items()}
        if (labels and shapes["scores"] != len(labels)) or not all(isinstance(size, int) for size in shapes.values()):
            raise BundleError(
                "YAMNet's labels are not those of its graph.",
                expected=f"{shapes['scores']} labels, features of one size",
                got=f"{len(labels)} labels, features of the size {shapes['features']}",
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
        config = component.settings(YamNetConfig)
        labels = _labels(component.open_file("class_map")) if "class_map" in component.files else ()
        graph = component.open_graph("yamnet")
        return cls(open_session(graph, device=device, options=options, signature=SIGNATURE), config, labels)

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


def _labels(file: OpenFile) -> tuple[str, ...]:
    """The display names of the official map of classes."""
    try:
        text = file.read(YamNetConfig.optional_files["class_map"]).decode()
        labels = tuple(row["display_name"] for row in csv.DictReader(StringIO(text, newline="")))
        if not all(isinstance(label, str) for label in labels):
            raise KeyError("display_name")
        return labels
    except (UnicodeDecodeError, KeyError, csv.Error) as error:
        raise BundleError("YAMNet's map of classes cannot be read.", got=repr(error), mend=_MEND) from error
