"""What the tracker gives back, frame by frame."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from alref_edge.models.sam2 import transforms


@dataclass(frozen=True)
class FrameResult:
    """The objects on one frame.

    Attributes:
        frame: its index.
        object_ids: the objects that take part, in the order in which they were first prompted.
        low_res_nhw: float32 `[N, S/4, S/4]`, mask logits; -1024 all over where the object is absent.
        scores_n: float32 `[N]`, logit of the object's presence; at most 0: absent.
        height: of the video.
        width: of the video.
        bits: where the device enlarged a row's mask, that mask, uint8 `[H, ceil(W / 8)]` as `numpy.packbits` packs it.
    """

    frame: int
    object_ids: tuple[Hashable, ...]
    low_res_nhw: np.ndarray
    scores_n: np.ndarray
    height: int
    width: int
    bits: tuple[np.ndarray | None, ...] = ()

    def logits_hw(self, row: int) -> np.ndarray:
        """One object's mask logits at the video's size, float32 `[H, W]`."""
        return transforms.resize_bilinear(self.low_res_nhw[row], self.height, self.width)

    def mask_hw(self, row: int) -> np.ndarray:
        """One object's mask at the video's size, bool `[H, W]`."""
        if self.bits and (bits := self.bits[row]) is not None:
            return np.unpackbits(bits, axis=1, count=self.width).view(bool)
        logits = self.low_res_nhw[row]
        if not (logits > 0).any():
            return np.zeros((self.height, self.width), bool)
        return self.logits_hw(row) > 0

    def masks_nhw(self) -> np.ndarray:
        """All masks at the video's size, bool `[N, H, W]`."""
        masks = np.zeros((len(self.object_ids), self.height, self.width), bool)
        for row in range(len(masks)):
            masks[row] = self.mask_hw(row)
        return masks
