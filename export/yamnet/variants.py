"""YAMNet's layers, as research/audioset/yamnet/yamnet.py and params.py of tensorflow/models define them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from alref_edge.errors import InputError

BATCH_NORM_EPSILON = 1e-4  # params.batchnorm_epsilon; Keras itself would take 1e-3
# (stride, filters): the first layer is a plain 3x3 convolution, the others 3x3 depthwise and 1x1 pointwise.
_LAYERS = (
    *((2, 32), (1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512)),
    *((1, 512), (1, 512), (1, 512), (1, 512), (1, 512), (2, 1024), (1, 1024)),
)


@dataclass(frozen=True)
class Convolution:
    """One convolution, its batch normalisation (centre, no scale) and a rectifier.

    Attributes:
        name: of the Keras layer; its batch normalisation is `<name>/bn`.
        stride: 1 or 2, both ways, padded as Keras pads "same".
        inputs, outputs: channels.
        kernel: size, both ways.
        depthwise: each channel by itself.
    """

    name: str
    stride: int
    inputs: int
    outputs: int
    kernel: int
    depthwise: bool = False


@dataclass(frozen=True)
class YamNetConfig:
    """Sizes of a YAMNet.

    Attributes:
        width: factor on every layer's filters; at least 8 are kept.
        classes: number of scores.
    """

    width: float
    classes: int

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """All of them, in order."""
        return tuple(self._convolutions())

    @property
    def features(self) -> int:
        """Size of the features, which are the mean of the last layer over the patch."""
        return self._filters(_LAYERS[-1][1])

    def _filters(self, official: int) -> int:
        return max(8, round(official * self.width))

    def _convolutions(self) -> Iterator[Convolution]:
        channels = 1
        for number, (stride, official) in enumerate(_LAYERS, start=1):
            filters = self._filters(official)
            if number == 1:
                yield Convolution("layer1/conv", stride, channels, filters, 3)
            else:
                yield Convolution(f"layer{number}/depthwise_conv", stride, channels, channels, 3, depthwise=True)
                yield Convolution(f"layer{number}/pointwise_conv", 1, channels, filters, 1)
            channels = filters


VARIANTS: Mapping[str, YamNetConfig] = MappingProxyType(
    {
        "yamnet": YamNetConfig(width=1.0, classes=521),
        # The six timbres of the synthetic sounds, and silence.
        "nano": YamNetConfig(width=0.25, classes=7),
    }
)


def config_of(variant: str) -> YamNetConfig:
    """The sizes of a variant.

    Raises:
        InputError: there is no such variant.
    """
    if variant not in VARIANTS:
        raise InputError("There is no such variant of YAMNet.", expected=", ".join(VARIANTS), got=variant)
    return VARIANTS[variant]
