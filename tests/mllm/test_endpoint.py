"""Where the LLM's server may be, and how word of a running one is left and found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from alref_edge.errors import InputError, MllmError
from alref_edge.mllm.endpoint import (
    KEY_VARIABLE,
    Endpoint,
    ServerState,
    is_loopback,
    read_states,
    remove_state,
    state_files,
    write_state,
)

KEY = "sk-not-to-be-shown"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's runtime folder, where word of a server is left."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "run").mkdir(mode=0o700)
    return tmp_path / "run" / "alref-edge"


@pytest.fixture
def state() -> ServerState:
    """A server that this process is taken to hold."""
    return ServerState("http://127.0.0.1:8123/v1", KEY, "tiny", os.getpid(), 1.8e9)


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.9.8.7:1/api/v2", "http://127.9.8.7:1/api/v2"),
        ("http://localhost:8000/v1", "http://127.0.0.1:8000/v1"),
        ("https://LOCALHOST", "https://127.0.0.1/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://[0:0:0:0:0:0:0:1]/v1", "http://[0:0:0:0:0:0:0:1]/v1"),
    ],
)
def test_loopback_is_taken(url: str, used: str) -> None:
    assert Endpoint.at(url).url == used


REMOTE = [
    "http://0.0.0.0:8000/v1",
    "http://192.168.1.5:8000/v1",
    "http://10.0.0.1/v1",
    "http://8.8.8.8/v1",
    "http://example.org/v1",
    "http://localhost.example.org/v1",
    "http://localhost.:8000/v1",
    "http://my.localhost/v1",
    "http://127.0.0.1.example.org/v1",
    "http://127.1/v1",
    "http://0177.0.0.1/v1",
    "http://2130706433/v1",
    "http://0x7f000001/v1",
    "http://127.0.0.01/v1",
    "http://[::ffff:127.0.0.1]/v1",
    "http://[::127.0.0.1]/v1",
    "http://[::]/v1",
    "http://[fe80::1]/v1",
    "http://[127.0.0.1]/v1",
]


@pytest.mark.parametrize("url", REMOTE)
def test_what_is_not_surely_this_machine_is_refused_unless_allowed(url: str) -> None:
    with pytest.raises(InputError, match="not on this machine") as caught:
        Endpoint.at(url)
    assert "--allow-remote" in str(caught.value)
    assert Endpoint.at(url, allow_remote=True).url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://127.0.0.1/v1",
        "unix:///run/vllm.sock",
        "http://",
        "http:///v1",
        "http://user:secret@127.0.0.1:8000/v1",
        "http://127.0.0.1@example.org/v1",
        "http://user:pass@127.0.0.1@example.org/v1",
        "http://127.0.0.1\\@example.org/v1",
        "http://example.org#@127.0.0.1/v1",
        "http://127.0.0.1/v1?to=http://example.org",
        "http://127.0.0.1/v1#part",
        "http://127.0.0.1:0/v1",
        "http://127.0.0.1:65536/v1",
        "http://127.0.0.1:port/v1",
        "http://127.0.0.1 /v1",
        "http://127.0.0.1\t/v1",
        "http://127.0.0.1/v1\n",
        "http://127.0.0.1\r\nHost: example.org/v1",
        "http://[::1%eth0]/v1",
        "http://127.0.0.\N{FULLWIDTH DIGIT ONE}/v1",
        "http://[::1/v1",
    ],
)
@pytest.mark.parametrize("allow_remote", [False, True])
def test_what_two_readers_could_read_differently_is_no_url(url: str, allow_remote: bool) -> None:
    with pytest.raises(InputError, match="cannot have this URL") as caught:
        Endpoint.at(url, allow_remote=allow_remote)
    assert "secret" not in str(caught.value)


def test_no_endpoint_is_made_without_the_check() -> None:
    with pytest.raises(InputError, match="not on this machine"):
        Endpoint("http://192.168.1.5:8000/v1")
    with pytest.raises(InputError, match="not on this machine"):
        replace(Endpoint("http://127.0.0.1:8000/v1"), url="http://192.168.1.5:8000/v1")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.255.254", "::1", "[::1]", "localhost", "LocalHost"])
def test_loopback_hosts(host: str) -> None:
    assert is_loopback(host)


def test_the_key_is_taken_from_the_variable_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, f" {KEY}\n")
    endpoint = Endpoint.at("http://127.0.0.1:8000/v1")
    assert endpoint.api_key == KEY
    assert KEY not in repr(endpoint) + str(endpoint)
    assert Endpoint.at("http://127.0.0.1:8000/v1", "another").api_key == "another"
    monkeypatch.delenv(KEY_VARIABLE)
    assert Endpoint.at("http://127.0.0.1:8000/v1").api_key == ""


@pytest.mark.parametrize("key", [f"{KEY}\r\nHost: example.org", f"{KEY} two words", f"{KEY}ü"])
def test_a_key_that_no_header_holds_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InputError, match="API key") as caught:
        Endpoint.at("http://127.0.0.1:8000/v1", key)
    assert KEY not in str(caught.value)


def test_a_running_server_is_found_and_forgotten(folder: Path, state: ServerState) -> None:
    path = write_state(state)
    assert path == folder / "mllm.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in folder.iterdir()] == ["mllm.json"]
    assert Endpoint.running() == Endpoint(state.url, KEY, "tiny")
    assert KEY not in repr(read_states())
    remove_state(state.pid + 1)
    assert path.exists()
    remove_state(state.pid)
    assert not path.exists()
    with pytest.raises(MllmError, match="alref-edge mllm serve --model FOLDER"):
        Endpoint.running()


def test_a_server_replaces_the_one_before(folder: Path, state: ServerState) -> None:
    write_state(state)
    write_state(replace(state, url="http://127.0.0.1:9000/v1"))
    assert Endpoint.running().url == "http://127.0.0.1:9000/v1"


@pytest.mark.parametrize("runtime", [None, "relative/path", "/nowhere/at/all"])
def test_without_a_runtime_folder_the_cache_folder_serves(
    runtime: str | None, folder: Path, state: ServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    if runtime is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert write_state(state) == folder.parent.parent / "cache" / "alref-edge" / "mllm.json"
    # A program that has the variable still finds it.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder.parent))
    assert Endpoint.running().model == "tiny"


def test_where_nothing_can_be_written(tmp_path: Path, state: ServerState, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot be left.*Not a directory|cannot be left.*exists"):
        write_state(state)
    assert read_states() == []


def test_an_ended_server_is_not_used(folder: Path, state: ServerState) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        write_state(replace(state, pid=process.pid))
        assert Endpoint.running().model == "tiny"
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, not yet taken off the table
        with pytest.raises(MllmError, match="has ended"):
            Endpoint.running()
    finally:
        process.kill()
        process.communicate()
    with pytest.raises(MllmError, match="alref-edge mllm serve"):
        Endpoint.running()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc: a number that came back cannot be told")
def test_a_later_process_with_the_same_number_is_not_the_server(folder: Path, state: ServerState) -> None:
    path = write_state(state)
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "born": "another boot 123"}))
    with pytest.raises(MllmError, match="has ended"):
        Endpoint.running()


GOOD = {"url": "http://127.0.0.1:8123/v1", "api_key": KEY, "model": "tiny", "pid": 1, "started": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 10000,
        json.dumps({**GOOD, "url": "http://192.168.1.5:8000/v1"}),
        json.dumps({**GOOD, "url": 7}),
        json.dumps({**GOOD, "api_key": None}),
        json.dumps({**GOOD, "model": None}),
        json.dumps({**GOOD, "pid": "1"}),
        json.dumps({**GOOD, "pid": -1}),
        json.dumps({**GOOD, "pid": True}),
        json.dumps({**GOOD, "more": 1}),
        json.dumps({name: GOOD[name] for name in ("url", "pid")}),
    ],
)
def test_a_damaged_file_is_refused(content: str, folder: Path, state: ServerState) -> None:
    path = write_state(state)
    path.write_text(content)
    with pytest.raises(MllmError, match=r"cannot be used.*remove it"):
        Endpoint.running()
    remove_state(state.pid)
    assert path.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o666])
def test_a_file_that_others_can_open_is_refused(mode: int, folder: Path, state: ServerState) -> None:
    write_state(state).chmod(mode)
    with pytest.raises(MllmError, match="others can read or write it"):
        Endpoint.running()


def test_what_is_no_plain_file_is_refused(folder: Path, state: ServerState) -> None:
    path = write_state(state)
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")
    with pytest.raises(MllmError, match="cannot be used"):
        Endpoint.running()
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(MllmError, match="not a file of this user"):
        Endpoint.running()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_is_refused(folder: Path, state: ServerState) -> None:
    os.chown(write_state(state), 12345, -1)
    with pytest.raises(MllmError, match="not a file of this user"):
        Endpoint.running()


def test_state_files_lie_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert state_files() == (Path.home() / ".cache" / "alref-edge" / "mllm.json",)
