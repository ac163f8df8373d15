"""Fine-tuned BEATs checkpoints, `{"cfg", "model", "label_dict"}`, read without running anything that is in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alref_edge.errors import InputError
from export.beats.configs import BeatsConfig
from export.beats.model import BeatsModel

Weights = Mapping[str, torch.Tensor]

_REPACK = (
    "where you trust the file, and on a machine that may be lost, "
    "`c = torch.load(PATH, weights_only=False); cfg = c['cfg']; "
    "torch.save({'cfg': dict(cfg if isinstance(cfg, dict) else vars(cfg)), 'model': dict(c['model']), "
    "'label_dict': {int(k): str(v) for k, v in c['label_dict'].items()}}, NEW)`, and give NEW."
)


@dataclass(frozen=True)
class Checkpoint:
    """A fine-tuned model.

    Attributes:
        config: its shape.
        weights: its state dict, by the official names, float32.
        labels: in the order of its outputs.
    """

    config: BeatsConfig
    weights: Weights
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.labels) != self.config.predictor_class:
            raise InputError(
                "The checkpoint has not one label for each output.",
                expected=f"{self.config.predictor_class} labels",
                got=len(self.labels),
            )

    def save(self, path: Path) -> Path:
        """Write it as the official files are."""
        content = {
            "cfg": self.config.to_official(),
            "model": dict(self.weights),
            "label_dict": dict(enumerate(self.labels)),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path)
        return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read an official fine-tuned `.pt`.

    Raises:
        InputError: the file needs more than tensors and plain values to be read, or is no fine-tuned checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), "other objects")
        raise InputError(
            f"{path} wants to run code when it is read, and is not read.",
            expected="tensors, numbers, strings, lists and dicts alone",
            got=refused,
            mend=_REPACK,
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a checkpoint.",
            expected="a fine-tuned BEATs .pt",
            got=type(error).__name__,
            mend="download it again.",
        ) from error
    parts = ("cfg", "model", "label_dict")
    if not isinstance(content, Mapping) or not all(isinstance(content.get(name), Mapping) for name in parts):
        raise InputError(
            f"{path} is no fine-tuned BEATs checkpoint.",
            expected=f"dicts under {', '.join(parts)}",
            got=sorted(map(str, content))[:5] if isinstance(content, Mapping) else type(content).__name__,
            mend="give a fine-tuned one, such as BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt.",
        )
    config = BeatsConfig.from_official(content["cfg"])
    weights = {str(name): value.float() for name, value in content["model"].items()}
    return Checkpoint(config, weights, _labels(content["label_dict"], config.predictor_class))


def build_model(checkpoint: Checkpoint) -> BeatsModel:
    """The network with a checkpoint's weights, in evaluation mode.

    Raises:
        InputError: a weight is missing, unknown or of another shape, or the copies of a shared one differ.
    """
    model = BeatsModel(checkpoint.config)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in checkpoint.weights.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise InputError(
            "The checkpoint's weights are not those that its cfg asks for.",
            expected={name: wanted.get(name) for name in wrong[:3]},
            got={name: found.get(name) for name in wrong[:3]},
            mend="give an official fine-tuned checkpoint.",
        )
    tables = [value for name, value in checkpoint.weights.items() if name.endswith("relative_attention_bias.weight")]
    if any(not torch.equal(tables[0], each) for each in tables[1:]):
        raise InputError("The layers' relative_attention_bias differ.", expected="one, shared by all layers")
    model.load_state_dict(dict(checkpoint.weights))
    return model.eval()


def _labels(label_dict: Mapping[Any, Any], count: int) -> tuple[str, ...]:
    try:
        labels = {int(index): label for index, label in label_dict.items()}
    except (TypeError, ValueError):
        labels = {}
    if sorted(labels) != list(range(count)) or not all(isinstance(each, str) for each in labels.values()):
        raise InputError(
            "The checkpoint's label_dict does not fit its outputs.",
            expected=f"a label for each of 0 to {count - 1}",
            got=dict(list(label_dict.items())[:3]),
        )
    return tuple(labels[index] for index in range(count))
