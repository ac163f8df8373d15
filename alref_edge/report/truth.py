"""What a result is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from alref_edge.metrics import JAndF, j_and_f
from alref_edge.pipeline import MaskResult


@dataclass(frozen=True, eq=False)
class Truth:
    """The right masks of one sentence, and how close a result comes to them.

    Attributes:
        mask: frame to mask, bool `[H, W]`, of every frame of the video.
        scores: J and F of the result in every frame.
        visible_t: whether there is anything to be found, bool `[T]`.
        kind: what it takes to understand the sentence, in a word; may be empty.
    """

    mask: Callable[[int], np.ndarray] = field(repr=False)
    scores: JAndF
    visible_t: np.ndarray = field(repr=False)
    kind: str = ""

    @classmethod
    def of(cls, result: MaskResult, mask: Callable[[int], np.ndarray], kind: str = "") -> Truth:
        """Compare a result with the truth, frame by frame.

        Raises:
            InputError: the truth's masks are not of the video's size.
        """
        frames = range(result.frame_count)
        visible: list[bool] = []

        def seen(frame: int) -> np.ndarray:
            mask_hw = mask(frame)
            visible.append(bool(mask_hw.any()))
            return mask_hw

        scores = j_and_f(map(result.mask, frames), map(seen, frames))
        return cls(mask, scores, np.array(visible), kind)
