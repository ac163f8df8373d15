"""BEATs: what is heard in a sound (arXiv 2212.09058; `extract_features` of the official `BEATs.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Annotated

import msgspec
import numpy as np

from alref_edge.bundle import Component
from alref_edge.bundle.configs import BeatsConfig
from alref_edge.bundle.files import OpenFile
from alref_edge.errors import BundleError, CapacityError, InputError
from alref_edge.models.audio import kaldi_fbank
from alref_edge.models.audio.mel import checked_wave
from alref_edge.runtime import Session, SessionOptions, Signature, open_session
from alref_edge.types import Tag

RATE = 16_000
LONGEST_S = 60.0
"""Longest sound that is tagged at once: attention takes memory by the square of its length, here about 2 GB."""

_LabelName = Annotated[str, msgspec.Meta(pattern=r"\S")]
_FULL_SCALE = 2.0**15  # the filter banks are those of 16-bit samples
_EXPORT_AGAIN = "export the component again with `python -m export beats`."


class Beats:
    """A tagger of sounds: probabilities of its labels, Silence kept out of the best.

    Args:
        session: of the component's graph.
        labels: (id, name) in the order of the graph's outputs.
        config: the component's config.

    Raises:
        BundleError: the labels are not as many as the graph has.
    """

    def __init__(self, session: Session, labels: Iterable[tuple[str, str]], config: BeatsConfig) -> None:
        self._session = session
        self.labels = tuple(labels)
        self._silence = config.silence
        self._bins, self._patch = config.mel_bins, config.patch_frames
        self._mean, self._std = config.fbank_mean, config.fbank_std
        count = len(self.labels)
        if config.labels != count or not (self._silence is None or self._silence < count):
            raise BundleError(
                "The labels are not those of the graph.",
                expected=f"{config.labels} labels, Silence one of them or none",
                got=f"{count} labels, Silence at {self._silence}",
                mend=_EXPORT_AGAIN,
            )

    @classmethod
    def from_component(
        cls, component: Component, device: str = "auto", *, options: SessionOptions | None = None
    ) -> Beats:
        """Load the component's graph.

        Args:
            component: of kind "beats" of a verified bundle: "beats_as20k" or "beats_as2m".
            device: "cpu", "cuda", "cuda:N", or "auto".
            options: threads, fall-back and provider settings.

        Raises:
            BundleError: the component is of another kind, or its graph, labels or configuration make no sense.
            EngineError: the graph cannot be loaded.
            ProviderError: the device does not work here.
        """
        config = component.settings(BeatsConfig)
        labels = _read_labels(component.open_file("labels"))
        graph = component.open_graph("tagger")
        session = open_session(graph, device=device, options=options, signature=signature(config))
        return cls(session, labels, config)

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graph."""
        return self._session.provider

    @property
    def shortest(self) -> int:
        """Fewest samples that can be tagged: those of one patch, 0.175 s officially."""
        return RATE * (25 + 10 * (self._patch - 1)) // 1000

    def tag(self, wave_16khz: np.ndarray, top: int = 5) -> tuple[Tag, ...]:
        """The most probable labels, best first; equal ones in the order of the outputs.

        Silence counts as never heard, as AL-Ref-SAM 2 has it.

        Args:
            wave_16khz: float32 `[samples]` in [-1, 1], mono, 16 kHz.
            top: how many.

        Raises:
            InputError: it is no such sound, is too short, or there are not so many labels.
            CapacityError: it is longer than `LONGEST_S`.
        """
        if not 0 < top <= len(self.labels):
            raise InputError("There are not so many labels.", expected=f"1 to {len(self.labels)}", got=top)
        probabilities = self.probabilities(wave_16khz)
        if self._silence is not None:
            probabilities[self._silence] = 0
        best: list[int] = np.argsort(-probabilities, kind="stable")[:top].tolist()
        return tuple(Tag(*self.labels[index], float(probabilities[index])) for index in best)

    def probabilities(self, wave_16khz: np.ndarray) -> np.ndarray:
        """Probabilities float32 `[labels]` as the network gives them, Silence too. Arguments and errors as `tag`'s."""
        fbank_t128 = self.fbank(wave_16khz)
        return np.array(self._session.run({"fbank": fbank_t128[None]})["probabilities"][0], np.float32)

    def fbank(self, wave_16khz: np.ndarray) -> np.ndarray:
        """The network's input, float32 `[frames, 128]`: normalised log filter banks, a frame each 10 ms."""
        wave = checked_wave(wave_16khz)
        if len(wave) < self.shortest:
            raise InputError(
                "The sound is too short to be tagged.",
                expected=f"{self.shortest} samples ({self.shortest / RATE} s) or more",
                got=len(wave),
            )
        if len(wave) > LONGEST_S * RATE:
            raise CapacityError(
                "The sound is too long to be tagged at once.",
                expected=f"up to {LONGEST_S:.0f} s",
                got=f"{len(wave) / RATE:.0f} s",
                mend="tag it in windows.",
            )
        fbank = kaldi_fbank(wave.astype(np.float32) * np.float32(_FULL_SCALE), rate=RATE, mel_bins=self._bins)
        return ((fbank - np.float32(self._mean)) / np.float32(2 * self._std)).astype(np.float32)

    def close(self) -> None:
        """Give back what the session holds."""
        self._session.close()

    def __enter__(self) -> Beats:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def union_of_tags(*taggings: Iterable[Tag]) -> tuple[Tag, ...]:
    """What any of several taggers heard, each name once with its highest probability.

    The order is that in which names first come: all of the first tagger, then what the next ones add. AL-Ref-SAM 2
    takes AS20K's five and AS2M's five, and leaves their order to chance.
    """
    union: dict[str, Tag] = {}
    for tag in (tag for tagging in taggings for tag in tagging):
        known = union.setdefault(tag.name, tag)
        if tag.probability > known.probability:
            union[tag.name] = tag
    return tuple(union.values())


def signature(config: BeatsConfig) -> Signature:
    """Inputs and outputs of the graph."""
    return Signature(
        {"fbank": ("float32", (1, "frames", config.mel_bins))}, {"probabilities": ("float32", (1, config.labels))}
    )


def _read_labels(file: OpenFile) -> tuple[tuple[str, str], ...]:
    try:
        text = file.read(BeatsConfig.files["labels"]).decode()
        return msgspec.json.decode(text, type=tuple[tuple[str, _LabelName], ...])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{file.name} holds no labels.", expected="pairs of id and name", got=str(error), mend=_EXPORT_AGAIN
        ) from error
