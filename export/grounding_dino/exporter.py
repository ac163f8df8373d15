"""Grounding DINO to three ONNX graphs that prove themselves: names, shapes, and values at several image sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alref_edge.bundle.manifest import FORMS
from alref_edge.errors import EngineError, InputError
from alref_edge.models.grounding_dino.geometry import backbone_tables, decoder_tables
from alref_edge.models.grounding_dino.text import CaptionTokenizer, CaptionTokens
from export.bundle import ComponentSpec, GraphSet, file_name, source_of
from export.graph_check import ExportedGraph
from export.grounding_dino.configs import bert_config, component_config, official_config, transformers_config
from export.grounding_dino.vocabulary import read_vocabulary, write_vocabulary
from export.precision import check_precisions, write_float16
from export.resizing import write_preprocess

if TYPE_CHECKING:
    from transformers import GroundingDinoForObjectDetection

    from export.grounding_dino.graphs import GraphSpec

LICENCE = "Apache-2.0"
# Largest absolute differences that an export is accepted with: of features (about 1 in spread), and of the decoder's
# logits and boxes, query by query.
TOLERANCES: Mapping[str, float] = {"backbone": 2e-3, "text_encoder": 5e-4, "decoder": 1e-3}


@dataclass(frozen=True)
class Limits:
    """What graphs of a precision are accepted with.

    Attributes:
        tolerances: by graph, the largest difference.
        confident: queries of the decoder count whose best token scores above this, on either side.
        share: of these queries that must be within the tolerance.
    """

    tolerances: Mapping[str, float]
    confident: float = 0.0
    share: float = 1.0


FLOAT32 = Limits(TOLERANCES)
# Near-equal proposals come and go by rounding.
FLOAT16 = Limits({"backbone": 0.1, "text_encoder": 0.1, "decoder": 0.1}, confident=0.25, share=0.75)

_POLICIES = {"standard": "grounding_dino", "cuda": "grounding_dino.cuda"}
_TRACED = (210, 270)
_CHECKED = {"nano": ((240, 320), (131, 197)), "swin_t": ((240, 320), (333, 500)), "swin_b": ((240, 320), (333, 411))}
_CAPTIONS = ("the dog on the left.", "a cat. two people next to the red car. dog")


def export_grounding_dino(
    variant: str,
    out_dir: Path,
    *,
    checkpoint: Path | None = None,
    folder: Path | None = None,
    vocab: Path | None = None,
    seed: int | None = None,
    precisions: Sequence[str] = ("float32",),
) -> ComponentSpec:
    """Export Grounding DINO as `backbone.onnx`, `text_encoder.onnx` and `decoder.onnx`, opset 18, in every precision.

    One set of graphs serves every image size and caption length; each is run on ONNX Runtime against transformers'
    model, corrected to the official code, before it is accepted.

    Args:
        variant: `swin_t`, `swin_b` or `nano`.
        out_dir: folder that the files are written to; made if missing.
        checkpoint: the official `.pth`.
        folder: a transformers folder, instead; its own config.json gives the sizes, and vocab.txt the vocabulary.
        vocab: the `vocab.txt` of the text encoder. Seeded models get one made up, if none is given.
        seed: random weights, instead.
        precisions: float32, float16 or both.

    Raises:
        InputError: not exactly one source of weights, or one that does not fit.
        EngineError: a graph differs from the model by more than its tolerance.
    """
    official = official_config(variant)
    check_precisions(precisions)
    if sum(source is not None for source in (checkpoint, folder, seed)) != 1:
        raise InputError(
            "Grounding DINO is exported from one source of weights.",
            expected="one of --checkpoint, --folder and --seed",
            mend="give exactly one.",
        )
    if folder is not None and vocab is None:
        vocab = folder / "vocab.txt"
    if checkpoint is not None and vocab is None:
        raise InputError(
            "An official checkpoint has no vocabulary with it.", mend="give bert-base-uncased's vocab.txt with --vocab."
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    model, source = _load(variant, checkpoint, folder, seed)
    size = bert_config(model.config).vocab_size
    if vocab is None:
        vocab = write_vocabulary(out_dir / "vocab.txt", size)
    elif vocab != out_dir / "vocab.txt":
        (out_dir / "vocab.txt").write_text("\n".join(read_vocabulary(vocab, size)) + "\n", encoding="utf-8")
    config = component_config(model.config, official["resize"])
    tokenizer = CaptionTokenizer(out_dir / "vocab.txt", max_text_len=config["max_text_len"])

    from export.grounding_dino.graphs import write_graph

    specs = _specs(model, config, tokenizer)
    forms: dict[str, dict[str, GraphSet]] = {}
    for form in FORMS:
        graphs = {
            name: write_graph(spec, out_dir / file_name(name, form, "float32"), form) for name, spec in specs.items()
        }
        more = _resizing(out_dir, config) if form == "cuda" else {}
        made = {"float32": GraphSet({**graphs, **more}, TOLERANCES)}
        verify(model, graphs, config, tokenizer, _CHECKED[variant])
        if "float16" in precisions:
            narrow = write_float16(graphs, _POLICIES[form])
            made["float16"] = GraphSet({**narrow, **more}, FLOAT16.tolerances)
            verify(model, narrow, config, tokenizer, _CHECKED[variant], FLOAT16)
        forms[form] = {name: made[name] for name in precisions}
    return ComponentSpec(
        name="grounding_dino",
        variant=variant,
        source=source,
        licence=LICENCE,
        config=config,
        forms=forms,
        files={"vocab": out_dir / "vocab.txt"},
    )


def _resizing(folder: Path, config: Mapping[str, Any]) -> dict[str, Path]:
    """Graphs that resize images on the device, the same in every precision."""
    return {
        name: write_preprocess(
            folder / f"{name}.onnx", config["image_mean"], config["image_std"], levels=True, rows_first=rows_first
        )
        for name, rows_first in (("preprocess", False), ("preprocess_tall", True))
    }


def verify(
    model: GroundingDinoForObjectDetection,
    graphs: Mapping[str, Path],
    config: Mapping[str, Any],
    tokenizer: CaptionTokenizer,
    sizes: tuple[tuple[int, int], ...],
    limits: Limits = FLOAT32,
) -> dict[str, float]:
    """Run the graphs on ONNX Runtime beside the model, at each size with another caption.

    Args:
        model: transformers' model.
        graphs: of one precision.
        config: the component's.
        tokenizer: of its vocabulary.
        sizes: height and width of the images.
        limits: of that precision.

    Returns:
        The largest difference of each graph, of those queries of the decoder that count: each graph is fed what the
        graphs before it made.

    Raises:
        EngineError: a difference is above its tolerance, a name or a shape is another, or an output is not finite.
    """
    from export.grounding_dino.graphs import run_module
    from export.grounding_dino.reference import run_reference

    specs = _specs(model, config, tokenizer)
    exported = {
        name: ExportedGraph(path, f"The graph {name}", tuple(specs[name].feeds), specs[name].outputs)
        for name, path in graphs.items()
    }
    worst = dict.fromkeys(graphs, 0.0)
    for index, (height, width) in enumerate(sizes):
        caption = tokenizer.encode(_CAPTIONS[index % len(_CAPTIONS)])
        image = example_image(height, width)
        feeds = _feeds(image, caption, config)
        made: dict[str, np.ndarray] = {}
        for name in ("backbone", "text_encoder", "decoder"):
            given = {key: {**feeds, **made}[key] for key in specs[name].feeds}
            wide = {key: each.astype(np.float32) if each.dtype == np.float16 else each for key, each in given.items()}
            expected = run_module(specs[name], wide)
            got = exported[name].run(given, expected)
            worst[name] = max(worst[name], _difference(name, got, expected, limits))
            made |= got
        reference = run_reference(model, image, caption.input_ids, tokenizer.delimiter_ids)
        _accept_matched(made, reference, limits, f"{height}x{width}")
    for name, difference in worst.items():
        if difference > limits.tolerances[name]:
            raise exported[name].differs("an output", limits.tolerances[name], difference)
    return worst


def match_detections(
    got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], threshold: float = 0.25, share: float = 1.0
) -> tuple[int, float, float]:
    """Match every box scoring above `threshold` on either side with the nearest of the other side.

    Rounding may swap the ranks of near-equal proposals, so rows are not compared one by one.

    Args:
        got, expected: `logits` [1, Q, T] and `boxes` [1, Q, 4].
        threshold: of the best token's probability.
        share: of the boxes that the differences hold for.

    Returns:
        How many boxes were compared, the largest difference of boxes (0..1) and of token probabilities.
    """
    sides = [(_probabilities(side["logits"][0]), side["boxes"][0]) for side in (got, expected)]
    boxes, scores = [0.0], [0.0]
    for (probabilities, places), (others, targets) in (sides, sides[::-1]):
        for row in np.flatnonzero(probabilities.max(axis=-1) > threshold):
            box = np.abs(targets - places[row]).max(axis=-1)
            score = np.abs(others - probabilities[row]).max(axis=-1)
            nearest = np.argmin(box + score)
            boxes.append(float(box[nearest]))
            scores.append(float(score[nearest]))
    return len(boxes) - 1, float(np.quantile(boxes, share)), float(np.quantile(scores, share))


def example_image(height: int, width: int) -> np.ndarray:
    """A normalised image, float32 [1, 3, H, W], of smooth shapes: deterministic, and no two places alike."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    waves = [np.sin(2 * np.pi * (a * x + b * y + c * x * y)) for a, b, c in ((3, 1, 2), (1, 4, -3), (-2, 2, 5))]
    disc = ((x - 0.3) ** 2 + (y - 0.6) ** 2 < 0.03) * 1.5
    return (np.stack(waves) + disc).astype(np.float32)[None]


def _load(
    variant: str, checkpoint: Path | None, folder: Path | None, seed: int | None
) -> tuple[GroundingDinoForObjectDetection, dict[str, Any]]:
    from export.grounding_dino.checkpoint import build_model, load_folder, load_official
    from export.grounding_dino.seeding import seeded_weights

    if folder is not None:
        model = load_folder(folder)
        weights = folder / "model.safetensors"
        return model, source_of(weights if weights.is_file() else folder / "pytorch_model.bin", None)
    source = source_of(checkpoint, seed)
    config = transformers_config(variant)
    if checkpoint is not None:
        return build_model(config, load_official(checkpoint, config)), source
    assert seed is not None
    return build_model(config, seeded_weights(config, seed)), source


def _feeds(image: np.ndarray, caption: CaptionTokens, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    height, width = image.shape[2:]
    return {
        "image": image,
        "input_ids": caption.input_ids,
        "position_ids": caption.position_ids,
        "attention_mask": caption.attention_mask,
        **backbone_tables(height, width, config),
        **decoder_tables(height, width, config),
    }


def _specs(
    model: GroundingDinoForObjectDetection, config: Mapping[str, Any], tokenizer: CaptionTokenizer
) -> dict[str, GraphSpec]:
    from export.grounding_dino.backbone import Backbone
    from export.grounding_dino.decoder import Decoder
    from export.grounding_dino.graphs import GraphSpec
    from export.grounding_dino.text_encoder import TextEncoder

    image, caption = example_image(*_TRACED), tokenizer.encode(_CAPTIONS[0])
    feeds = _feeds(image, caption, config)
    backbone, decoder = tuple(backbone_tables(*_TRACED, config)), tuple(decoder_tables(*_TRACED, config))
    width = config["d_model"]
    tokens = sum(len(feeds[f"row_centres_{level}"]) * len(feeds[f"column_centres_{level}"]) for level in range(4))
    features = np.zeros((1, tokens, width), np.float32)
    text_features = np.zeros((1, len(caption), width), np.float32)
    text_axes = {"position_ids": {1: "T"}, "attention_mask": {1: "T", 2: "T"}}
    return {
        "backbone": GraphSpec(
            module=Backbone(model).eval(),
            feeds={"image": image, **{name: feeds[name] for name in backbone}},
            tables=backbone,
            axes={"image": {2: "H", 3: "W"}, **_backbone_axes(backbone)},
            outputs=("features",),
        ),
        "text_encoder": GraphSpec(
            module=TextEncoder(model).eval(),
            feeds={name: feeds[name] for name in ("input_ids", "position_ids", "attention_mask")},
            tables=(),
            axes={"input_ids": {1: "T"}, **text_axes},
            outputs=("text_features",),
        ),
        "decoder": GraphSpec(
            module=Decoder(model).eval(),
            feeds={
                "features": features,
                "text_features": text_features,
                "position_ids": feeds["position_ids"],
                "attention_mask": feeds["attention_mask"],
                **{name: feeds[name] for name in decoder},
            },
            tables=decoder,
            axes={"features": {1: "L"}, "text_features": {1: "T"}, **text_axes, **_decoder_axes()},
            outputs=("logits", "boxes"),
        ),
    }


def _backbone_axes(names: tuple[str, ...]) -> dict[str, dict[int, str]]:
    axes = {"stride": {0: "N4"}}
    for name in names:
        kind, _, stage = name.rpartition("_")
        if kind == "merge":
            axes[name] = {0: f"N{int(stage) + 1}"}
        elif kind in ("windows", "shifted", "kinds"):
            axes[name] = {0: f"W{stage}"}
        elif kind in ("unwindows", "unshifted"):
            axes[name] = {0: f"N{stage}"}
    return axes


def _decoder_axes() -> dict[str, dict[int, str]]:
    axes: dict[str, dict[int, str]] = {}
    for level in range(4):
        for prefix, axis in (("rows", f"h{level}"), ("columns", f"w{level}")):
            axes[f"{prefix}_{level}"] = {0: axis}
            axes[f"{prefix[:-1]}_centres_{level}"] = {0: axis}
    return axes


def _probabilities(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.maximum(logits.astype(np.float64), -80)))


def _difference(name: str, got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], limits: Limits) -> float:
    if name != "decoder":
        return max(float(np.abs(got[key] - value).max()) for key, value in expected.items())
    _, boxes, scores = match_detections(got, expected, limits.confident, limits.share)
    return max(boxes, scores)


def _accept_matched(
    got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], limits: Limits, where: str
) -> None:
    count, boxes, scores = match_detections(got, expected, max(limits.confident, 0.05), limits.share)
    if max(boxes, scores) > limits.tolerances["decoder"]:
        raise EngineError(
            f"Detections at {where} differ from transformers' model.",
            expected=f"at most {limits.tolerances['decoder']}",
            got=f"boxes {boxes:.1e}, scores {scores:.1e}, over {count} boxes",
        )
