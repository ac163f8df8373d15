"""Keras weights in HDF5 (`yamnet.h5`): read, written, and made up from a seed. Neither Keras nor torch is needed.

The layout is that of Keras 2's `save_weights`: the root's attribute `layer_names` lists the layers, each of which is a
group whose attribute `weight_names` lists its datasets, named `<layer>/<weight>:0` inside the group. That the official
file has it follows from the official code, which reads it by Keras's `load_weights`. Its layers are named as
yamnet.py names them, and its classifier, which yamnet.py leaves unnamed, is `logits`: the converter of
w-hc/torch_audioset (tf_2_torch/convert_yamnet.py) lists every dataset of the file and asserts that there is no other.
A file that yamnet.py itself saves has `dense` there; any name will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.errors import InputError
from export.yamnet.variants import YamNetConfig, config_of

CLASSIFIER = "logits"
_SMALL = 64  # numbers; packing fewer takes more room
_MEND = "give the official yamnet.h5 (https://storage.googleapis.com/audioset/yamnet.h5), or one that Keras 2 saved."

Weights = dict[str, np.ndarray]


def weight_shapes(config: YamNetConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every weight by `<layer>/<weight>`, in the order and layout of Keras: kernels [height, width, in, out],
    depthwise ones [height, width, channels, 1], the classifier's [features, classes]."""
    shapes: dict[str, tuple[int, ...]] = {}
    for each in config.convolutions:
        size = (each.kernel, each.kernel)
        if each.depthwise:
            shapes[f"{each.name}/depthwise_kernel"] = (*size, each.inputs, 1)
        else:
            shapes[f"{each.name}/kernel"] = (*size, each.inputs, each.outputs)
        for statistic in ("beta", "moving_mean", "moving_variance"):
            shapes[f"{each.name}/bn/{statistic}"] = (each.outputs,)
    shapes[f"{CLASSIFIER}/kernel"] = (config.features, config.classes)
    shapes[f"{CLASSIFIER}/bias"] = (config.classes,)
    return shapes


def read_weights(path: Path, config: YamNetConfig) -> Weights:
    """The weights of a file, float32, by `<layer>/<weight>`; the classifier is `logits`, whatever its name there.

    Raises:
        InputError: it is no such file, or a weight is missing, one too many, of another shape, or not finite.
    """
    import h5py

    expected = weight_shapes(config)
    try:
        with h5py.File(path, "r") as file:
            stored = _datasets(file)
            got = {name: dataset.shape for name, dataset in stored.items()}
            if got != expected:
                raise _unlike(path, expected, got)
            weights = {name: np.asarray(stored[name][()], np.float32) for name in expected}
    except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a file of Keras weights.", got=str(error), mend=_MEND) from error
    for name, value in weights.items():
        if not np.isfinite(value).all() or (name.endswith("variance") and (value < 0).any()):
            raise InputError(f"The weight {name} of {path} holds what no trained network has.", mend=_MEND)
    return weights


def write_weights(path: Path, weights: Mapping[str, np.ndarray]) -> Path:
    """Write weights, named as `weight_shapes` names them, in the layout of the official file, packed."""
    import h5py

    layers: dict[str, list[str]] = {}
    for name in weights:
        layers.setdefault(name.rpartition("/")[0], []).append(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["layer_names"] = np.array([layer.encode() for layer in layers])
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.3.0"
        for layer, names in layers.items():
            group = file.require_group(layer)
            group.attrs["weight_names"] = np.array([f"{name}:0".encode() for name in names])
            for name in names:
                value = np.asarray(weights[name], np.float32)
                packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True} if value.size > _SMALL else {}
                group.create_dataset(f"{name}:0", data=value, **packed)
    return path


def seeded_weights(config: YamNetConfig, seed: int) -> Weights:
    """Random weights, the same wherever they are made, with which different sounds have different features."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in weight_shapes(config).items():
        value = rng.standard_normal(shape)
        if name.endswith("variance"):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            value *= 0.2
        elif name.endswith("depthwise_kernel") or shape[-2] == 1:
            value *= (2 / (shape[0] * shape[1])) ** 0.5
        else:
            # Rectified channels have a positive mean; weights over them that sum to zero do not see it.
            value -= value.mean(axis=-2, keepdims=True)
            value *= ((16 if len(shape) == 2 else 3) / shape[-2]) ** 0.5
        weights[name] = value.astype(np.float32)
    return weights


def save_seeded_checkpoint(variant: str, seed: int, path: Path) -> Path:
    """Write seeded weights as a file that is read like the official one."""
    return write_weights(path, seeded_weights(config_of(variant), seed))


def _datasets(file: Any) -> dict[str, Any]:
    """Every dataset that the layers list, by `<layer>/<weight>`."""
    root = file.get("model_weights", file)
    known = {"conv", "depthwise_conv", "pointwise_conv", "bn"}
    found = {}
    for layer in map(_text, root.attrs["layer_names"]):
        name = layer if layer.rpartition("/")[2] in known else CLASSIFIER
        for each in map(_text, root[layer].attrs["weight_names"]):
            weight = each.rpartition("/")[2].removesuffix(":0")
            if f"{name}/{weight}" in found:
                raise ValueError(f"{name}/{weight} is there twice")
            found[f"{name}/{weight}"] = root[layer][each]
    return found


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _unlike(path: Path, expected: Mapping[str, Any], got: Mapping[str, Any]) -> InputError:
    names = [name for name in (*expected, *got) if expected.get(name) != got.get(name)]
    shown = list(dict.fromkeys(names))[:4]
    return InputError(
        f"{path} does not hold this variant's weights: {len(set(names))} differ.",
        expected={name: expected.get(name, "nothing") for name in shown},
        got={name: got.get(name, "nothing") for name in shown},
        mend=_MEND,
    )
