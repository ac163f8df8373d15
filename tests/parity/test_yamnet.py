"""YAMNet beside Keras itself: the layers of the official yamnet.py, with weights that Keras reads from the same file.

Keras 3 runs them on torch and still reads what Keras 2 saved. It is wanted on the path (`pip install --target FOLDER
keras`, then PYTHONPATH=FOLDER). It forbids slashes in layers' names, so they are called otherwise here; weights are
taken in the order of the layers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.parity

os.environ.setdefault("KERAS_BACKEND", "torch")
h5py = pytest.importorskip("h5py")
pytest.importorskip("torch")
keras = pytest.importorskip("keras", minversion="3.0", reason="Keras is not on the path")

import onnxruntime  # noqa: E402

from export.yamnet import VARIANTS, export_yamnet, read_weights, save_seeded_checkpoint  # noqa: E402
from export.yamnet.exporter import example_run  # noqa: E402
from export.yamnet.model import build_model  # noqa: E402
from tests.models.yamnet import keras_graph  # noqa: E402

SAME = {"padding": "same", "use_bias": False}


def official(variant: str) -> Any:
    """yamnet.py's `yamnet(features, params)`, at the width of a variant."""
    layers = keras.layers
    config = VARIANTS[variant]
    patches = layers.Input((96, 64))
    net = layers.Reshape((96, 64, 1))(patches)
    for layer in config.convolutions:
        if layer.depthwise:
            net = layers.DepthwiseConv2D((3, 3), strides=layer.stride, depth_multiplier=1, **SAME)(net)
        else:
            net = layers.Conv2D(layer.outputs, layer.kernel, strides=layer.stride, **SAME)(net)
        net = layers.ReLU()(layers.BatchNormalization(center=True, scale=False, epsilon=1e-4)(net))
    features = layers.GlobalAveragePooling2D()(net)
    logits = layers.Dense(config.classes)(features)
    return keras.Model(patches, [layers.Activation("sigmoid")(logits), features])


@pytest.mark.parametrize("variant", ["nano", "yamnet"])
def test_keras_reads_the_file_and_answers_the_same(variant: str, tmp_path: Path) -> None:
    from keras.src.legacy.saving import legacy_h5_format

    path = save_seeded_checkpoint(variant, 2, tmp_path / "yamnet.h5")
    model = official(variant)
    with h5py.File(path) as file:
        legacy_h5_format.load_weights_from_hdf5_group(file, model)
    run = example_run(build_model(VARIANTS[variant], read_weights(path, VARIANTS[variant])))
    scores, features = (np.asarray(each) for each in model.predict(run.patches_ntm, verbose=0))
    graph = export_yamnet(variant, tmp_path / "out", checkpoint=path).float32.graphs["yamnet"]
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    got = session.run(["scores", "features"], {"patches": run.patches_ntm})
    plain = keras_graph.yamnet(path, run.patches_ntm)
    for name, wanted, ours, numpy in zip(("scores", "features"), (scores, features), got, plain, strict=True):
        scale = max(1.0, float(np.abs(wanted).max()))
        print(variant, name, np.abs(ours - wanted).max() / scale, np.abs(numpy - wanted).max() / scale)
        assert np.abs(ours - wanted).max() < 1e-4 * scale
        assert np.abs(numpy - wanted).max() < 1e-4 * scale
    assert scores.std(axis=0).mean() > 0.02
