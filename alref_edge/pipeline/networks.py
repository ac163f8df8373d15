"""The networks of a bundle on one device, each loaded when it is first needed and kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar, cast

from alref_edge.bundle import Bundle
from alref_edge.errors import EngineError, InputError
from alref_edge.models.beats import Beats
from alref_edge.models.grounding_dino import GroundingDino
from alref_edge.models.languagebind import LanguageBind
from alref_edge.models.protocols import (
    Detector,
    ImageSegmenter,
    Network,
    Segmenter,
    SoundEmbedder,
    SoundTagger,
    SoundTextMatcher,
    TrackingOptions,
    VideoTracker,
)
from alref_edge.models.sam2 import Sam2
from alref_edge.models.yamnet import YamNet
from alref_edge.runtime import SessionOptions
from alref_edge.runtime.device import forms_of, resolve

AnyNetwork = TypeVar("AnyNetwork", bound=Network)

# Which kinds of component play which part; a network of another kind is one more line. Called with the component, the
# device, and `options`.
DETECTORS: Mapping[str, Callable[..., Detector]] = {"grounding_dino": GroundingDino.from_component}
SEGMENTERS: Mapping[str, Callable[..., Segmenter]] = {"sam2": Sam2.from_component}
TAGGERS: Mapping[str, Callable[..., SoundTagger]] = {"beats": Beats.from_component}
SOUND_EMBEDDERS: Mapping[str, Callable[..., SoundEmbedder]] = {"yamnet": YamNet.from_component}
SOUND_TEXT_MATCHERS: Mapping[str, Callable[..., SoundTextMatcher]] = {"languagebind": LanguageBind.from_component}

VISION = frozenset({"grounding_dino", "sam2"})
"""The components that every run needs; those that hear are asked for by name."""


class Networks:
    """A detector, a segmenter and those that hear, of one bundle. A context manager.

    Args:
        bundle: verified.
        device: "cpu", "cuda", "cuda:N" or "auto".
        options: threads and fall-back.
        precision: of the graphs.
        forms: that they may have, best first; those of the device if None.
        instead: networks by the name of the bundle's component in whose place they are used; closed with the others.

    Attributes:
        lock: held by a thread while it loads or runs a network other than the segmenter. Those look and hear ahead, in
            threads of their own; the segmenter comes after in one.

    Raises:
        InputError: the bundle has no component of that name.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str,
        options: SessionOptions,
        precision: str = "float32",
        forms: Sequence[str] | None = None,
        instead: Mapping[str, Network] | None = None,
    ) -> None:
        self.bundle = bundle
        self.device = device
        self.precision = precision
        self._options = options
        self._forms = forms or forms_of(resolve(device, allow_fallback=options.allow_fallback).kind)
        self.lock = threading.RLock()
        self._closed = False
        self._loaded: dict[str, Network] = dict(instead or {})
        unknown = sorted(self._loaded.keys() - bundle.manifest.components.keys())
        if unknown:
            raise InputError(
                "A network stands for a component that the bundle does not have.",
                expected=", ".join(bundle.manifest.components),
                got=", ".join(unknown),
            )

    @property
    def detector(self) -> Detector:
        """Boxes for sentences."""
        return self._only(DETECTORS)

    @property
    def sound_text_matcher(self) -> SoundTextMatcher:
        """Which of some labels a sound or a text is most like."""
        return self._only(SOUND_TEXT_MATCHERS)

    @property
    def sound_embedder(self) -> SoundEmbedder:
        """Features of a sound."""
        return self._only(SOUND_EMBEDDERS)

    def tagger(self, name: str) -> SoundTagger:
        """Names of what is heard, by a component such as "beats_as2m"."""
        return self._load(name, TAGGERS)

    def image_segmenter(self) -> ImageSegmenter:
        """Masks for boxes; cheap to make, on the graphs that the tracker uses too."""
        return self._only(SEGMENTERS).image_segmenter()

    def tracker(self, tracking: TrackingOptions) -> VideoTracker:
        """Masks through time; cheap to make, on the same graphs."""
        return self._only(SEGMENTERS).video_tracker(tracking)

    def _only(self, kinds: Mapping[str, Callable[..., AnyNetwork]]) -> AnyNetwork:
        """The network that plays a part which one component alone has: the first one of a kind that can."""
        components = self.bundle.manifest.components
        able = (name for name, component in components.items() if component.kind in kinds)
        return self._load(next(able, next(iter(kinds))), kinds)

    def _load(self, name: str, kinds: Mapping[str, Callable[..., AnyNetwork]]) -> AnyNetwork:
        if self._closed:
            raise EngineError("The pipeline is closed.", mend="make another with Pipeline.from_bundle.")
        if name not in self._loaded:
            component = self.bundle.component(name, self.precision, self._forms)
            # Of a kind that cannot play this part, the first one that can says so.
            make = kinds.get(component.kind, next(iter(kinds.values())))
            self._loaded[name] = make(component, self.device, options=self._options)
        return cast("AnyNetwork", self._loaded[name])

    @property
    def providers(self) -> dict[str, str]:
        """The execution provider that runs each network loaded so far."""
        names = [name for name in self.bundle.manifest.components if name in self._loaded]
        return {name: self._loaded[name].provider for name in names}

    def close(self) -> None:
        """Close every session; closing twice does nothing."""
        while self._loaded:
            self._loaded.popitem()[1].close()
        self._closed = True

    def __enter__(self) -> Networks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
