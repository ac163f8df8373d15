"""Who may import whom: the contracts of `pyproject.toml`, and that a planted violation breaks each of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytest.importorskip("importlinter", reason="the linter of imports comes with the extra test")

ROOT = Path(__file__).parent.parent
WORLDS = ("alref_edge", "benchmarks", "export")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_logo=True, cache_dir=None))"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("house")
    for name in WORLDS:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "weights", "results"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def test_the_house_keeps_its_contracts(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout
    assert "7 kept, 0 broken" in done.stdout
    assert "ignored" not in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("alref_edge/media/masks.py", "from alref_edge.runtime import Session", "Imports run one way"),
        ("alref_edge/bundle/files.py", "def f():\n    from alref_edge.models import sam2", "Imports run one way"),
        ("alref_edge/models/yamnet/network.py", "import alref_edge.mllm.client", "Imports run one way"),
        ("alref_edge/pipeline/rvos.py", "from alref_edge.writing import recording", "Imports run one way"),
        ("alref_edge/new_room.py", "", "Imports run one way"),
        ("alref_edge/media/limits.py", "def f():\n    from alref_edge.media import video", "No circles"),
        ("export/weights.py", "from export.sam2 import exporter", "No circles"),
        ("alref_edge/runtime/buffers.py", "def f():\n    import torch", "The runtime needs nothing of the build world"),
        (
            "alref_edge/datasets/synthetic/words.py",
            "import export.weights",
            "The runtime needs nothing of the build world",
        ),
        ("alref_edge/pipeline/rvos.py", "def f():\n    import threading", "The method knows no threads"),
        ("alref_edge/pipeline/avs.py", "from concurrent.futures import Future", "The method knows no threads"),
        (
            "benchmarks/memory.py",
            "from alref_edge.pipeline.tracking import ObjectTracking",
            "The pipeline has one door",
        ),
        ("alref_edge/report/sound.py", "from alref_edge.pipeline import clock", "The pipeline has one door"),
        (
            "alref_edge/cli/console.py",
            "def f():\n    from alref_edge.pipeline.selectors import mllm",
            "The pipeline has one door",
        ),
        ("alref_edge/datasets/base.py", "from alref_edge.media.video import VideoFile", "Media have one door"),
        (
            "alref_edge/evaluation/synthetic.py",
            "from alref_edge.models.grounding_dino import GroundingDino",
            "Who calls the pipeline runs no network beside it",
        ),
        (
            "alref_edge/demo.py",
            "def f():\n    from alref_edge.runtime import open_session",
            "Who calls the pipeline runs no network beside it",
        ),
    ],
)
def test_a_planted_violation_is_found(copy: Path, file: str, line: str, broken: str) -> None:
    path = copy / file
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n", encoding="utf-8")
    try:
        done = lint(copy)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before, encoding="utf-8")
    assert done.returncode == 1, done.stdout
    assert f"{broken} BROKEN" in done.stdout


def test_the_architecture_is_drawn_as_the_linter_holds_it() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    (drawing,) = re.findall(r"<!-- The drawing.*?-->\n```\n(.*?)```", page, re.DOTALL)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    assert [re.split(r" {2,}", line)[0] for line in drawing.splitlines()] == contracts[0]["layers"]


def test_what_the_architecture_names_is_there() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:[\w]+/)+(?:[\w]+\.py)?)`", page))
    assert len(paths) > 20
    for path in paths:
        assert (ROOT / path).exists() or (ROOT / "alref_edge" / path).exists(), path
    for path, names in re.findall(r"`([\w/]+\.py)`: ((?:`\w+(?:\.\w+)?`(?:, )?)+)", page):
        source = (ROOT / "alref_edge" / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(?:\w+\.)?(\w+)`", names):
            assert f"def {name}(" in source, f"{path}: {name}"
