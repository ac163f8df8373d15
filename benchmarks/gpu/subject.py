"""What the parts of `python -m benchmarks gpu` measure: a bundle's networks on a device, in variants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.bundle import Bundle, Component
from alref_edge.runtime import SessionOptions
from alref_edge.runtime.device import forms_of
from benchmarks.gpu import machine
from benchmarks.gpu.record import Row, Skipped

FRAME_HW = (540, 960)
_DRAWN = 8


@dataclass(frozen=True)
class Variant:
    """A way to run the same graphs.

    Attributes:
        name: for people, and in the names of rows.
        precision: of the bundle's graphs.
        providers: settings of the execution provider.
        settings: further fields of `SessionOptions`; where it lacks one, the variant is passed over.
        forms: of the graphs, best first; those that the device likes if None.
        on_cpu: whether it means anything there.
    """

    name: str
    precision: str
    providers: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    forms: tuple[str, ...] | None = None
    on_cpu: bool = False


FLOAT16 = Variant("float16", "float16")
FLOAT32 = Variant("float32", "float32", on_cpu=True)
TF32 = Variant("tf32", "float32", {"use_tf32": "1"})
STANDARD = Variant("float16, standard form", "float16", forms=("standard",))
CAPTURED = Variant("float16, CUDA graphs", "float16", settings={"cuda_graphs": True})
NOT_CAPTURED = Variant("float16, no CUDA graphs", "float16", settings={"cuda_graphs": False})
_SETTINGS = frozenset(each.name for each in fields(SessionOptions))


@dataclass(frozen=True)
class Subject:
    """A bundle on a device.

    Attributes:
        root: the bundle's folder.
        device: "cuda" or "cpu".
        runs: counted runs of one graph or call; frames of a tracker.
        threads: of the CPU; 0: the backend's choice.
        work: folder for what parts make for themselves.
    """

    root: Path
    device: str
    runs: int
    threads: int
    work: Path

    @cached_property
    def bundle(self) -> Bundle:
        """The bundle, verified once."""
        return Bundle.open(self.root)

    @cached_property
    def wait(self) -> Callable[[], None]:
        """Returns when the device has done everything."""
        return machine.synchronise(self.device)

    def component(self, name: str, variant: Variant) -> Component:
        """A network's graphs as the variant wants them."""
        return self.bundle.component(name, variant.precision, variant.forms or forms_of(self.device))

    def options(self, variant: Variant) -> SessionOptions:
        """How sessions run as the variant wants it."""
        return SessionOptions(threads=self.threads, providers=variant.providers, **variant.settings)

    def variants(self, name: str, *wanted: Variant) -> Iterator[Variant]:
        """Those of the wanted ones that device, runtime and component have, and that are not what another one is.

        Raises:
            Skipped: the bundle has no such component.
        """
        entry = self.bundle.manifest.components.get(name)
        if entry is None:
            raise Skipped(f"the bundle {self.bundle.manifest.name!r} has no {name}")
        for variant in wanted:
            if not variant.settings.keys() <= _SETTINGS or (self.device == "cpu" and not variant.on_cpu):
                continue
            if variant.precision not in entry.precisions:
                continue
            usual = self.component(name, replace(variant, forms=None))
            if variant.forms is None or self.component(name, variant).form != usual.form:
                yield variant

    def samples(self, call: Callable[[], object], *, warm: int = 3, runs: int | None = None) -> Row:
        """Time a call and the wait for what it enqueued, in ms."""
        for _ in range(warm):
            call()
        self.wait()
        taken = []
        for _ in range(runs or self.runs):
            start = time.perf_counter()
            call()
            self.wait()
            taken.append(1000 * (time.perf_counter() - start))
        return Row(taken, facts=self.memory())

    def memory(self) -> dict[str, Any]:
        """Memory by now, of the host's process at its peak and of the whole GPU."""
        found: dict[str, Any] = {"peak_host_mb": round(machine.peak_host_mb())}
        return found if self.device == "cpu" else {**found, "gpu_memory_mib": machine.device_memory_mib()}


def drawn_frames() -> list[np.ndarray]:
    """A few frames of a scene, uint8 `[H, W, 3]`: soft noise that drifts, and squares that wander before it."""
    height, width = FRAME_HW
    coarse = np.random.default_rng(0).integers(40, 216, (height // 12, width // 12, 3), dtype=np.uint8)
    wall = coarse.repeat(12, axis=0).repeat(12, axis=1)
    frames = []
    for number in range(_DRAWN):
        image = np.roll(wall, 3 * number, axis=1).copy()
        for which, (x0, y0, x1, y1) in enumerate(drawn_boxes(16)):
            shift = 2 * number
            image[y0:y1, x0 + shift : x1 + shift] = (40 + 12 * which, 230 - 10 * which, 90)
        frames.append(image)
    return frames


def drawn_boxes(count: int) -> list[tuple[int, int, int, int]]:
    """Boxes of that many squares, up to 16, on the first frame."""
    places = [(x, y) for y in (30, 160, 290, 420) for x in (40, 270, 500, 730)]
    return [(x, y, x + 90, y + 90) for x, y in places[:count]]


def frame_stream(count: int) -> Iterator[tuple[int, np.ndarray]]:
    """So many numbered frames; the drawn ones there and back."""
    frames = drawn_frames()
    turn = [*frames, *frames[-2:0:-1]]
    for number in range(count):
        yield number, turn[number % len(turn)]
