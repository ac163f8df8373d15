"""Official LanguageBind folders: `config.json`, weights, `vocab.json` and `merges.txt`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from alref_edge.errors import InputError
from export.languagebind.configs import AudioConfig, TextConfig
from export.languagebind.modules import AudioTower, TextTower

Weights = dict[str, torch.Tensor]
Tower = TypeVar("Tower", bound=nn.Module)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_OFFICIAL = (
    "an official LanguageBind folder: config.json, pytorch_model.bin or model.safetensors, vocab.json, merges.txt"
)
# Where peft puts the encoder that it has given low-rank updates, and the weights that these are added to.
_LORA_PREFIX, _LORA_BASE = "base_model.model.", ".base_layer"
_LORA_A, _LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.", expected=_OFFICIAL) from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is no configuration.", expected=_OFFICIAL, got=type(config).__name__)
    return config


def weights_file(folder: Path) -> Path:
    """The file of the folder's weights.

    Raises:
        InputError: there is none.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else "no folder"
    raise InputError(f"{folder} has no weights.", expected=_OFFICIAL, got=found)


def read_weights(path: Path) -> Weights:
    """Tensors by name.

    Raises:
        InputError: the file cannot be read as such.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as weights.",
            expected="a file that holds tensors alone",
            got=type(error).__name__,
            mend="download it again.",
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(each, torch.Tensor) for each in content.values()):
        raise InputError(f"{path} holds something else than weights.", expected="tensors by name")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in content.items()}


def audio_tower(weights: Weights, config: AudioConfig) -> AudioTower:
    """The audio tower of a checkpoint, low-rank updates merged.

    Raises:
        InputError: a weight is missing, unknown or of another shape.
    """
    merged = merge_lora(weights, config.lora_scale)
    return _load(AudioTower, config, merged, ("vision_model.", "visual_projection."))


def text_tower(weights: Weights, config: TextConfig) -> TextTower:
    """The text tower of a checkpoint.

    Raises:
        InputError: a weight is missing, unknown or of another shape.
    """
    return _load(TextTower, config, weights, ("text_model.", "text_projection."))


def merge_lora(weights: Weights, scale: float) -> Weights:
    """Weights without low-rank updates: each is added to what it belongs to, times `scale` (alpha by rank).

    Raises:
        InputError: an update is incomplete or belongs to nothing.
    """
    plain = {
        name.replace(_LORA_PREFIX, "").replace(f"{_LORA_BASE}.", "."): tensor
        for name, tensor in weights.items()
        if ".lora_" not in name
    }
    for name, down in weights.items():
        if ".lora_" not in name or name.endswith(_LORA_B):
            continue
        target = name.replace(_LORA_PREFIX, "").removesuffix(_LORA_A) + ".weight"
        up = weights.get(name.replace(_LORA_A, _LORA_B))
        if not name.endswith(_LORA_A) or up is None or target not in plain or scale == 0:
            raise InputError(
                f"The low-rank update {name} cannot be merged.",
                expected="lora_A.default and lora_B.default of a weight that is there, and lora_r in config.json",
                mend="give the folder as it was published.",
            )
        plain[target] = plain[target] + scale * (up.double() @ down.double()).float()
    return plain


def _load(kind: type[Tower], config: Any, weights: Weights, prefixes: tuple[str, ...]) -> Tower:
    with torch.device("meta"):
        tower = kind(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
    given = {
        name: tensor
        for name, tensor in weights.items()
        if name.startswith(prefixes) and not name.endswith(".position_ids")
    }
    missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    shapes = [
        f"{name} {tuple(given[name].shape)} for {shape}"
        for name, shape in wanted.items()
        if name in given and tuple(given[name].shape) != shape
    ]
    if missing or unknown or shapes:
        first = [*(f"no {name}" for name in missing), *(f"unknown {name}" for name in unknown), *shapes]
        raise InputError(
            "The weights do not fit the configuration.",
            expected=f"{len(wanted)} tensors of {kind.__name__}",
            got=f"{'; '.join(first[:3])}; {len(first)} in all",
            mend="give config.json and weights of one folder.",
        )
    tower.load_state_dict(given, assign=True)
    return tower.eval().requires_grad_(False)
