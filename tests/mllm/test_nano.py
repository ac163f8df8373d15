"""The shipped multimodal LLM, served by a real vLLM: what it is there for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alref_edge import Pipeline
from alref_edge.bundle import shipped
from alref_edge.evaluation import evaluate_synthetic
from alref_edge.mllm import MllmClient, Questioner, Templates
from alref_edge.mllm.serving.model_folder import ModelFolder, pixel_budget
from alref_edge.mllm.serving.server import MllmServer, ServerSettings
from alref_edge.pipeline import GroundingSelector, MllmSelector

FOLDER = shipped("nano_mllm")
MOST_BYTES = 4 << 20


def test_it_is_a_small_model_with_a_card() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < MOST_BYTES
    assert (FOLDER / "MODEL_CARD.md").is_file()
    assert json.loads((FOLDER / "config.json").read_text())["architectures"] == ["Qwen3VLForConditionalGeneration"]
    assert ModelFolder.open(FOLDER).name.startswith("nano_mllm-")
    assert pixel_budget(FOLDER) == 172_032


@pytest.fixture(scope="module")
def server(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MllmServer]:
    log = tmp_path_factory.mktemp("nano") / "log"
    with MllmServer(FOLDER, ServerSettings(), vllm_python, log) as running:
        yield running


@pytest.mark.vllm
def test_relations_and_motions_are_understood(server: MllmServer, nano_bundle: Path) -> None:
    """Scenes that it was not trained on. A box is right for the sentence only if what it says of the others is."""
    questioner = Questioner(Templates.load(), pixel_budget(FOLDER) or 0)
    with (
        MllmClient(server.endpoint) as client,
        Pipeline.from_bundle(nano_bundle, "cpu") as pipeline,
    ):
        selectors = [GroundingSelector(), MllmSelector(client, questioner, GroundingSelector())]
        measured = evaluate_synthetic(pipeline, range(12), selectors, every=40)
        counters = client.stats
    hard = [each for each in measured.scores if each.kind != "appearance"]
    ours, grounding = ([each.tracked[way].j_and_f for each in hard] for way in ("mixed", "grounding"))
    assert len(hard) > 20
    assert np.mean(ours) > np.mean(grounding) + 0.05
    assert counters.unusable <= 0.05 * len(measured.scores)
