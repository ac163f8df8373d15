"""Grounding of many sentences on one video: a frame's backbone runs once, a sentence's text encoder once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from alref_edge.models.grounding_dino import GroundingDino, ImageFeatures, TextFeatures
from alref_edge.pipeline.measure import Watch
from alref_edge.types import Detections


class Grounder:
    """Boxes for any sentence on the frames that were shown to it.

    Args:
        detector: gives Grounding DINO; called when a sentence or a frame needs it, not before.
        box_threshold: smallest score of a box.
        text_threshold: smallest score of a word that goes into a box's phrase.
        keep: which of a frame's boxes, in the order of the queries, are kept, and in which order.
        watch: counts and times.

    Attributes:
        images: the frames shown now, RGB uint8 `[H, W, 3]` by index.
    """

    def __init__(
        self,
        detector: Callable[[], GroundingDino],
        box_threshold: float,
        text_threshold: float,
        keep: Callable[[Detections], Detections],
        watch: Watch,
    ) -> None:
        self._detector = detector
        self._thresholds = box_threshold, text_threshold
        self._keep = keep
        self._watch = watch
        self._texts: dict[str, TextFeatures] = {}
        self.images: Mapping[int, np.ndarray] = {}
        self._features: dict[int, ImageFeatures] = {}
        self._found: dict[tuple[int, str], Detections] = {}

    def read(self, sentence: str) -> None:
        """Encode a sentence.

        Raises:
            InputError: it is empty, too long, or has no word that the text encoder knows.
        """
        if sentence not in self._texts:
            detector = self._loaded()
            with self._watch.stage("ground"):
                self._texts[sentence] = detector.encode_text(sentence)
            self._watch.counters.text_encodings += 1

    def show(self, images: Mapping[int, np.ndarray]) -> None:
        """Put frames, RGB uint8 `[H, W, 3]` by index, in the place of those before; frame 0 stays if it was one."""
        kept = {frame: image for frame, image in self.images.items() if frame == 0}
        self.images = {**kept, **images}
        self._features = {frame: each for frame, each in self._features.items() if frame in self.images}
        self._found = {key: each for key, each in self._found.items() if key[0] in self.images}

    def boxes(self, frame: int, sentence: str) -> Detections:
        """The boxes of a sentence on a frame shown that are kept; remembered while it is shown."""
        key = (frame, sentence)
        if key not in self._found:
            self._found[key] = self._keep(self.detect(frame, sentence, *self._thresholds))
        return self._found[key]

    def detect(self, frame: int, sentence: str, box_threshold: float, text_threshold: float) -> Detections:
        """All boxes of a sentence on a frame shown, at other thresholds, in the order of the queries."""
        self.read(sentence)
        detector, counters = self._loaded(), self._watch.counters
        with self._watch.stage("ground"):
            if frame not in self._features:
                self._features[frame] = detector.encode_image(self.images[frame])
                counters.grounding_backbone += 1
            counters.grounding_decoder += 1
            return detector.detect(
                self._features[frame], self._texts[sentence], box_threshold=box_threshold, text_threshold=text_threshold
            )

    def _loaded(self) -> GroundingDino:
        with self._watch.stage("load"):
            return self._detector()
