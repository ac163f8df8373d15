"""The networks of a bundle on one device, each loaded when it is first needed and kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from alref_edge.bundle import Bundle
from alref_edge.errors import BundleError, EngineError, InputError
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


@dataclass(frozen=True)
class Part(Generic[AnyNetwork]):
    """A part in the method, and the networks that can play it.

    Attributes:
        name: in words.
        kinds: kind of component to what makes the network, called with the component, the device, and `options`.
    """

    name: str
    kinds: Mapping[str, Callable[..., AnyNetwork]]


# A network of another kind is one more line.
DETECTOR: Part[Detector] = Part("detector", {"grounding_dino": GroundingDino.from_component})
SEGMENTER: Part[Segmenter] = Part("segmenter", {"sam2": Sam2.from_component})
TAGGER: Part[SoundTagger] = Part("sound tagger", {"beats": Beats.from_component})
SOUND_EMBEDDER: Part[SoundEmbedder] = Part("sound embedder", {"yamnet": YamNet.from_component})
SOUND_TEXT_MATCHER: Part[SoundTextMatcher] = Part("sound-text matcher", {"languagebind": LanguageBind.from_component})

VISION: tuple[Part[Any], ...] = (SEGMENTER, DETECTOR)
"""The parts that every run needs."""
SOUND: tuple[Part[Any], ...] = (SOUND_TEXT_MATCHER, SOUND_EMBEDDER)
"""The parts that what sounds needs too, beside taggers, which the settings name."""


def best_precision(bundle: Bundle, device: str) -> str:
    """The precision that a kind of device runs best: float16 on CUDA, where it was accepted, else float32.

    A bundle was accepted in float16 where all its components have it, and the masks of each that tracks were, see
    `GraphSetEntry.least_iou`.
    """
    if "cuda" not in forms_of(device) or "float16" not in bundle.precisions:
        return "float32"
    for entry in bundle.manifest.components.values():
        form = entry.form_of("float16", forms_of(device))
        if entry.kind in SEGMENTER.kinds and (form is None or entry.forms[form]["float16"].least_iou is None):
            return "float32"
    return "float16"


class Networks:
    """A detector, a segmenter and those that hear, of one bundle. A context manager.

    Args:
        bundle: verified.
        device: "cpu", "cuda", "cuda:N" or "auto".
        options: threads and fall-back.
        precision: of the graphs, or "tf32": that of `options`, with float32 graphs.
        forms: that they may have, best first; those of the device if None.
        components: names of the components to take where the bundle has several for one part.
        instead: networks by the name of the bundle's component in whose place they are used; closed with the others.

    Attributes:
        forms: of the graphs of each component loaded so far.
        lock: held by a thread while it loads or runs a network other than the segmenter. Those look and hear ahead, in
            threads of their own; the segmenter comes after in one.

    Raises:
        InputError: the bundle has no component of such a name.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str,
        options: SessionOptions,
        precision: str = "float32",
        *,
        forms: Sequence[str] | None = None,
        components: Collection[str] = (),
        instead: Mapping[str, Network] | None = None,
    ) -> None:
        self.bundle = bundle
        self.device = device
        self.precision, self._graphs = precision, "float32" if precision == "tf32" else precision
        self._options, self._chosen = options, frozenset(components)
        self._forms = forms or forms_of(resolve(device, allow_fallback=options.allow_fallback).kind)
        self.lock = threading.RLock()
        self._closed = False
        self.forms: dict[str, str] = {}
        self._loaded: dict[str, Network] = dict(instead or {})
        unknown = sorted((self._chosen | self._loaded.keys()) - bundle.manifest.components.keys())
        if unknown:
            raise InputError(
                "A component is named that the bundle does not have.",
                expected=", ".join(bundle.manifest.components),
                got=", ".join(unknown),
            )

    @property
    def detector(self) -> Detector:
        """Boxes for sentences."""
        return self._only(DETECTOR)

    @property
    def sound_text_matcher(self) -> SoundTextMatcher:
        """Which of some labels a sound or a text is most like."""
        return self._only(SOUND_TEXT_MATCHER)

    @property
    def sound_embedder(self) -> SoundEmbedder:
        """Features of a sound."""
        return self._only(SOUND_EMBEDDER)

    def tagger(self, name: str) -> SoundTagger:
        """Names of what is heard, by a component such as "beats_as2m"."""
        return self._load(name, TAGGER)

    def image_segmenter(self) -> ImageSegmenter:
        """Masks for boxes; cheap to make, on the graphs that the tracker uses too."""
        return self._only(SEGMENTER).image_segmenter()

    def tracker(self, tracking: TrackingOptions) -> VideoTracker:
        """Masks through time; cheap to make, on the same graphs."""
        return self._only(SEGMENTER).video_tracker(tracking)

    def has(self, part: Part[Any]) -> bool:
        """Whether the bundle has a component that can play a part."""
        return bool(self._able(part))

    def check(self, parts: Iterable[Part[Any]] = VISION, taggers: Iterable[str] = ()) -> None:
        """See that the taggers of those names are there and that each part can be played, without loading anything.

        Raises:
            BundleError: no component can, or several can and not one of them was chosen; or it has no graphs of the
                precision.
        """
        for name in (*taggers, *map(self._name_of, parts)):
            self.bundle.component(name, self._graphs, self._forms)

    def _able(self, part: Part[Any]) -> list[str]:
        return [name for name, each in self.bundle.manifest.components.items() if each.kind in part.kinds]

    def _name_of(self, part: Part[Any]) -> str:
        """The component that plays a part which one alone has; where there is none, what it would be called."""
        able = self._able(part)
        chosen = [name for name in able if name in self._chosen] or able
        if len(chosen) > 1:
            raise BundleError(
                f"The bundle {self.bundle.manifest.name!r} has more than one {part.name}.",
                expected="one, or a choice of one",
                got=", ".join(chosen),
                mend=f"choose it: --component {chosen[0]}, or Pipeline.from_bundle(..., components=[{chosen[0]!r}]).",
            )
        return chosen[0] if chosen else next(iter(part.kinds))

    def _only(self, part: Part[AnyNetwork]) -> AnyNetwork:
        return self._load(self._name_of(part), part)

    def _load(self, name: str, part: Part[AnyNetwork]) -> AnyNetwork:
        if self._closed:
            raise EngineError("The pipeline is closed.", mend="make another with Pipeline.from_bundle.")
        if name not in self._loaded:
            component = self.bundle.component(name, self._graphs, self._forms)
            self.forms[name] = component.form
            # Of a kind that cannot play this part, the first one that can says so.
            make = part.kinds.get(component.kind, next(iter(part.kinds.values())))
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
