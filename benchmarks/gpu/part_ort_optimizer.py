"""ONNX Runtime's own optimiser for SAM 2's image encoder (`onnxruntime.transformers`, model type sam2) beside ours.

Its export, its optimiser, float16, and its benchmark's way to run: bound, with a CUDA graph. What each step makes is
kept, so that a part that was cut short goes on from there.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.part_official import build_official
from benchmarks.gpu.profiling import bound_session, profile_graph
from benchmarks.gpu.record import Record, Row, needs
from benchmarks.gpu.subject import Subject

_OUTPUTS = ("image_features_0", "image_features_1", "image_embeddings")


def measure(subject: Subject, record: Record) -> None:
    """The bundle's variant, in float16 on a GPU and in float32 on a CPU."""
    with needs("onnxruntime.transformers with torch and sam2"):
        import onnxruntime.transformers  # noqa: F401
        import torch  # noqa: F401

    variant = subject.bundle.manifest.components["sam2"].variant
    half = subject.device != "cpu"
    plain = subject.work / f"ort_{variant}" / "encoder.onnx"
    optimised = plain.with_name(f"optimised.{'float16' if half else 'float32'}.onnx")
    if not optimised.exists():
        if not plain.exists():
            _whole(plain, partial(_export, variant))
        _whole(optimised, partial(_optimise, plain, half))
    kind = "float16" if half else "float32"
    size = int(subject.bundle.manifest.components["sam2"].config["image_size"])
    image = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(kind)
    record.measure(f"ONNX Runtime's optimiser: image_encoder, {kind}", partial(_row, subject, optimised, image, {}))
    if half:
        graph = {"enable_cuda_graph": "1"}
        name = f"ONNX Runtime's optimiser: image_encoder, {kind}, CUDA graph"
        record.measure(name, partial(_row, subject, optimised, image, graph))


def _row(subject: Subject, path: Path, image: np.ndarray, providers: dict[str, str]) -> Row:
    _, run = bound_session(path, {"image": image}, _OUTPUTS, subject.device, providers, subject.threads)
    row = subject.samples(run)
    facts: dict[str, Any] = dict(row.facts)
    if not providers:
        facts["profile"] = profile_graph(path, {"image": image}, _OUTPUTS, subject.device, providers, subject.threads)
    return Row(row.samples, facts=facts)


def _whole(path: Path, make: Callable[[Path], None]) -> None:
    """Make a file under another name first: one that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f"making-{path.name}")
    make(partial_path)
    partial_path.rename(path)


def _export(variant: str, path: Path) -> None:
    """As `export_image_encoder_onnx` of its examples does, whose module this is; the exporter that it was made for."""
    import onnxruntime.transformers
    import torch

    examples = Path(onnxruntime.transformers.__file__).parent / "models" / "sam2"
    sys.path.insert(0, str(examples))  # they import each other by bare names
    from image_encoder import SAM2ImageEncoder  # type: ignore[import-not-found]

    model = build_official(variant, "cpu")
    image = torch.randn(1, 3, model.image_size, model.image_size)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            SAM2ImageEncoder(model).cpu().eval(),
            (image,),
            str(path),
            opset_version=17,
            do_constant_folding=True,
            input_names=["image"],
            output_names=list(_OUTPUTS),
            dynamo=False,
        )


def _optimise(plain: Path, half: bool, path: Path) -> None:
    """As `optimize_sam2_model` of its examples does."""
    from onnxruntime.transformers.optimizer import optimize_model

    model = optimize_model(str(plain), model_type="sam2", opt_level=1, use_gpu=half)
    if half:
        model.convert_float_to_float16(keep_io_types=False)
    model.save_model_to_file(str(path))
