"""Every exported graph proves itself against the official modules before it is handed out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from alref_edge.errors import EngineError
from export.graph_check import ExportedGraph
from export.sam2 import reference
from export.sam2.graphs import Graph
from export.sam2.reference import Arrays, Moment

ABSOLUTE = 1e-3
RELATIVE = 1e-4  # of the reference's standard deviation
PRESENCE = 100.0
SCORE_BIAS = "pred_obj_score_head.layers.2.bias"
BFLOAT16 = 2.0**-7  # memories are rounded: neighbouring values differ by this much of themselves
# Of a float16 graph, in root mean squares. What depends on which of three masks is taken is not compared: two that are
# predicted to be equally good may change places. Masks over many frames are what a precision is accepted by.
FLOAT16_ABSOLUTE, FLOAT16_RELATIVE = 0.05, 0.1
_CHOSEN = {"track": ("low_res", "pointer", "memory")}

Runs = dict[str, tuple[Arrays, Arrays]]


def example_runs(model: Any, seed: int = 0) -> Runs:
    """By graph, feeds and what the official modules answer."""
    rng = np.random.default_rng(seed)
    runs: Runs = {}
    image = _image(rng, model.image_size)
    features = reference.image_encoder(model, image)
    runs["image_encoder"] = ({"image": image}, features)

    mask = _masks(rng, model.image_size)
    conditioned = reference.mask_prompt(model, features, mask)
    runs["mask_prompt"] = ({**features, "mask": mask}, conditioned)

    given = {"low_res": conditioned["low_res"], "object_score": conditioned["object_score"]}
    remembered = reference.memory_encoder(model, features, **given)
    runs["memory_encoder"] = ({"embed": features["embed"], **given}, remembered)

    coords = rng.uniform(0, model.image_size, (2, 3, 2)).astype(np.float32)
    labels = np.array([[2, 3, 0], [1, 0, 1]], np.int32)
    logits = (conditioned["low_res"] * 0.3).astype(np.float32)
    padded = {
        "point_coords": np.concatenate((coords, np.zeros((2, 1, 2), np.float32)), axis=1),
        "point_labels": np.concatenate((labels, np.full((2, 1), -1, np.int32)), axis=1),
    }
    prompted = {**features, **padded, "mask_input": logits, "has_mask": np.ones((2, 1), np.float32)}
    runs["prompt"] = (prompted, reference.prompt(model, features, coords, labels, logits))

    past = [
        Moment(frame, frame == 2, torch.from_numpy(remembered["memory"]), torch.from_numpy(conditioned["pointer"]))
        for frame in (2, 9)
    ]
    tracked = {**features, **reference.track_feeds(model, past, 10, 40)}
    runs["track"] = (tracked, reference.track(model, features, past, 10, 40))
    with _present(model):  # an absent object's mask and pointer are constants, and prove nothing
        runs["track, present"] = (tracked, reference.track(model, features, past, 10, 40))
        runs["prompt, present"] = (prompted, reference.prompt(model, features, coords, labels, logits))
        runs["mask_prompt, present"] = ({**features, "mask": mask}, reference.mask_prompt(model, features, mask))
    return runs


def check_graphs(
    model: Any, graphs: Mapping[str, Graph], paths: Mapping[str, Path], runs: Runs | None = None
) -> dict[str, float]:
    """Run every float32 graph in ONNX Runtime beside the official modules: names, shapes, then values.

    Args:
        model: the official one.
        graphs: what was exported.
        paths: their files.
        runs: of `example_runs`; None makes them.

    Returns:
        by graph, the absolute tolerance that its outputs were held to.

    Raises:
        EngineError: a graph differs from its official module.
    """
    accepted = dict.fromkeys(graphs, 0.0)
    for case, run in (runs or example_runs(model)).items():
        name, _, present = case.partition(", ")
        accepted[name] = max(accepted[name], check(graphs[name], paths[name], *run, present=bool(present)))
    return accepted


def check_float16(graphs: Mapping[str, Graph], paths: Mapping[str, Path], runs: Runs) -> dict[str, float]:
    """The same of float16 graphs, as far as tensors tell; see `FLOAT16_RELATIVE`.

    Returns:
        by graph, the tolerance (root mean square) that its outputs were held to.

    Raises:
        EngineError: an output has another name or shape, is not finite, or is far off.
    """
    accepted = dict.fromkeys(graphs, 0.0)
    for name, graph in graphs.items():
        feeds, expected = runs[name]
        exported = _open(graph, paths[name])
        outputs = exported.run(feeds, expected)
        for key, wanted in expected.items():
            if key in _CHOSEN.get(name, ()):
                continue
            limit = max(FLOAT16_ABSOLUTE, FLOAT16_RELATIVE * float(np.sqrt(np.mean(wanted**2))))
            difference = float(np.sqrt(np.mean((outputs[key].astype(np.float32) - wanted) ** 2)))
            accepted[name] = max(accepted[name], limit)
            if difference > limit:
                raise exported.differs(key, limit, f"{difference:.3g} (root mean square)")
    return accepted


def check(graph: Graph, path: Path, feeds: Arrays, expected: Arrays, *, present: bool = False) -> float:
    """Compare one graph's outputs with the official ones and return the absolute tolerance.

    Args:
        graph: what was exported.
        path: its file.
        feeds: at least the graph's inputs.
        expected: the official outputs.
        present: raise the graph's object scores by `PRESENCE`, as they are in `expected`.

    Raises:
        EngineError: names, shapes or values differ.
    """
    exported = _open(graph, path, _with_presence(path) if present else path)
    outputs = exported.run(feeds, expected)
    widest = ABSOLUTE
    for name, wanted in expected.items():
        limit = max(ABSOLUTE, RELATIVE * float(wanted.std()))
        widest = max(widest, limit)
        allowed = limit + (BFLOAT16 * np.abs(wanted) if name == "memory" else 0.0)
        difference = np.abs(outputs[name] - wanted)
        if not bool(np.all(difference <= allowed)):
            got = f"{float(difference.max()):.3g} at standard deviation {float(wanted.std()):.3g}"
            raise exported.differs(name, limit, got)
    return widest


def _open(graph: Graph, path: Path, source: Path | bytes | None = None) -> ExportedGraph:
    return ExportedGraph(path if source is None else source, path.name, tuple(graph.inputs), graph.outputs)


@contextmanager
def _present(model: Any) -> Iterator[None]:
    """Meanwhile, the official model scores every object as present."""
    bias = model.get_parameter(f"sam_mask_decoder.{SCORE_BIAS}")
    before = bias.detach().clone()
    try:
        bias.data.add_(PRESENCE)
        yield
    finally:
        bias.data.copy_(before)


def _with_presence(path: Path) -> bytes:
    """The same of a graph."""
    model = onnx.load(path)
    found = [each for each in model.graph.initializer if each.name.endswith(SCORE_BIAS)]
    if len(found) != 1:
        raise EngineError(f"{path.name} has no object score.", expected=f"one initializer {SCORE_BIAS}", got=len(found))
    found[0].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(found[0]) + np.float32(PRESENCE), found[0].name))
    data: bytes = model.SerializeToString()
    return data


def _image(rng: np.random.Generator, size: int) -> np.ndarray:
    """A smooth random image, normalised: [1,3,S,S]."""
    coarse = torch.from_numpy(rng.standard_normal((1, 3, 24, 24)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return np.ascontiguousarray(smooth.numpy() + 0.05 * rng.standard_normal((1, 3, size, size)).astype(np.float32))


def _masks(rng: np.random.Generator, size: int) -> np.ndarray:
    """Two discs: [2,1,S,S] of 0 and 1."""
    y, x = np.mgrid[:size, :size] / size
    centres = rng.uniform(0.3, 0.7, (2, 2))
    discs = [(y - cy) ** 2 + (x - cx) ** 2 < 0.03 for cy, cx in centres]
    return np.stack(discs)[:, None].astype(np.float32)
