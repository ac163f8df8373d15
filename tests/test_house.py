"""The rules of the house: who may import whom, what the wheel holds, what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
RUNTIME = sorted((ROOT / "alref_edge").rglob("*.py"))
LEAVES = {"errors", "offline", "types"}
# What each part may import of the others; the leaves anyone may.
MAY_IMPORT = {
    "bundle": set(),
    "media": set(),
    "metrics": set(),
    "runtime": {"bundle"},
    "models": {"runtime", "bundle"},
    "mllm": {"runtime", "bundle", "media"},
    "pipeline": {"models", "mllm", "runtime", "bundle", "media", "__init__"},
    "evaluation": {"pipeline", "datasets", "metrics", "media", "bundle", "models"},
    "cli": None,
    "doctor": None,
    "service": None,
    "report": None,
    "demo": None,
    "datasets": {"media"},
    "__main__": None,
    "__init__": None,
    "errors": set(),
    "offline": set(),
    "types": set(),
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, wherever in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def part_of(path: Path) -> str:
    """The part of the runtime that a file belongs to: the first folder or module below `alref_edge`."""
    return path.relative_to(ROOT / "alref_edge").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", RUNTIME, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_runtime_imports_nothing_of_the_build_world(path: Path) -> None:
    forbidden = {"torch", "torchvision", "transformers", "export", "benchmarks", "tests", "onnx", "scipy", "matplotlib"}
    found = [(line, name) for line, name in imports(path) if name.split(".")[0] in forbidden]
    assert not found


@pytest.mark.parametrize("path", RUNTIME, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    part = part_of(path)
    allowed = MAY_IMPORT[part]
    if allowed is None:
        return
    for line, name in imports(path):
        pieces = name.split(".")
        if pieces[0] == "alref_edge" and len(pieces) > 1:
            target = pieces[1]
            assert target in allowed | LEAVES | {part, "__version__"}, f"{path.name}:{line} imports {name}"


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
