"""Grounding of many sentences on one video: a frame's backbone runs once, a sentence's text encoder once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from alref_edge.models.protocols import Detector
from alref_edge.pipeline.measure import RunStats
from alref_edge.pipeline.networks import Networks
from alref_edge.types import Detections

_MOST_FEATURES = 64  # frames; one at 800x1333 is 23 MB on the device


class Grounder:
    """Boxes for any sentence on the frames that were shown to it. Threads may ask at once; they are served in turn.

    Args:
        networks: the detector is taken from them when a sentence or a frame needs it, not before.
        box_threshold: smallest score of a box.
        text_threshold: smallest score of a word that goes into a box's phrase.
        keep: which of a frame's boxes, in the order of the queries, are kept, and in which order.
        stats: counts and times.

    Attributes:
        images: the frames shown now, RGB uint8 `[H, W, 3]` by index.
    """

    def __init__(
        self,
        networks: Networks,
        box_threshold: float,
        text_threshold: float,
        keep: Callable[[Detections], Detections],
        stats: RunStats,
    ) -> None:
        self._networks = networks
        self._thresholds = box_threshold, text_threshold
        self._keep = keep
        self._stats = stats
        self._texts: dict[str, Any] = {}
        self.images: Mapping[int, np.ndarray] = {}
        self._features: dict[int, Any] = {}
        self._found: dict[tuple[int, str], Detections] = {}

    def encode_text(self, sentence: str) -> None:
        """Encode a sentence.

        Raises:
            InputError: it is empty, too long, or has no word that the text encoder knows.
        """
        with self._networks.lock:
            if sentence not in self._texts:
                detector = self._loaded()
                with self._stats.stage("ground"):
                    self._texts[sentence] = detector.encode_text(sentence)
                self._stats.counters.text_encodings += 1

    def add_frames(self, images: Mapping[int, np.ndarray]) -> None:
        """Put frames, RGB uint8 `[H, W, 3]` by index, beside those that are shown."""
        with self._networks.lock:
            self.images = {**self.images, **images}

    def drop_frames(self, frames: Iterable[int]) -> None:
        """Show some frames no longer."""
        with self._networks.lock:
            gone = set(frames)
            self.images = {frame: image for frame, image in self.images.items() if frame not in gone}
            self._features = {frame: each for frame, each in self._features.items() if frame not in gone}
            self._found = {key: each for key, each in self._found.items() if key[0] not in gone}

    def boxes(self, frame: int, sentence: str) -> Detections:
        """The boxes of a sentence on a frame shown that are kept; remembered while it is shown."""
        key = (frame, sentence)
        with self._networks.lock:
            if key not in self._found:
                self._found[key] = self._keep(self.detect(frame, sentence, *self._thresholds))
            return self._found[key]

    def detect(self, frame: int, sentence: str, box_threshold: float, text_threshold: float) -> Detections:
        """All boxes of a sentence on a frame shown, at other thresholds, in the order of the queries."""
        detector, counters = self._loaded(), self._stats.counters
        with self._networks.lock, self._stats.stage("ground"):
            self.encode_text(sentence)
            features = self._features.pop(frame, None)
            if features is None:
                features = detector.encode_image(self.images[frame])
                counters.grounding_backbone += 1
            self._keep_features(frame, features)
            counters.grounding_decoder += 1
            return detector.detect(
                features, self._texts[sentence], box_threshold=box_threshold, text_threshold=text_threshold
            )

    def _keep_features(self, frame: int, features: Any) -> None:
        """As those used last. Those used longest ago make room, and are made again if they are asked for."""
        self._features[frame] = features
        while len(self._features) > _MOST_FEATURES:
            self._features.pop(next(iter(self._features)))

    def _loaded(self) -> Detector:
        with self._networks.lock, self._stats.stage("load"):
            return self._networks.detector
