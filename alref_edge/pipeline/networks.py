"""The networks of a bundle on one device, each loaded when it is first needed and kept."""

from __future__ import annotations

import threading
from functools import cached_property
from types import TracebackType

from alref_edge.bundle import Bundle
from alref_edge.errors import EngineError
from alref_edge.models.beats import Beats
from alref_edge.models.grounding_dino import GroundingDino
from alref_edge.models.languagebind import LanguageBind
from alref_edge.models.sam2 import Sam2Graphs, Sam2ImagePredictor, Sam2VideoTracker
from alref_edge.models.yamnet import YamNet
from alref_edge.runtime import SessionOptions

VISION = frozenset({"grounding_dino", "sam2"})
"""The components that every run needs; those that hear are asked for by name."""
_KEPT = {"grounding_dino": "detector", "sam2": "_sam2", "languagebind": "language", "yamnet": "yamnet"}


class Networks:
    """Grounding DINO, SAM 2 and those that hear, of one bundle. A context manager.

    Args:
        bundle: verified.
        device: "cpu", "cuda", "cuda:N" or "auto".
        options: threads and fall-back.
        precision: of the graphs.

    Attributes:
        lock: held by a thread while it loads or runs a network other than SAM 2. Those look and hear ahead, in
            threads of their own; SAM 2 follows in one.
    """

    def __init__(self, bundle: Bundle, device: str, options: SessionOptions, precision: str = "float32") -> None:
        self.bundle = bundle
        self.device = device
        self.precision = precision
        self._options = options
        self.lock = threading.RLock()
        self._closed = False
        self._taggers: dict[str, Beats] = {}

    @cached_property
    def detector(self) -> GroundingDino:
        """Boxes for sentences."""
        self._check_open()
        component = self.bundle.component("grounding_dino", self.precision)
        return GroundingDino.from_component(component, self.device, options=self._options)

    def tagger(self, name: str) -> Beats:
        """Names of what is heard, by a component such as "beats_as2m"."""
        self._check_open()
        if name not in self._taggers:
            component = self.bundle.component(name, self.precision)
            self._taggers[name] = Beats.from_component(component, self.device, options=self._options)
        return self._taggers[name]

    @cached_property
    def language(self) -> LanguageBind:
        """Which of some labels a sound or a text is most like."""
        self._check_open()
        component = self.bundle.component("languagebind", self.precision)
        return LanguageBind.from_component(component, self.device, options=self._options)

    @cached_property
    def yamnet(self) -> YamNet:
        """Features of a sound."""
        self._check_open()
        component = self.bundle.component("yamnet", self.precision)
        return YamNet.from_component(component, self.device, options=self._options)

    def image_predictor(self) -> Sam2ImagePredictor:
        """Masks for boxes; cheap to make, on the graphs that the tracker uses too."""
        return Sam2ImagePredictor(self._sam2)

    def tracker(self, *, fill_hole_area: int = 0, max_pivots_in_attention: int | None = None) -> Sam2VideoTracker:
        """Masks through time; cheap to make, on the same graphs."""
        return Sam2VideoTracker(
            self._sam2, fill_hole_area=fill_hole_area, max_pivots_in_attention=max_pivots_in_attention
        )

    @cached_property
    def _sam2(self) -> Sam2Graphs:
        self._check_open()
        return Sam2Graphs.open(self.bundle.component("sam2", self.precision), self.device, self._options)

    @property
    def providers(self) -> dict[str, str]:
        """The execution provider that runs each network loaded so far."""
        loaded = {name: self.__dict__[attribute] for name, attribute in _KEPT.items() if attribute in self.__dict__}
        return {name: network.provider for name, network in {**loaded, **self._taggers}.items()}

    def close(self) -> None:
        """Close every session; closing twice does nothing."""
        for network in [self.__dict__.pop(attribute, None) for attribute in _KEPT.values()]:
            if network is not None:
                network.close()
        while self._taggers:
            self._taggers.popitem()[1].close()
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("The pipeline is closed.", mend="make another with Pipeline.from_bundle.")

    def __enter__(self) -> Networks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
