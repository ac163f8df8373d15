"""What a dataset is: clips, each with frames, with sentences or a sound about them, and with the truth.

A list of clips is a dataset. A larger one is a class that opens each clip when it comes to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from alref_edge.media import VideoSource


@dataclass(frozen=True, eq=False)
class Sentence:
    """A sentence about a clip.

    Attributes:
        text: it.
        masks: reads the right masks, bool `[T, H, W]`; called whenever they are needed.
        kind: of the sentence: scores are summed up by it.
    """

    text: str
    masks: Callable[[], np.ndarray]
    kind: str = "sentence"


@dataclass(frozen=True, eq=False)
class Sound:
    """What sounds in a clip.

    Attributes:
        sound: a file, or float32 `[samples]` at 16 kHz, that begins with the first frame; None: the video's own track.
        frames: those on which masks are compared, such as the last of each second.
        masks: reads the right masks of all that sounds on these frames, bool `[len(frames), H, W]`.
    """

    sound: np.ndarray | Path | None
    frames: tuple[int, ...]
    masks: Callable[[], np.ndarray]


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip of a dataset.

    Attributes:
        name: tells it from the others.
        open: opens its frames.
        sentences: those about it; none in a dataset of sounds.
        sound: what sounds in it; None in a dataset of sentences.
    """

    name: str
    open: Callable[[], VideoSource]
    sentences: tuple[Sentence, ...] = ()
    sound: Sound | None = None


class Dataset(Protocol):
    """Clips, which may be gone through many times, and their number."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Clip]: ...
