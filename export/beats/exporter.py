"""BEATs to one ONNX graph that proves itself: names, shapes, and values at several lengths of sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alref_edge.bundle.manifest import FORMS
from alref_edge.errors import InputError
from export.beats.checkpoint import build_model, load_checkpoint
from export.beats.configs import FBANK_MEAN, FBANK_STD, MEL_BINS, BeatsConfig, variant_of
from export.beats.labels import Labels, named_labels, silence_of, write_labels
from export.beats.model import BeatsModel
from export.beats.seeding import seeded_checkpoint
from export.bundle import ComponentSpec, GraphSet, file_name, source_of
from export.forms import writing
from export.graph_check import ExportedGraph
from export.onnx_files import write_onnx
from export.precision import check_precisions, write_float16

LICENCE = "MIT"
KIND, GRAPH = "beats", "tagger"
# Largest differences of a probability that an export is accepted with.
TOLERANCES: Mapping[str, float] = {"float32": 1e-4, "float16": 2e-2}

_TRACED_FRAMES = 98
# Patches in time: one, some with frames left over, and ten seconds.
_CHECKED_FRAMES = (16, 47, 298, 998)


@dataclass(frozen=True)
class Example:
    """Filter banks and what the model answers.

    Attributes:
        fbank: float32 `[1, T, 128]`, normalised.
        probabilities: float32 `[1, labels]`.
    """

    fbank: np.ndarray
    probabilities: np.ndarray


def export_beats(
    variant: str,
    out_dir: Path,
    *,
    checkpoint: Path | None = None,
    ontology: Path | None = None,
    seed: int | None = None,
    precisions: Sequence[str] = ("float32",),
) -> ComponentSpec:
    """Export a fine-tuned BEATs as `tagger.onnx`, opset 18, in every precision.

    The graph takes filter banks of any length from one patch on, and is run on ONNX Runtime beside the model before it
    is accepted.

    Args:
        variant: "as20k" or "as2m", the training set, which names the component in a bundle; or one of them with
            "_nano".
        out_dir: folder that the files are written to; made if missing.
        checkpoint: an official fine-tuned `.pt`; its own `cfg` gives the sizes, its `label_dict` the labels.
        ontology: AudioSet's `ontology.json`, which names labels that are ids.
        seed: random weights, instead of a checkpoint.
        precisions: float32, float16 or both.

    Raises:
        InputError: unknown variant or precision, not exactly one source of weights, or one that does not fit.
        EngineError: a graph differs from the model by more than its tolerance.
    """
    name, size = variant_of(variant)
    check_precisions(precisions)
    source = source_of(checkpoint, seed)
    made = load_checkpoint(checkpoint) if checkpoint is not None else seeded_checkpoint(size, seed or 0)
    if variant.endswith("_nano") and made.config.encoder_embed_dim != size.encoder_embed_dim:
        raise InputError(
            f"The checkpoint is not of the size of {variant}.",
            expected=f"a width of {size.encoder_embed_dim}",
            got=made.config.encoder_embed_dim,
            mend=f"give --variant {variant.removesuffix('_nano')}.",
        )
    labels = named_labels(made.labels, ontology)
    model = build_model(made)
    out_dir.mkdir(parents=True, exist_ok=True)
    examples = example_runs(model)
    forms: dict[str, dict[str, GraphSet]] = {}
    for form in FORMS:
        graphs = {GRAPH: write_graph(model, out_dir / file_name(GRAPH, form, "float32"), form)}
        sets = {"float32": GraphSet(graphs, _accepted(graphs, examples, "float32"))}
        if "float16" in precisions:
            narrow = write_float16(graphs, KIND)
            sets["float16"] = GraphSet(narrow, _accepted(narrow, examples, "float16"))
        forms[form] = {each: sets[each] for each in precisions}
    return ComponentSpec(
        name=name,
        kind=KIND,
        variant=variant,
        source=source,
        licence=LICENCE,
        config=component_config(model.config, labels),
        forms=forms,
        files={"labels": write_labels(labels, out_dir / "labels.json")},
    )


def component_config(config: BeatsConfig, labels: Labels) -> dict[str, Any]:
    """What the runtime has to know of a model: plain JSON values for the bundle's manifest."""
    return {
        "labels": len(labels),
        "silence": silence_of(labels),
        "mel_bins": MEL_BINS,
        "patch_frames": config.input_patch_size,
        "fbank_mean": FBANK_MEAN,
        "fbank_std": FBANK_STD,
    }


def write_graph(model: BeatsModel, path: Path, form: str = "standard") -> Path:
    """Write the model in a form: `fbank` float32 [1, T, 128] to `probabilities` float32 [1, labels]."""
    with writing(form):
        return write_onnx(
            model,
            {"fbank": torch.zeros(1, _TRACED_FRAMES, MEL_BINS)},
            {"fbank": {1: "frames"}},
            ("probabilities",),
            path,
            smallest=model.config.input_patch_size,
        )


def example_runs(model: BeatsModel, frames: Sequence[int] = _CHECKED_FRAMES) -> list[Example]:
    """Made-up filter banks of several lengths, and what the model answers."""
    runs = []
    for length in frames:
        fbank = example_fbank(length)
        with torch.inference_mode():
            runs.append(Example(fbank, model(torch.from_numpy(fbank)).numpy()))
    return runs


def example_fbank(frames: int) -> np.ndarray:
    """Normalised filter banks, float32 [1, T, 128], of gliding tones over a floor: no two moments alike."""
    time, mel = np.meshgrid(np.arange(frames) / 100, np.arange(MEL_BINS) / MEL_BINS, indexing="ij")
    centres = (0.2 + 0.13 * np.sin(2.1 * time), 0.5 + 0.3 * np.sin(0.7 * time + 1), 0.85 - 0.05 * np.cos(5 * time))
    lines = [np.exp(-(((mel - centre) / 0.03) ** 2)) for centre in centres]
    tones = sum(line * (1 + np.sin(9 * time * beat)) for beat, line in enumerate(lines, start=1))
    floor = 0.2 * np.sin(40 * mel + 3 * time) - 0.5 * mel - 0.4
    return np.asarray(tones + floor, np.float32)[None]


def check_graph(path: Path, examples: Sequence[Example], tolerance: float) -> float:
    """Run a graph on ONNX Runtime and return the largest difference of a probability.

    Raises:
        EngineError: names, shapes or values differ.
    """
    graph = ExportedGraph(path, path.name, ["fbank"], ["probabilities"])
    worst = 0.0
    for example in examples:
        got = graph.run({"fbank": example.fbank}, {"probabilities": example.probabilities})
        worst = max(worst, float(np.abs(got["probabilities"] - example.probabilities).max()))
    if worst > tolerance:
        raise graph.differs("probabilities", tolerance, f"{worst:.3g}")
    return worst


def _accepted(graphs: Mapping[str, Path], examples: Sequence[Example], precision: str) -> dict[str, float]:
    for path in graphs.values():
        check_graph(path, examples, TOLERANCES[precision])
    return dict.fromkeys(graphs, TOLERANCES[precision])
