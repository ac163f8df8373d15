"""Official Grounding DINO checkpoints and transformers' names for the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alref_edge.errors import InputError
from export.grounding_dino.configs import bert_config, swin_config
from export.torchvision_ops import declare_operators

if TYPE_CHECKING:
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

Weights = dict[str, torch.Tensor]

# Of the official checkpoint, not needed: the pooler and the label book are of training, the rest is derived.
_UNNEEDED = (
    "bert.pooler.dense.weight",
    "bert.pooler.dense.bias",
    "bert.embeddings.position_ids",
    "label_enc.weight",
)
_UNNEEDED_ENDINGS = (".attn.relative_position_index", ".attn_mask")


def key_map(config: GroundingDinoConfig) -> dict[str, tuple[str, ...]]:
    """Official parameter name to transformers' name, or names where the official tensor stacks several along axis 0."""
    return dict(_pairs(config))


def load_official(path: Path, config: GroundingDinoConfig) -> Weights:
    """Read an official `.pth` and give its weights transformers' names.

    Args:
        path: a file holding `{"model": state_dict}`, its keys with or without the prefix "module.".
        config: the size that the checkpoint should be of.

    Raises:
        InputError: the file cannot be read as such, a weight is missing, unknown or of another shape, or two copies
            of a shared weight differ.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as a checkpoint.",
            expected="an official Grounding DINO .pth, which holds tensors alone",
            got=type(error).__name__,
            mend="download it again, or give a transformers folder with --folder.",
        ) from error
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise InputError(
            f"{path} holds no model.",
            expected='{"model": state_dict}',
            got=sorted(map(str, content))[:5] if isinstance(content, Mapping) else type(content).__name__,
            mend="give an official Grounding DINO .pth.",
        )
    weights = {str(key).removeprefix("module."): value for key, value in content["model"].items()}
    return to_transformers(weights, config)


def to_transformers(official: Mapping[str, torch.Tensor], config: GroundingDinoConfig) -> Weights:
    """Rename official weights; every one must be known, and none may be missing. See `load_official`."""
    names = key_map(config)
    shapes = _shapes(config)
    missing = [name for name in names if name not in official and not _is_copy(name)]
    unknown = [name for name in official if name not in names and not _is_unneeded(name)]
    if missing or unknown:
        raise InputError(
            "The checkpoint does not fit the model.",
            expected=f"{len(names)} named weights",
            got=f"{len(missing)} missing ({', '.join(missing[:4])}), {len(unknown)} unknown ({', '.join(unknown[:4])})",
            mend="choose the variant of the checkpoint.",
        )
    weights: Weights = {}
    for name, targets in names.items():
        if name not in official:
            continue
        tensor = official[name].to(torch.float32)
        rows = sum(shapes[target][0] for target in targets)
        expected = (rows, *shapes[targets[0]][1:])
        if tuple(tensor.shape) != expected:
            raise InputError(
                f"The weight {name} has another shape.",
                expected=expected,
                got=tuple(tensor.shape),
                mend="choose the variant of the checkpoint.",
            )
        for target, part in zip(targets, tensor.split([shapes[target][0] for target in targets]), strict=True):
            if target in weights and not torch.equal(weights[target], part):
                raise InputError(
                    f"The box heads of the checkpoint differ at {name}.", expected="one head shared by all layers"
                )
            weights[target] = part.contiguous()
    return weights


def to_official(weights: Mapping[str, torch.Tensor], config: GroundingDinoConfig) -> Weights:
    """The inverse of `to_transformers`, with the derived and unused tensors that a strict loading wants."""
    official = {
        name: torch.cat([weights[target] for target in targets]).clone() for name, targets in key_map(config).items()
    }
    swin, width = swin_config(config), bert_config(config).hidden_size
    official["bert.pooler.dense.weight"] = torch.zeros(width, width)
    official["bert.pooler.dense.bias"] = torch.zeros(width)
    index = relative_position_index(swin.window_size)
    for stage, depth in enumerate(swin.depths):
        for block in range(depth):
            official[f"backbone.0.layers.{stage}.blocks.{block}.attn.relative_position_index"] = index.clone()
    return official


def relative_position_index(window_size: int) -> torch.Tensor:
    """Row of the relative position table for each pair of a window's tokens, int64 `[n, n]`, n = window_size²."""
    axis = torch.arange(window_size)
    rows, columns = (part.reshape(-1) for part in torch.meshgrid(axis, axis, indexing="ij"))
    row_steps = rows[:, None] - rows[None, :] + window_size - 1
    column_steps = columns[:, None] - columns[None, :] + window_size - 1
    return row_steps * (2 * window_size - 1) + column_steps


def build_model(config: GroundingDinoConfig, weights: Mapping[str, torch.Tensor]) -> GroundingDinoForObjectDetection:
    """transformers' model with the given weights (its names), in evaluation mode, float32."""
    model = empty_model(config)
    tied = {
        f"{prefix}.{layer}.{rest}": value
        for name, value in weights.items()
        if name.startswith("bbox_embed.0.")
        for rest in (name.removeprefix("bbox_embed.0."),)
        for prefix in ("bbox_embed", "model.decoder.bbox_embed")
        for layer in range(config.decoder_layers)
    }
    missing, unexpected = model.load_state_dict({**weights, **tied}, strict=False)
    missing = [name for name in missing if ".swin.layernorm." not in name]
    if missing or unexpected:
        raise InputError("The weights do not fit transformers' model.", got=f"{missing[:4]}, {unexpected[:4]}")
    return model


def empty_model(config: GroundingDinoConfig) -> GroundingDinoForObjectDetection:
    """transformers' model with whatever weights it starts with, in evaluation mode, float32."""
    declare_operators()
    from transformers import GroundingDinoForObjectDetection

    return GroundingDinoForObjectDetection(config).eval().float()


def load_folder(folder: Path) -> GroundingDinoForObjectDetection:
    """transformers' model of a folder on disk; nothing is fetched.

    Raises:
        InputError: the folder holds no Grounding DINO with a Swin backbone, or weights are missing.
    """
    declare_operators()
    from transformers import GroundingDinoForObjectDetection

    try:
        loaded: Any = GroundingDinoForObjectDetection.from_pretrained(
            folder,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{folder} cannot be read as a transformers folder: {_first_line(error)}",
            expected="config.json and model.safetensors of a grounding-dino model",
            mend="give the folder that save_pretrained wrote.",
        ) from error
    model, report = loaded
    missing = [name for name in report["missing_keys"] if ".swin.layernorm." not in name]
    config: Any = model.config
    plain = (
        config.backbone_config.model_type == "swin"
        and config.text_config.model_type == "bert"
        and config.two_stage
        and config.embedding_init_target
        and config.decoder_bbox_embed_share
        and config.position_embedding_type == "sine"
        and config.num_feature_levels == len(config.backbone_config.depths) == 4
    )
    if missing or not plain:
        raise InputError(
            f"{folder} is no Grounding DINO of the official structure.",
            expected="Swin, BERT, two stages, four levels, one shared box head, every weight there",
            got=f"missing weights {missing[:4]}" if missing else "another structure",
        )
    return model.eval()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")


def _shapes(config: GroundingDinoConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in empty_model(config).state_dict().items()}


def _is_copy(name: str) -> bool:
    shared = name.startswith(("bbox_embed.", "transformer.decoder.bbox_embed."))
    return shared and not name.startswith("bbox_embed.0.")


def _is_unneeded(name: str) -> bool:
    return name in _UNNEEDED or name.endswith(_UNNEEDED_ENDINGS)


def _both(official: str, *targets: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for part in ("weight", "bias"):
        yield f"{official}.{part}", tuple(f"{target}.{part}" for target in targets)


def _packed(official: str, target: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for part in ("weight", "bias"):
        names = tuple(f"{target}.{name}.{part}" for name in ("query", "key", "value"))
        yield f"{official}.in_proj_{part}", names
    yield from _both(f"{official}.out_proj", f"{target}.out_proj")


def _deformable(official: str, target: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
        yield from _both(f"{official}.{name}", f"{target}.{name}")


def _pairs(config: GroundingDinoConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from _swin_pairs(config)
    yield from _bert_pairs(config)
    for level in range(config.num_feature_levels):
        for part in (0, 1):
            yield from _both(f"input_proj.{level}.{part}", f"model.input_proj_vision.{level}.{part}")
    yield from _both("feat_map", "model.text_projection")
    yield "transformer.level_embed", ("model.level_embed",)
    yield "transformer.tgt_embed.weight", ("model.query_position_embeddings.weight",)
    yield from _both("transformer.enc_output", "model.enc_output")
    yield from _both("transformer.enc_output_norm", "model.enc_output_norm")
    for layer in range(3):
        head = f"layers.{layer}"
        yield from _both(f"transformer.enc_out_bbox_embed.{head}", f"model.encoder_output_bbox_embed.{head}")
        for copy in range(config.decoder_layers):
            yield from _both(f"bbox_embed.{copy}.{head}", f"bbox_embed.0.{head}")
            yield from _both(f"transformer.decoder.bbox_embed.{copy}.{head}", f"bbox_embed.0.{head}")
    for layer in range(config.encoder_layers):
        yield from _encoder_pairs(layer)
    yield from _both("transformer.decoder.norm", "model.decoder.layer_norm")
    for layer in range(2):
        yield from _both(
            f"transformer.decoder.ref_point_head.layers.{layer}", f"model.decoder.reference_points_head.layers.{layer}"
        )
    for layer in range(config.decoder_layers):
        yield from _decoder_pairs(layer)


def _swin_pairs(config: GroundingDinoConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    model = "model.backbone.conv_encoder.model"
    swin = f"{model}.swin"
    yield from _both("backbone.0.patch_embed.proj", f"{swin}.embeddings.patch_embeddings.projection")
    yield from _both("backbone.0.patch_embed.norm", f"{swin}.embeddings.norm")
    depths = swin_config(config).depths
    for stage, depth in enumerate(depths):
        official, target = f"backbone.0.layers.{stage}", f"{swin}.encoder.layers.{stage}"
        for block in range(depth):
            source, goal = f"{official}.blocks.{block}", f"{target}.blocks.{block}"
            yield from _both(f"{source}.norm1", f"{goal}.layernorm_before")
            yield from _both(f"{source}.norm2", f"{goal}.layernorm_after")
            table = "relative_position_bias_table"
            yield f"{source}.attn.{table}", (f"{goal}.attention.relative_position_bias.{table}",)
            yield from _both(f"{source}.attn.qkv", *(f"{goal}.attention.{name}_proj" for name in "qkv"))
            yield from _both(f"{source}.attn.proj", f"{goal}.attention.o_proj")
            yield from _both(f"{source}.mlp.fc1", f"{goal}.mlp.fc1")
            yield from _both(f"{source}.mlp.fc2", f"{goal}.mlp.fc2")
        if stage < len(depths) - 1:
            yield f"{official}.downsample.reduction.weight", (f"{target}.downsample.reduction.weight",)
            yield from _both(f"{official}.downsample.norm", f"{target}.downsample.norm")
        if stage > 0:
            yield from _both(f"backbone.0.norm{stage}", f"{model}.hidden_states_norms.stage{stage + 1}")


def _bert_pairs(config: GroundingDinoConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    target = "model.text_backbone"
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        yield f"bert.embeddings.{name}.weight", (f"{target}.embeddings.{name}.weight",)
    names = ["embeddings.LayerNorm"]
    for layer in range(bert_config(config).num_hidden_layers):
        block = f"encoder.layer.{layer}"
        names += [f"{block}.attention.self.{name}" for name in ("query", "key", "value")]
        names += [f"{block}.attention.output.dense", f"{block}.attention.output.LayerNorm"]
        names += [f"{block}.intermediate.dense", f"{block}.output.dense", f"{block}.output.LayerNorm"]
    for name in names:
        yield from _both(f"bert.{name}", f"{target}.{name}")


def _encoder_pairs(layer: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    target = f"model.encoder.layers.{layer}"
    official, goal = f"transformer.encoder.layers.{layer}", f"{target}.deformable_layer"
    yield from _deformable(f"{official}.self_attn", f"{goal}.self_attn")
    yield from _both(f"{official}.norm1", f"{goal}.self_attn_layer_norm")
    yield from _both(f"{official}.linear1", f"{goal}.fc1")
    yield from _both(f"{official}.linear2", f"{goal}.fc2")
    yield from _both(f"{official}.norm2", f"{goal}.final_layer_norm")
    official, goal = f"transformer.encoder.text_layers.{layer}", f"{target}.text_enhancer_layer"
    yield from _packed(f"{official}.self_attn", f"{goal}.self_attn")
    yield from _both(f"{official}.linear1", f"{goal}.fc1")
    yield from _both(f"{official}.linear2", f"{goal}.fc2")
    yield from _both(f"{official}.norm1", f"{goal}.layer_norm_before")
    yield from _both(f"{official}.norm2", f"{goal}.layer_norm_after")
    official, goal = f"transformer.encoder.fusion_layers.{layer}", f"{target}.fusion_layer"
    yield f"{official}.gamma_v", (f"{goal}.vision_param",)
    yield f"{official}.gamma_l", (f"{goal}.text_param",)
    yield from _both(f"{official}.layer_norm_v", f"{goal}.layer_norm_vision")
    yield from _both(f"{official}.layer_norm_l", f"{goal}.layer_norm_text")
    for short, name in (("v", "vision"), ("l", "text")):
        yield from _both(f"{official}.attn.{short}_proj", f"{goal}.attn.{name}_proj")
        yield from _both(f"{official}.attn.values_{short}_proj", f"{goal}.attn.values_{name}_proj")
        yield from _both(f"{official}.attn.out_{short}_proj", f"{goal}.attn.out_{name}_proj")


def _decoder_pairs(layer: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    official, goal = f"transformer.decoder.layers.{layer}", f"model.decoder.layers.{layer}"
    yield from _deformable(f"{official}.cross_attn", f"{goal}.encoder_attn")
    yield from _both(f"{official}.norm1", f"{goal}.encoder_attn_layer_norm")
    yield from _packed(f"{official}.ca_text", f"{goal}.encoder_attn_text")
    yield from _both(f"{official}.catext_norm", f"{goal}.encoder_attn_text_layer_norm")
    yield from _packed(f"{official}.self_attn", f"{goal}.self_attn")
    yield from _both(f"{official}.norm2", f"{goal}.self_attn_layer_norm")
    yield from _both(f"{official}.linear1", f"{goal}.fc1")
    yield from _both(f"{official}.linear2", f"{goal}.fc2")
    yield from _both(f"{official}.norm3", f"{goal}.final_layer_norm")
