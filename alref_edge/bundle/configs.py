"""What each kind of network must have in a bundle: its configuration, its graphs, its files, each within bounds.

The bounds are wide of every size that the official networks have, and narrow enough that no table, buffer or resize
made of a configuration takes the machine's memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from alref_edge.errors import BundleError

AnyConfig = TypeVar("AnyConfig", bound="Config")

_MIB = 1 << 20

Width = Annotated[int, Meta(ge=1, le=4096)]
Frames = Annotated[int, Meta(ge=1, le=10_000)]
Bins = Annotated[int, Meta(ge=1, le=512)]
Count = Annotated[int, Meta(ge=0, le=1000)]
Share = Annotated[float, Meta(ge=0, le=1)]
Mean = Annotated[float, Meta(ge=-1e4, le=1e4)]
Deviation = Annotated[float, Meta(ge=1e-6, le=1e4)]
Means = tuple[Mean, Mean, Mean]
Deviations = tuple[Deviation, Deviation, Deviation]
Side = Annotated[int, Meta(ge=16, le=2048)]
Blocks = Annotated[int, Meta(ge=1, le=64)]
Tokens = Annotated[int, Meta(ge=4, le=4096)]
GraphName = Annotated[str, Meta(min_length=1, max_length=64)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the runtime has to know of a network.

    Attributes:
        kind: as the manifest names it.
        title: for people.
        graphs: that the network needs in every precision.
        files: that it needs, each with the most bytes that it may have.
        optional_files: that it can do without.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    graphs: ClassVar[tuple[str, ...]]
    files: ClassVar[Mapping[str, int]] = MappingProxyType({})
    optional_files: ClassVar[Mapping[str, int]] = MappingProxyType({})

    @property
    def needed_graphs(self) -> tuple[str, ...]:
        """Every graph that a component of this configuration needs."""
        return self.graphs

    @classmethod
    def from_mapping(cls: type[AnyConfig], values: Mapping[str, Any]) -> AnyConfig:
        """Read a component's `config`.

        Raises:
            BundleError: a key is missing, unknown, or holds what makes no sense.
        """
        fields = msgspec.structs.fields(cls)
        missing = [field.name for field in fields if field.required and field.name not in values]
        mend = f"export the component again with `python -m export {cls.kind}`."
        if missing:
            raise BundleError(
                f"The {cls.title} configuration is incomplete.",
                expected=", ".join(missing),
                got=", ".join(sorted(map(str, values))) or "nothing",
                mend=mend,
            )
        try:
            return msgspec.convert(dict(values), cls)
        except (msgspec.ValidationError, RecursionError) as error:
            raise BundleError(
                f"The {cls.title} configuration is incomplete or makes no sense.", got=str(error), mend=mend
            ) from error


class Sam2Config(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes and policy of a SAM 2 component.

    Attributes:
        image_size: side of the model's square input, S.
        hidden_dim: width of image features and object pointers.
        mem_dim: width of spatial memory.
        num_maskmem: spatial memories a frame sees: one kind for prompted frames and `num_maskmem - 1` recent frames.
        max_obj_ptrs_in_encoder: how far back object pointers reach, in frames, the present one counted.
        pointer_tpos: whether pointers carry their distance in time (SAM 2.1).
        pointer_tpos_signed: whether a prompted frame's distance has a sign.
        only_past_pointers: whether prompted frames ahead of the sweep lend no pointer.
        multimask_min_points: with so many points up to `multimask_max_points`, the best of three masks is taken.
        multimask_max_points: see above; the corners of a box count as two points.
        stability_delta: shift of the threshold at which a single mask's stability is measured.
        stability_threshold: a single mask less stable than this gives way to the best of three.
        pixel_mean: of the normalisation, by channel, for pixels from 0 to 1.
        pixel_std: of the normalisation, by channel.
        family: "sam2" or "sam2.1", for people.
    """

    kind: ClassVar[str] = "sam2"
    title: ClassVar[str] = "SAM 2"
    graphs: ClassVar[tuple[str, ...]] = ("image_encoder", "prompt", "mask_prompt", "memory_encoder", "track")

    image_size: Annotated[int, Meta(ge=16, le=4096, multiple_of=16)]
    hidden_dim: Annotated[int, Meta(ge=8, le=4096, multiple_of=8)]
    mem_dim: Width
    num_maskmem: Annotated[int, Meta(ge=1, le=64)]
    max_obj_ptrs_in_encoder: Annotated[int, Meta(ge=1, le=1000)]
    pointer_tpos: bool
    pointer_tpos_signed: bool
    only_past_pointers: bool
    multimask_min_points: Count
    multimask_max_points: Count
    stability_delta: Annotated[float, Meta(ge=0, le=1e4)]
    stability_threshold: Share
    pixel_mean: Means
    pixel_std: Deviations
    family: Annotated[str, Meta(max_length=64)] = ""

    @property
    def grid(self) -> int:
        """Side of the top-level feature map and of a memory."""
        return self.image_size // 16

    @property
    def mask_size(self) -> int:
        """Side of low-resolution masks."""
        return self.image_size // 4

    @property
    def recent_frames(self) -> int:
        """How many frames back spatial memory reaches."""
        return self.num_maskmem - 1

    @property
    def recent_pointers(self) -> int:
        """How many frames back object pointers reach."""
        return self.max_obj_ptrs_in_encoder - 1


class SwinConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of a Swin backbone: of its patches and windows, in tokens, and of its four stages."""

    depths: tuple[Blocks, Blocks, Blocks, Blocks]
    num_heads: tuple[Width, Width, Width, Width]
    embed_dim: Width
    window_size: Blocks
    patch_size: Blocks


class GroundingDinoConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of a Grounding DINO component.

    Attributes:
        d_model: width of the transformer.
        num_queries: boxes that the decoder answers with.
        max_text_len: most tokens of a caption.
        position_temperature: of the sine positions.
        swin: of the backbone.
        image_mean, image_std: of the normalisation, by channel, for pixels from 0 to 1.
        resize_short, resize_long: the shorter side that an image is brought to, and what the longer may have.
    """

    kind: ClassVar[str] = "grounding_dino"
    title: ClassVar[str] = "Grounding DINO"
    graphs: ClassVar[tuple[str, ...]] = ("backbone", "text_encoder", "decoder")
    files: ClassVar[Mapping[str, int]] = MappingProxyType({"vocab": 4 * _MIB})

    d_model: Annotated[int, Meta(ge=4, le=4096, multiple_of=4)]
    num_queries: Annotated[int, Meta(ge=1, le=10_000)]
    max_text_len: Tokens
    position_temperature: Annotated[float, Meta(ge=1e-3, le=1e6)]
    swin: SwinConfig
    image_mean: Means
    image_std: Deviations
    resize_short: Side
    resize_long: Side

    def __post_init__(self) -> None:
        if self.resize_short > self.resize_long:
            raise ValueError(f"resize_short is {self.resize_short}, above resize_long, {self.resize_long}")


class BeatsConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of a BEATs component.

    Attributes:
        labels: how many there are.
        silence: the place of Silence among them; None: it is none of them.
        mel_bins: of a filter bank.
        patch_frames: frames of one patch, the least that is heard.
        fbank_mean, fbank_std: of the normalisation.
    """

    kind: ClassVar[str] = "beats"
    title: ClassVar[str] = "BEATs"
    graphs: ClassVar[tuple[str, ...]] = ("tagger",)
    files: ClassVar[Mapping[str, int]] = MappingProxyType({"labels": _MIB})

    labels: Annotated[int, Meta(ge=1, le=10_000)]
    silence: Annotated[int, Meta(ge=0, lt=10_000)] | None
    mel_bins: Bins
    patch_frames: Annotated[int, Meta(ge=1, le=512)]
    fbank_mean: Mean
    fbank_std: Deviation


class LanguageBindConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of a LanguageBind component.

    Attributes:
        sample_rate: samples a second of the sounds.
        mel_bins, frames: height and width of the picture of a sound.
        audio_mean, audio_std: of the normalisation.
        context_length: most tokens of a text.
        text_towers: text tower to the graph of it; "audio" is there.
    """

    kind: ClassVar[str] = "languagebind"
    title: ClassVar[str] = "LanguageBind"
    graphs: ClassVar[tuple[str, ...]] = ("audio",)
    files: ClassVar[Mapping[str, int]] = MappingProxyType({"vocab": 4 * _MIB, "merges": 4 * _MIB})

    sample_rate: Annotated[int, Meta(ge=8_000, le=48_000)]
    mel_bins: Bins
    frames: Frames
    audio_mean: Mean
    audio_std: Deviation
    context_length: Tokens
    text_towers: Mapping[Literal["audio", "image"], GraphName]

    def __post_init__(self) -> None:
        if "audio" not in self.text_towers:
            raise ValueError("text_towers names no text tower for 'audio'")

    @property
    def needed_graphs(self) -> tuple[str, ...]:
        """Those of the sounds and of every text tower."""
        return (*self.graphs, *dict.fromkeys(self.text_towers.values()))


class YamNetConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of the patches that a YAMNet component takes."""

    kind: ClassVar[str] = "yamnet"
    title: ClassVar[str] = "YAMNet"
    graphs: ClassVar[tuple[str, ...]] = ("yamnet",)
    optional_files: ClassVar[Mapping[str, int]] = MappingProxyType({"class_map": _MIB})

    patch_frames: Frames
    mel_bands: Bins


KINDS: Mapping[str, type[Config]] = MappingProxyType(
    {each.kind: each for each in (Sam2Config, GroundingDinoConfig, BeatsConfig, LanguageBindConfig, YamNetConfig)}
)
"""The kinds of network that this release runs. A component of another kind may lie in a bundle; nothing reads it."""
