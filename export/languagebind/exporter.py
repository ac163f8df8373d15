"""LanguageBind to ONNX graphs that prove themselves: names, shapes, and embeddings beside the torch modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alref_edge.bundle.manifest import FORMS
from alref_edge.errors import InputError
from alref_edge.models.languagebind.text import ClipTokenizer
from export.bundle import ComponentSpec, GraphSet, file_name, source_of
from export.forms import writing
from export.graph_check import ExportedGraph
from export.languagebind.configs import (
    AudioConfig,
    TextConfig,
    audio_config,
    component_config,
    official_config,
    text_config,
)
from export.languagebind.vocabulary import make_vocabulary, read_vocabulary, write_vocabulary
from export.precision import check_precisions, write_float16

if TYPE_CHECKING:
    from torch import nn

    from export.languagebind.modules import AudioTower, TextTower

LICENCE = "MIT"
OUTPUT = "embeddings"
INPUTS: Mapping[str, str] = {"audio": "fbank", "text": "input_ids", "image_text": "input_ids"}
# Largest distance between an embedding of the graph and the module's, both of length 1: no similarity with anything
# moves by more.
TOLERANCES: Mapping[str, float] = {"float32": 1e-4, "float16": 2e-2}
_TEXTS = ("dog barking", "violin, man, speech, water; a small red circle", "piano", "gun shot, helicopter")


@dataclass(frozen=True)
class Towers:
    """The towers of one export, and where they come from.

    Attributes:
        texts: by text tower ("audio", "image"); two that are equal are one object.
    """

    audio: AudioTower
    audio_config: AudioConfig
    texts: Mapping[str, TextTower]
    text_config: TextConfig
    vocabulary: tuple[dict[str, int], list[str]]
    source: Mapping[str, Any]

    @property
    def graphs(self) -> dict[str, nn.Module]:
        """Module by graph: "audio", "text", and "image_text" where LanguageBind-Image's text tower is another."""
        texts = {"text": self.texts["audio"]}
        if self.texts.get("image", self.texts["audio"]) is not self.texts["audio"]:
            texts["image_text"] = self.texts["image"]
        return {"audio": self.audio, **texts}

    @property
    def text_graphs(self) -> dict[str, str]:
        """Graph by text tower."""
        return {
            tower: "image_text" if tower == "image" and "image_text" in self.graphs else "text" for tower in self.texts
        }


def export_languagebind(
    variant: str,
    out_dir: Path,
    *,
    folder: Path | None = None,
    image_folder: Path | None = None,
    seed: int | None = None,
    precisions: Sequence[str] = ("float32",),
) -> ComponentSpec:
    """Export LanguageBind as `audio.onnx` and `text.onnx`, opset 18, in every precision.

    Each takes any number of sounds or texts, texts of any length up to the tower's; embeddings have length 1. With the
    folder of LanguageBind-Image too, its text tower is exported as `image_text.onnx`, unless it is the same.

    Args:
        variant: `vit_l14` or `nano`.
        out_dir: folder that the files are written to; made if missing.
        folder: of LanguageBind_Audio or LanguageBind_Audio_FT, as published: config.json, weights and vocabulary.
        image_folder: of LanguageBind_Image, if the space of its texts is wanted.
        seed: of random weights, instead of folders.
        precisions: float32, float16 or both.

    Raises:
        InputError: not exactly one source of weights, or folders that do not fit the variant or each other.
        EngineError: a graph differs from its module by more than its tolerance.
    """
    check_precisions(precisions)
    towers = (
        _seeded(variant, seed, folder or image_folder) if folder is None else _read(variant, folder, image_folder, seed)
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    vocab, merges = write_vocabulary(*towers.vocabulary, out_dir)
    examples = _examples(towers, ClipTokenizer(vocab, merges, context_length=towers.text_config.positions))
    forms: dict[str, dict[str, GraphSet]] = {}
    for form in FORMS:
        written = {name: _write(module, name, examples, out_dir, form) for name, module in towers.graphs.items()}
        made: dict[str, GraphSet] = {}
        for precision in ("float32", "float16"):
            if precision not in precisions and precision != "float32":
                continue
            paths = written if precision == "float32" else write_float16(written, "languagebind")
            verify(towers.graphs, paths, examples, TOLERANCES[precision])
            made[precision] = GraphSet(paths, dict.fromkeys(paths, TOLERANCES[precision]))
        forms[form] = {name: made[name] for name in precisions}
    return ComponentSpec(
        name="languagebind",
        variant=variant,
        source=towers.source,
        licence=LICENCE,
        config=component_config(towers.audio_config, towers.text_config, towers.text_graphs),
        forms=forms,
        files={"vocab": vocab, "merges": merges},
    )


def verify(
    modules: Mapping[str, nn.Module],
    graphs: Mapping[str, Path],
    examples: Mapping[str, Sequence[np.ndarray]],
    tolerance: float,
) -> dict[str, float]:
    """Run graphs on ONNX Runtime beside their modules.

    Args:
        modules: by graph.
        graphs: of one precision.
        examples: inputs by graph, of several shapes.
        tolerance: largest distance of two embeddings.

    Returns:
        The largest distance of each graph.

    Raises:
        EngineError: a distance is above the tolerance, or a name or a shape is another.
    """
    import torch

    worst = {}
    for name, path in graphs.items():
        graph = ExportedGraph(path, f"The graph {name}", [INPUTS[name]], [OUTPUT])
        worst[name] = 0.0
        for example in examples[name]:
            with torch.inference_mode():
                expected = modules[name](torch.from_numpy(example)).numpy()
            got = graph.run({INPUTS[name]: example}, {OUTPUT: expected})[OUTPUT]
            worst[name] = max(worst[name], float(np.linalg.norm(got - expected, axis=1).max()))
        if worst[name] > tolerance:
            raise graph.differs(OUTPUT, tolerance, worst[name])
    return worst


def _seeded(variant: str, seed: int | None, given: Path | None) -> Towers:
    from export.languagebind.checkpoint import audio_tower, text_tower
    from export.languagebind.seeding import seeded_weights

    config = official_config(variant)
    if given is not None:
        raise InputError(
            "LanguageBind-Image's folder alone has no audio tower.",
            expected="the folder of LanguageBind_Audio or LanguageBind_Audio_FT as well",
            mend="give it with --folder.",
        )
    if seed is None:
        raise InputError(
            "LanguageBind is exported from one source of weights.",
            expected="one of --folder and --seed",
            mend="give exactly one.",
        )
    weights, audio, text = seeded_weights(variant, seed), audio_config(config), text_config(config)
    tower = text_tower(weights, text)
    vocabulary = make_vocabulary(text.vocab_size)
    texts = {"audio": tower, "image": tower}
    return Towers(audio_tower(weights, audio), audio, texts, text, vocabulary, source_of(None, seed))


def _read(variant: str, folder: Path, image_folder: Path | None, seed: int | None) -> Towers:
    from export.languagebind.checkpoint import audio_tower, read_config, read_weights, text_tower, weights_file

    if seed is not None:
        raise InputError(
            "LanguageBind is exported from one source of weights.",
            expected="one of --folder and --seed",
            mend="give exactly one.",
        )
    expected, config = official_config(variant), read_config(folder)
    audio, text = audio_config(config), text_config(config)
    if audio.encoder != audio_config(expected).encoder or text.encoder != text_config(expected).encoder:
        raise InputError(
            f"{folder} is no {variant}.",
            expected=f"{audio_config(expected).encoder} and {text_config(expected).encoder}",
            got=f"{audio.encoder} and {text.encoder}",
            mend="give the variant that it is.",
        )
    path = weights_file(folder)
    weights = read_weights(path)
    source = source_of(path, None)
    texts = {"audio": text_tower(weights, text)}
    made = audio_tower(weights, audio)
    del weights
    vocabulary = read_vocabulary(folder)
    if len(vocabulary[0]) > text.vocab_size:
        raise InputError(
            "The vocabulary does not fit the text tower.", expected=text.vocab_size, got=len(vocabulary[0])
        )
    if image_folder is not None:
        other, path = text_config(read_config(image_folder)), weights_file(image_folder)
        tower = text_tower(read_weights(path), other)
        if read_vocabulary(image_folder) != vocabulary or other.positions != text.positions:
            raise InputError(
                "The two folders read texts differently.",
                expected="one vocabulary and one length of texts",
                mend="give folders of one release.",
            )
        texts["image"] = texts["audio"] if other == text and _equal(tower, texts["audio"]) else tower
        image = source_of(path, None)
        source |= {"image_checkpoint": image["checkpoint"], "image_sha256": image["sha256"]}
    return Towers(made, audio, texts, text, vocabulary, source)


def _equal(one: nn.Module, other: nn.Module) -> bool:
    import torch

    others = other.state_dict()
    return all(torch.equal(tensor, others[name]) for name, tensor in one.state_dict().items())


def _examples(towers: Towers, tokenizer: ClipTokenizer) -> dict[str, list[np.ndarray]]:
    """Inputs of several shapes: pictures of made sounds, and texts in rows of several lengths up to the longest."""
    audio, longest = towers.audio_config, towers.text_config.positions
    rng = np.random.default_rng(0)
    time, band = np.meshgrid(np.linspace(0, 1, audio.frames), np.linspace(0, 1, audio.mel_bins))
    places = 0.5 + 0.4 * np.sin(2 * np.pi * (time * rng.uniform(1, 9, (3, 1, 1)) + rng.uniform(size=(3, 1, 1))))
    loud = 2 * np.exp(-(((band - places) / rng.uniform(0.05, 0.3, (3, 1, 1))) ** 2)) - 1
    picture = (loud + 0.2 * rng.standard_normal(loud.shape)).astype(np.float32)
    pictures = np.stack([picture[[0] * 3], picture[[1] * 3], picture])
    rows = tokenizer.encode(_TEXTS)
    filled = np.full((len(rows), longest), tokenizer.end, np.int64)
    filled[:, : rows.shape[1]] = rows
    full = rng.integers(0, tokenizer.end - 1, (1, longest))
    full[0, -1] = tokenizer.end
    texts = [rows, filled, rows[:1], full]
    return {"audio": [pictures[:2], pictures[2:]], "text": texts, "image_text": texts}


def _write(
    module: nn.Module, name: str, examples: Mapping[str, Iterable[np.ndarray]], out_dir: Path, form: str
) -> Path:
    import torch

    from export.onnx_files import write_onnx

    example = torch.from_numpy(next(iter(examples[name])))
    axes = {0: "B"} if name == "audio" else {0: "B", 1: "T"}
    path = out_dir / file_name(name, form, "float32")
    with writing(form):
        return write_onnx(module, {INPUTS[name]: example}, {INPUTS[name]: axes}, [OUTPUT], path, smallest=1)
