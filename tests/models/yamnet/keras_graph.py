"""YAMNet in plain numpy, float64, as the documentation of Keras and TensorFlow defines its layers.

Weights are read from the `.h5` by the paths of the official file's datasets. Nothing of the project is imported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

STRIDES = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # yamnet.py, _YAMNET_LAYER_DEFS
EPSILON = 1e-4  # params.py


def yamnet(path: Path, patches_ntm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N, classes] and features [N, D] of log-mel patches [N, 96, 64]."""
    import h5py

    with h5py.File(path, "r") as file:

        def weight(layer: str, name: str) -> np.ndarray:
            return np.asarray(file[f"{layer}/{layer}/{name}:0"], np.float64)

        def normalise(x: np.ndarray, layer: str) -> np.ndarray:
            mean, variance = weight(f"{layer}/bn", "moving_mean"), weight(f"{layer}/bn", "moving_variance")
            return np.maximum((x - mean) / np.sqrt(variance + EPSILON) + weight(f"{layer}/bn", "beta"), 0)

        x_nhwc = patches_ntm.astype(np.float64)[..., None]
        for number, stride in enumerate(STRIDES, start=1):
            if number == 1:
                x_nhwc = normalise(convolve(x_nhwc, weight("layer1/conv", "kernel"), stride), "layer1/conv")
                continue
            deep, point = f"layer{number}/depthwise_conv", f"layer{number}/pointwise_conv"
            x_nhwc = normalise(convolve_depthwise(x_nhwc, weight(deep, "depthwise_kernel"), stride), deep)
            x_nhwc = normalise(convolve(x_nhwc, weight(point, "kernel"), 1), point)
        features = x_nhwc.mean(axis=(1, 2))
        logits = features @ weight("logits", "kernel") + weight("logits", "bias")
    return 0.5 * (1 + np.tanh(0.5 * logits)), features


def convolve(x_nhwc: np.ndarray, kernel_hwio: np.ndarray, stride: int) -> np.ndarray:
    """`Conv2D(padding="same")`."""
    return sum(
        np.einsum("nhwi,io->nhwo", part, kernel_hwio[row, column])
        for row, column, part in shifted(x_nhwc, kernel_hwio.shape[:2], stride)
    )


def convolve_depthwise(x_nhwc: np.ndarray, kernel_hwc1: np.ndarray, stride: int) -> np.ndarray:
    """`DepthwiseConv2D(padding="same", depth_multiplier=1)`."""
    return sum(
        part * kernel_hwc1[row, column, :, 0] for row, column, part in shifted(x_nhwc, kernel_hwc1.shape[:2], stride)
    )


def shifted(x_nhwc: np.ndarray, kernel: tuple[int, int], stride: int) -> list[tuple[int, int, np.ndarray]]:
    """What each element of a kernel sees.

    TensorFlow's "same": ceil(size / stride) outputs; what must be padded for them is halved, the smaller half before.
    """
    sizes = [-(-size // stride) for size in x_nhwc.shape[1:3]]
    missing = [
        max((out - 1) * stride + span - size, 0)
        for out, span, size in zip(sizes, kernel, x_nhwc.shape[1:3], strict=True)
    ]
    x_nhwc = np.pad(x_nhwc, ((0, 0), *((pad // 2, pad - pad // 2) for pad in missing), (0, 0)))
    return [
        (
            row,
            column,
            x_nhwc[:, row : row + (sizes[0] - 1) * stride + 1 : stride, column:][
                :, :, : (sizes[1] - 1) * stride + 1 : stride
            ],
        )
        for row in range(kernel[0])
        for column in range(kernel[1])
    ]


def log_mel_patches(wave: np.ndarray) -> np.ndarray:
    """features.py: `pad_waveform`, `stft`, `linear_to_mel_weight_matrix`, `log`, `frame`; [N, 96, 64]."""
    least, hop = round(0.975 * 16000), round(0.48 * 16000)
    hops = int(np.ceil(max(len(wave) - least, 0) / hop))
    wave = np.pad(wave.astype(np.float64), (0, least + hops * hop - len(wave)))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    spectra = np.array(
        [np.abs(np.fft.rfft(wave[at : at + 400] * window, 512)) for at in range(0, len(wave) - 399, 160)]
    )

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    edges = np.linspace(mel(125.0), mel(7500.0), 66)
    bins = mel(np.linspace(0, 8000, 257))
    filters = np.zeros((257, 64))
    for band in range(64):
        lower, centre, upper = edges[band : band + 3]
        filters[1:, band] = np.maximum(
            0, np.minimum((bins[1:] - lower) / (centre - lower), (upper - bins[1:]) / (upper - centre))
        )
    log_mel = np.log(spectra @ filters + 0.001)
    return np.array([log_mel[at : at + 96] for at in range(0, len(log_mel) - 95, 48)])
