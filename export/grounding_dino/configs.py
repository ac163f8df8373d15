"""The sizes of Grounding DINO: the official configuration files, and what transformers and the runtime need of them."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast

from alref_edge.errors import InputError

if TYPE_CHECKING:
    from transformers import BertConfig, GroundingDinoConfig, SwinConfig

VARIANTS = ("swin_t", "swin_b", "nano")
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# GroundingDINO_SwinT_OGC.py and GroundingDINO_SwinB_cfg.py, which differ in `backbone` alone.
_ARGS: dict[str, Any] = {
    "modelname": "groundingdino",
    "backbone": "swin_T_224_1k",
    "position_embedding": "sine",
    "pe_temperatureH": 20,
    "pe_temperatureW": 20,
    "return_interm_indices": [1, 2, 3],
    "backbone_freeze_keywords": None,
    "enc_layers": 6,
    "dec_layers": 6,
    "pre_norm": False,
    "dim_feedforward": 2048,
    "hidden_dim": 256,
    "dropout": 0.0,
    "nheads": 8,
    "num_queries": 900,
    "query_dim": 4,
    "num_patterns": 0,
    "num_feature_levels": 4,
    "enc_n_points": 4,
    "dec_n_points": 4,
    "two_stage_type": "standard",
    "two_stage_bbox_embed_share": False,
    "two_stage_class_embed_share": False,
    "transformer_activation": "relu",
    "dec_pred_bbox_embed_share": True,
    "dn_box_noise_scale": 1.0,
    "dn_label_noise_ratio": 0.5,
    "dn_label_coef": 1.0,
    "dn_bbox_coef": 1.0,
    "embed_init_tgt": True,
    "dn_labelbook_size": 2000,
    "max_text_len": 256,
    "text_encoder_type": "bert-base-uncased",
    "use_text_enhancer": True,
    "use_fusion_layer": True,
    "use_checkpoint": False,
    "use_transformer_ckpt": False,
    "use_text_cross_attention": True,
    "text_dropout": 0.0,
    "fusion_dropout": 0.0,
    "fusion_droppath": 0.1,
    "sub_sentence_present": True,
}
_BERT_BASE: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
_SIZES: dict[str, dict[str, Any]] = {
    "swin_t": {
        "args": {},
        "swin": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
        "bert": {},
        "resize": (800, 1333),
    },
    "swin_b": {
        "args": {"backbone": "swin_B_384_22k"},
        "swin": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12},
        "bert": {},
        "resize": (800, 1333),
    },
    "nano": {
        "args": {
            "enc_layers": 2,
            "dec_layers": 2,
            "dim_feedforward": 192,
            "hidden_dim": 64,
            "nheads": 4,
            "num_queries": 24,
            "enc_n_points": 2,
            "max_text_len": 64,
        },
        "swin": {
            "embed_dim": 24,
            "depths": [1, 2, 2, 1],
            "num_heads": [4, 8, 8, 16],
            "window_size": 7,
            "mlp_ratio": 2.0,
        },
        "bert": {
            "vocab_size": 512,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 192,
            "max_position_embeddings": 64,
        },
        "resize": (256, 427),
    },
}


def official_config(variant: str) -> dict[str, Any]:
    """What builds the official model of a variant.

    `args` are the attributes of the official `SLConfig` (gradient checkpointing off), `swin` the arguments of the
    official `SwinTransformer` beside `pretrain_img_size`, `out_indices`, `dilation` and `use_checkpoint`, `bert` those
    of `BertConfig`, `resize` the short side and the longest long side.

    For `swin_t` and `swin_b`, `groundingdino.models.build_model(SLConfig-like(args))` builds the model, given a
    tokenizer and a BERT for "bert-base-uncased" (`groundingdino.util.get_tokenlizer`, two functions to replace).
    `nano` needs three more names replaced before `build_model`, for the official code holds sizes in it:

    - `groundingdino.models.GroundingDINO.backbone.backbone.build_swin_transformer`, which knows five names only, by
      `lambda name, pretrain_img_size, **rest: SwinTransformer(pretrain_img_size=pretrain_img_size, **swin, **rest)`;
    - `groundingdino.models.GroundingDINO.transformer.get_sine_pos_embed`, called with `num_pos_feats=256`, by the same
      function with `num_pos_feats=hidden_dim`;
    - `groundingdino.models.GroundingDINO.transformer.gen_sineembed_for_position`, whose width is 128, by
      `lambda positions: get_sine_pos_embed(positions, num_pos_feats=hidden_dim // 2)` (the official function of
      `utils.py`, which computes the same).

    Raises:
        InputError: there is no such variant.
    """
    if variant not in _SIZES:
        raise InputError(f"There is no Grounding DINO {variant!r}.", expected=", ".join(VARIANTS), got=variant)
    size = deepcopy(_SIZES[variant])
    return {
        "args": {**deepcopy(_ARGS), **size["args"]},
        "swin": size["swin"],
        "bert": {**_BERT_BASE, **size["bert"]},
        "resize": size["resize"],
    }


def transformers_config(variant: str) -> GroundingDinoConfig:
    """The same model in transformers' terms."""
    from transformers import BertConfig, GroundingDinoConfig, SwinConfig

    official = official_config(variant)
    args = official["args"]
    swin = {**official["swin"], "out_indices": [index + 1 for index in args["return_interm_indices"]]}
    return GroundingDinoConfig(
        backbone_config=SwinConfig(**swin),
        text_config=BertConfig(**official["bert"]),
        d_model=args["hidden_dim"],
        num_queries=args["num_queries"],
        encoder_layers=args["enc_layers"],
        decoder_layers=args["dec_layers"],
        encoder_ffn_dim=args["dim_feedforward"],
        decoder_ffn_dim=args["dim_feedforward"],
        encoder_attention_heads=args["nheads"],
        decoder_attention_heads=args["nheads"],
        encoder_n_points=args["enc_n_points"],
        decoder_n_points=args["dec_n_points"],
        num_feature_levels=args["num_feature_levels"],
        max_text_len=args["max_text_len"],
        positional_embedding_temperature=args["pe_temperatureH"],
    )


def swin_config(config: GroundingDinoConfig) -> SwinConfig:
    """The configuration of a model's backbone."""
    return cast("SwinConfig", config.backbone_config)


def bert_config(config: GroundingDinoConfig) -> BertConfig:
    """The configuration of a model's text encoder."""
    return cast("BertConfig", config.text_config)


def component_config(config: GroundingDinoConfig, resize: tuple[int, int]) -> dict[str, Any]:
    """What the runtime has to know of a model: plain JSON values for the bundle's manifest."""
    swin = swin_config(config)
    return {
        "d_model": config.d_model,
        "num_queries": config.num_queries,
        "max_text_len": min(config.max_text_len, bert_config(config).max_position_embeddings),
        "position_temperature": float(config.positional_embedding_temperature),
        "swin": {
            "embed_dim": swin.embed_dim,
            "depths": list(swin.depths),
            "num_heads": list(swin.num_heads),
            "window_size": swin.window_size,
            "patch_size": swin.patch_size,
        },
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "resize_short": resize[0],
        "resize_long": resize[1],
    }
