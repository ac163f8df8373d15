"""The graphs of SAM 2 alone, with everything bound on the device: time of a call, and where it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from alref_edge.errors import EngineError
from alref_edge.runtime import Buffer, Session, open_session
from benchmarks.gpu.profiling import profile_graph
from benchmarks.gpu.record import Record, Row
from benchmarks.gpu.subject import CAPTURED, FLOAT16, FLOAT32, NOT_CAPTURED, STANDARD, TF32, Subject, Variant

MEMORIES, POINTERS = 7, 16
_VARIANTS = (FLOAT16, CAPTURED, NOT_CAPTURED, STANDARD, FLOAT32, TF32)


def image_encoder(subject: Subject, record: Record) -> None:
    """One frame."""
    _measure(subject, record, "image_encoder", "image_encoder", {}, _VARIANTS)


def track(subject: Subject, record: Record, objects: int) -> None:
    """One frame of so many objects, with all memories and pointers."""
    sizes = {"B": objects, "M": MEMORIES, "P": POINTERS, "N": MEMORIES * objects}
    name = f"track, {objects} object{'s' * (objects > 1)}"
    _measure(subject, record, "track", name, sizes, _VARIANTS)


def _measure(
    subject: Subject,
    record: Record,
    graph: str,
    name: str,
    sizes: Mapping[str, int],
    variants: tuple[Variant, ...],
) -> None:
    for variant in subject.variants("sam2", *variants):
        record.measure(f"{name}, {variant.name}", _row(subject, graph, sizes, variant))


def _row(subject: Subject, graph: str, sizes: Mapping[str, int], variant: Variant) -> Callable[[], Row]:
    def row() -> Row:
        component = subject.component("sam2", variant)
        with open_session(
            component.open_graph(graph), device=subject.device, options=subject.options(variant)
        ) as session:
            feeds = made_feeds(session, sizes)
            timed = time_bound(subject, session, feeds)
        facts: dict[str, Any] = {"form": component.form, **timed.facts}
        if not variant.settings:
            facts["profile"] = profile_graph(
                component.graphs[graph],
                feeds,
                tuple(session.outputs),
                subject.device,
                variant.providers,
                subject.threads,
            )
        return Row(timed.samples, facts=facts)

    return row


def time_bound(subject: Subject, session: Session, feeds: Mapping[str, np.ndarray]) -> Row:
    """Time a session whose inputs and outputs all stay on the device; outputs that are not finite are an error."""
    bound: dict[str, Buffer] = {}
    for name, array in feeds.items():
        bound[name] = session.buffer(array.shape, array.dtype)
        bound[name].write(array)
    known = {
        size: feeds[name].shape[axis]
        for name, spec in session.inputs.items()
        for axis, size in enumerate(spec.shape)
        if isinstance(size, str)
    }
    into = {
        name: session.buffer([known.get(size, size) for size in spec.shape], spec.dtype)  # type: ignore[misc, arg-type]
        for name, spec in session.outputs.items()
        if all(isinstance(size, int) or size in known for size in spec.shape)
    }
    row = subject.samples(lambda: session.run(bound, into=into))
    for name, buffer in into.items():
        if not np.isfinite(buffer.numpy().astype(np.float32)).all():
            raise EngineError(f"The output {name!r} is not finite.", mend="fill the bundle with other weights.")
    return row


def made_feeds(session: Session, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Inputs of a graph of SAM 2: noise, memories in their order, pointers one frame apart.

    Args:
        session: of the graph.
        sizes: of its symbolic dimensions.
    """
    rng = np.random.default_rng(1)
    feeds = {}
    for name, spec in session.inputs.items():
        shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
        if name == "slots":
            value: np.ndarray = np.arange(sizes["N"]).reshape(shape)
        elif name == "tpos":
            value = np.tile(np.arange(shape[1]), (shape[0], 1))
        elif name == "pointer_pos":
            value = np.tile(np.arange(shape[1]) / (shape[1] - 1), (shape[0], 1))
        elif spec.dtype.kind == "f":
            value = rng.standard_normal(shape, np.float32)
        else:
            value = rng.integers(0, 256 if spec.dtype == np.uint8 else 2, shape)
        feeds[name] = np.ascontiguousarray(value.astype(spec.dtype))
    return feeds
