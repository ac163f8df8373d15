"""Not one socket, and no file but those that are asked for: every command, the README's example, export, benchmarks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import certifi
import psutil
import pytest
import typer

from alref_edge import offline
from alref_edge.cli import app
from tests.mllm.fake_server import KEY, FakeServer
from tests.mllm.fake_vllm import make_model, make_python
from tests.watch import STRACE, Watched, command, problems, watch

ROOT = Path(__file__).parent.parent
ALREF = (sys.executable, "-m", "alref_edge")
QUICK = ("--device", "cpu", "--threads", "1")

watched = pytest.mark.skipif(STRACE is None, reason="strace is not here (apt install strace), or may not trace")


class Place:
    """A user with a home, a temporary folder and a working folder, and nothing in them yet."""

    def __init__(self, folder: Path) -> None:
        self.home, self.temporary, self.work = folder / "home", folder / "tmp", folder / "work"
        self.trace = folder / "trace"
        for each in (self.home, self.temporary, self.work):
            each.mkdir()

    @property
    def documented(self) -> list[Path]:
        """Where a command may write: what it is asked for, for the moment, and what the README names."""
        return [
            self.work,
            self.temporary,
            self.home / ".cache" / "alref-edge",
            self.home / ".local" / "state" / "alref-edge",
        ]

    def environment(self, **more: str) -> dict[str, str]:
        dropped = re.compile(
            "CI|XDG_.*|ORT_.*|HF_.*|TORCHINDUCTOR_.*|TF_BUILD|GITHUB_ACTIONS|JENKINS_URL|KUBERNETES_.*|PYTHONPATH"
        )
        kept = {name: value for name, value in os.environ.items() if not dropped.fullmatch(name)}
        own = {
            "HOME": str(self.home),
            "LOGNAME": "user",  # else its look-up in /etc/passwd would ask nscd, as one for a host would
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SSL_CERT_FILE": certifi.where(),  # without any, ONNX Runtime has no way to send
        }
        return {**kept, **own, **more}

    def watch(self, *arguments: object, loopback: bool = False, **more: str) -> Watched:
        return watch(
            arguments,
            trace=self.trace,
            cwd=self.work,
            environment=self.environment(**more),
            may_write=self.documented,
            loopback=loopback,
        )

    def left_at_home(self) -> list[str]:
        return sorted(path.relative_to(self.home).as_posix() for path in self.home.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small clip with sound, by `alref-edge synth` under the watch."""
    place = Place(tmp_path_factory.mktemp("clip"))
    options = ("--seeds", "3", "--width", "96", "--height", "96")
    quiet(place.watch(*ALREF, "synth", place.work / "clips", *options))
    assert place.left_at_home() == []
    return next((place.work / "clips").rglob("*.mp4"))


def quiet(done: Watched) -> Watched:
    """Did its work, and nothing else."""
    assert done.status == 0, done.printed
    assert done.problems == []
    return done


COMMANDS = {
    "demo": ("demo", *QUICK),
    "rvos": ("rvos", "{clip}", "--text", "the circle", "--out", "out", "--report", *QUICK),
    "avs": ("avs", "{clip}", "--out", "out", "--semantic", *QUICK),
    "rvos --selector mllm": (
        *("rvos", "{clip}", "--text", "the circle", "--selector", "mllm", "--endpoint", "{url}", "--out", "out"),
        *("--transcript", "said", "--record", "decided", *QUICK),
    ),
    "agree": ("agree", "--reference", "{recorded}", "--ours", "{recorded}"),
    "synth": None,  # by the fixture `clip`
    "doctor": ("doctor",),
    "mllm serve": None,  # has a test of its own: it ends when it is told to
    "eval synthetic": ("eval", "synthetic", "--seeds", "0", "--size", "96", "--frames", "16", *QUICK),
    "eval sound": ("eval", "sound", "--seeds", "0", "--size", "96", "--frames", "8", *QUICK),
    "bundle verify": ("bundle", "verify", ROOT / "engines" / "nano"),
}


def leaves(group: typer.core.TyperCommand | typer.core.TyperGroup, name: str = "") -> Iterator[str]:
    commands = getattr(group, "commands", None)
    if commands is None:
        yield name
        return
    for word, each in commands.items():
        yield from leaves(each, f"{name} {word}".strip())


def test_every_command_is_watched() -> None:
    assert set(leaves(typer.main.get_command(app))) <= COMMANDS.keys()  # type: ignore[arg-type]


@watched
@pytest.mark.parametrize("name", [name for name, arguments in COMMANDS.items() if arguments])
def test_a_command_opens_no_socket_and_writes_where_it_is_told(name: str, place: Place, clip: Path) -> None:
    decisions = place.work / "recorded" / "clip" / "stage_2" / "0"
    decisions.mkdir(parents=True)
    answers = [{"target_frame_id": 3, "target_object_id": 1}]
    (decisions / "cot_two_stage.json").write_text(json.dumps({"exp": "a dog", "res_list": answers}))
    with FakeServer() as server:
        words = {"{clip}": clip, "{url}": server.url, "{recorded}": place.work / "recorded"}
        arguments = [words.get(str(each), each) for each in COMMANDS[name] or ()]
        asks = "mllm" in name
        done = place.watch(*ALREF, *arguments, loopback=asks, ALREF_MLLM_API_KEY=KEY)
    quiet(done)
    home = place.left_at_home()
    assert all(path.startswith(".cache/alref-edge/answers/") for path in home) if asks else home == []
    assert list(place.temporary.iterdir()) == []


@watched
def test_a_served_llm_talks_over_a_socket_of_the_users(place: Place, clip: Path) -> None:
    python, model = make_python(place.work / "vllm"), make_model(place.work / "model")
    serve = [*ALREF, "mllm", "serve", "--model", model, "--python", python]
    place.temporary = Path(tempfile.mkdtemp(dir="/tmp"))  # a socket's path is short
    environment = place.environment()
    with subprocess.Popen(
        command(place.trace, serve), cwd=place.work, env=environment, stdout=subprocess.PIPE, text=True
    ) as traced:
        assert traced.stdout is not None
        assert "answers at unix:///" in traced.stdout.readline()
        for child in psutil.Process(traced.pid).children():
            child.send_signal(signal.SIGINT)
        traced.communicate(timeout=60)
    assert traced.returncode == 0
    assert list(problems(place.trace, place.work, place.documented)) == []
    assert place.left_at_home() == [".local/state/alref-edge/mllm-server.log"]
    place.temporary.rmdir()  # nothing is left in it


@watched
def test_the_readmes_example_opens_no_socket(place: Place, clip: Path) -> None:
    (example,) = re.findall(r"```python\n(from alref_edge import Pipeline\n\nwith .*?)```", read_me(), re.DOTALL)
    for before, now in (('"engines/large"', repr(str(ROOT / "engines" / "nano"))), ('"video.mp4"', repr(str(clip)))):
        assert before in example
        example = example.replace(before, now)
    quiet(place.watch(sys.executable, "-c", example.replace('"cuda"', '"cpu"')))
    assert place.left_at_home() == []


def read_me() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@watched
def test_export_opens_no_socket(place: Place) -> None:
    pytest.importorskip("torch")
    done = place.watch(
        *(sys.executable, "-m", "export", "yamnet", "--variant", "nano", "--seed", "1", "--bundle", "bundle")
    )
    quiet(done)
    assert place.left_at_home() == []


@watched
def test_benchmarks_open_no_socket(place: Place) -> None:
    done = place.watch(sys.executable, "-m", "benchmarks", "memory", "--frames", "62", "--sentences", "1")
    assert "the video is too short" in done.printed  # to measure, not to be tracked
    assert done.problems == []
    assert place.left_at_home() == []


# That the watch sees what it is there for


@watched
@pytest.mark.parametrize(
    ("program", "loopback", "kind"),
    [
        ("socket.socket().connect_ex(('127.0.0.1', 9))", True, None),
        ("socket.socket().connect_ex(('127.0.0.1', 9))", False, "socket"),
        ("socket.socket(type=socket.SOCK_DGRAM).connect_ex(('192.0.2.1', 9))", True, "address"),
        ("socket.socket(socket.AF_INET6).connect_ex(('2001:db8::1', 9))", True, "address"),
        ("socket.socket(type=socket.SOCK_DGRAM).bind(('0.0.0.0', 0))", True, "address"),
        ("socket.socket(socket.AF_UNIX).connect_ex('/run/other.sock')", True, "address"),
        ("os.system('getent hosts name.invalid')", False, "look-up"),
        ("open('file', 'w'), os.makedirs('a/b'), os.rename('file', 'a/file')", False, None),
        ("open(os.path.expanduser('~/file'), 'a')", False, "file"),
        ("os.mkdir(os.path.expanduser('~/folder'))", False, "file"),
        ("open('file', 'w'), os.link('file', '../file')", False, "file"),
    ],
)
def test_the_watch_sees(program: str, loopback: bool, kind: str | None, place: Place) -> None:
    done = place.watch(sys.executable, "-I", "-S", "-c", f"import os, socket; {program}", loopback=loopback)
    assert "Traceback" not in done.printed
    assert {each.split(":")[0] for each in done.problems} >= ({kind} if kind else set())
    assert bool(done.problems) is (kind is not None)


TAKES_THE_SWITCH_OUT = """
import importlib.abc, os, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            os.environ.pop("ORT_DISABLE_TELEMETRY", None)

sys.meta_path.insert(0, Finder())
"""


def sends_telemetry() -> bool:
    import onnxruntime

    numbers = [int(part) for part in onnxruntime.__version__.split(".")[:2]]
    return sys.platform == "linux" and numbers >= [1, 29]


without_the_switch = pytest.mark.skipif(
    not sends_telemetry(), reason="this ONNX Runtime has no telemetry (before 1.29, or not on Linux)"
)


@pytest.fixture
def no_switch(tmp_path: Path) -> str:
    """PYTHONPATH with a module that takes the switch out when ONNX Runtime is loaded."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(TAKES_THE_SWITCH_OUT)
    return f"{tmp_path / 'without'}{os.pathsep}{ROOT}"


@watched
@without_the_switch
@pytest.mark.parametrize("name", ["doctor", "rvos"])
def test_without_the_switch_a_device_id_is_found(name: str, place: Place, clip: Path, no_switch: str) -> None:
    arguments = [clip if each == "{clip}" else each for each in COMMANDS[name] or ()]
    done = place.watch(*ALREF, *arguments, PYTHONPATH=no_switch)
    assert any(each.startswith("file:") and "deviceid" in each for each in done.problems)
    assert any(path.endswith(".onnxruntime/deviceid") for path in place.left_at_home())


@watched
@without_the_switch
def test_without_the_switch_a_socket_is_found(place: Place, no_switch: str) -> None:
    """ONNX Runtime sends some seconds after its first session."""
    program = "from alref_edge.doctor import examine; import time; examine(); time.sleep(60)"
    arguments = command(place.trace, [sys.executable, "-c", program])
    with subprocess.Popen(arguments, cwd=place.work, env=place.environment(PYTHONPATH=no_switch)) as traced:
        try:
            until = time.monotonic() + 50
            found: set[str] = set()
            while "look-up" not in found and time.monotonic() < until:
                time.sleep(0.5)
                if place.trace.exists():
                    found = {each.split(":")[0] for each in problems(place.trace, place.work, place.documented)}
        finally:
            for child in psutil.Process(traced.pid).children():
                child.kill()
    assert {"file", "socket", "look-up"} <= found


# The switch itself


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**{k: v for k, v in os.environ.items() if k not in offline.VLLM}, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("said", [None, "", "1", "true", " YES "])
def test_importing_the_package_sets_the_switch_without_a_word(said: str | None) -> None:
    given = {} if said is None else {offline.TELEMETRY: said}
    printed = python(f"import alref_edge, os; print(os.environ[{offline.TELEMETRY!r}], len(os.environ))", **given)
    assert printed.split()[0] == "1"
    assert "Warning" not in printed


@pytest.mark.parametrize("said", ["0", "false", "2", "never"])
def test_a_setting_of_the_users_is_not_overruled_in_silence(said: str) -> None:
    printed = python("import alref_edge, os; print(os.environ['ORT_DISABLE_TELEMETRY'])", ORT_DISABLE_TELEMETRY=said)
    assert printed.startswith("1\n<string>:1: OfflineWarning")  # of the line that imports
    assert f"ORT_DISABLE_TELEMETRY={said} is overruled" in printed


def test_onnxruntime_before_the_package_is_warned_of_and_told_by_the_doctor(tmp_path: Path) -> None:
    code = (
        "import onnxruntime\n"
        "import alref_edge\n"
        "from alref_edge.doctor import examine\n"
        "print(*[f for f in examine().findings if f.name == 'telemetry'])"
    )
    printed = python(code, HOME=str(tmp_path))
    assert "<string>:2: OfflineWarning: onnxruntime was imported before alref_edge" in printed
    assert "state='fault'" in printed
    printed = python(code, HOME=str(tmp_path), ORT_DISABLE_TELEMETRY="1")
    assert "Warning" not in printed
    assert "state='ok', detail='off" in printed


def test_the_package_leaves_the_hubs_of_other_programs_alone() -> None:
    printed = python("import alref_edge, os; print({'HF_HUB_OFFLINE', 'DO_NOT_TRACK'} & os.environ.keys())")
    assert printed == "set()\n"
    for package in ("export", "benchmarks"):
        assert python(f"import {package}, os; print(os.environ['HF_HUB_OFFLINE'])") == "1\n"


def test_a_contrary_setting_for_vllm_is_overruled_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alref_edge.mllm.serving.installation import Installation

    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "no")
    with pytest.warns(offline.OfflineWarning) as said:
        given = Installation("python", "0.32.0", True).environment("key", tmp_path)
    assert {str(each.message).split()[0] for each in said} == {"VLLM_NO_USAGE_STATS=0", "HF_HUB_OFFLINE=no"}
    assert all(given[name] == "1" for name in offline.VLLM)
    monkeypatch.delenv("VLLM_NO_USAGE_STATS")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Installation("python", "0.32.0", True).environment("key", tmp_path)


def test_the_doctor_says_optional_where_a_thing_is() -> None:
    from alref_edge.doctor import Finding, Report

    report = Report((Finding("tensorrt", "missing", "not installed"), Finding("numpy", "ok", "2")), True)
    assert "missing  tensorrt (optional): not installed" in report.lines()
    assert "ok       numpy: 2" in report.lines()
