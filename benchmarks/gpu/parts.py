"""The parts of `python -m benchmarks gpu`, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from benchmarks.gpu import (
    part_ceilings,
    part_graphs,
    part_grounding,
    part_official,
    part_ort_optimizer,
    part_processes,
    part_tracker,
)
from benchmarks.gpu.record import Record
from benchmarks.gpu.subject import Subject


@dataclass(frozen=True)
class Part:
    """Rows that are measured by one process.

    Attributes:
        measure: measures them.
        of: the bundle's component whose variant they are about, or what else, in brackets.
        seconds: after which the process is ended; its rows are kept, and the next call goes on after them.
        by_default: whether it is run where no part is named.
    """

    measure: Callable[[Subject, Record], None]
    of: str
    seconds: int = 150
    by_default: bool = True


PARTS: Mapping[str, Part] = {
    "ceilings": Part(part_ceilings.measure, "(machine)"),
    "tracker-1": Part(partial(part_tracker.measure, objects=1), "sam2"),
    "tracker-10": Part(partial(part_tracker.measure, objects=10), "sam2"),
    "tracker-16": Part(partial(part_tracker.measure, objects=16), "sam2"),
    "image_encoder": Part(part_graphs.image_encoder, "sam2"),
    "track-1": Part(partial(part_graphs.track, objects=1), "sam2"),
    "track-10": Part(partial(part_graphs.track, objects=10), "sam2"),
    "grounding_dino": Part(part_grounding.measure, "grounding_dino"),
    "official": Part(part_official.sam2, "sam2"),
    "official-grounding_dino": Part(part_official.grounding_dino, "grounding_dino"),
    "first_mask": Part(part_processes.first_mask, "sam2"),
    "nano_demo": Part(part_processes.demo, "(nano)"),
    "ort_optimizer": Part(part_ort_optimizer.measure, "sam2"),
    "vos_optimized": Part(part_official.vos_optimized, f"({part_official.OPTIMISED})", seconds=300, by_default=False),
}
