"""The client against a server that misbehaves as told: an answer, a counted fall-back or a clear error, every time."""

from __future__ import annotations

import asyncio
import base64
import email.utils
import gc
import gzip
import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alref_edge.errors import CapacityError, InputError, MllmError
from alref_edge.mllm import ClientSettings, Endpoint, MllmClient, Question
from tests.mllm.fake_server import (
    KEY,
    Behaviour,
    FakeServer,
    Request,
    after,
    completion,
    error,
    fine,
    http,
    knowing,
    least,
    never,
    raw,
    says,
    together,
)

SCHEMA = {
    "type": "object",
    "properties": {
        "reason": {"type": "string", "maxLength": 40},
        "choice": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["reason", "choice"],
    "additionalProperties": False,
}
IMAGE = b"\x89PNG\r\n\x1a\n of a strip"
FAST = ClientSettings(timeout_s=20, patience_s=20, backoff_s=0.02, max_bytes=1 << 20)
HASTY = replace(FAST, timeout_s=0.5)
GOOD = {"reason": "it moves", "choice": 2}


def chosen(answer: Mapping[str, Any]) -> int:
    if answer["choice"] == 5:
        raise ValueError("frame 5 is not one of those with a box")
    return int(answer["choice"])


def question(number: int = 0) -> Question[int]:
    return Question("pivot_frame", "1", IMAGE, f"Question {number}?", SCHEMA, chosen)


def client(server: FakeServer, settings: ClientSettings = FAST, key: str = KEY, **kept: Any) -> MllmClient:
    return MllmClient(Endpoint.at(server.url, key, "fake"), settings=settings, **kept)


def head(length: int | str, **more: object) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n" % str(length).encode()


def chunked(*chunks: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunks)


BODY = json.dumps(completion(json.dumps(GOOD))).encode()
BOMB = gzip.compress(b"0" * (64 << 20))


async def wrong_key(request: Request, writer: asyncio.StreamWriter) -> None:
    """401 to any key but one, with the key in its message, as a careless server has it."""
    sent = request.headers.get("authorization", "")
    await (fine if sent == "Bearer right" else error("401 Unauthorized", f"no such key: {sent}"))(request, writer)


USABLE: dict[str, tuple[list[Behaviour], int, int]] = {
    # name: what the server does before all is well; repair attempts; requests sent again
    "all is well": ([], 0, 0),
    "prose around the JSON": ([says(f"Step 1 ... so: ```json\n{json.dumps(GOOD)}\n``` Done.")], 0, 0),
    "no JSON": ([says("The second frame.")], 1, 0),
    "half of the JSON": ([says('{"reason": "it mo')], 1, 0),
    "cut off": ([says('{"reason": "it mo', finish="length")], 1, 0),
    "a draft among thoughts": ([says(f"<think>{json.dumps({**GOOD, 'choice': 3})}?</think>{json.dumps(GOOD)}")], 0, 0),
    "thoughts without an end": ([says(f"<think>{json.dumps(GOOD)}, or not")], 1, 0),
    "a fragment, then the answer": ([says('{"choice": 1} no: ' + json.dumps(GOOD))], 0, 0),
    "an integral number": ([says({**GOOD, "choice": 2.0})], 0, 0),
    "another number": ([says({**GOOD, "choice": 2.5})], 1, 0),
    "in the reasoning field": ([says(None, reasoning_content=json.dumps(GOOD))], 0, 0),
    "in the other reasoning field": ([says("\n", reasoning=json.dumps(GOOD) + "\n")], 0, 0),
    "a draft in the reasoning field": ([says(None, reasoning=f"Perhaps {json.dumps(GOOD)}? No.")], 1, 0),
    "thoughts of another type": ([says(None, reasoning=7, reasoning_content=["x"])], 1, 0),
    "whole, then cut off": ([says(json.dumps(GOOD) + "\n" * 99, finish="length")], 0, 0),
    "another schema": ([says({"frame": 2})], 1, 0),
    "a number as text": ([says({**GOOD, "choice": "2"})], 1, 0),
    "out of the schema's range": ([says({**GOOD, "choice": 6})], 1, 0),
    "out of range, by parse": ([says({**GOOD, "choice": 5})], 1, 0),
    "a key twice": ([says('{"reason": "a", "choice": 1, "choice": 2}')], 1, 0),
    "NaN": ([says('{"reason": "a", "choice": NaN}')], 1, 0),
    "nested deep": ([says('{"reason":' * 5000)], 1, 0),
    "lone surrogates": ([says('{"reason": "\ud800", "more": 1}')], 1, 0),
    "empty text": ([says("")], 1, 0),
    "no text": ([http(json.dumps(completion(None)))], 1, 0),
    "no choices": ([http('{"choices": []}')], 1, 0),
    "a choice that is none": ([http('{"choices": [7], "usage": "no"}')], 1, 0),
    "a 10 MB answer": ([says("x" * (10 << 20))], 1, 0),
    "a 10 MB answer without a length": ([raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (10 << 20))], 1, 0),
    "429 with Retry-After": ([error("429 Too Many Requests", Retry_After="0.2")], 0, 1),
    "429 with a date": ([error("429 Too Many Requests", Retry_After=email.utils.formatdate(0, usegmt=True))], 0, 1),
    "429 with nonsense": ([error("429 Too Many Requests", Retry_After="soon")], 0, 1),
    "503 three times": ([error("503 Service Unavailable")] * 3, 0, 3),
    "500, 502, 504, 408": ([error(f"{status} Oh") for status in (500, 502, 504, 408)], 0, 4),
    "closes before the headers": ([raw(b"")], 0, 1),
    "closes within the headers": ([raw(b"HTTP/1.1 200 OK\r\nContent-Le")], 0, 1),
    "closes within the body": ([raw(head(len(BODY)) + BODY[:20])], 0, 1),
    "Content-Length too large": ([raw(head(len(BODY) + 100) + BODY)], 0, 1),
    "Content-Length is no number": ([raw(head("many") + BODY)], 0, 1),
    "not HTTP": ([raw(b"SSH-2.0-OpenSSH_9.6\r\n")], 0, 1),
    "broken chunks": ([raw(chunked(b"5\r\nhello\r\n", b"zz\r\nx\r\n"))], 0, 1),
    "chunks without an end": ([raw(chunked(b"5\r\nhello\r\n"))], 0, 1),
    "no end of headers": ([raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000)], 0, 1),
    "never answers": ([never], 0, 1),
    "a slow drip of the body": ([raw(head(len(BODY)) + BODY, every_s=0.02)], 0, 1),
    "a slow drip of the headers": ([raw(head(1), every_s=0.02)], 0, 1),
    "no JSON, then 503": ([says("no"), error("503 Service Unavailable")], 1, 1),
}


@pytest.mark.parametrize("name", USABLE)
def test_what_passes_is_asked_again(name: str) -> None:
    script, repairs, retries = USABLE[name]
    settings = HASTY if name.startswith(("never", "a slow drip")) else FAST
    with FakeServer(script) as server, client(server, settings) as llm:
        reply = llm.ask(question())
        assert (reply.usable, reply.problem, reply.cached) == (True, None, False)
        assert (reply.repaired, reply.retries) == (repairs == 1, retries)
        assert reply.answer == json.loads(reply.text[reply.text.rindex("{") : reply.text.rindex("}") + 1])["choice"]
        assert len(server.requests) == 1 + repairs + retries == llm.stats.requests
        assert (llm.stats.repaired, llm.stats.retries, llm.stats.unusable) == (repairs, retries, 0)


UNUSABLE: dict[str, tuple[Behaviour, str, str]] = {
    # name: what the server does; what the LLM is told; what the user is told
    "no JSON": (says("I cannot say."), "no complete JSON object", "no JSON in the answer"),
    "out of range": (says({**GOOD, "choice": 6}), "at most 5, not 6", "JSON that is not as asked"),
    "out of range, by parse": (says({**GOOD, "choice": 5}), "frame 5 is not one of those", "JSON that is not as asked"),
    "cut off": (
        says('{"reason": "it mo', finish="length"),
        "cut off",
        "1024 tokens .finish_reason: length.*max-tokens",
    ),
    "cut off in thoughts": (
        says(f"<think>{json.dumps(GOOD)} or", finish="length"),
        "cut off",
        "1024 tokens .finish_reason: length.*--llm-max-tokens",
    ),
    "cut off in a field of thoughts": (says(None, finish="length", reasoning="It may"), "cut off", "--llm-max-tokens"),
    "only thoughts": (says(f"<think>{json.dumps(GOOD)}"), "thoughts have no end", "thoughts without an end"),
    "only a field of thoughts": (says(None, reasoning_content="It may be 2."), "empty", "in the reasoning field"),
    "empty": (says(""), "empty", "an empty answer$"),
    "no choices": (http('{"choices": []}'), "empty", "an empty answer$"),
    "10 MB": (says("x" * (10 << 20)), "over 1048576 bytes", "far too long"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_stays_unusable_is_counted_and_never_raised(name: str, tmp_path: Path) -> None:
    behaviour, problem, reason = UNUSABLE[name]
    with FakeServer(then=behaviour) as server, client(server, cache_dir=tmp_path) as llm:
        reply = llm.ask(question())
        assert (reply.answer, reply.usable, reply.repaired) == (None, False, False)
        assert problem in str(reply.problem)
        assert re.search(reason, str(reply.reason))
        assert len(server.requests) == 2
        assert (llm.stats.questions, llm.stats.unusable, llm.stats.repaired) == (1, 1, 0)
        llm.ask(question())  # not cached
        assert len(server.requests) == 4
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


ERRORS: dict[str, tuple[Behaviour, str]] = {
    "wrong key": (wrong_key, "does not take the API key.*ALREF_MLLM_API_KEY"),
    "403": (error("403 Forbidden"), "does not take the API key"),
    "no such model": (error("404 Not Found", "The model `fake` does not exist."), "no such model or path.*/v1/models"),
    "context": (
        error("400 Bad Request", "This model's maximum context length is 2048 tokens."),
        "cannot hold the question.*2048.*--context.*pixels",
    ),
    "context, with a schema": (
        error("400 Bad Request", "The schema and the prompt are longer than the context length of 2048."),
        "cannot hold the question",
    ),
    "422 about the image": (error("422 Oh", "image_url: wrong base64"), "refuses the request.*base64"),
    "another 400": (error("400 Bad Request", "seed?\n\x1b[31m"), r"refuses the request.*status 400: seed\? \[31m"),
    "418 that says much": (error("418 Teapot", "x" * 100_000), r"status 418: x{300}\. To mend"),
    "201": (http(BODY, "201 Created"), "refuses the request"),
    "HTML": (http("<html>It works!</html>", Content_Type="text/html"), "not an OpenAI-compatible API.*no JSON"),
    "a list": (http("[1, 2]"), "no JSON object"),
    "nested deep": (http("[" * 100_000), "no JSON"),
    "no completion": (http('{"object": "list", "data": []}'), "no chat completion"),
    "gzip bomb": (http(BOMB, Content_Encoding="gzip"), "no JSON"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_pass_is_an_error_at_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    behaviour, message = ERRORS[name]
    caplog.set_level(logging.DEBUG)
    with FakeServer(then=behaviour) as server, client(server) as llm:
        with pytest.raises(MllmError, match=message) as caught:
            llm.ask(question())
        assert len(server.requests) == 1
        assert len(str(caught.value)) < 800
        assert KEY not in str(caught.value) + repr(llm.endpoint) + caplog.text


LASTING: dict[str, tuple[Behaviour, str]] = {
    "429": (error("429 Too Many Requests", "queue is full"), "status 429: queue is full"),
    "500": (error("500 Internal Server Error"), "status 500"),
    "10 MB with 503": (http("x" * (10 << 20), "503 Service Unavailable"), "status 503: xxx"),
    "closes": (raw(b""), "disconnected"),
    "silence": (never, "no answer within 0.2 s"),
    "Retry-After beyond patience": (error("429 Too Many Requests", Retry_After="3600"), "sent 1 times"),
}


@pytest.mark.parametrize("name", LASTING)
def test_patience_ends(name: str) -> None:
    behaviour, message = LASTING[name]
    settings = replace(FAST, timeout_s=0.2 if name == "silence" else 20, patience_s=0.5)
    with FakeServer(then=behaviour) as server, client(server, settings) as llm:
        began = time.monotonic()
        with pytest.raises(MllmError, match=rf"{message}.*alref-edge mllm serve"):
            llm.ask(question())
        assert time.monotonic() - began < 10
        assert len(server.requests) == (1 if "beyond" in name else llm.stats.requests)
        assert len(server.requests) > 1 or "beyond" in name


def test_a_redirect_is_not_followed() -> None:
    with FakeServer() as other:
        redirect = http("", "307 Temporary Redirect", Location=f"{other.url}/chat/completions")
        with (
            FakeServer(then=redirect) as server,
            client(server) as llm,
            pytest.raises(MllmError, match="points to another address; that is never followed"),
        ):
            llm.ask(question())
        assert other.requests == []


def test_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as server, FakeServer() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with client(server) as llm:
            assert llm.ask(question()).answer == 1
        assert (len(server.requests), len(proxy.requests)) == (1, 0)


def test_an_answer_without_end_is_not_read_on() -> None:
    sent = 0

    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while sent < 1 << 30:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    with FakeServer(then=endless) as server, client(server, FAST) as llm:
        assert "over 1048576 bytes" in str(llm.ask(question()).problem)
    assert 2 << 20 < sent < 40 << 20  # of two attempts, with what the sockets hold


def test_what_is_sent(tmp_path: Path) -> None:
    with FakeServer([says("Frame six?")]) as server, client(server, replace(FAST, seed=7, max_tokens=55)) as llm:
        llm.ask(question())
        first, repair = server.requests
    assert (first.method, first.path) == ("POST", "/v1/chat/completions")
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.headers["accept-encoding"] == "identity"
    (message,) = first.body.pop("messages")
    assert first.body == {
        "model": "fake",
        "temperature": 0,
        "seed": 7,
        "max_tokens": 55,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "pivot_frame", "schema": SCHEMA, "strict": True},
        },
        "chat_template_kwargs": {"enable_thinking": False, "thinking": False},
    }
    assert list(first.schema["properties"]) == ["reason", "choice"]
    image, text = message["content"]
    assert message["role"] == "user"
    assert text == {"type": "text", "text": "Question 0?"}
    scheme, _, content = image["image_url"]["url"].partition(",")
    assert (image["type"], scheme, base64.b64decode(content)) == ("image_url", "data:image/png;base64", IMAGE)
    again, wrong, asked = repair.body["messages"]
    assert again == message
    assert wrong == {"role": "assistant", "content": "Frame six?"}
    assert asked["role"] == "user"
    assert "holds no complete JSON object" in asked["content"]
    assert json.dumps(SCHEMA) in asked["content"]


def test_a_wrong_answer_is_cut_for_the_repair_attempt() -> None:
    with FakeServer([says("y" * 90_000)]) as server, client(server) as llm:
        assert llm.ask(question()).repaired
        assert len(server.requests[1].texts[1]) == 4000


def test_where_the_repair_attempt_does_not_fit_the_context_the_answer_is_unusable() -> None:
    script = [says("no"), error("400 Bad Request", "maximum context length")]
    with FakeServer(script) as server, client(server) as llm:
        reply = llm.ask(question())
        assert (reply.usable, reply.text, len(server.requests)) == (False, "no", 2)


def test_no_key_sends_none() -> None:
    with FakeServer() as server, client(server, key="") as llm:
        llm.ask(question())
        assert "authorization" not in server.requests[0].headers


def test_the_only_model_is_used() -> None:
    with FakeServer(models=["just this"]) as server, MllmClient(Endpoint.at(server.url, KEY), settings=FAST) as llm:
        llm.ask(question())
        assert llm.model == server.requests[0].body["model"] == "just this"


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "does not serve just one model.*none"),
        (["a", "b"], "does not serve just one model.*a, b"),
        (error("404 Not Found"), "no such model or path"),
        (error("401 Unauthorized"), "API key"),
        (http('{"models": []}'), "its list of models has another form"),
        (http('{"data": 7}'), "another form"),
        (http("<html>"), "no JSON"),
        (http("x" * (2 << 20)), "another form"),
        (error("503 Service Unavailable"), "status 503"),
    ],
)
def test_models_that_cannot_be_told(models: list[str] | Behaviour, message: str) -> None:
    settings = replace(FAST, patience_s=0.1)
    with FakeServer(models=models) as server, MllmClient(Endpoint.at(server.url, KEY), settings=settings) as llm:
        with pytest.raises(MllmError, match=message):
            llm.ask(question())
        with pytest.raises(MllmError, match=message):
            _ = llm.model
        assert server.requests == []


@pytest.mark.parametrize(
    ("listed", "root"),
    [
        ({"id": "fake", "root": "/models/fake"}, "/models/fake"),
        ({"id": "fake"}, None),
        ({"id": "fake", "root": 7}, None),
        ({"id": "another", "root": "/models/another"}, None),
    ],
)
def test_the_folder_of_the_model_is_told_if_the_server_tells_it(listed: dict[str, Any], root: str | None) -> None:
    with FakeServer(models=http(json.dumps({"data": [listed]}))) as server, client(server) as llm:
        assert llm.root == root


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_where_nobody_listens_the_first_contact_is_an_error_at_once() -> None:
    told: list[str] = []
    for model in ("fake", None):
        endpoint = Endpoint.at(f"http://127.0.0.1:{free_port()}/v1", KEY, model)
        with MllmClient(endpoint, notice=told.append) as llm:
            began = time.monotonic()
            with pytest.raises(MllmError) as caught:
                llm.ask(question())
            assert time.monotonic() - began < 10  # of a patience of 120 s
            assert llm.stats.retries == 0
        assert "No server of an LLM is to be found at http://127.0.0.1:" in str(caught.value)
        assert "see whether it runs (alref-edge mllm serve --model FOLDER)" in str(caught.value)
    assert told == []


def test_a_server_that_was_there_is_waited_for_and_that_is_said() -> None:
    told: list[str] = []
    server = FakeServer(port=free_port())
    with client(server, notice=told.append) as llm, ThreadPoolExecutor(1) as threads:
        with server:
            llm.ask(question(0))
        waiting = threads.submit(llm.ask, question(1))
        time.sleep(0.3)
        assert not waiting.done()
        with FakeServer(port=server.port):
            assert waiting.result().retries > 1
    (line,) = told  # not one of each try
    assert line.startswith(f"a request to the LLM's server at {server.url} failed and is sent again: ")


@pytest.mark.parametrize(
    "trouble", [error("503 Service Unavailable", "busy\x1b[31m"), raw(b""), raw(b"SSH-2.0-OpenSSH_9.6\r\n")]
)
def test_what_is_sent_again_is_said(trouble: Behaviour) -> None:
    told: list[str] = []
    with FakeServer([trouble] * 3) as server, client(server, notice=told.append) as llm:
        assert llm.ask(question()).retries == 3
    (line,) = told
    assert "is sent again" in line
    assert line.isprintable()


MANNERS: dict[str, tuple[Behaviour, list[tuple[str, bool]]]] = {
    # name: the server; form and switch of each request for two questions
    "objects": (knowing("json_object", "none"), [("json_schema", True), ("json_object", True), ("json_object", True)]),
    "no form": (
        knowing("none"),
        [("json_schema", True), ("json_object", True), ("none", True), ("none", True)],
    ),
    "422": (
        knowing("none", status="422 Unprocessable Entity"),
        [("json_schema", True), ("json_object", True), ("none", True), ("none", True)],
    ),
    "500": (
        knowing("json_object", status="500 Internal Server Error"),
        [("json_schema", True), ("json_object", True), ("json_object", True)],
    ),
    "no switch": (
        knowing("json_schema", switches=False),
        [("json_schema", True), ("json_schema", False), ("json_schema", False)],
    ),
    "no switch, unnamed": (
        knowing("json_schema", switches=False, message="Extra inputs are not permitted"),
        [("json_schema", True), ("json_schema", False), ("json_schema", False)],
    ),
    "neither, one refusal after the other": (
        knowing("json_object", switches=False),
        [("json_schema", True), ("json_schema", False), ("json_object", False), ("json_object", False)],
    ),
    "neither, unnamed": (
        knowing("none", switches=False, message="Bad Request"),
        [("json_schema", True), ("json_schema", False), ("json_object", False), ("none", False), ("none", False)],
    ),
    "no schema, unnamed": (
        knowing("json_object", message="Unsupported parameter"),
        [("json_schema", True), ("json_schema", False), ("json_object", False), ("json_object", False)],
    ),
}


@pytest.mark.parametrize("name", MANNERS)
def test_a_server_that_refuses_a_form_is_asked_in_another_from_then_on(name: str) -> None:
    behaviour, expected = MANNERS[name]
    told: list[str] = []
    with FakeServer(then=behaviour) as server, client(server, notice=told.append) as llm:
        for number in range(2):
            assert llm.ask(question(number)).answer == 1
        assert [(each.form, "chat_template_kwargs" in each.body) for each in server.requests] == expected
        assert llm.form == expected[-1][0]
    prompts = [request.texts[0] for request in server.requests]
    assert [json.dumps(SCHEMA) in prompt for prompt in prompts] == [form != "json_schema" for form, _ in expected]
    assert len(told) == 1
    assert "is asked with less" in told[0]


def test_many_at_once_find_the_form_out_once() -> None:
    with FakeServer(then=knowing("none")) as server, client(server, replace(FAST, in_flight=8)) as llm:
        assert all(each.result().usable for each in [llm.submit(question(number)) for number in range(40)])
        assert sum(request.form == "json_object" for request in server.requests) == 1
        assert len(server.requests) <= 81  # each question is refused once at most


def test_without_a_schema_the_answer_is_held_against_it_all_the_same() -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        known = request.form == "none"
        await (says({**GOOD, "choice": 9}) if known else error("400 Bad Request", "json_schema?"))(request, writer)

    with FakeServer(then=behave) as server, client(server) as llm:
        assert "at most 5, not 9" in str(llm.ask(question()).problem)
        assert [request.form for request in server.requests][-2:] == ["none", "none"]


@pytest.mark.parametrize("other", [error("400 Bad Request", "no"), raw(b""), error("503 Service Unavailable")])
def test_a_server_that_takes_no_form_at_all_gets_its_first_refusal_reported(other: Behaviour) -> None:
    refusal = error("400 Bad Request", "response_format 'json_schema' is not supported")
    with FakeServer([refusal], then=other) as server, client(server) as llm:
        with pytest.raises(MllmError, match=r"refuses the request.*'json_schema' is not supported"):
            llm.ask(question())
        assert [each.form for each in server.requests][:2] == ["json_schema", "json_object"]


def test_thinking_is_switched_on_by_a_setting_and_is_another_question(tmp_path: Path) -> None:
    with FakeServer() as server:
        for thinking in (False, True, True):
            with client(server, replace(FAST, thinking=thinking), cache_dir=tmp_path) as llm:
                llm.ask(question())
    switches = [request.body["chat_template_kwargs"] for request in server.requests]
    assert switches == [{"enable_thinking": on, "thinking": on} for on in (False, True)]


def test_the_transcript_has_the_reasoning_field(tmp_path: Path) -> None:
    script = [says(GOOD, reasoning_content="It moves."), says(GOOD, reasoning="So."), says(None, reasoning="Hm"), fine]
    with FakeServer(script) as server, client(server, transcript=tmp_path) as llm:
        for number in range(3):
            llm.ask(question(number))
    entries = [json.loads(line) for line in (tmp_path / "transcript.jsonl").read_text().splitlines()]
    thoughts = [[answer["reasoning"] for answer in entry["answers"]] for entry in entries]
    assert thoughts == [["It moves."], ["So."], ["Hm", None]]


def test_an_answer_out_of_the_reasoning_field_is_kept_in_the_cache(tmp_path: Path) -> None:
    with FakeServer(then=says(None, reasoning_content=json.dumps(GOOD))) as server:
        for _ in range(2):
            with client(server, cache_dir=tmp_path) as llm:
                assert llm.ask(question()).answer == 2
        assert len(server.requests) == 1


def test_thoughts_are_not_sent_back_with_a_wrong_answer() -> None:
    with FakeServer([says("<think>It may be 2.</think>The second.")]) as server, client(server) as llm:
        assert llm.ask(question()).repaired
        assert server.requests[1].texts[1] == "The second."


def test_retry_after_is_honoured() -> None:
    with FakeServer([error("429 Too Many Requests", Retry_After="0.5")]) as server, client(server) as llm:
        began = time.monotonic()
        llm.ask(question())
        assert time.monotonic() - began >= 0.5


def test_32_requests_overlap_and_never_more() -> None:
    with FakeServer(then=together(32, after(0.05))) as server, client(server) as llm:
        with ThreadPoolExecutor(96) as threads:
            began = time.monotonic()
            replies = list(threads.map(lambda number: llm.ask(question(number)), range(96)))
            took_s = time.monotonic() - began
        assert all(reply.answer == 1 for reply in replies)
        assert server.most_at_once == 32 == llm.in_flight
        counters = llm.stats
        assert (counters.questions, counters.requests, counters.retries) == (96, 96, 0)
        assert (counters.prompt_tokens, counters.completion_tokens) == (9600, 960)
        assert 0.1 < counters.busy_s <= took_s
        assert sum(reply.seconds for reply in replies) > 2 * counters.busy_s


def test_the_bound_holds_for_what_the_server_sees() -> None:
    with FakeServer(then=together(3, after(0.02))) as server, client(server, replace(FAST, in_flight=3)) as llm:
        futures = [llm.submit(question(number)) for number in range(30)]
        assert all(future.result().usable for future in futures)
        assert server.most_at_once == 3


def test_time_in_the_queue_does_not_count() -> None:
    settings = replace(FAST, in_flight=1, timeout_s=1, patience_s=0.1)
    with FakeServer(then=after(0.3)) as server, client(server, settings) as llm:
        replies = [future.result() for future in [llm.submit(question(number)) for number in range(6)]]
        assert [reply.retries for reply in replies] == [0] * 6
        assert server.most_at_once == 1


def test_a_storm_of_429_does_not_starve_others() -> None:
    """With one slot: while one question waits to be sent again, the others are served."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        refused = "Question 0?" in request.texts[0]
        await (error("429 Too Many Requests", Retry_After="0.3") if refused else fine)(request, writer)

    with FakeServer(then=behave) as server, client(server, replace(FAST, in_flight=1, patience_s=2)) as llm:
        refused = llm.submit(question(0))
        others = [llm.submit(question(number)) for number in range(1, 20)]
        assert all(future.result().usable for future in others)
        assert not refused.done()
        with pytest.raises(MllmError, match="429"):
            refused.result()


def test_a_connection_is_used_again() -> None:
    ports = set()

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        ports.add(writer.get_extra_info("peername")[1])
        await fine(request, writer)

    with FakeServer(then=behave) as server, client(server) as llm:
        for number in range(10):
            llm.ask(question(number))
    assert len(ports) == 1


def test_what_is_cached_is_not_asked(tmp_path: Path) -> None:
    with FakeServer([says("no")]) as server:
        with client(server, cache_dir=tmp_path) as llm:
            first, second = llm.ask(question()), llm.ask(question())
        with client(server, cache_dir=tmp_path) as llm:
            third = llm.ask(question())
            assert (llm.stats.requests, llm.stats.cached, llm.stats.repaired) == (0, 1, 1)
        assert len(server.requests) == 2
    assert (first.cached, first.prompt_tokens) == (False, 200)
    for reply in (second, third):
        assert reply == replace(first, cached=True, prompt_tokens=0, completion_tokens=0, seconds=0.0)


def test_a_cached_answer_is_held_against_the_question_again(tmp_path: Path) -> None:
    def never_happy(answer: Mapping[str, Any]) -> int:
        raise ValueError("not today")

    with FakeServer() as server, client(server, cache_dir=tmp_path) as llm:
        assert llm.ask(question()).usable
        assert not llm.ask(replace(question(), parse=never_happy)).usable
        assert len(server.requests) == 3


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    """The server dies after 12 answers; the second run asks for the other 28 only."""
    settings = replace(FAST, in_flight=4, patience_s=0.2)
    questions = [question(number) for number in range(40)]
    with FakeServer([fine] * 12, then=error("503 Service Unavailable")) as server:
        with client(server, settings, cache_dir=tmp_path) as llm:
            futures = [llm.submit(each) for each in questions]
            outcomes = [future.exception() for future in futures]
        assert sum(outcome is None for outcome in outcomes) == 12
        assert {type(outcome) for outcome in outcomes} == {type(None), MllmError}
    with FakeServer() as server, client(server, settings, cache_dir=tmp_path) as llm:
        assert all(future.result().usable for future in [llm.submit(each) for each in questions])
        assert len(server.requests) == 28
        assert llm.stats.cached == 12


def test_a_server_that_is_killed_and_restarted_loses_nothing() -> None:
    first = FakeServer(then=after(0.05), port=free_port())
    with client(first, replace(FAST, in_flight=8)) as llm:
        with first:
            futures = [llm.submit(question(number)) for number in range(60)]
            futures[10].result()
        time.sleep(0.2)
        with FakeServer(port=first.port):
            replies = [future.result() for future in futures]
    assert all(reply.answer == 1 for reply in replies)
    assert llm.stats.retries > 0


def test_equal_questions_are_asked_once() -> None:
    with FakeServer(then=after(0.5)) as server, client(server) as llm:
        futures = [llm.submit(question()) for _ in range(10)]
        replies = [future.result() for future in futures]
        assert len(server.requests) == 1
        assert [reply.cached for reply in replies] == [False] + [True] * 9
        assert llm.stats.prompt_tokens == 100
        llm.ask(question())  # without a cache, and no longer under way
        assert len(server.requests) == 2


def test_a_question_taken_back_by_an_interruption_ends_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """An interruption takes back what is waited for, and then closes the client."""
    with FakeServer(then=never) as server:
        for _ in range(20):
            with caplog.at_level(logging.ERROR, "asyncio"), client(server) as llm:
                future = llm.submit(question())
                time.sleep(0.02)
                assert future.cancel()
            gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_question_that_one_takes_back_is_still_asked_for_the_other() -> None:
    with FakeServer(then=after(0.5)) as server, client(server) as llm:
        first, second = llm.submit(question()), llm.submit(question())
        time.sleep(0.05)
        assert first.cancel()
        assert second.result().answer == 1
        assert len(server.requests) == 1


def test_a_question_that_all_take_back_frees_its_slot() -> None:
    with FakeServer([never]) as server, client(server, replace(FAST, in_flight=1, timeout_s=60)) as llm:
        taken_back = [llm.submit(question(0)) for _ in range(3)]
        time.sleep(0.1)
        assert all(future.cancel() for future in taken_back)
        assert llm.ask(question(0)).answer == 1
        assert llm.stats.questions == 1


def test_closing_ends_what_waits() -> None:
    before = threading.active_count()
    with FakeServer(then=never) as server:
        llm = client(server, replace(FAST, in_flight=2, timeout_s=60))
        futures = [llm.submit(question(number)) for number in range(10)]
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(llm.ask, question(0))
            time.sleep(0.1)
            began = time.monotonic()
            llm.close()
            assert time.monotonic() - began < 10
            assert isinstance(waiting.exception(), MllmError)
        for future in futures:
            with pytest.raises(MllmError, match="is closed"):
                future.result(1)
        with pytest.raises(MllmError, match="is closed"):
            llm.ask(question())
        with pytest.raises(MllmError, match="is closed"):
            _ = llm.model
        llm.close()
    assert threading.active_count() == before


def test_closing_right_after_asking() -> None:
    with FakeServer() as server:
        for _ in range(20):
            llm = client(server)
            future = llm.submit(question())
            llm.close()
            with pytest.raises(MllmError, match="is closed"):
                future.result(1)


def test_an_interruption_of_the_wait_takes_the_question_back() -> None:
    with FakeServer([never]) as server, client(server, replace(FAST, in_flight=1, timeout_s=60)) as llm:
        timer = threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
        timer.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            llm.ask(question())
        assert time.monotonic() - began < 20
        assert llm.ask(question(1)).answer == 1


def test_coroutines_may_ask_from_a_loop_of_their_own() -> None:
    async def ask_all(llm: MllmClient) -> list[int | None]:
        return [reply.answer for reply in await asyncio.gather(*(llm.ask_async(question(n)) for n in range(8)))]

    with FakeServer(then=together(8)) as server, client(server) as llm:
        assert asyncio.run(ask_all(llm)) == [1] * 8
        assert server.most_at_once == 8


def test_the_transcript_has_every_question(tmp_path: Path) -> None:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        number = int(request.texts[0].split()[1].rstrip("?"))
        wrong = number % 3 == 2 or (number % 3 == 1 and len(request.texts) == 1)
        await says("no" if wrong else least(request.schema))(request, writer)

    cache, folder = tmp_path / "cache", tmp_path / "transcript"
    with FakeServer(then=behave) as server, client(server, cache_dir=cache, transcript=folder) as llm:
        for _ in range(2):
            for future in [llm.submit(question(number)) for number in range(30)]:
                future.result()
    entries = [json.loads(line) for line in (folder / "transcript.jsonl").read_text().splitlines()]
    assert len(entries) == 60
    for position, entry in enumerate(entries):
        kind = int(entry["prompt"].split()[1].rstrip("?")) % 3
        problems = [answer["problem"] for answer in entry["answers"]]
        assert entry["cached"] == (position >= 30 and kind != 2)
        assert len(problems) == (1 if kind == 0 or entry["cached"] else 2)
        assert (problems[-1] is None) == (kind != 2)
        assert entry["repaired"] == (kind == 1)
        assert entry["model"] == "fake"
        assert entry["prompt_tokens"] == (0 if entry["cached"] else 100 * len(problems))
    assert [path.read_bytes() for path in (folder / "images").iterdir()] == [IMAGE]
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in kept


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_under_the_transcript_is_named(tmp_path: Path) -> None:
    (tmp_path / "transcript.jsonl").symlink_to("/dev/full")
    with FakeServer() as server, client(server, transcript=tmp_path) as llm, pytest.raises(CapacityError) as caught:
        llm.ask(question())
    assert "No space left" in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"in_flight": 0},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"patience_s": -1},
        {"backoff_s": -1},
        {"max_tokens": 0},
        {"max_bytes": 0},
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is out of range"):
        ClientSettings(**wrong)


def test_importing_the_package_loads_neither_httpx_nor_pictures() -> None:
    code = (
        "import sys, alref_edge.mllm as mllm\n"
        "mllm.Endpoint.at('http://127.0.0.1:1')\n"
        "print(*{'httpx', 'numpy', 'PIL', 'av'} & set(sys.modules))\n"
        "assert all(getattr(mllm, name) for name in mllm.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("words", ["Question 0?", "what the frame shows"])
def test_retries_are_logged_without_what_was_asked_or_answered(words: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "alref_edge")
    with FakeServer([error("503 Service Unavailable", f"busy with {words}")]) as server, client(server) as llm:
        assert llm.ask(question()).answer is not None
    assert "the LLM's server answers /chat/completions with status 503" in caplog.text
    assert "failed and is sent again" in caplog.text
    assert "was answered in " in caplog.text
    assert words not in caplog.text
