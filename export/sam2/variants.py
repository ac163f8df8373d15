"""The variants of SAM 2 and their hydra configurations; imports nothing heavy."""

from __future__ import annotations

import importlib.util
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alref_edge.errors import InputError

SIZES = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}


@dataclass(frozen=True)
class Variant:
    """One size of one family.

    Attributes:
        name: such as "sam2.1_tiny".
        family: "sam2" or "sam2.1".
        size: "tiny", "small", "base_plus", "large" or "nano".
    """

    name: str
    family: str
    size: str

    @property
    def official(self) -> bool:
        """Whether Meta publishes weights of this variant."""
        return self.size in SIZES


VARIANTS: dict[str, Variant] = {
    f"{family}_{size}": Variant(f"{family}_{size}", family, size)
    for family in ("sam2", "sam2.1")
    for size in (*SIZES, "nano")
}

# What SAM 2.1 adds to SAM 2 (the difference of the official yaml files).
_SAM21 = {
    "no_obj_embed_spatial": True,
    "add_tpos_enc_to_obj_ptrs": True,
    "proj_tpos_enc_in_obj_ptrs": True,
    "use_signed_tpos_enc_to_obj_ptrs": True,
}

# `build_sam2_video_predictor` of sam2/build_sam.py, apply_postprocessing=True.
VIDEO_POLICY: dict[str, Any] = {
    "_target_": "sam2.sam2_video_predictor.SAM2VideoPredictor",
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
    "binarize_mask_from_pts_for_mem_enc": True,
    "fill_hole_area": 8,
}


def variant_of(name: str) -> Variant:
    """The variant of that name.

    Raises:
        InputError: there is none.
    """
    if name not in VARIANTS:
        raise InputError(
            f"There is no SAM 2 variant {name!r}.", expected=", ".join(VARIANTS), mend="name one of these."
        )
    return VARIANTS[name]


def model_config(name: str, *, video_policy: bool = False) -> dict[str, Any]:
    """The `model` node of a variant's hydra configuration, for `hydra.utils.instantiate`.

    Args:
        name: a key of `VARIANTS`.
        video_policy: with the overrides of `build_sam2_video_predictor`, whose class it then names.

    Raises:
        InputError: no such variant, or the sam2 package is missing.
    """
    variant = variant_of(name)
    config = _official_config(variant) if variant.official else _nano_config(variant)
    if video_policy:
        config.update(deepcopy(VIDEO_POLICY))
    return config


def _official_config(variant: Variant) -> dict[str, Any]:
    from omegaconf import OmegaConf

    spec = importlib.util.find_spec("sam2")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("The official sam2 package is not installed.", mend="pip install sam2==1.1.0")
    name = f"{variant.family}_hiera_{SIZES[variant.size]}.yaml"
    path = Path(spec.submodule_search_locations[0]) / "configs" / variant.family / name
    loaded = OmegaConf.to_container(OmegaConf.load(path).model, resolve=True)
    if not isinstance(loaded, dict):
        raise InputError(f"{path} is not a configuration of SAM 2.", mend="reinstall sam2==1.1.0")
    config = {str(key): value for key, value in loaded.items()}
    config["compile_image_encoder"] = False
    return config


def _nano_config(variant: Variant) -> dict[str, Any]:
    """Official modules with small numbers: 0.87 M parameters, most of them in the decoder's hard-coded MLPs."""
    image_size, hidden_dim, mem_dim, trunk = 256, 48, 16, [24, 32, 42, 56]
    feat_sizes = [image_size // 16, image_size // 16]

    def position(features: int) -> dict[str, Any]:
        return {
            "_target_": "sam2.modeling.position_encoding.PositionEmbeddingSine",
            "num_pos_feats": features,
            "normalize": True,
            "scale": None,
            "temperature": 10000,
        }

    def attention(**extra: Any) -> dict[str, Any]:
        return {
            "_target_": "sam2.modeling.sam.transformer.RoPEAttention",
            "rope_theta": 10000.0,
            "feat_sizes": feat_sizes,
            "embedding_dim": hidden_dim,
            "num_heads": 1,
            "downsample_rate": 1,
            "dropout": 0.1,
            **extra,
        }

    return {
        "_target_": "sam2.modeling.sam2_base.SAM2Base",
        "image_encoder": {
            "_target_": "sam2.modeling.backbones.image_encoder.ImageEncoder",
            "scalp": 1,
            "trunk": {
                "_target_": "sam2.modeling.backbones.hieradet.Hiera",
                "embed_dim": trunk[0],
                "num_heads": 2,
                "dim_mul": 1.34,
                "head_mul": 1.0,
                "stages": [1, 2, 3, 1],
                "global_att_blocks": [4, 5],
                "window_pos_embed_bkg_spatial_size": [7, 7],
                "window_spec": [8, 4, 8, 4],
            },
            "neck": {
                "_target_": "sam2.modeling.backbones.image_encoder.FpnNeck",
                "position_encoding": position(hidden_dim),
                "d_model": hidden_dim,
                "backbone_channel_list": trunk[::-1],
                "fpn_top_down_levels": [2, 3],
                "fpn_interp_model": "nearest",
            },
        },
        "memory_attention": {
            "_target_": "sam2.modeling.memory_attention.MemoryAttention",
            "d_model": hidden_dim,
            "pos_enc_at_input": True,
            "layer": {
                "_target_": "sam2.modeling.memory_attention.MemoryAttentionLayer",
                "activation": "relu",
                "dim_feedforward": 128,
                "dropout": 0.1,
                "pos_enc_at_attn": False,
                "self_attention": attention(),
                "d_model": hidden_dim,
                "pos_enc_at_cross_attn_keys": True,
                "pos_enc_at_cross_attn_queries": False,
                "cross_attention": attention(rope_k_repeat=True, kv_in_dim=mem_dim),
            },
            "num_layers": 2,
        },
        "memory_encoder": {
            "_target_": "sam2.modeling.memory_encoder.MemoryEncoder",
            "out_dim": mem_dim,
            "in_dim": hidden_dim,
            "position_encoding": position(mem_dim),
            "mask_downsampler": {
                "_target_": "sam2.modeling.memory_encoder.MaskDownSampler",
                "embed_dim": hidden_dim,
                "kernel_size": 2,
                "stride": 2,
                "padding": 0,
            },
            "fuser": {
                "_target_": "sam2.modeling.memory_encoder.Fuser",
                "layer": {
                    "_target_": "sam2.modeling.memory_encoder.CXBlock",
                    "dim": hidden_dim,
                    "kernel_size": 7,
                    "padding": 3,
                    "layer_scale_init_value": 0.1,
                    "use_dwconv": True,
                },
                "num_layers": 1,
            },
        },
        "num_maskmem": 7,
        "image_size": image_size,
        "sigmoid_scale_for_mem_enc": 20.0,
        "sigmoid_bias_for_mem_enc": -10.0,
        "use_mask_input_as_output_without_sam": True,
        "directly_add_no_mem_embed": True,
        "use_high_res_features_in_sam": True,
        "multimask_output_in_sam": True,
        "iou_prediction_use_sigmoid": True,
        "use_obj_ptrs_in_encoder": True,
        "add_tpos_enc_to_obj_ptrs": False,
        "only_obj_ptrs_in_the_past_for_eval": True,
        "pred_obj_scores": True,
        "pred_obj_scores_mlp": True,
        "fixed_no_obj_ptr": True,
        "multimask_output_for_tracking": True,
        "use_multimask_token_for_obj_ptr": True,
        "multimask_min_pt_num": 0,
        "multimask_max_pt_num": 1,
        "use_mlp_for_obj_ptr_proj": True,
        "compile_image_encoder": False,
        **(_SAM21 if variant.family == "sam2.1" else {}),
    }
