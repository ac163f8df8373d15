"""SAM 2 and SAM 2.1 as a bundle's component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alref_edge.bundle import Component
from export.bundle import ComponentSpec, GraphSet, source_of
from export.onnx_files import write_onnx
from export.precision import check_precisions, write_float16
from export.resizing import write_postprocess, write_preprocess
from export.sam2.acceptance import OfficialMasks
from export.sam2.build import build_model
from export.sam2.checks import Runs, check_float16, check_graphs, example_runs
from export.sam2.graphs import FORMS, Graph, graphs_of
from export.sam2.variants import variant_of

LICENCE = "Apache-2.0"
PIXEL_MEAN = (0.485, 0.456, 0.406)  # sam2.utils.misc.load_video_frames
PIXEL_STD = (0.229, 0.224, 0.225)
# Sizes of the dynamic axes that a graph is traced at.
_TRACED = {"B": 2, "M": 3, "P": 4, "N": 5, "K": 6}


def export_sam2(
    variant: str,
    out_dir: Path,
    *,
    checkpoint: Path | None = None,
    seed: int | None = None,
    precisions: Sequence[str] = ("float32",),
    forms: Sequence[str] = tuple(FORMS),
    tracked: bool | None = None,
) -> ComponentSpec:
    """Export the graphs of a variant in every form and precision; check each against the official modules.

    The `cuda` form has graphs besides that resize frames and masks on the device.

    Args:
        variant: a key of `VARIANTS`, such as "sam2.1_tiny".
        out_dir: folder for the `.onnx` files.
        checkpoint: official `.pt`.
        seed: of random weights, where there is no checkpoint.
        precisions: float32, float16 or both.
        forms: keys of `FORMS`.
        tracked: whether float16 graphs have to track as the official code does, see `acceptance`; None: where there is
            a checkpoint (random weights track nothing).

    Raises:
        InputError: unknown variant or precision, or weights that are not its own.
        EngineError: an exported graph does not match the official module, or float16 graphs track other masks.
    """
    family = variant_of(variant).family
    check_precisions(precisions)
    source = source_of(checkpoint, seed)
    model = build_model(variant, checkpoint, seed=seed)
    runs = example_runs(model)
    spec = ComponentSpec(
        name="sam2",
        variant=variant,
        source=source,
        licence=LICENCE,
        config=runtime_config(model, family),
        forms={form: _export(model, form, out_dir / form, precisions, runs) for form in forms},
    )
    if "float16" not in precisions or tracked is False or (tracked is None and checkpoint is None):
        return spec
    official = OfficialMasks(model)
    return replace(spec, forms={form: _accepted(spec, form, official) for form in forms})


def _export(model: Any, form: str, folder: Path, precisions: Sequence[str], runs: Runs) -> dict[str, GraphSet]:
    """The graphs of a form, checked, by precision."""
    graphs = graphs_of(model, form)
    paths = {name: folder / f"{name}.onnx" for name in graphs}
    for name, graph in graphs.items():
        write_graph(graph, paths[name])
    more = _resizing(folder, model.image_size) if form == "cuda" else {}
    made = {"float32": GraphSet({**paths, **more}, check_graphs(model, graphs, paths, runs))}
    if "float16" in precisions:
        narrow = write_float16(paths, "sam2")
        made["float16"] = GraphSet({**narrow, **more}, check_float16(graphs, narrow, runs))
    return {name: made[name] for name in precisions}


def _resizing(folder: Path, size: int) -> dict[str, Path]:
    """Graphs that resize on the device, the same in every precision."""

    def preprocess(name: str, *, levels: bool, rows_first: bool = False) -> Path:
        path = folder / f"{name}.onnx"
        return write_preprocess(path, PIXEL_MEAN, PIXEL_STD, levels=levels, rows_first=rows_first, size=size)

    return {
        "preprocess_video": preprocess("preprocess_video", levels=True),
        "preprocess_video_tall": preprocess("preprocess_video_tall", levels=True, rows_first=True),
        "preprocess_image": preprocess("preprocess_image", levels=False),
        "postprocess": write_postprocess(folder / "postprocess.onnx", size // 4),
    }


def _accepted(spec: ComponentSpec, form: str, official: OfficialMasks) -> dict[str, GraphSet]:
    """The graphs of a form, those of float16 with what they were accepted by."""
    made = dict(spec.forms[form])
    narrow = Component(
        name=spec.name,
        kind=spec.name,
        variant=spec.variant,
        form=form,
        precision="float16",
        config=spec.config,
        graphs=made["float16"].graphs,
        files={},
        tolerances={},
    )
    made["float16"] = replace(made["float16"], least_iou=official.least_iou(narrow))
    return made


def write_graph(graph: Graph, path: Path) -> None:
    """Write a graph, traced at sizes that differ."""
    axes = {
        name: {index: axis for index, axis in enumerate(shape) if isinstance(axis, str)}
        for name, shape in graph.inputs.items()
    }
    inputs = {
        name: torch.zeros(
            [_TRACED[axis] if isinstance(axis, str) else axis for axis in shape],
            dtype=graph.dtypes.get(name, torch.float32),
        )
        for name, shape in graph.inputs.items()
    }
    write_onnx(graph.module, inputs, axes, graph.outputs, path, smallest=1)


def runtime_config(model: Any, family: str) -> dict[str, Any]:
    """What the runtime has to know of a model: sizes, memory policy, multimask policy, normalisation."""
    decoder = model.sam_mask_decoder
    return {
        "family": family,
        "image_size": model.image_size,
        "hidden_dim": model.hidden_dim,
        "mem_dim": model.mem_dim,
        "num_maskmem": model.num_maskmem,
        "max_obj_ptrs_in_encoder": model.max_obj_ptrs_in_encoder,
        "pointer_tpos": bool(model.add_tpos_enc_to_obj_ptrs),
        "pointer_tpos_signed": bool(model.use_signed_tpos_enc_to_obj_ptrs),
        "only_past_pointers": bool(model.only_obj_ptrs_in_the_past_for_eval),
        "multimask_min_points": model.multimask_min_pt_num,
        "multimask_max_points": model.multimask_max_pt_num,
        "stability_delta": decoder.dynamic_multimask_stability_delta,
        "stability_threshold": decoder.dynamic_multimask_stability_thresh,
        "pixel_mean": list(PIXEL_MEAN),
        "pixel_std": list(PIXEL_STD),
    }
