"""What the package logs: nothing by default; with --verbose on stderr, escaped; never what users bring."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from alref_edge.bundle import Bundle
from alref_edge.cli import app
from alref_edge.cli.console import _log_shown
from alref_edge.errors import ProviderError
from alref_edge.pipeline import Pipeline
from alref_edge.pipeline.measure import RunStats
from alref_edge.runtime import open_session
from alref_edge.runtime.device import Placement, resolve
from alref_edge.runtime.ort import probe
from tests.conftest import ROOT
from tests.media.clips import make_clip

SOURCES = sorted((ROOT / "alref_edge").rglob("*.py"))


@pytest.fixture(autouse=True)
def _at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "alref_edge")


def test_nothing_is_said_by_default(nano_bundle: Path) -> None:
    code = (
        "import sys; from alref_edge.pipeline import Pipeline\n"
        "import logging; logging.getLogger('alref_edge.x').error('not to be seen')\n"
        "Pipeline.from_bundle(sys.argv[1], 'cpu')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, nano_bundle], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_bundle_is_named_by_its_hash_and_a_graph_by_what_runs_it(
    nano_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.open(nano_bundle)
    assert bundle.sha256 in caplog.text
    open_session(bundle.component("yamnet").open_graph("yamnet"), device="cpu").close()
    assert "loaded yamnet/yamnet.onnx on cpu, by CPUExecutionProvider, in " in caplog.text


def test_a_device_that_does_not_work_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    probe.cache_clear()
    if probe(Placement("cuda")).works:
        pytest.skip("CUDA works here")
    assert f"CUDAExecutionProvider on cuda:0: {probe(Placement('cuda')).reason}" in caplog.text
    assert resolve("cuda", allow_fallback=True) == Placement("cpu")
    assert "cuda:0 does not work here, the CPU is taken" in caplog.text
    with pytest.raises(ProviderError):
        resolve("cuda")


def test_stages_begin_and_end_once_a_round(caplog: pytest.LogCaptureFixture) -> None:
    stats = RunStats()
    for _ in range(2):
        for done in range(1, 4):
            stats.report("forward", done, 3)
            stats.report("ground", done, 9)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "the stage forward begins: 1 of 3",
        "the stage ground begins: 1 of 9",
        "the stage forward ends: 3 of 3",
        "the stage forward begins: 1 of 3",
        "the stage forward ends: 3 of 3",
    ]


def test_a_run_is_logged_without_what_it_is_about(
    nano_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip(tmp_path / "my-holiday.mp4", frames=3)
    with Pipeline.from_bundle(nano_bundle, "cpu") as pipeline:
        list(pipeline.rvos(clip, "my neighbour's dog"))
    for said in ("3 frames, 128x96, is decoded by FFmpeg's h264", "loaded sam2/", "stage forward ends: 3 of 3"):
        assert said in caplog.text
    for unsaid in ("neighbour", "holiday"):
        assert unsaid not in caplog.text


def test_verbose_lines_can_neither_steer_a_terminal_nor_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("alref_edge.bundle")
    with _log_shown():
        log.info("verified %s", "\x1b[2Ja\nerror: forged\r\u202e")
        log.debug("a detail")
    log.info("afterwards")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("alref_edge.bundle: verified \\x1b[2Ja error: forged \\u202e")


def _commands() -> Iterator[tuple[str, set[str]]]:
    def below(name: str, command: object) -> Iterator[tuple[str, set[str]]]:
        for key, each in getattr(command, "commands", {}).items():
            yield f"{name} {key}".strip(), {option for param in each.params for option in param.opts}
            yield from below(f"{name} {key}".strip(), each)

    yield from below("", get_command(app))


def test_what_can_be_quiet_can_be_verbose() -> None:
    options = dict(_commands())
    assert {name for name, has in options.items() if "--quiet" in has} > {
        "demo",
        "synth",
        "eval synthetic",
        "eval sound",
    }
    assert {name for name, has in options.items() if "--quiet" in has and "--verbose" not in has} == set()
    assert "--verbose" in options["mllm serve"]


def test_modules_log_under_their_own_names_and_print_nothing() -> None:
    calls = [
        (path.relative_to(ROOT).as_posix(), ast.unparse(node))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "logging.getLogger", "getLogger")
    ]
    allowed = {"logging.getLogger(__name__)"}
    others = [each for each in calls if each[1] not in allowed and each[0] != "alref_edge/cli/console.py"]
    assert len(calls) > 5
    # The guardian runs by itself, beside the package.
    assert [each for each in others if not each[0].endswith("guardian.py")] == []
