"""The sizes of BEATs, as the `cfg` of an official checkpoint gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from alref_edge.errors import InputError

MEL_BINS = 128
FBANK_MEAN, FBANK_STD = 15.41663, 6.55582


@dataclass(frozen=True)
class BeatsConfig:
    """What decides the network's shape; the defaults are those of the official `BEATsConfig`.

    Attributes:
        input_patch_size: side of a patch, in frames and in mel bins.
        embed_dim: width of a patch's embedding.
        conv_bias: whether that embedding has a bias.
        encoder_layers, encoder_embed_dim, encoder_ffn_embed_dim, encoder_attention_heads: of the transformer.
        activation_fn: "gelu" or "relu".
        layer_norm_first: normalise before attention and feed-forward, not after.
        deep_norm: scale residuals by (2 · layers)^(1/4).
        conv_pos, conv_pos_groups: kernel size and groups of the convolution that tells positions.
        relative_position_embedding: add a bias to attention by the distance of two tokens, in
        num_buckets: buckets of distances, both directions together, up to
        max_distance: the distance from which on there is but one.
        gru_rel_pos: gate that bias by the query.
        predictor_class: number of labels.
    """

    input_patch_size: int = -1
    embed_dim: int = 512
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    activation_fn: str = "gelu"
    layer_norm_first: bool = False
    deep_norm: bool = False
    conv_pos: int = 128
    conv_pos_groups: int = 16
    relative_position_embedding: bool = False
    num_buckets: int = 320
    max_distance: int = 1280
    gru_rel_pos: bool = False
    predictor_class: int = 527

    def __post_init__(self) -> None:
        sizes = {each.name: getattr(self, each.name) for each in fields(self) if each.type == "int"}
        wrong = {name: size for name, size in sizes.items() if not isinstance(size, int) or size < 1}
        exact = self.num_buckets // 4
        checks = {
            "sizes of 1 or more": not wrong,
            f"a patch that divides {MEL_BINS} bins": wrong or MEL_BINS % self.input_patch_size == 0,
            "a width that the heads divide": wrong or self.encoder_embed_dim % self.encoder_attention_heads == 0,
            "a width that conv_pos_groups divides": wrong or self.encoder_embed_dim % self.conv_pos_groups == 0,
            "activation_fn gelu or relu": self.activation_fn in ("gelu", "relu"),
            "deep_norm or layer_norm_first, not both": not (self.deep_norm and self.layer_norm_first),
            "4 buckets or more, and distances beyond a quarter of them": 0 < exact < self.max_distance,
        }
        failed = [what for what, right in checks.items() if not right]
        if failed:
            raise InputError(
                "There can be no BEATs of such a configuration.",
                expected="; ".join(failed),
                got=wrong or asdict(self),
                mend="give a checkpoint of the official BEATs.",
            )

    @classmethod
    def from_official(cls, cfg: Mapping[str, Any]) -> BeatsConfig:
        """Read the `cfg` of a fine-tuned checkpoint; what concerns training alone is passed over.

        Raises:
            InputError: the checkpoint is not fine-tuned, or of a shape that there cannot be.
        """
        if not cfg.get("finetuned_model", False):
            raise InputError(
                "The checkpoint is pre-trained only: it knows no labels.",
                expected="finetuned_model true in its cfg",
                mend="give a fine-tuned one, such as BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt.",
            )
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in cfg.items() if name in known})

    def to_official(self) -> dict[str, Any]:
        """The `cfg` of a fine-tuned checkpoint of this size."""
        return {**asdict(self), "finetuned_model": True}

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.encoder_embed_dim // self.encoder_attention_heads


# That of all fine-tuned iter3+ checkpoints.
BASE = BeatsConfig(
    input_patch_size=16,
    deep_norm=True,
    relative_position_embedding=True,
    max_distance=800,
    gru_rel_pos=True,
)
NANO = BeatsConfig(
    input_patch_size=16,
    embed_dim=48,
    encoder_layers=4,
    encoder_embed_dim=64,
    encoder_ffn_embed_dim=192,
    encoder_attention_heads=4,
    deep_norm=True,
    conv_pos=32,
    relative_position_embedding=True,
    num_buckets=64,
    max_distance=200,
    gru_rel_pos=True,
    predictor_class=12,
)
# Variant to the component's name in a bundle, and to the configuration of its seeded weights.
VARIANTS: Mapping[str, tuple[str, BeatsConfig]] = {
    "as20k": ("beats_as20k", BASE),
    "as2m": ("beats_as2m", BASE),
    "as20k_nano": ("beats_as20k", NANO),
    "as2m_nano": ("beats_as2m", NANO),
}


def variant_of(name: str) -> tuple[str, BeatsConfig]:
    """The component's name and the configuration of a variant.

    Raises:
        InputError: there is no such variant.
    """
    if name not in VARIANTS:
        raise InputError(f"There is no BEATs {name!r}.", expected=", ".join(VARIANTS), got=name)
    return VARIANTS[name]
