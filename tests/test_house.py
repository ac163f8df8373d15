"""The rules of the house: what the wheel holds, what importing costs, how large things may be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
RUNTIME = sorted((ROOT / "alref_edge").rglob("*.py"))


def test_importing_the_package_loads_no_backend() -> None:
    code = "import alref_edge, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "alref_edge" in loaded
    assert not loaded & {"onnxruntime", "tensorrt", "numpy", "av", "torch", "PIL", "typer", "tokenizers", "httpx"}


def test_every_public_name_loads_without_torch() -> None:
    code = (
        "import alref_edge, sys\n"
        "names = [getattr(alref_edge, name) for name in alref_edge.__all__]\n"
        "assert len(names) > 5\n"
        "print(*{'torch', 'transformers', 'onnxruntime'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    import alref_edge

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = alref_edge.nothing


def test_the_wheel_lists_every_package() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in RUNTIME if path.name == "__init__.py"
    }
    assert listed == found | {"alref_edge.engines"}


def test_modules_are_short() -> None:
    paths = [path for folder in ("alref_edge", "export", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    long = {path.name: lines for path in paths if (lines := len(path.read_text().splitlines())) > 600}
    assert not long


def test_the_tree_stays_small() -> None:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in names.split("\0") if name]
    # As a disk holds them, in blocks of 4 KiB.
    blocks = sum(-(-path.stat().st_size // 4096) for path in paths if path.is_file())
    assert blocks * 4096 < 32 * 2**20
