"""The sizes of LanguageBind's towers, in the terms of the official `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from alref_edge.errors import InputError

VARIANTS = ("vit_l14", "nano")
ACTIVATIONS = ("gelu", "quick_gelu")

# What a config.json leaves out, since it says only what differs from these.
_TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "add_time_attn": False,
    "lora_r": 2,
    "lora_alpha": 16,
    "num_mel_bins": 0,
    "target_length": 0,
    "audio_sample_rate": 16000,
    "audio_mean": 0.5,
    "audio_std": 0.5,
}
_AUDIO: dict[str, Any] = {
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "lora_r": 0,
    "num_mel_bins": 112,
    "target_length": 1036,
    "audio_sample_rate": 16000,
    "audio_mean": -4.2677393,
    "audio_std": 4.5689974,
}
_SIZES: dict[str, dict[str, Any]] = {
    "vit_l14": {
        "projection_dim": 768,
        "text_config": {
            "vocab_size": 49408,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
    },
    "nano": {
        "projection_dim": 64,
        "text_config": {
            "vocab_size": 1024,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        "vision_config": {
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        },
    },
}


@dataclass(frozen=True)
class EncoderConfig:
    """A stack of transformer layers: their width, how wide they are inside, and the rest by its name."""

    width: int
    inner: int
    layers: int
    heads: int
    activation: str
    eps: float


@dataclass(frozen=True)
class TextConfig:
    """A text tower: its layers, the tokens it knows and how many it reads."""

    encoder: EncoderConfig
    vocab_size: int
    positions: int
    projection: int


@dataclass(frozen=True)
class AudioConfig:
    """The audio tower: its layers, and the picture of a sound that it takes, cut into square patches.

    `lora_scale` multiplies the low-rank updates of a checkpoint that has them.
    """

    encoder: EncoderConfig
    channels: int
    patch: int
    mel_bins: int
    frames: int
    sample_rate: int
    mean: float
    std: float
    lora_scale: float
    projection: int

    @property
    def positions(self) -> int:
        """Patches, and one place for the whole."""
        return (self.mel_bins // self.patch) * (self.frames // self.patch) + 1


def official_config(variant: str) -> dict[str, Any]:
    """A variant as the official `config.json` describes it.

    Raises:
        InputError: there is no such variant.
    """
    if variant not in _SIZES:
        raise InputError(f"There is no LanguageBind {variant!r}.", expected=", ".join(VARIANTS), got=variant)
    size = deepcopy(_SIZES[variant])
    last = size["text_config"]["vocab_size"] - 1
    shared = {"projection_dim": size["projection_dim"]}
    text = {"hidden_act": "gelu", "max_position_embeddings": 77, "bos_token_id": last - 1, "eos_token_id": last}
    return {
        "architectures": ["LanguageBindAudio"],
        "model_type": "LanguageBindAudio",
        "logit_scale_init_value": 2.6592,
        **shared,
        "text_config": {**text, **size["text_config"], **shared},
        "vision_config": {**_AUDIO, **size["vision_config"], **shared},
    }


def text_config(config: Mapping[str, Any]) -> TextConfig:
    """The text tower of a `config.json`.

    Raises:
        InputError: the configuration is none, or not one of a text tower that is known here.
    """
    part = _part(config, "text_config", _TEXT_DEFAULTS)
    return TextConfig(
        encoder=_encoder(part),
        vocab_size=int(part["vocab_size"]),
        positions=int(part["max_position_embeddings"]),
        projection=int(config.get("projection_dim", 512)),
    )


def audio_config(config: Mapping[str, Any]) -> AudioConfig:
    """The audio tower of a `config.json`.

    Raises:
        InputError: the configuration is none, or not one of an audio tower that is known here.
    """
    part = _part(config, "vision_config", _VISION_DEFAULTS)
    if not part["num_mel_bins"] or not part["target_length"] or part["add_time_attn"]:
        raise InputError(
            "This is no configuration of LanguageBind-Audio.",
            expected="num_mel_bins and target_length above 0, and no attention through time",
            got=f"{part['num_mel_bins']}, {part['target_length']}, {part['add_time_attn']}",
            mend="give the folder of LanguageBind_Audio or LanguageBind_Audio_FT.",
        )
    rank = int(part["lora_r"])
    return AudioConfig(
        encoder=_encoder(part),
        channels=int(part["num_channels"]),
        patch=int(part["patch_size"]),
        mel_bins=int(part["num_mel_bins"]),
        frames=int(part["target_length"]),
        sample_rate=int(part["audio_sample_rate"]),
        mean=float(part["audio_mean"]),
        std=float(part["audio_std"]),
        lora_scale=float(part["lora_alpha"]) / rank if rank else 0.0,
        projection=int(config.get("projection_dim", 512)),
    )


def component_config(audio: AudioConfig, text: TextConfig, towers: Mapping[str, str]) -> dict[str, Any]:
    """What the runtime has to know: plain JSON values for the bundle's manifest.

    Args:
        towers: text tower to the graph of it.
    """
    return {
        "sample_rate": audio.sample_rate,
        "mel_bins": audio.mel_bins,
        "frames": audio.frames,
        "audio_mean": audio.mean,
        "audio_std": audio.std,
        "context_length": text.positions,
        "text_towers": dict(towers),
    }


def _part(config: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """One tower's configuration; `<name>_dict`, which old files have beside it, prevails."""
    given = [config.get(key) or {} for key in (name, f"{name}_dict")]
    if not all(isinstance(each, Mapping) for each in given):
        raise InputError(f"The configuration's {name} is malformed.", expected="a table", got=given)
    return {**defaults, **given[0], **given[1]}


def _encoder(part: Mapping[str, Any]) -> EncoderConfig:
    if part["hidden_act"] not in ACTIVATIONS:
        raise InputError("The activation is not known here.", expected=" or ".join(ACTIVATIONS), got=part["hidden_act"])
    return EncoderConfig(
        width=int(part["hidden_size"]),
        inner=int(part["intermediate_size"]),
        layers=int(part["num_hidden_layers"]),
        heads=int(part["num_attention_heads"]),
        activation=str(part["hidden_act"]),
        eps=float(part["layer_norm_eps"]),
    )
