"""Numbers of the method, in one place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from alref_edge.errors import InputError


@dataclass(frozen=True)
class RvosSettings:
    """Settings of referring segmentation; the defaults are those of the official code on Ref-YouTube-VOS and MeViS.

    Attributes:
        frames_per_segment: sampled frames in a segment.
        sample_step: frames from one sampled frame to the next.
        box_threshold: smallest score of a box that grounding proposes.
        text_threshold: smallest score of a word that goes into a box's phrase.
        boxes_per_frame: boxes kept of a frame, by score.
        fallback_box_threshold: box threshold on frame 0 when no segment has a pivot.
        fallback_text_threshold: text threshold there.
        fill_hole_area: background holes of up to so many low-resolution pixels are filled in masks; 0: none.
        max_pivots_in_attention: pivots, closest in time, that memory attention sees, at least 2; None: all.
    """

    frames_per_segment: int = 5
    sample_step: int = 10
    box_threshold: float = 0.25
    text_threshold: float = 0.2
    boxes_per_frame: int = 3
    fallback_box_threshold: float = 0.001
    fallback_text_threshold: float = 0.1
    fill_hole_area: int = 0
    max_pivots_in_attention: int | None = None

    def __post_init__(self) -> None:
        for name in ("frames_per_segment", "sample_step", "boxes_per_frame"):
            self._check(name, 1, 100_000, int)
        for name in ("box_threshold", "text_threshold", "fallback_box_threshold", "fallback_text_threshold"):
            self._check(name, 0, 1, (int, float))
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

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> RvosSettings:
        """Settings from names and values, such as a bundle's defaults.

        Raises:
            InputError: a name that is no setting, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise InputError("There is no such setting.", expected=known, got=unknown, mend="leave it out.")
        return cls(**values)

    def cache_key(self) -> str:
        """A short hash that is the same for equal settings only."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


REF_DAVIS17 = RvosSettings(fallback_box_threshold=0.1)
"""Settings of the official code on Ref-DAVIS17."""
