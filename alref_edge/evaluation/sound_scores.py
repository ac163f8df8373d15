"""What is measured of one clip with sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from alref_edge.metrics import ClassScores


@dataclass(frozen=True)
class ClipScores:
    """All that was measured of one clip.

    Attributes:
        seed: of the scene.
        mode: of its sound, "single" or "multi".
        sounding: whether something in view sounds, second by second.
        j, f: AVSBench's measures, second by second, by the name in `WAYS`.
        stages: what each stage got right or wrong, one by one, by the name in `STAGES`; none where it was not asked.
        classes: scores of the pipeline's class maps.
    """

    seed: int
    mode: str
    sounding: tuple[bool, ...]
    j: Mapping[str, tuple[float, ...]]
    f: Mapping[str, tuple[float, ...]]
    stages: Mapping[str, tuple[bool, ...]]
    classes: ClassScores = field(repr=False, compare=False)
