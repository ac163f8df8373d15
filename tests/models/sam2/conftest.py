"""A SAM 2 nano of seeded weights, exported, and the official predictor on the same weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alref_edge.bundle import Component
from alref_edge.models.sam2 import Sam2Graphs
from tests.conftest import ROOT
from tests.models.sam2.jobs import write_frames

VARIANT, SEED = "sam2.1_nano", 3


@pytest.fixture(scope="session")
def sam2_component(sam2_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Component:
    """SAM 2 nano of seeded weights; trained ones amplify rounding on frames unlike those that they know."""
    from export.bundle import add_to_bundle
    from export.sam2 import export_sam2

    folder = tmp_path_factory.mktemp("seeded")
    return add_to_bundle(
        folder / "bundle", export_sam2(VARIANT, folder, checkpoint=sam2_checkpoint, forms=("standard",))
    ).component("sam2")


@pytest.fixture(scope="session")
def sam2_graphs(sam2_component: Component) -> Iterator[Sam2Graphs]:
    """Its graphs on the CPU."""
    with Sam2Graphs.open(sam2_component, "cpu") as graphs:
        yield graphs


@pytest.fixture(scope="session")
def sam2_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded weights as an official checkpoint."""
    pytest.importorskip("sam2", reason="the official sam2 package is not installed")
    from export.sam2 import save_seeded_checkpoint

    path = tmp_path_factory.mktemp("weights") / "nano.pt"
    save_seeded_checkpoint(VARIANT, SEED, path)
    return path


@pytest.fixture(scope="session")
def official_video(sam2_component: Component, sam2_checkpoint: Path) -> Any:
    """The official video predictor on the same weights."""
    from benchmarks.official.sam2_video import build_official

    return build_official(sam2_component.variant, sam2_checkpoint, video=True)


@pytest.fixture(scope="session")
def real60(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames of a real video as JPEGs of 960x540."""
    return write_frames(media / "bedroom.mp4", tmp_path_factory.mktemp("real60"), 60)


@pytest.fixture(scope="session")
def frames60(frames10: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 10 drawn frames there and back again, 60 in all."""
    folder = tmp_path_factory.mktemp("frames60")
    for number in range(60):
        shutil.copy(frames10 / f"{9 - abs(number % 18 - 9):05d}.jpg", folder / f"{number:05d}.jpg")
    return folder


@pytest.fixture(scope="session")
def frames10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 10 drawn frames of `tests/vectors` as JPEGs of 960x540."""
    folder = tmp_path_factory.mktemp("frames10")
    for path in (ROOT / "tests" / "vectors" / "frames").iterdir():
        with Image.open(path) as image:
            image.resize((960, 540)).save(folder / path.name, quality=95)
    return folder
