"""What the pipeline needs of a network, by its part in the method; any class with these methods will do.

Arrays are numpy's. What a network makes for itself alone (features of an image, a text, a frame) is passed back to it
as it came, so its type is its own. Errors are those of `alref_edge.errors`.

`pipeline/networks.py` says which kind of component plays which part.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from alref_edge.errors import InputError
from alref_edge.types import Detections, Tag

Item = TypeVar("Item")


class Stage(Protocol):
    """Runs a stage of work, such as the encoding of frame after frame."""

    def __call__(self, name: str, items: Iterable[Item], /, *, ahead: bool = True) -> Iterator[Item]:
        """The same items in the same order.

        Args:
            name: of the stage, for the times in the result.
            items: made by it.
            ahead: they may be made before they are asked for, in another thread.
        """
        ...


def in_line(name: str, items: Iterable[Item], /, *, ahead: bool = True) -> Iterator[Item]:
    """The `Stage` that makes an item when it is asked for."""
    return iter(items)


class Network(Protocol):
    """What all have in common."""

    @property
    def provider(self) -> str:
        """What runs it, for the result: an execution provider of ONNX Runtime, or another engine's name."""
        ...

    def close(self) -> None:
        """Give back what it holds; closing twice does nothing."""
        ...


class Detector(Network, Protocol):
    """Boxes in an image for a text: open-vocabulary detection. A text is encoded once, an image once."""

    def encode_text(self, caption: str) -> Any:
        """What it makes of a text.

        Raises:
            InputError: the text is empty, too long, or has no word that it knows.
        """
        ...

    def encode_image(self, image_hw3_u8: np.ndarray) -> Any:
        """What it makes of an image, RGB uint8 `[H, W, 3]`. Up to 64 of them are kept at a time."""
        ...

    def detect(self, image: Any, text: Any, *, box_threshold: float, text_threshold: float) -> Detections:
        """Boxes that answer to the text, float32 `[N, 4]`, xyxy in pixels of the image; in any order, which is kept.

        Args:
            image: of `encode_image`.
            text: of `encode_text`.
            box_threshold: 0 to 1; a box scores above it.
            text_threshold: 0 to 1; a word that goes into a box's phrase scores above it.
        """
        ...


class ImageSegmenter(Protocol):
    """Masks in an image for boxes."""

    def set_image(self, image_hw3_u8: np.ndarray) -> None:
        """Take the image, RGB uint8 `[H, W, 3]`, that the following boxes are about."""
        ...

    def predict_boxes(self, boxes_n4: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One mask for each of N boxes, float32 `[N, 4]`, xyxy in pixels, which may reach beyond the image.

        Returns:
            Masks bool `[N, H, W]`, and what the pipeline does not look at: quality float32 `[N]`, and logits.
        """
        ...


@dataclass(frozen=True)
class TrackingOptions:
    """How objects are tracked.

    Attributes:
        fill_hole_area: background holes of up to so many low-resolution pixels are filled in masks; 0 fills none
            (officially 8 where its CUDA extension is built, else none).
        max_pivots_in_attention: prompted frames, closest in time, that memory attention sees, at least 2; None: all,
            as officially.

    Raises:
        InputError: an option is no whole number, or out of range.
    """

    fill_hole_area: int = 0
    max_pivots_in_attention: int | None = None

    def __post_init__(self) -> None:
        self._check("fill_hole_area", 0, 1_000_000, int)
        if self.max_pivots_in_attention is not None:
            self._check("max_pivots_in_attention", 2, 1_000_000, int)

    def _check(self, name: str, low: float, high: float, kind: type | tuple[type, ...]) -> None:
        value = getattr(self, name)
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if not fits or not low <= value <= high:
            raise InputError(
                f"The setting {name} is out of range.", expected=f"{low} to {high}", got=value, mend="change it."
            )


@dataclass
class TrackingCounters:
    """What a video cost.

    Attributes:
        encoded_prompts: image encodings for prompts.
        encoded_forward: image encodings of forward sweeps.
        encoded_backward: image encodings of backward sweeps.
        track_calls: calls of the track graph.
        objects_tracked: objects summed over those calls.
    """

    encoded_prompts: int = 0
    encoded_forward: int = 0
    encoded_backward: int = 0
    track_calls: int = 0
    objects_tracked: int = 0

    @property
    def encoded(self) -> int:
        """Image encodings in all."""
        return self.encoded_prompts + self.encoded_forward + self.encoded_backward


class TrackedFrame(Protocol):
    """The objects on one frame."""

    @property
    def frame(self) -> int:
        """Its index."""
        ...

    @property
    def object_ids(self) -> tuple[Hashable, ...]:
        """The objects that were reached, in the order of the rows."""
        ...

    def mask_hw(self, row: int) -> np.ndarray:
        """The mask of one of them, bool `[H, W]`."""
        ...


class TrackedVideo(Protocol):
    """One video: prompts first, then a forward and a backward propagation."""

    @property
    def counters(self) -> TrackingCounters:
        """What it cost so far."""
        ...

    def encode(self, image_hw3_u8: np.ndarray) -> Any:
        """What it makes of a frame, RGB uint8 `[H, W, 3]`: for prompts, and for `propagate`. It has an `nbytes`."""
        ...

    def add_mask(self, frame: int, object_id: Hashable, mask_hw: np.ndarray, image: Any) -> object:
        """Say that an object, known or new, has this mask, bool `[H, W]`, on a frame; `image` is what `encode` gave."""
        ...

    def propagate(
        self,
        frames: Iterable[tuple[int, np.ndarray]],
        *,
        reverse: bool,
        starts: Mapping[Hashable, int],
        features: Callable[[int], Any],
        stage: Stage,
    ) -> Iterator[TrackedFrame]:
        """Track each object from its start to the end of the video, or back to its beginning.

        Args:
            frames: index and image, uint8 `[H, W, 3]`, from the first start on in order, without gaps; drawn one by
                one.
            reverse: toward frame 0. An object that starts there takes no part.
            starts: object to the frame on which it starts, which is part of the results.
            features: index of a frame to what `encode` gave for it, or None where that is not at hand.
            stage: runs what can be done for later frames before this one is tracked, such as their encoding.

        Yields:
            One result a frame, of the objects whose start was reached. It stays as it is when later ones are drawn,
            and its masks may be asked for in another thread.
        """
        ...

    def close(self) -> None:
        """Forget the video."""
        ...


class VideoTracker(Protocol):
    """Masks of objects through a video."""

    def start(self, num_frames: int, height: int, width: int) -> TrackedVideo:
        """Begin a video of so many frames of that size."""
        ...


class Segmenter(Network, Protocol):
    """Masks from prompts, in an image and through a video, on the same weights."""

    def image_segmenter(self) -> ImageSegmenter:
        """One for images; cheap to make."""
        ...

    def video_tracker(self, tracking: TrackingOptions) -> VideoTracker:
        """One for videos; cheap to make."""
        ...


class SoundTagger(Network, Protocol):
    """Names of what is heard in a sound."""

    @property
    def labels(self) -> Sequence[tuple[str, str]]:
        """Id and name of all that it can tell."""
        ...

    @property
    def shortest(self) -> int:
        """Fewest samples that can be tagged."""
        ...

    def tag(self, wave_16khz: np.ndarray, top: int) -> tuple[Tag, ...]:
        """The most probable labels of a sound, float32 `[samples]` in [-1, 1] at 16 kHz, best first."""
        ...


class SoundFeatures(Protocol):
    """What a network makes of N frames of a sound, each of 0.975 s."""

    @property
    def scores_nc(self) -> np.ndarray:
        """float32 `[N, classes]`, 0 to 1."""
        ...

    @property
    def features_nd(self) -> np.ndarray:
        """float32 `[N, D]`."""
        ...


class SoundEmbedder(Network, Protocol):
    """Features of the frames of a sound, which tell where it changes."""

    def frames(self, wave_16khz: np.ndarray, *, hop_s: float) -> SoundFeatures:
        """Of every frame of a sound, float32 `[samples]` in [-1, 1] at 16 kHz, one every `hop_s` seconds."""
        ...


class SoundTextMatcher(Network, Protocol):
    """Which words a sound, or other words, are most like."""

    def sounding(
        self, waves_16khz: Sequence[np.ndarray], labels: Sequence[str], *, separator: str, synonyms: Mapping[str, str]
    ) -> list[tuple[str, ...]]:
        """Of each sound, float32 `[samples]` at 16 kHz, those of the labels that it is most like together.

        Args:
            waves_16khz: the sounds.
            labels: of the objects.
            separator: stands between the labels of a combination.
            synonyms: label to the text that stands for it.
        """
        ...

    def nearest(self, labels: Sequence[str], categories: Sequence[str]) -> list[str]:
        """The category that each label is nearest to in meaning; a label that is a category is its own."""
        ...
