"""YAMNet to one ONNX graph that proves itself: names, shapes, and values beside the torch module."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from alref_edge.errors import InputError
from export.bundle import ComponentSpec, GraphSet, source_of
from export.graph_check import ExportedGraph
from export.onnx_files import write_onnx
from export.precision import check_precisions, write_float16
from export.yamnet.keras_file import read_weights, seeded_weights
from export.yamnet.model import MEL_BANDS, PATCH_FRAMES, build_model
from export.yamnet.variants import config_of

if TYPE_CHECKING:
    from export.yamnet.model import YamNetModule

LICENCE = "Apache-2.0"
GRAPH = "yamnet"
OUTPUTS = ("scores", "features")
# Largest differences that a graph is accepted with: of scores (0 to 1), and of features by their largest.
TOLERANCES: Mapping[str, float] = {"float32": 1e-4, "float16": 2e-2}
CLASS_MAP = "class_map"


@dataclass(frozen=True)
class Run:
    """Example patches float32 [N, 96, 64], and the module's answer to them."""

    patches_ntm: np.ndarray
    expected: Mapping[str, np.ndarray]


def export_yamnet(
    variant: str,
    out_dir: Path,
    *,
    checkpoint: Path | None = None,
    seed: int | None = None,
    precisions: Sequence[str] = ("float32",),
    class_map: Path | None = None,
) -> ComponentSpec:
    """Export YAMNet as `yamnet.onnx`: log-mel patches [N, 96, 64] to scores [N, classes] and features [N, D].

    Args:
        variant: "yamnet" or "nano".
        out_dir: folder that the files are written to; made if missing.
        checkpoint: the official `yamnet.h5`, or a file of its layout.
        seed: of random weights, where there is no checkpoint.
        precisions: float32, float16 or both.
        class_map: the official `yamnet_class_map.csv` (index, mid, display_name), if scores are to have names.

    Raises:
        InputError: unknown variant or precision, weights that are not the variant's, or names that are not its classes.
        EngineError: a graph differs from the module by more than its tolerance.
    """
    config = config_of(variant)
    check_precisions(precisions)
    source = source_of(checkpoint, seed)
    if checkpoint is not None:
        weights = read_weights(checkpoint, config)
    else:
        assert seed is not None
        weights = seeded_weights(config, seed)
    out_dir.mkdir(parents=True, exist_ok=True)
    files = {} if class_map is None else {CLASS_MAP: _class_map(class_map, config.classes, out_dir)}
    model = build_model(config, weights)
    traced = {"patches": torch.zeros(2, PATCH_FRAMES, MEL_BANDS)}
    path = write_onnx(model, traced, {"patches": {0: "N"}}, OUTPUTS, out_dir / f"{GRAPH}.onnx")
    graphs = {"float32": {GRAPH: path}}
    if "float16" in precisions:
        graphs["float16"] = write_float16(graphs["float32"], "yamnet")
    run = example_run(model)
    for precision, paths in graphs.items():
        check(paths[GRAPH], run, TOLERANCES[precision])
    return ComponentSpec(
        name="yamnet",
        variant=variant,
        source=source,
        licence=LICENCE,
        config={"patch_frames": PATCH_FRAMES, "mel_bands": MEL_BANDS},
        forms={"standard": {name: GraphSet(graphs[name], {GRAPH: TOLERANCES[name]}) for name in precisions}},
        files=files,
    )


def example_run(model: YamNetModule) -> Run:
    """Five patches that are bands which rise and fall, and noise, between silence (log 0.001) and loud."""
    rng = np.random.default_rng(0)
    time, band = np.meshgrid(np.linspace(0, 1, PATCH_FRAMES), np.linspace(0, 1, MEL_BANDS), indexing="ij")
    places = 0.5 + 0.4 * np.sin(2 * np.pi * (time * rng.uniform(0.5, 3, (4, 1, 1)) + rng.uniform(size=(4, 1, 1))))
    loud = 8 * np.exp(-(((band - places) / rng.uniform(0.02, 0.3, (4, 1, 1))) ** 2))
    silent = np.full((1, PATCH_FRAMES, MEL_BANDS), np.log(0.001))
    patches = np.concatenate([silent, silent + loud + 0.3 * rng.standard_normal(loud.shape)]).astype(np.float32)
    with torch.no_grad():
        answers = model.eval()(torch.from_numpy(patches))
    return Run(patches, {name: value.numpy() for name, value in zip(OUTPUTS, answers, strict=True)})


def check(path: Path, run: Run, tolerance: float) -> dict[str, float]:
    """Run a graph on ONNX Runtime beside the module, all patches at once and the first alone.

    Returns:
        The largest difference of scores, and of features by the largest of these.

    Raises:
        EngineError: a name or a shape is another, or a difference above the tolerance.
    """
    graph = ExportedGraph(path, path.name, ["patches"], OUTPUTS)
    worst = dict.fromkeys(OUTPUTS, 0.0)
    for count in (len(run.patches_ntm), 1):
        expected = {name: wanted[:count] for name, wanted in run.expected.items()}
        for name, got in graph.run({"patches": run.patches_ntm[:count]}, expected).items():
            scale = 1.0 if name == "scores" else max(1.0, float(np.abs(expected[name]).max()))
            worst[name] = max(worst[name], float(np.abs(got - expected[name]).max()) / scale)
            if worst[name] > tolerance:
                raise graph.differs(name, tolerance, worst[name])
    return worst


def _class_map(path: Path, classes: int, out_dir: Path) -> Path:
    """The names of the classes, checked and written in order."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        names = {int(row["index"]): (row["mid"], row["display_name"]) for row in rows}
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path} is not a map of classes.",
            expected="the columns index, mid, display_name",
            got=repr(error),
            mend="give the official yamnet_class_map.csv.",
        ) from error
    if len(rows) != classes or set(names) != set(range(classes)):
        raise InputError(
            f"{path} does not name these classes.", expected=f"0 to {classes - 1}", got=f"{len(rows)} rows"
        )
    target = out_dir / "yamnet_class_map.csv"
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "mid", "display_name"])
        writer.writerows([index, *names[index]] for index in sorted(names))
    return target
