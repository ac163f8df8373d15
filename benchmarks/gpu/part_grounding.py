"""Grounding DINO on a frame of 960×540, which it sees at 1333×750: image, caption, and decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from alref_edge.bundle.configs import GroundingDinoConfig
from alref_edge.models.grounding_dino import GroundingDino
from alref_edge.models.grounding_dino.detector import geometry_of
from alref_edge.models.grounding_dino.geometry import backbone_tables, decoder_tables
from alref_edge.models.grounding_dino.text import CaptionTokenizer
from alref_edge.runtime import open_session
from benchmarks.gpu.profiling import profile_graph
from benchmarks.gpu.record import Record, Row
from benchmarks.gpu.subject import FLOAT16, FLOAT32, TF32, Subject, Variant, drawn_frames

CAPTION = "the small dog on the left of the red car."
_NAME = "grounding_dino"


def measure(subject: Subject, record: Record) -> None:
    """Every step, as users call it; then what the graphs' own time goes to."""
    for variant in subject.variants(_NAME, FLOAT16, FLOAT32, TF32):
        names = [f"{_NAME} {step}, {variant.name}" for step in ("image", "caption", "decoder")]
        if any(name not in record.rows for name in names):
            component = subject.component(_NAME, variant)
            with GroundingDino.from_component(component, subject.device, options=subject.options(variant)) as detector:
                frame = drawn_frames()[0]
                image, text = detector.encode_image(frame), detector.encode_text(CAPTION)
                calls: tuple[Callable[[], object], ...] = (
                    partial(detector.encode_image, frame),
                    partial(detector.encode_text, CAPTION),
                    partial(detector.predict_raw, image, text),
                )
                for name, call in zip(names, calls, strict=True):
                    record.measure(name, partial(subject.samples, call))
        for graph in ("backbone", "decoder"):
            record.measure(f"{_NAME} {graph} graph, {variant.name}", partial(_graph, subject, graph, variant))


def _graph(subject: Subject, graph: str, variant: Variant) -> Row:
    """The graph alone, everything bound on the device."""
    from benchmarks.gpu.part_graphs import time_bound

    component = subject.component(_NAME, variant)
    feeds = _feeds(subject, variant)
    with open_session(component.open_graph(graph), device=subject.device, options=subject.options(variant)) as session:
        if graph == "decoder":
            feeds |= _features(subject, variant, feeds)
        feeds = {name: feeds[name].astype(spec.dtype) for name, spec in session.inputs.items()}
        timed = time_bound(subject, session, feeds)
        outputs = tuple(session.outputs)
    profile = profile_graph(component.graphs[graph], feeds, outputs, subject.device, variant.providers, subject.threads)
    return Row(timed.samples, facts={"form": component.form, **timed.facts, "profile": profile})


def _feeds(subject: Subject, variant: Variant) -> dict[str, np.ndarray]:
    component = subject.component(_NAME, variant)
    config = component.settings(GroundingDinoConfig)
    height, width = _network_hw(config)
    tokens = CaptionTokenizer(component.open_file("vocab"), max_text_len=config.max_text_len).encode(CAPTION)
    return {
        **backbone_tables(height, width, geometry_of(config)),
        **decoder_tables(height, width, geometry_of(config)),
        "image": np.random.default_rng(0).standard_normal((1, 3, height, width), np.float32),
        "input_ids": tokens.input_ids,
        "position_ids": tokens.position_ids,
        "attention_mask": tokens.attention_mask,
    }


def _features(subject: Subject, variant: Variant, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found: dict[str, Any] = {}
    component = subject.component(_NAME, variant)
    for graph in ("backbone", "text_encoder"):
        with open_session(
            component.open_graph(graph), device=subject.device, options=subject.options(variant)
        ) as session:
            found |= session.run({name: feeds[name] for name in session.inputs})
    return found


def _network_hw(config: GroundingDinoConfig) -> tuple[int, int]:
    from alref_edge.models.grounding_dino.preprocess import network_size
    from benchmarks.gpu.subject import FRAME_HW

    return network_size(*FRAME_HW, short=config.resize_short, long=config.resize_long)
