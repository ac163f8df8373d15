"""An OpenAI-compatible server that does what a script says: a real one, on loopback, that misbehaves as told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

KEY = "sk-the-key-of-the-fake-server"


@dataclass(frozen=True)
class Request:
    """A request as it came: method, path, headers (names in lower case), and the JSON of its body."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def form(self) -> str:
        """How the form of the answer is told."""
        return self.body.get("response_format", {}).get("type", "none")

    @property
    def schema(self) -> Mapping[str, Any]:
        if self.form == "json_schema":
            return self.body["response_format"]["json_schema"]["schema"]
        return json.loads(self.texts[0].rpartition("of this schema: ")[2])

    @property
    def texts(self) -> list[str]:
        """The text of each message."""
        contents = [message["content"] for message in self.body["messages"]]
        return [content if isinstance(content, str) else content[-1]["text"] for content in contents]


Behaviour = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]
"""How one request is answered. The connection stays open afterwards unless the behaviour closes it."""


def least(schema: Mapping[str, Any]) -> Any:
    """The smallest value that follows a schema."""
    kind = schema["type"]
    if kind == "object":
        return {name: least(part) for name, part in schema["properties"].items()}
    if kind == "array":
        return [least(schema["items"])] * schema.get("minItems", 0)
    return schema.get("minimum", 0) if kind == "integer" else "x" * schema.get("minLength", 0)


def http(body: bytes | str, status: str = "200 OK", **headers: object) -> Behaviour:
    """A whole response; underscores in names of headers stand for hyphens."""
    content = body.encode() if isinstance(body, str) else body
    headers = {"Content-Type": "application/json", "Content-Length": len(content), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return raw(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + content, close=False)


def error(status: str, message: str = "no", **headers: object) -> Behaviour:
    """A refusal in the form of the API."""
    return http(json.dumps({"error": {"message": message}}), status, **headers)


def says(text: object, finish: str = "stop", **more: object) -> Behaviour:
    """A chat completion with this text, or with the JSON of another value; `more` fields of its message."""
    written = text if text is None or isinstance(text, str) else json.dumps(text)
    return http(json.dumps(completion(written, finish, **more)))


def knowing(*forms: str, switches: bool = True, message: str = "", status: str = "400 Bad Request") -> Behaviour:
    """A server that knows only some forms of telling the answer's form, and perhaps no switch for thoughts.

    Args:
        forms: those that it knows; it refuses others.
        switches: whether it takes `chat_template_kwargs`.
        message: with which it refuses; one that names the field, if left out.
        status: with which it refuses.
    """

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if "chat_template_kwargs" in request.body and not switches:
            said = message or "chat_template is not supported for Mistral tokenizers."
            await error(status, said)(request, writer)
        elif request.form not in forms:
            await error(status, message or f"response_format '{request.form}' is not supported")(request, writer)
        else:
            await fine(request, writer)

    return behave


def completion(text: str | None, finish: str = "stop", **more: object) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **more}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }


def raw(content: bytes, *, close: bool = True, every_s: float = 0.0, piece: int = 1) -> Behaviour:
    """These bytes, all at once or a piece at a time, and then perhaps the end of the connection."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        pieces = [content[at : at + piece] for at in range(0, len(content), piece)] if every_s else [content]
        for each in pieces:
            writer.write(each)
            await writer.drain()
            await asyncio.sleep(every_s)
        if close:
            writer.close()

    return behave


async def fine(request: Request, writer: asyncio.StreamWriter) -> None:
    """The least answer that follows the schema."""
    await says(least(request.schema))(request, writer)


async def never(request: Request, writer: asyncio.StreamWriter) -> None:
    """No answer, for as long as the server runs."""
    await asyncio.Event().wait()


def after(delay_s: float, behaviour: Behaviour = fine) -> Behaviour:
    """The same, later."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(delay_s)
        await behaviour(request, writer)

    return behave


def together(count: int, behaviour: Behaviour = fine) -> Behaviour:
    """The same, once so many requests are there: fewer at once are never answered."""
    arrived, all_arrived = 0, asyncio.Event()

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == count:
            all_arrived.set()
        await all_arrived.wait()
        await behaviour(request, writer)

    return behave


@dataclass
class FakeServer:
    """A server in a thread of its own. A context manager.

    Attributes:
        script: what the requests for an answer get, in the order in which they come.
        then: what those get that come after the script has ended.
        models: what is served; a behaviour instead answers the request for the list.
        port: 0: any that is free.
        requests: those for an answer, so far.
        most_at_once: most of them that were under way at once.
    """

    script: list[Behaviour] = field(default_factory=list)
    then: Behaviour = fine
    models: list[str] | Behaviour = field(default_factory=lambda: ["fake"])
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    most_at_once: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> FakeServer:
        self._loop = asyncio.new_event_loop()
        self._under_way = 0
        self._left = list(self.script)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 26), self._loop
        ).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                await self._answer(await _read(reader), writer)
        writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.path.endswith("/models"):
            listed = (
                json.dumps({"data": [{"id": name} for name in self.models]}) if isinstance(self.models, list) else ""
            )
            await (self.models if callable(self.models) else http(listed))(request, writer)
            return
        self.requests.append(request)
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            await (self._left.pop(0) if self._left else self.then)(request, writer)
        finally:
            self._under_way -= 1


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, json.loads(body) if body else None)
