"""What there is to hear and see in each second of a scene, and a selector that knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from alref_edge.datasets.synthetic import Scene
from alref_edge.datasets.synthetic.sound import SoundTrack, frame_of_second, make_sound
from alref_edge.evaluation.boxes import box_iou
from alref_edge.pipeline import GroundSound, SoundingCategory, SoundWindow
from alref_edge.types import Detections


@dataclass(frozen=True, eq=False)
class SoundTruth:
    """A scene that lasts one window, with its sound.

    Attributes:
        scene: it.
        sound: its sound.
    """

    scene: Scene
    sound: SoundTrack

    @classmethod
    def of(cls, scene: Scene, mode: str) -> SoundTruth:
        """With the sound of a mode; errors as of `make_sound`."""
        return cls(scene, make_sound(scene, mode))

    @property
    def seconds(self) -> int:
        """How long it lasts."""
        return len(self.sound.labels)

    @cached_property
    def objects_shw(self) -> np.ndarray:
        """The object that is seen at each pixel of each second's last frame, int8 `[S, H, W]`; -1: none."""
        return np.stack([self.scene.labels(frame_of_second(self.scene, second)) for second in range(self.seconds)])

    def boxes(self, second: int, shape: str) -> list[np.ndarray]:
        """Boxes of all objects of a shape in a second's last frame, xyxy `[4]` each; NaN where nothing is seen."""
        boxes_n4 = self.scene.boxes(frame_of_second(self.scene, second))
        return [box for box, each in zip(boxes_n4, self.scene.objects, strict=True) if each.shape == shape]

    @cached_property
    def sounding(self) -> dict[str, tuple[int, int]]:
        """Each shape that sounds in view, with the second and the object that show most of it while it does."""
        found: dict[str, tuple[int, int, int]] = {}
        for second, label in enumerate(self.sound.labels):
            for number in label.objects:
                shape = self.scene.objects[number].shape
                pixels = int(np.count_nonzero(self.objects_shw[second] == number))
                if pixels > found.get(shape, (0, 0, 0))[2]:
                    found[shape] = second, number, pixels
        return {shape: (second, number) for shape, (second, number, _) in found.items()}

    @cached_property
    def heard(self) -> set[str]:
        """The shapes that sound, in view or off screen."""
        return {shape for label in self.sound.labels for shape in (*label.shapes, *label.off_screen)}

    def mask(self, second: int) -> np.ndarray:
        """The pixels of all that sounds, bool `[H, W]`."""
        return np.isin(self.objects_shw[second], np.array(self.sound.labels[second].objects, np.int8))

    def one_object(self, second: int) -> np.ndarray:
        """The pixels of one object alone of each shape that sounds, that in `sounding`, bool `[H, W]`."""
        numbers = [self.sounding[shape][1] for shape in self.sound.labels[second].shapes]
        return np.isin(self.objects_shw[second], np.array(numbers, np.int8))


@dataclass(frozen=True, eq=False)
class KnowingSelector:
    """The shapes that sound in view, each to be found where most of it is seen; of the boxes proposed there, the best.

    Attributes:
        truth: what it knows.
    """

    truth: SoundTruth
    name: str = "truth"
    in_flight: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)

    def categories(self, window: SoundWindow, ground: GroundSound) -> list[SoundingCategory]:
        """See `SoundSelector.categories`."""
        return [SoundingCategory(shape, 1 + second) for shape, (second, _) in self.truth.sounding.items()]

    def box(self, window: SoundWindow, category: SoundingCategory, found: Detections) -> int:
        """See `SoundSelector.box`."""
        second, number = self.truth.sounding[category.name]
        box = self.truth.scene.boxes(frame_of_second(self.truth.scene, second))[number]
        return int(np.argmax([box_iou(each, box) for each in found.boxes_n4]))

    def audio_segments(self, window: SoundWindow) -> None:
        """See `SoundSelector.audio_segments`: they are to be found."""
