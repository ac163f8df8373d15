"""YAMNet as a torch module: log-mel patches to scores and features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from export.yamnet.keras_file import CLASSIFIER, Weights
from export.yamnet.variants import BATCH_NORM_EPSILON, Convolution, YamNetConfig

PATCH_FRAMES, MEL_BANDS = 96, 64
_MOMENTUM = 0.01  # Keras's 0.99


class Block(nn.Module):
    """A convolution without bias, batch normalisation without scale, a rectifier.

    Outside of training the normalisation is a factor on the kernel and a bias, so that a graph has one convolution,
    whose weights an engine folds when it loads the graph.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, layer: Convolution) -> None:
        super().__init__()
        self.layer = layer
        self.groups = layer.inputs if layer.depthwise else 1
        shape = (layer.outputs, layer.inputs // self.groups, layer.kernel, layer.kernel)
        self.kernel = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_normal_(self.kernel, nonlinearity="relu")
        self.beta = nn.Parameter(torch.zeros(layer.outputs))
        self.register_buffer("mean", torch.zeros(layer.outputs))
        self.register_buffer("variance", torch.ones(layer.outputs))

    def forward(self, x_nchw: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        padding = self.layer.kernel // 2
        if self.layer.stride == 2:
            # Keras pads "same" by what is missing, first half down: of even sizes, nothing before and one after.
            x_nchw, padding = functional.pad(x_nchw, (0, 1, 0, 1)), 0
        if self.training:
            x_nchw = self._convolve(x_nchw, self.kernel, None, padding)
            x_nchw = functional.batch_norm(
                x_nchw, self.mean, self.variance, None, self.beta, True, _MOMENTUM, BATCH_NORM_EPSILON
            )
        else:
            factor = torch.rsqrt(self.variance + BATCH_NORM_EPSILON)
            kernel = self.kernel * factor[:, None, None, None]
            x_nchw = self._convolve(x_nchw, kernel, self.beta - self.mean * factor, padding)
        return functional.relu(x_nchw)

    def _convolve(self, x_nchw: Tensor, kernel: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        return functional.conv2d(x_nchw, kernel, bias, self.layer.stride, padding, groups=self.groups)


class YamNetModule(nn.Module):
    """The whole network.

    Args:
        config: its sizes.
    """

    def __init__(self, config: YamNetConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(each) for each in config.convolutions)
        self.classifier = nn.Linear(config.features, config.classes)

    def forward(self, patches_ntm: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel patches [N, 96, 64] to scores [N, classes], 0 to 1, and features [N, features]."""
        logits, features = self.logits(patches_ntm)
        return torch.sigmoid(logits), features

    def logits(self, patches_ntm: Tensor) -> tuple[Tensor, Tensor]:
        """The same before the sigmoid, for a loss."""
        x_nchw = patches_ntm[:, None]
        for block in self.blocks:
            x_nchw = block(x_nchw)
        features = x_nchw.mean(dim=(2, 3))
        return self.classifier(features), features


def build_model(config: YamNetConfig, weights: Mapping[str, np.ndarray]) -> YamNetModule:
    """The module with weights named and laid out as Keras has them."""
    model = YamNetModule(config)
    with torch.no_grad():
        for name, (tensor, axes) in _slots(model).items():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(weights[name].transpose(axes))))
    return model.eval()


def weights_of(model: YamNetModule) -> Weights:
    """The module's weights, named and laid out as Keras has them: what `write_weights` takes."""
    return {
        name: np.ascontiguousarray(tensor.detach().cpu().float().numpy().transpose(np.argsort(axes)))
        for name, (tensor, axes) in _slots(model).items()
    }


def _slots(model: YamNetModule) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
    """By Keras's name, the module's tensor and the order of Keras's axes in it."""
    slots: dict[str, tuple[Tensor, tuple[int, ...]]] = {}
    for block in model.blocks:
        assert isinstance(block, Block)
        name = block.layer.name
        if block.layer.depthwise:
            slots[f"{name}/depthwise_kernel"] = (block.kernel, (2, 3, 0, 1))
        else:
            slots[f"{name}/kernel"] = (block.kernel, (3, 2, 0, 1))
        slots[f"{name}/bn/beta"] = (block.beta, (0,))
        slots[f"{name}/bn/moving_mean"] = (block.mean, (0,))
        slots[f"{name}/bn/moving_variance"] = (block.variance, (0,))
    slots[f"{CLASSIFIER}/kernel"] = (model.classifier.weight, (1, 0))
    slots[f"{CLASSIFIER}/bias"] = (model.classifier.bias, (0,))
    return slots
