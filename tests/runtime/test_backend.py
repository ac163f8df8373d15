"""A backend is added in one file and one line: the ONNX reference evaluator runs what ONNX Runtime runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alref_edge.bundle import Bundle
from alref_edge.datasets.synthetic import make_scene
from alref_edge.errors import EngineError, ProviderError
from alref_edge.models.grounding_dino import GroundingDino
from alref_edge.runtime import SessionOptions, open_session
from alref_edge.runtime.device import BACKENDS, resolve

pytest.importorskip("onnx")


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "reference", "tests.runtime.reference_backend")


@pytest.mark.usefixtures("reference")
def test_a_backend_is_a_module_and_a_line_in_the_table(nano_bundle: Path) -> None:
    """Grounding DINO: its backbone, its text encoder and its decoder, asked for two sentences."""
    component = Bundle.open(nano_bundle).component("grounding_dino")
    # The evaluator samples pixel by pixel in Python: a small picture, as it is.
    image = make_scene(0, 96, 96, num_frames=1).frame(0)[20:60, 30:78]
    options = SessionOptions(threads=1)
    with (
        GroundingDino.from_component(component, "cpu", options=options) as ours,
        GroundingDino.from_component(component, "reference", options=options) as theirs,
    ):
        assert (ours.provider, theirs.provider) == ("CPUExecutionProvider", "ReferenceEvaluator")
        for text in ("the red circle", "a square"):
            expected, got = (
                each.predict_raw(each.encode_image(image, resize=False), each.encode_text(text))
                for each in (ours, theirs)
            )
            for one, other in zip(expected, got, strict=True):
                assert one.std() > 1e-3
                np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.usefixtures("reference")
def test_a_new_backend_keeps_to_the_border_that_all_have(nano_bundle: Path) -> None:
    graph = Bundle.open(nano_bundle).component("grounding_dino").open_graph("text_encoder")
    with open_session(graph, device="reference") as session:
        with pytest.raises(EngineError, match="input names"):
            session.run({})
        buffer = session.buffer((2, 3))
        assert (buffer.shape, buffer.device) == ((2, 3), session.device)


@pytest.mark.usefixtures("reference")
def test_its_devices_have_numbers_and_its_name_is_offered() -> None:
    assert str(resolve("reference:3")) == "reference:3"
    with pytest.raises(ProviderError, match="cuda:N, reference or reference:N"):
        resolve("tpu")


def test_nothing_knows_it_where_the_line_is_missing() -> None:
    with pytest.raises(ProviderError, match="no such device"):
        resolve("reference")
