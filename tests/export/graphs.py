"""What tests look for in graphs of either form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import onnx
import onnxruntime

FUSED = {"Attention", "MultiHeadAttention"}
RESIZING = {"preprocess_video", "preprocess_video_tall", "preprocess_image", "postprocess"}
"""Those of SAM 2 that resize on a device."""


def operators(path: Path) -> Counter[str]:
    """How often each operator stands in a graph."""
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def attentions(path: Path) -> int:
    """How many attentions of a graph are one operator."""
    return sum(count for name, count in operators(path).items() if name in FUSED)


def nodes_that_run(path: Path, folder: Path) -> int:
    """How many nodes of a graph ONNX Runtime runs on a CPU, when it has optimised it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that the file fits this machine alone
    options.optimized_model_filepath = str(folder / f"optimised {path.name}")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return sum(operators(folder / f"optimised {path.name}").values())


def stored(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Places of graphs' weights in the file beside them: offset and length."""
    places = set()
    for path in paths:
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            place = {each.key: each.value for each in tensor.external_data}
            if place:
                assert place["location"] == "weights.bin"
                places.add((int(place["offset"]), int(place["length"])))
    return places
