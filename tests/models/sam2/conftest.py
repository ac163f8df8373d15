"""The SAM 2 component of the shipped bundle, and the official predictor on the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alref_edge.bundle import Bundle, Component
from alref_edge.models.sam2 import Sam2Graphs
from benchmarks.official_side import official_checkpoints
from tests.models.sam2.jobs import write_frames


@pytest.fixture(scope="session")
def sam2_component(nano_bundle: Path) -> Component:
    """SAM 2 of the shipped bundle."""
    return Bundle.open(nano_bundle).component("sam2")


@pytest.fixture(scope="session")
def sam2_graphs(sam2_component: Component) -> Iterator[Sam2Graphs]:
    """Its graphs on the CPU."""
    with Sam2Graphs.open(sam2_component, "cpu") as graphs:
        yield graphs


@pytest.fixture(scope="session")
def sam2_checkpoint(nano_bundle: Path) -> Path:
    """The weights of the shipped SAM 2 as an official checkpoint."""
    pytest.importorskip("sam2", reason="the official sam2 package is not installed")
    return Path(official_checkpoints(Bundle.open(nano_bundle))["sam2"]["checkpoint"])


@pytest.fixture(scope="session")
def official_video(sam2_component: Component, sam2_checkpoint: Path) -> Any:
    """The official video predictor on the shipped weights."""
    from benchmarks.official.sam2_video import build_official

    return build_official(sam2_component.variant, sam2_checkpoint, video=True)


@pytest.fixture(scope="session")
def frames60(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames of a real video as JPEGs."""
    return write_frames(media / "bedroom.mp4", tmp_path_factory.mktemp("frames60"), 60)


@pytest.fixture(scope="session")
def frames10(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 frames of a real video, three apart, as JPEGs."""
    return write_frames(media / "bedroom.mp4", tmp_path_factory.mktemp("frames10"), 10, 3)
