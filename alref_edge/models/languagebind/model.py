"""LanguageBind: embeddings of sounds and texts, and what AL-Ref-SAM 2 asks of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

import numpy as np

from alref_edge.bundle import Component
from alref_edge.bundle.configs import LanguageBindConfig
from alref_edge.errors import BundleError, InputError
from alref_edge.models.languagebind.labels import SYNONYMS, combine_labels, phrase
from alref_edge.models.languagebind.preprocess import AudioFrontEnd
from alref_edge.models.languagebind.text import ClipTokenizer
from alref_edge.runtime import Session, SessionOptions, Signature, open_session

# The text towers of a bundle: that of LanguageBind-Audio, and where it is known that of LanguageBind-Image.
AUDIO, IMAGE = "audio", "image"
_SOUNDS_AT_A_TIME, _TEXTS_AT_A_TIME = 4, 64


class LanguageBind:
    """Sounds and texts as unit vectors of one space: the nearer, the likelier that the text tells the sound.

    Args:
        audio: session of the audio tower.
        texts: session by text tower; "audio" is there.
        tokenizer: of the component's vocabulary.
        config: the component's configuration.

    Raises:
        BundleError: the towers' embeddings are not of one size.
    """

    def __init__(
        self, audio: Session, texts: Mapping[str, Session], tokenizer: ClipTokenizer, config: LanguageBindConfig
    ) -> None:
        self._audio, self._texts, self._tokenizer = audio, dict(texts), tokenizer
        self.front_end = AudioFrontEnd.from_config(config)
        widths = {session.outputs["embeddings"].shape[-1] for session in (audio, *self._texts.values())}
        if len(widths) > 1 or not all(isinstance(width, int) for width in widths):
            raise BundleError(
                "LanguageBind's towers do not embed into one space.",
                expected="one size of embeddings",
                got=", ".join(sorted(map(str, widths))),
                mend="export the component again.",
            )

    @classmethod
    def from_component(
        cls, component: Component, device: str = "auto", *, options: SessionOptions | None = None
    ) -> LanguageBind:
        """Load the component's graphs; towers of one graph share its session.

        Args:
            component: "languagebind" of a verified bundle.
            device: "cpu", "cuda", "cuda:N", or "auto".
            options: threads, fall-back and provider settings.

        Raises:
            BundleError: a graph or the vocabulary is missing, or the configuration makes no sense.
            EngineError: a graph cannot be loaded.
            ProviderError: the device does not work here.
        """
        towers = component.config.get("text_towers")
        if not isinstance(towers, Mapping) or AUDIO not in towers:
            raise BundleError(
                "The LanguageBind configuration names no text tower.",
                expected=f"text_towers with {AUDIO!r}",
                got=towers,
                mend="export the component again.",
            )
        config = component.settings(LanguageBindConfig)
        tokenizer = ClipTokenizer(
            component.open_file("vocab"), component.open_file("merges"), context_length=config.context_length
        )
        wanted = {"audio": audio_signature(config)}
        sessions = {
            graph: open_session(
                component.open_graph(graph), device=device, options=options, signature=wanted.get(graph, TEXT_SIGNATURE)
            )
            for graph in config.needed_graphs
        }
        texts: dict[str, Session] = {tower: sessions[graph] for tower, graph in config.text_towers.items()}
        return cls(sessions["audio"], texts, tokenizer, config)

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graphs."""
        return self._audio.provider

    @property
    def towers(self) -> tuple[str, ...]:
        """The text towers that there are."""
        return tuple(self._texts)

    def embed_audio(self, waves_16khz: Sequence[np.ndarray]) -> np.ndarray:
        """Embed sounds.

        Args:
            waves_16khz: each float `[samples]` in [-1, 1], mono, 25 ms or longer.

        Returns:
            float32 `[sounds, D]`, of length 1 each.

        Raises:
            InputError: there is no sound, or one is no such waveform or too short.
        """
        if not waves_16khz:
            raise InputError("There is no sound to embed.", expected="at least one")
        made = []
        for start in range(0, len(waves_16khz), _SOUNDS_AT_A_TIME):
            pictures = [self.front_end.picture(wave) for wave in waves_16khz[start : start + _SOUNDS_AT_A_TIME]]
            made.append(self._audio.run({"fbank": np.stack(pictures)})["embeddings"])
        return np.concatenate(made)

    def embed_text(self, texts: Sequence[str], *, tower: str = AUDIO) -> np.ndarray:
        """Embed texts.

        Args:
            texts: English; what is beyond 77 tokens is cut off, as in the official code.
            tower: "audio", whose space the sounds are in, or "image".

        Returns:
            float32 `[texts, D]`, of length 1 each.

        Raises:
            InputError: there is no text, or one is empty or not valid, or there is no such tower.
        """
        if tower not in self._texts:
            raise InputError("There is no such text tower.", expected=", ".join(self._texts), got=tower)
        input_ids = self._tokenizer.encode(texts)
        # Texts of one length go together: a long one does not make the short ones long.
        order = np.argsort((input_ids != self._tokenizer.end).sum(axis=1), kind="stable")
        made = []
        for start in range(0, len(order), _TEXTS_AT_A_TIME):
            rows = input_ids[order[start : start + _TEXTS_AT_A_TIME]]
            longest = 1 + int((rows != self._tokenizer.end).sum(axis=1).max())
            made.append(self._texts[tower].run({"input_ids": rows[:, :longest]})["embeddings"])
        embeddings = np.concatenate(made)
        return embeddings[np.argsort(order)]

    def sounding(
        self,
        waves_16khz: Sequence[np.ndarray],
        labels: Sequence[str],
        *,
        separator: str = ", ",
        synonyms: Mapping[str, str] = SYNONYMS,
    ) -> list[tuple[str, ...]]:
        """The labels that each sound is most like, of all their combinations; of equals the first.

        AL-Ref-SAM 2 asks this for the segments of a video's sound and its object categories, and not at all where there
        is one category only. Labels come back as they were given, whatever text stood for them.

        Args:
            waves_16khz: as `embed_audio` takes them.
            labels: of the objects, at most 10.
            separator: between the labels of a combination: ", ", and "; " on AVSS.
            synonyms: label to the text that stands for it.

        Returns:
            One tuple of labels for each sound.

        Raises:
            InputError: there is no sound or no label, or one makes no sense.
            CapacityError: there are too many labels.
        """
        chosen = combine_labels(labels)
        texts = self.embed_text([phrase(each, separator=separator, synonyms=synonyms) for each in chosen])
        similarity_cs = texts @ self.embed_audio(waves_16khz).T
        return [chosen[best] for best in similarity_cs.argmax(axis=0)]

    def nearest(self, labels: Sequence[str], categories: Sequence[str]) -> list[str]:
        """The category that each label is nearest to in the text space of LanguageBind-Image; of equals the first.

        A label that is a category is its own. A bundle without LanguageBind-Image compares in the text space of
        LanguageBind-Audio: `towers` tells.

        Raises:
            InputError: there is no category, or a text makes no sense.
        """
        if not categories:
            raise InputError("There is no category to choose from.", expected="at least one")
        others = list(dict.fromkeys(label for label in labels if label not in categories))
        if not others:
            return list(labels)
        tower = IMAGE if IMAGE in self._texts else AUDIO
        embeddings = self.embed_text([*others, *categories], tower=tower)
        best = (embeddings[: len(others)] @ embeddings[len(others) :].T).argmax(axis=1)
        found = {label: categories[index] for label, index in zip(others, best, strict=True)}
        return [found.get(label, label) for label in labels]

    def close(self) -> None:
        """Give back what the sessions hold."""
        for session in (self._audio, *self._texts.values()):
            session.close()

    def __enter__(self) -> LanguageBind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


TEXT_SIGNATURE = Signature({"input_ids": ("int64", ("B", "T"))}, {"embeddings": ("float32", ("B", "D"))})


def audio_signature(config: LanguageBindConfig) -> Signature:
    """Inputs and outputs of the graph of sounds."""
    picture = ("B", 3, config.mel_bins, config.frames)
    return Signature({"fbank": ("float32", picture)}, {"embeddings": ("float32", ("B", "D"))})
