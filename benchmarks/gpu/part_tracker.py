"""The whole tracker: frames in the host's memory in, masks of the video's size in the host's memory out.

Frames are made ready, encoded, tracked and made masks of at the same time, as the pipeline does it.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from alref_edge.models.sam2 import Sam2VideoTracker
from alref_edge.pipeline import Stages
from benchmarks.gpu.record import Record, Row
from benchmarks.gpu.subject import (
    CAPTURED,
    FLOAT16,
    FLOAT32,
    FRAME_HW,
    NOT_CAPTURED,
    TF32,
    Subject,
    Variant,
    drawn_boxes,
    frame_stream,
)

WARM = 20  # frames until every memory and all 16 pointers are there


def measure(subject: Subject, record: Record, objects: int) -> None:
    """Milliseconds a frame in the steady state; for one object in every precision, and with and without CUDA graphs."""
    more = (CAPTURED, NOT_CAPTURED, FLOAT32, TF32) if objects == 1 else (FLOAT32,) if subject.device == "cpu" else ()
    for variant in subject.variants("sam2", FLOAT16, *more):
        name = f"tracker, {objects} object{'s' * (objects > 1)}, {variant.name}"
        record.measure(name, partial(_frames, subject, objects, variant))


def _frames(subject: Subject, objects: int, variant: Variant) -> Row:
    count = WARM + subject.runs + 1
    component = subject.component("sam2", variant)
    stamps, covered = [], []
    with Sam2VideoTracker.from_component(component, subject.device, options=subject.options(variant)) as tracker:
        state = tracker.start(count, *FRAME_HW)
        first = next(frame_stream(1))[1]
        features = state.encode(first)
        for number, box in enumerate(drawn_boxes(objects)):
            state.add_points_or_box(0, number, features, box=np.array(box, np.float32))
        with Stages() as stages:
            for result in stages.over("track", state.propagate(frame_stream(count), stage=stages.over)):
                masks_nhw = result.masks_nhw()
                stamps.append(time.perf_counter())
                covered.append(float(masks_nhw.any((1, 2)).mean()))
        facts = {"form": component.form, "masks_not_empty": float(np.mean(covered[WARM:])), **subject.memory()}
        state.close()
    taken = 1000 * np.diff(stamps[WARM:])
    return Row(taken.tolist(), facts=facts)
