"""That nobody stands in for this user's server: neither the key nor a frame goes to one that is not proven."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
import pytest

from alref_edge.errors import MllmError
from alref_edge.mllm.client import ClientSettings, MllmClient
from alref_edge.mllm.endpoint import Endpoint, ServerState, write_state
from alref_edge.mllm.questions import Questioner
from alref_edge.mllm.serving.peer import Transport, listener
from alref_edge.mllm.serving.server import MllmServer, ServerSettings
from alref_edge.mllm.templates import Templates
from tests.mllm.fake_vllm import make_model, make_python
from tests.mllm.processes import with_text

KEY = "sk-for-the-server-alone"
QUICK = ServerSettings(start_timeout_s=30, stop_grace_s=3, api_key=KEY)
NOBODY = 65534

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="no /proc: whose a socket is is not told")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_python(tmp_path_factory.mktemp("vllm") / "environment"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of mode 0700 and the path of a socket in it."""
    folder = tmp_path / "own"
    folder.mkdir(mode=0o700)
    return folder / "llm.sock"


class Stub:
    """Takes connections, keeps what comes, and answers every request as if it were fine."""

    def __init__(self, listening: socket.socket) -> None:
        self.received = b""
        self.connections = 0
        self.socket = listening
        self.socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.connections += 1
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(1 << 16):
                self.received += data
                body = b'{"data": [{"id": "model"}]}'
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self.socket.close()


@contextmanager
def stub_at(address: Any) -> Iterator[Stub]:
    listening = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(address)
    if isinstance(address, str):
        os.chmod(address, 0o700)
    stub = Stub(listening)
    try:
        yield stub
    finally:
        stub.close()


def ask(endpoint: Endpoint) -> None:
    """Ask a question about frames, with the key."""
    asker = Questioner(Templates.load(), 60_000)
    strip = asker.stacked(list(np.zeros((3, 48, 64, 3), np.uint8)))
    settings = ClientSettings(patience_s=1, backoff_s=0.05)
    with MllmClient(replace(endpoint, model="model"), settings=settings) as client:
        client.ask(asker.pivot_frame(strip, 3, "the dog"))


def refused(endpoint: Endpoint, stub: Stub, why: str) -> None:
    with pytest.raises(MllmError, match=rf"is not the server.*{why}.*nothing was sent.*alref-edge mllm serve"):
        ask(endpoint)
    time.sleep(0.1)
    assert stub.received == b""


# A UNIX socket


def test_a_server_of_this_user_on_a_socket_is_asked(own: Path) -> None:
    with stub_at(str(own)) as stub:
        with httpx.Client(transport=Transport(Endpoint(f"unix://{own}", KEY))) as client:
            assert client.get("http://localhost/v1/models").status_code == 200
        with pytest.raises(MllmError, match="no chat completion"):
            ask(Endpoint(f"unix://{own}", KEY))
        assert KEY.encode() in stub.received


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_can_enter_is_refused(own: Path, mode: int) -> None:
    own.parent.chmod(mode)
    with stub_at(str(own)) as stub:
        refused(Endpoint(f"unix://{own}", KEY), stub, f"mode {mode:o}")


@pytest.mark.parametrize("mode", [0o777, 0o702])
def test_a_socket_that_others_can_write_is_refused(own: Path, mode: int) -> None:
    with stub_at(str(own)) as stub:
        own.chmod(mode)
        refused(Endpoint(f"unix://{own}", KEY), stub, f"mode {mode:o}")


def test_a_link_to_another_socket_is_refused(own: Path, tmp_path: Path) -> None:
    with stub_at(str(tmp_path / "else.sock")) as stub:
        own.symlink_to(tmp_path / "else.sock")
        refused(Endpoint(f"unix://{own}", KEY), stub, "not this user's own")


@needs_root
@pytest.mark.parametrize("what", ["socket", "folder"])
def test_what_belongs_to_another_user_is_refused(own: Path, what: str) -> None:
    with stub_at(str(own)) as stub:
        os.chown(own if what == "socket" else own.parent, NOBODY, -1)
        refused(Endpoint(f"unix://{own}", KEY), stub, "not this user's own")


SERVES = """
import os, socket, sys
listening = socket.socket(socket.AF_UNIX if sys.argv[1] == "unix" else socket.AF_INET)
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind(sys.argv[2] if sys.argv[1] == "unix" else ("127.0.0.1", int(sys.argv[2])))
if os.fork():
    os._exit(0)  # nobody's child
os.setuid(int(sys.argv[3]))
listening.listen()
print(os.getpid(), flush=True)
while True:
    connection, _ = listening.accept()
    print("got", connection.recv(1 << 16), flush=True)
"""


@contextmanager
def other_process(kind: str, at: object, user: int) -> Iterator[IO[str]]:
    """A process of nobody's, perhaps of another user, that listens; gives what it prints of its connections."""
    command = [sys.executable, "-c", SERVES, kind, str(at), str(user)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        try:
            yield process.stdout
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def got_nothing(printed: IO[str]) -> None:
    """Its first connection ended, and nothing had come."""
    assert printed.readline() == "got b''\n"


@needs_root
def test_a_socket_that_another_users_process_listens_on_is_refused(own: Path) -> None:
    """Its file is as it should be: the kernel tells who listens."""
    with other_process("unix", own, NOBODY) as printed:
        own.chmod(0o700)
        with pytest.raises(MllmError, match=f"a process of user {NOBODY} listens there; nothing was sent"):
            ask(Endpoint(f"unix://{own}", KEY))
        got_nothing(printed)


def test_a_socket_that_went_is_a_server_that_ended(own: Path) -> None:
    with pytest.raises(MllmError, match=r"No server of an LLM is to be found at unix://"):
        ask(Endpoint(f"unix://{own}", KEY))


# A port


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def test_what_listens_is_told_with_its_user() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        assert listener("127.0.0.1", port) == (os.fstat(held.fileno()).st_ino, os.getuid())
        assert listener("127.0.0.2", port) is None
    assert listener("127.0.0.1", port) is None


USERS = [os.getuid(), pytest.param(NOBODY, marks=needs_root)]


@pytest.mark.parametrize("user", USERS)
def test_who_binds_the_port_while_the_server_loads_gets_nothing(
    python: str, tmp_path: Path, user: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    model = make_model(tmp_path / "model", sleeps=60)
    server = MllmServer(model, replace(QUICK, port=port), python, tmp_path / "log")
    with other_process("tcp", port, user):
        # In truth, after the launcher looked whether the port is free.
        monkeypatch.setattr("alref_edge.mllm.serving.server._free_port", lambda host, port: port)
        with pytest.raises(
            MllmError, match=r"is not the server.*listens there; nothing was sent.*alref-edge mllm serve"
        ):
            server.start()
    assert with_text(KEY) == []


def dead(python: str, tmp_path: Path) -> MllmServer:
    """A server that ran on a port, was asked, and was killed."""
    server = MllmServer(make_model(tmp_path / "model"), replace(QUICK, port=0), python, tmp_path / "log").start()
    with httpx.Client(transport=Transport(server.endpoint)) as client:
        assert client.get(f"{server.endpoint.http}/models").status_code == 200
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.wait(20)
    return server


@pytest.mark.parametrize("user", USERS)
def test_who_takes_the_port_of_a_dead_server_gets_nothing(python: str, tmp_path: Path, user: int) -> None:
    server = dead(python, tmp_path)
    with other_process("tcp", httpx.URL(server.endpoint.url).port, user) as printed:
        with pytest.raises(MllmError, match=r"is not the server.*listens there; nothing was sent"):
            ask(server.endpoint)
        with socket.create_connection(("127.0.0.1", httpx.URL(server.endpoint.url).port or 0)):
            pass
        got_nothing(printed)  # not even a connection before that one


def test_a_client_that_is_asking_when_the_server_is_replaced_stops(python: str, tmp_path: Path) -> None:
    server = MllmServer(make_model(tmp_path / "model"), replace(QUICK, port=0), python, tmp_path / "log").start()
    with httpx.Client(transport=Transport(server.endpoint)) as client:
        assert client.get(f"{server.endpoint.http}/models").status_code == 200
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        server.wait(20)
        port = httpx.URL(server.endpoint.url).port
        with other_process("tcp", port, os.getuid()), pytest.raises(MllmError, match="nothing was sent"):
            client.get(f"{server.endpoint.http}/models")


def test_a_record_whose_port_another_process_has_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    port = free_port()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as lives:
        write_state(ServerState(f"http://127.0.0.1:{port}/v1", KEY, "model", lives.pid, 1.8e9))
        says = pytest.raises(MllmError, match=r"a process that is not the server.*nothing was sent")
        with other_process("tcp", port, os.getuid()), says:
            ask(Endpoint.running())
        lives.kill()


def test_an_endpoint_that_the_user_names_is_taken_at_its_word() -> None:
    with stub_at(("127.0.0.1", free_port())) as stub:
        port = stub.socket.getsockname()[1]
        with httpx.Client(transport=Transport(Endpoint.at(f"http://127.0.0.1:{port}/v1", KEY))) as client:
            assert client.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200
