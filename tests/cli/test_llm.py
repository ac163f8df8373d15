"""`--selector mllm`, as a user meets it: what is found, what is kept, what is refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alref_edge.cli import app
from alref_edge.datasets.synthetic import make_scene
from alref_edge.datasets.synthetic.clips import write_clip
from alref_edge.datasets.synthetic.sound import make_sound
from alref_edge.mllm.endpoint import KEY_VARIABLE
from tests.mllm.fake_server import KEY, Behaviour, FakeServer, error, knowing, says

SEED = 3


@pytest.fixture(autouse=True)
def _user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user with the key of the fake server and folders of their own."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    scene = make_scene(SEED, 112, 112, 24)
    write_clip(path, scene, make_sound(scene))
    return path


def alref(*arguments: object) -> tuple[int, str]:
    """Exit code and all that is printed."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu", "--threads", "1"])
    return done.exit_code, done.output


def record_of(out: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((out / "result.json").read_text())
    return record


@pytest.mark.parametrize("selector", ["mllm", "mixed"])
def test_sentences(clip: Path, tmp_path: Path, selector: str) -> None:
    out = tmp_path / "out"
    with FakeServer() as server:
        common = ("rvos", clip, "--text", "the circle", "--selector", selector, "--endpoint", server.url)
        code, printed = alref(
            *common, "--out", out, "--report", "--transcript", tmp_path / "said", "--record", tmp_path / "decided"
        )
        assert code == 0, printed
        first = len(server.requests)
        assert alref(*common, "--out", tmp_path / "again")[0] == 0
        assert len(server.requests) == first  # all of it was kept
        assert alref(*common, "--out", tmp_path / "anew", "--no-answer-cache")[0] == 0
        assert len(server.requests) == 2 * first
    record = record_of(out)
    assert record["selector"] == selector
    assert {"model": "fake", "templates": "1", "questions": first}.items() <= record["reasoning"].items()
    assert 0 <= record["reasoning"]["wait_share"] <= 1
    assert record_of(tmp_path / "again")["reasoning"]["cached"] == first
    assert (tmp_path / "cache" / "alref-edge" / "answers").stat().st_mode & 0o777 == 0o700
    lines = (tmp_path / "said" / "transcript.jsonl").read_text().splitlines()
    assert [json.loads(line)["template"] for line in lines][:1] == ["pivot_frame"]
    assert "Reasoning" in (out / "report.html").read_text()
    (decided,) = (tmp_path / "decided").glob("clip/stage_2/*/cot_two_stage.json")
    assert json.loads(decided.read_text())["res_list"][0]["target_frame_id"] == 1
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in content for content in kept)


def test_what_sounds(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FakeServer() as server:
        code, printed = alref(
            "avs", clip, "--selector", "mixed", "--endpoint", server.url, "--out", out,
            "--setting", "ms3", "--record", tmp_path / "decided",
        )  # fmt: skip
    assert code == 0, printed
    record = record_of(out)
    assert record["objects"] == []  # the least answer: nothing sounds
    assert record["reasoning"]["questions"] == 1
    assert json.loads((tmp_path / "decided" / "ms3" / "cot_stage_1_outputs.json").read_text()) == {"clip": "{}"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--selector", "mllm"], 7, "alref-edge mllm serve"),
        (["--selector", "mllm", "--endpoint", "http://192.0.2.1:8000/v1"], 2, "--allow-remote"),
        (["--selector", "mixed", "--endpoint", "http://example.org/v1"], 2, "--allow-remote"),
        (["--selector", "mllm", "--endpoint", "ftp://127.0.0.1"], 2, "cannot have this URL"),
        (["--selector", "mllm", "--allow-remote"], 2, "options of --endpoint"),
        (["--endpoint", "http://127.0.0.1:1/v1"], 2, "--endpoint is an option of --selector mllm"),
        (["--transcript", "said"], 2, "--transcript is an option"),
        (["--in-flight", "4"], 2, "--in-flight is an option"),
        (["--llm-max-tokens", "4"], 2, "--llm-max-tokens is an option"),
        (["--llm-thinking"], 2, "--llm-thinking is an option"),
        (["--allow-unusable"], 2, "--allow-unusable is an option"),
        (["--ask-short"], 2, "--ask-short is an option"),
        (["--selector", "mllm", "--endpoint", "{url}", "--llm-max-tokens", "0"], 2, "--llm-max-tokens"),
        (["--selector", "mllm", "--endpoint", "http://127.0.0.1:9/v1"], 7, "alref-edge mllm serve"),
        (["--selector", "gpt-4"], 2, "no such selector"),
        (["--selector", "mllm", "--endpoint", "{url}", "--templates", "nowhere"], 2, "has no template"),
        (["--selector", "mllm", "--endpoint", "{url}", "--llm-pixels", "10"], 2, "--llm-pixels"),
        (["--selector", "mllm", "--endpoint", "{url}", "--answer-cache", "x", "--no-answer-cache"], 2, "exclude"),
        (["--selector", "mllm", "--endpoint", "{url}", "--transcript", "{file}/x"], 2, "cannot be written"),
        (["--selector", "mllm", "--endpoint", "{url}", "--record", "{file}/x"], 2, "cannot be written"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    clip: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with FakeServer() as server:
        filled = [each.replace("{url}", server.url).replace("{file}", str(file)) for each in arguments]
        got, printed = alref("rvos", clip, "--text", "the circle", "--out", tmp_path / "out", *filled)
    assert got == code, printed
    assert words in " ".join(printed.split())
    assert not (tmp_path / "out").exists()


REFUSES = says("I cannot help with that.")


@pytest.mark.parametrize(("command", "what"), [("rvos", ["--text", "the circle"]), ("avs", [])])
def test_answers_that_cannot_be_used_are_said(clip: Path, tmp_path: Path, command: str, what: list[str]) -> None:
    with FakeServer(then=REFUSES) as server:
        common = (command, clip, *what, "--endpoint", server.url, "--report", "--masks", "none", "--no-overlay")
        code, printed = alref(*common, "--selector", "mllm", "--out", tmp_path / "out")
        assert (code, (tmp_path / "out").exists()) == (7, False)
        assert "no usable answer to 1 of 1 questions" in " ".join(printed.split())
        for name, more in (("mixed", []), ("mllm", ["--allow-unusable"])):
            code, printed = alref(*common, "--selector", name, *more, "--out", tmp_path / name)
            assert code == 0, printed
            warning = "the LLM gave no usable answer to 1 of 1 questions: no JSON in the answer"
            assert f"warning: {warning}" in " ".join(printed.split())
            assert warning in record_of(tmp_path / name)["warnings"]
            assert record_of(tmp_path / name)["reasoning"]["unusable"] == 1
            assert warning in (tmp_path / name / "report.html").read_text()


def test_tokens_and_thinking_reach_the_server(clip: Path, tmp_path: Path) -> None:
    common = ("rvos", clip, "--text", "the circle", "--selector", "mllm", "--no-answer-cache", "--no-overlay")
    cut = says("<think>so", finish="length")
    with FakeServer(then=cut) as server:
        code, printed = alref(
            *common, "--endpoint", server.url, "--llm-max-tokens", "77", "--llm-thinking", "--out", tmp_path / "out"
        )
    assert code == 7
    assert "cut off at its 77 tokens (finish_reason: length)" in " ".join(printed.split())
    assert {request.body["max_tokens"] for request in server.requests} == {77}
    assert server.requests[0].body["chat_template_kwargs"]["enable_thinking"] is True


def test_a_server_without_schemas_serves_and_the_result_says_so(clip: Path, tmp_path: Path) -> None:
    with FakeServer(then=knowing("none", switches=False)) as server:
        code, printed = alref(
            "rvos",
            clip,
            "--text",
            "the circle",
            "--selector",
            "mllm",
            "--endpoint",
            server.url,
            "--out",
            tmp_path / "out",
        )
    assert code == 0, printed
    assert "is asked with less" in printed
    assert record_of(tmp_path / "out")["reasoning"]["form"] == "none"


@pytest.mark.parametrize("count", [1, 3])
def test_a_short_clip_is_asked_about_if_that_is_wanted(clip: Path, tmp_path: Path, count: int) -> None:
    from PIL import Image

    frames = tmp_path / "frames"
    frames.mkdir()
    scene = make_scene(SEED, 112, 112, 24)
    for number in range(count):
        Image.fromarray(scene.frame(number)).save(frames / f"{number:05d}.png")
    given = frames / "00000.png" if count == 1 else frames
    with FakeServer() as server:
        common = ("rvos", given, "--text", "the circle", "--selector", "mllm", "--endpoint", server.url, "--no-overlay")
        code, printed = alref(*common, "--out", tmp_path / "plain")
        assert (code, server.requests) == (0, [])
        assert "warning: the LLM was not asked" in " ".join(printed.split())
        assert record_of(tmp_path / "plain")["reasoning"]["questions"] == 0
        code, printed = alref(*common, "--ask-short", "--out", tmp_path / "asked")
    assert (code, "not asked" in printed) == (0, False)
    assert record_of(tmp_path / "asked")["reasoning"]["questions"] == len(server.requests) > 0
    assert record_of(tmp_path / "asked")["settings"]["ask_short"] is True


@pytest.mark.parametrize("then", [REFUSES, None])
def test_an_evaluation_says_what_could_not_be_used(tmp_path: Path, then: Behaviour | None) -> None:
    common = ["eval", "synthetic", "--seeds", "3:4", "--size", "112", "--frames", "21", "--every", "20"]
    common += ["--device", "cpu", "--threads", "1", "--json", str(tmp_path / "scores.json")]
    with FakeServer(**({} if then is None else {"then": then})) as server:
        common += ["--endpoint", server.url, "--no-answer-cache"]
        alone = CliRunner().invoke(app, [*common, "--selector", "mllm"])
        mixed = CliRunner().invoke(app, [*common, "--selector", "mixed"])
    assert (alone.exit_code, mixed.exit_code) == (7 if then else 0, 0)
    said = json.loads((tmp_path / "scores.json").read_text())["warnings"]
    assert len(said) == (1 if then else 0)
    assert ("warning: mixed: the LLM gave no usable answer to" in " ".join(mixed.output.split())) == bool(then)


def test_a_refused_key_says_so(clip: Path, tmp_path: Path) -> None:
    with FakeServer(models=error("401 Unauthorized", "wrong key")) as server:
        code, printed = alref(
            "rvos", clip, "--text", "a", "--selector", "mllm", "--endpoint", server.url, "--out", tmp_path / "out"
        )
    assert code == 7
    assert KEY_VARIABLE in printed
    assert KEY not in printed


def test_a_sound_record_needs_its_setting(clip: Path, tmp_path: Path) -> None:
    code, printed = alref("avs", clip, "--record", tmp_path / "decided", "--out", tmp_path / "out")
    assert (code, "--setting" in printed) == (2, True)


def test_a_record_that_cannot_be_kept_costs_no_result(clip: Path, tmp_path: Path) -> None:
    """Only what is in the folder already shows that, and it is read at the end."""
    decided = tmp_path / "decided" / "clip" / "stage_2" / "0"
    decided.mkdir(parents=True)
    (decided / "cot_two_stage.json").write_text("{")
    with FakeServer() as server:
        code, printed = alref(
            "rvos", clip, "--text", "a", "--selector", "mllm", "--endpoint", server.url,
            "--out", tmp_path / "out", "--record", tmp_path / "decided",
        )  # fmt: skip
        assert (code, "cot_two_stage.json" in printed) == (2, True)
        assert record_of(tmp_path / "out")["reasoning"]["questions"] == 2
        asked = len(server.requests)
        code, printed = alref(
            "rvos", clip, "--text", "a", "--selector", "mllm", "--endpoint", server.url,
            "--out", tmp_path / "other", "--record", tmp_path / "decided", "--clip", "a/b",
        )  # fmt: skip
    assert (code, "A clip needs a name" in printed, len(server.requests)) == (2, True, asked)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="network namespaces are Linux's")
def test_with_no_network_but_loopback(clip: Path, tmp_path: Path) -> None:
    """A namespace of its own has loopback alone; any other connection would fail there."""
    import subprocess

    script = tmp_path / "inside.py"
    script.write_text(
        "import socket, subprocess, sys\n"
        "subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)\n"
        "try:\n"
        "    socket.create_connection(('192.0.2.1', 80), 2)\n"
        "    sys.exit('there is a network')\n"
        "except OSError:\n"
        "    pass\n"
        "from tests.mllm.fake_server import FakeServer\n"
        "with FakeServer() as server:\n"
        "    run = [sys.executable, '-m', 'alref_edge', 'rvos', sys.argv[1], '--text', 'a', '--out', sys.argv[2]]\n"
        "    run += ['--selector', 'mllm', '--endpoint', server.url, '--device', 'cpu', '--threads', '1']\n"
        "    sys.exit(subprocess.run(run).returncode)\n"
    )
    unshare = ["unshare", "--net", "--map-root-user", sys.executable, str(script), str(clip), str(tmp_path / "out")]
    try:
        subprocess.run(["unshare", "--net", "--map-root-user", "ip", "link", "set", "lo", "up"], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces cannot be made here (unshare, ip)")
    root = str(Path(__file__).parents[2])
    done = subprocess.run(unshare, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert record_of(tmp_path / "out")["reasoning"]["questions"] == 2
