"""The detector on the shipped nano bundle; `tests/vectors` holds its boxes against the official code's."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alref_edge.bundle import Bundle, Component
from alref_edge.errors import BundleError, EngineError, InputError
from alref_edge.models.grounding_dino import GroundingDino
from alref_edge.models.grounding_dino.detector import boxes_to_pixels
from alref_edge.runtime import SessionOptions
from benchmarks.vectors import CAPTIONS

VECTORS = Path(__file__).parent.parent.parent / "vectors"


@pytest.fixture(scope="module")
def component(nano_bundle: Path) -> Component:
    return Bundle.open(nano_bundle).component("grounding_dino")


@pytest.fixture(scope="module")
def detector(component: Component) -> Iterator[GroundingDino]:
    with GroundingDino.from_component(component, "cpu") as detector:
        yield detector


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    with Image.open(VECTORS / "frames" / "00004.jpg") as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("number", range(len(CAPTIONS)))
def test_tokens_and_queries_are_the_official_ones(detector: GroundingDino, image: np.ndarray, number: int) -> None:
    official = np.load(VECTORS / f"grounding_dino_{number}.npz")
    caption, resize = CAPTIONS[number]
    features, text = detector.encode_image(image, resize=resize), detector.encode_text(caption)
    assert features.network_hw == tuple(official["network_hw"])
    for name in ("input_ids", "position_ids", "attention_mask"):
        np.testing.assert_array_equal(getattr(text.tokens, name), official[name])
    logits, boxes = detector.predict_raw(features, text)
    assert np.isneginf(official["logits_qt"][:, logits.shape[1] :]).all()
    ours = np.concatenate([logits, boxes], axis=1)
    expected = np.concatenate([official["logits_qt"][:, : logits.shape[1]], official["boxes_cxcywh_norm"]], axis=1)
    distance = np.abs(ours[:, None] - expected[None]).max(axis=2)
    # Every query has its like, and mostly in its place: proposals that are equal to the last bits may change places.
    assert distance.min(axis=1).max() < 1e-3
    assert distance.min(axis=0).max() < 1e-3
    assert (distance.diagonal() < 1e-3).mean() > 0.8


def test_an_image_is_encoded_once_for_many_captions(component: Component, image: np.ndarray) -> None:
    with GroundingDino.from_component(component, "cpu") as detector:
        calls = dict.fromkeys(("_backbone", "_text_encoder", "_decoder"), 0)
        for name in calls:
            _count(detector, name, calls)
        features = detector.encode_image(image)
        first, second = (detector.encode_text(caption) for caption in ("the dog", "a cat. a ball"))
        one, two, again = (detector.detect(features, text, box_threshold=0.01) for text in (first, second, first))
        assert calls == {"_backbone": 1, "_text_encoder": 2, "_decoder": 3}
        np.testing.assert_array_equal(one.boxes_n4, again.boxes_n4)
        assert one.scores_n.shape != two.scores_n.shape or not np.array_equal(one.scores_n, two.scores_n)


def test_every_caption_given_is_encoded_and_nothing_keeps_the_sessions(component: Component) -> None:
    detector = GroundingDino.from_component(component, "cpu")
    calls = {"_text_encoder": 0}
    _count(detector, "_text_encoder", calls)
    first, again = detector.encode_text("the dog"), detector.encode_text("the dog")
    assert calls == {"_text_encoder": 2}
    np.testing.assert_array_equal(first.features, again.features)
    watched = weakref.ref(detector)
    gc.disable()
    try:
        del detector
        assert watched() is None
    finally:
        gc.enable()


def _count(detector: GroundingDino, name: str, calls: dict[str, int]) -> None:
    session = getattr(detector, name)
    run = session.run

    def counted(*args: Any, **keywords: Any) -> Any:
        calls[name] += 1
        return run(*args, **keywords)

    session.run = counted


def test_boxes_come_in_the_order_of_the_queries(detector: GroundingDino, image: np.ndarray) -> None:
    features, text = detector.encode_image(image), detector.encode_text("a dog. the red ball")
    every = detector.detect(features, text, box_threshold=0.0)
    logits, _ = detector.predict_raw(features, text)
    assert len(every) == len(logits)
    np.testing.assert_allclose(every.scores_n, 1 / (1 + np.exp(-logits.max(axis=1))), rtol=1e-5)
    assert (np.diff(every.scores_n) > 0).any()
    assert (np.diff(every.scores_n) < 0).any()
    best = every.top(3)
    np.testing.assert_array_equal(best.scores_n, np.sort(every.scores_n)[::-1][:3])
    assert best.boxes_n4.dtype == best.scores_n.dtype == np.float32


@pytest.mark.parametrize(("height", "width"), [(240, 320), (97, 401), (333, 517)])
@pytest.mark.parametrize("caption", ["the red circle", "a black cat. the wooden chair. two birds"])
def test_no_bit_depends_on_the_number_of_threads(
    component: Component, image: np.ndarray, height: int, width: int, caption: str
) -> None:
    """Proposals that are nearly equal would change places, and with them their queries."""
    resized = np.asarray(Image.fromarray(image).resize((width, height)))
    answers = []
    for threads in (1, 2, 3, 8):
        with GroundingDino.from_component(component, "cpu", options=SessionOptions(threads=threads)) as detector:
            features = detector.encode_image(resized, resize=False)
            answers.append((features.features.numpy(), *detector.predict_raw(features, detector.encode_text(caption))))
    for other in answers[1:]:
        for ours, theirs in zip(answers[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("scores", [[0, 0, 0, 0, 0], [1, 2, 1, 2, 2], [3, 1, 2, 3, 1, 3]], ids=str)
def test_equal_proposals_are_taken_by_index(component: Component, scores: list[float]) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is in the export environment")
    import onnxruntime

    decoder = onnx.load(component.graph("decoder"), load_external_data=False)
    (node,) = (each for each in decoder.graph.node if each.op_type == "TopK")
    infos = {name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in node.input[:1]}
    count = onnx.helper.make_tensor(node.input[1], onnx.TensorProto.INT64, [1], [len(scores) - 1])
    chosen = onnx.helper.make_tensor_value_info(node.output[1], onnx.TensorProto.INT64, None)
    graph = onnx.helper.make_graph([node], "alone", list(infos.values()), [chosen], [count])
    model = onnx.helper.make_model(graph, opset_imports=decoder.opset_import, ir_version=decoder.ir_version)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (rows,) = session.run(None, {node.input[0]: np.array(scores, np.float32)})
    np.testing.assert_array_equal(rows, np.argsort(-np.array(scores), kind="stable")[: len(scores) - 1])


def test_thresholds_are_exclusive(detector: GroundingDino, image: np.ndarray) -> None:
    features, text = detector.encode_image(image), detector.encode_text("a dog")
    best = detector.detect(features, text, box_threshold=0.0).top(1)
    assert len(detector.detect(features, text, box_threshold=float(best.scores_n[0]))) == 0
    assert len(detector.detect(features, text, box_threshold=float(np.nextafter(best.scores_n[0], 0.0)))) == 1
    assert detector.detect(features, text, box_threshold=0.0, text_threshold=1.0).phrases[0] == ""


def test_boxes_are_those_of_torchvision() -> None:
    pytest.importorskip("torch", reason="torch is in the export environment")
    from export.torchvision_ops import declare_operators

    declare_operators()
    import torch
    from torchvision.ops import box_convert

    boxes = np.random.default_rng(0).random((50, 4), np.float32)
    official = box_convert(torch.from_numpy(boxes) * torch.Tensor([961, 541, 961, 541]), "cxcywh", "xyxy")
    np.testing.assert_array_equal(boxes_to_pixels(boxes, 541, 961), official.numpy())


def test_the_size_of_the_network_input(detector: GroundingDino, component: Component, image: np.ndarray) -> None:
    short, long = component.config["resize_short"], component.config["resize_long"]
    features = detector.encode_image(image)
    height, width = features.network_hw
    assert (min(height, width), max(height, width) <= long) == (short, True)
    assert features.image_hw == image.shape[:2]
    assert features.nbytes == features.features.nbytes > 0
    assert detector.encode_image(image[:101, :77], resize=False).network_hw == (101, 77)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((3, 10, 10), np.uint8),
        np.zeros((9, 9, 3)),
    ],
    ids=("grey", "rgba", "chw", "float"),
)
def test_images_of_another_kind(detector: GroundingDino, bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="RGB"):
        detector.encode_image(bad)


def test_images_that_are_too_small(detector: GroundingDino) -> None:
    with pytest.raises(EngineError, match="small"):
        detector.encode_image(np.zeros((8, 8, 3), np.uint8), resize=False)
    with pytest.raises(InputError):
        detector.encode_image(np.zeros((1, 5000, 3), np.uint8))


@pytest.mark.parametrize("thresholds", [(-0.1, 0.2), (0.25, 1.5), (float("nan"), 0.2)])
def test_thresholds_that_are_no_scores(
    detector: GroundingDino, image: np.ndarray, thresholds: tuple[float, float]
) -> None:
    features, text = detector.encode_image(image), detector.encode_text("a dog")
    with pytest.raises(InputError, match="threshold"):
        detector.detect(features, text, box_threshold=thresholds[0], text_threshold=thresholds[1])


@pytest.mark.parametrize("key", ["image_mean", "resize_short", "d_model", "swin"])
def test_an_incomplete_configuration(component: Component, key: str) -> None:
    config = {name: value for name, value in component.config.items() if name != key}
    with pytest.raises((BundleError, EngineError), match="incomplete"):
        GroundingDino.from_component(replace(component, config=config), "cpu")


def test_a_closed_detector_says_so(component: Component, image: np.ndarray) -> None:
    detector = GroundingDino.from_component(component, "cpu")
    assert detector.provider == "CPUExecutionProvider"
    detector.close()
    detector.close()
    with pytest.raises(EngineError, match="closed"):
        detector.encode_image(image)
