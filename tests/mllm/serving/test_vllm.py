"""The launcher and the client with a real vLLM server of a tiny model, of random weights: `bash tests/run_vllm.sh`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from alref_edge.errors import InputError, MllmError
from alref_edge.mllm.client import ClientSettings, MllmClient, Reply
from alref_edge.mllm.endpoint import Endpoint
from alref_edge.mllm.questions import Question, Questioner
from alref_edge.mllm.serving.peer import Transport
from alref_edge.mllm.serving.server import MllmServer, ServerSettings
from alref_edge.mllm.strips import BoxMarks
from alref_edge.mllm.templates import Templates
from tests.mllm.processes import none_left, with_text

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[3]
NANO = ROOT / "engines" / "nano_mllm"
KEY = f"key-of-test-{os.getpid()}"
CACHE_SHARE = 0.05  # of the memory; 1 GiB at least
LONGEST = 24  # characters of a text: random weights know no end


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="torch and transformers write the model")
    pytest.importorskip("transformers", reason="torch and transformers write the model")
    folder = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run([sys.executable, "-m", "tests.mllm.tiny_model", folder], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def server(vllm_python: str, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MllmServer]:
    settings = ServerSettings(api_key=KEY, memory_share=CACHE_SHARE, start_timeout_s=900)
    with MllmServer(model, settings, vllm_python, tmp_path_factory.mktemp("log") / "vllm.log") as running:
        yield running


@pytest.fixture(scope="module")
def questions() -> Callable[[int], list[Question[Any]]]:
    """Makes so many questions, no two alike: a strip of noise, the shipped prompts, shorter texts in the schema."""
    asker = Questioner(Templates.load(), 60_000)
    frames = np.random.default_rng(0).integers(0, 255, (5, 48, 64, 3), dtype=np.uint8)
    strip = asker.stacked(list(frames))

    def make(count: int, what: str = "dog") -> list[Question[Any]]:
        return [shortened(asker.pivot_frame(strip, 5, f"{what} {number}")) for number in range(count)]

    return make


def shortened(question: Question[Any]) -> Question[Any]:
    def cut(schema: Any) -> Any:
        if isinstance(schema, Mapping):
            return {key: min(value, LONGEST) if key == "maxLength" else cut(value) for key, value in schema.items()}
        return [cut(value) for value in schema] if isinstance(schema, list) else schema

    return replace(question, schema=cut(question.schema))


def ask_all(client: MllmClient, questions: list[Question[Any]]) -> list[Future[Reply[Any]]]:
    return [client.submit(question) for question in questions]


def connected(server: MllmServer, key: str = KEY) -> httpx.Client:
    transport, headers = Transport(server.endpoint), {"Authorization": f"Bearer {key}"}
    return httpx.Client(transport=transport, base_url="http://localhost", headers=headers, timeout=60, trust_env=False)


def request(server: MllmServer, content: list[dict[str, Any]]) -> httpx.Response:
    endpoint = server.endpoint
    body = {"model": endpoint.model, "messages": [{"role": "user", "content": content}], "max_tokens": 4}
    with connected(server) as client:
        return client.post("/v1/chat/completions", json=body)


# In the order in which they come: the last ones end the server.


def test_it_answers_as_the_model_it_serves(server: MllmServer) -> None:
    with MllmClient(server.endpoint) as client, MllmClient(Endpoint(server.endpoint.url, KEY)) as asks:
        assert client.model == asks.model == server.model.name
    assert len(with_text(KEY)) >= 3  # guardian, server, engine
    assert KEY not in server.log.read_text()


def test_only_what_the_job_needs_is_open(server: MllmServer) -> None:
    sockets = [each for process in with_text(KEY) for each in process.net_connections("inet")]
    listening = {each.laddr for each in sockets if each.status == "LISTEN"}
    assert {address.ip for address in listening} <= {"127.0.0.1"}  # engine and workers among themselves
    path = Path(str(server.endpoint.socket))
    assert [stat.S_IMODE(each.lstat().st_mode) for each in (path, path.parent)] == [0o700, 0o700]
    with connected(server) as client:
        for path in ("/metrics", "/docs", "/openapi.json", "/version", "/load", "/ping"):
            assert client.get(path).status_code == 404, path
        for path in ("/invocations", "/tokenize", "/v1/completions", "/v1/responses", "/v1/embeddings", "/pooling"):
            assert client.post(path, json={}).status_code == 404, path
        assert "access-control-allow-origin" not in client.get("/health", headers={"Origin": "http://x"}).headers


def test_it_fetches_nothing_and_reads_no_file(server: MllmServer, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(b"x")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)
        for url in (f"http://127.0.0.1:{listener.getsockname()[1]}/image.png", image.as_uri()):
            answer = request(server, [{"type": "image_url", "image_url": {"url": url}}])
            assert answer.status_code >= 400
            assert "allowed" in answer.text
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_wrong_key_is_said_to_be_wrong(server: MllmServer, questions: Callable[..., list[Question[Any]]]) -> None:
    with MllmClient(Endpoint(server.endpoint.url, "wrong", server.endpoint.model)) as client:
        with pytest.raises(MllmError, match="key"):
            client.ask(questions(1)[0])
        assert client.stats.retries == 0
    with connected(server, "wrong") as bare:
        assert bare.get("/v1/models").status_code == 401


def test_answers_about_images_keep_to_the_schema(server: MllmServer) -> None:
    asker = Questioner(Templates.load(), 60_000)
    frames = list(np.random.default_rng(1).integers(0, 255, (5, 48, 64, 3), dtype=np.uint8))
    marks = BoxMarks(2, np.array([[4, 4, 30, 30], [20, 10, 60, 40]], np.float32))
    asked = [
        asker.pivot_frame(asker.stacked(frames), 5, "the dog"),
        asker.pivot_box(asker.stacked(frames, marks), 5, 3, ["dog", "cat"], "the dog"),
        asker.sounding_objects(asker.in_rows(frames), 5, ["Bark", "Meow"], ["dog", "cat"], 2),
        asker.sounding_box(asker.in_rows(frames, marks), 5, 3, 2, "dog"),
    ]
    with MllmClient(server.endpoint) as client:
        replies = [future.result() for future in ask_all(client, [shortened(question) for question in asked])]
        assert [reply.problem for reply in replies] == [None] * 4
        frame, box, objects, sounding = (reply.answer for reply in replies)
        assert frame in range(1, 6)
        assert box in range(3)
        assert len(objects) <= 2
        assert sounding in (1, 2)
        for question, reply in zip(asked, replies, strict=True):
            assert list(json.loads(reply.text)) == list(question.schema["properties"])  # reasoning first, choice last
            assert reply.text == json.dumps(json.loads(reply.text), separators=(",", ":"), ensure_ascii=False)
        again = client.ask(shortened(asked[0]))
        assert again.text == replies[0].text  # greedy
        assert not again.cached
        assert client.stats.requests == 5


def test_32_in_flight_are_all_answered(server: MllmServer, questions: Callable[..., list[Question[Any]]]) -> None:
    with MllmClient(server.endpoint, settings=ClientSettings(in_flight=32)) as client:
        replies = [future.result() for future in ask_all(client, questions(32))]
        assert all(reply.usable and reply.answer in range(1, 6) for reply in replies)
        assert (client.stats.requests, client.stats.retries) == (32, 0)


def test_killed_and_started_again_the_run_goes_on(
    server: MllmServer, questions: Callable[..., list[Question[Any]]], tmp_path: Path
) -> None:
    settings = ClientSettings(in_flight=4, patience_s=300)
    with MllmClient(server.endpoint, settings=settings, cache_dir=tmp_path) as client:
        futures = ask_all(client, questions(24, "cat"))
        futures[0].result()
        before = sum(future.done() for future in futures)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert server.wait(30) == 128 + signal.SIGKILL
        endpoint = server.endpoint
        server.start()
        assert server.endpoint == endpoint
        replies = [future.result() for future in futures]
        assert before < 24
        assert all(reply.usable and reply.answer in range(1, 6) for reply in replies)
        assert client.stats.retries > 0
        asked = client.stats.requests
        assert all(client.ask(question).cached for question in questions(24, "cat"))
        assert client.stats.requests == asked


def test_killed_for_good_the_run_ends_and_keeps_its_answers(
    server: MllmServer, questions: Callable[..., list[Question[Any]]], tmp_path: Path
) -> None:
    settings = ClientSettings(in_flight=2, patience_s=2, backoff_s=0.1)
    asked = questions(24, "fox")
    with MllmClient(server.endpoint, settings=settings, cache_dir=tmp_path) as client:
        futures = ask_all(client, asked)
        kept = futures[0].result().answer
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(MllmError, match="mllm serve"):
            _ = [future.result() for future in futures]
    assert server.wait(30) == 128 + signal.SIGKILL
    assert none_left(KEY, within_s=1)
    assert not Path(str(server.endpoint.socket)).parent.exists()
    with MllmClient(server.endpoint, settings=settings, cache_dir=tmp_path) as client:
        reply = client.ask(asked[0])
        assert (reply.answer, reply.cached) == (kept, True)
    server.stop()


def test_real_words_of_vllm_are_understood(vllm_python: str, model: Path, tmp_path: Path) -> None:
    settings = ServerSettings(context=1_000_000, api_key=f"{KEY}-b", memory_share=CACHE_SHARE)
    server = MllmServer(model, settings, vllm_python, tmp_path / "log")
    with pytest.raises(InputError, match=r"context.*max_model_len.*--context"):
        server.start()
    assert none_left(f"{KEY}-b", within_s=1)


def test_with_no_network_but_loopback(vllm_python: str, model: Path, tmp_path: Path) -> None:
    """`mllm serve` and `rvos --selector mllm` where there is no other interface; then SIGTERM, and nothing is left."""
    unshare = shutil.which("unshare")
    cut_off = [str(unshare), "-n"] if os.getuid() == 0 else [str(unshare), "-rn"]
    if unshare is None or subprocess.run([*cut_off, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a network namespace cannot be made here (unshare, from root or with user namespaces)")
    marker = f"marker-{os.getpid()}"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_RUNTIME_DIR": "", "MARKER": marker}
    served = NANO if (NANO / "config.json").is_file() else model
    command = [*cut_off, sys.executable, "-m", "tests.mllm.offline", str(served), vllm_python, str(tmp_path)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
    finally:
        left = none_left(marker, within_s=5)
    assert done.returncode == 0, done.stdout + done.stderr
    assert left
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["interfaces"] == ["lo"]
    assert facts["outside"] == "Network is unreachable"
    assert facts["served"] == 0
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert len(record["sentences"]) == 1
    assert facts["transcripts"] > 0
