"""One request to an OpenAI-compatible API: sent, sent again where that can help, read up to a limit."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from alref_edge.errors import InputError, MllmError
from alref_edge.mllm.counting import Tally
from alref_edge.mllm.endpoint import KEY_VARIABLE, SERVE, Endpoint
from alref_edge.mllm.serving.peer import AsyncTransport

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses after which the same request may succeed later."""

_log = logging.getLogger(__name__)

_CONNECT_S = 10.0
_KEEPALIVE_S = 3.0  # less than the 5 s after which servers commonly close an idle connection
_LONGEST_WAIT_S = 5.0
_MOST_SHOWN = 300
_LIST_S = 30.0
_NOTICE_EVERY_S = 10.0
_UNKNOWN = ("response_format", "json_schema", "chat_template")  # in a 500: not a failure that passes
_TOO_LONG = ("context length", "maximum model length", "max_model_len", "max_tokens", "longer than", "too long")


@dataclass(frozen=True)
class ClientSettings:
    """How a client asks.

    Attributes:
        in_flight: requests under way at once, at most; as many connections are kept.
        timeout_s: for one request as a whole, from connecting to the last byte.
        patience_s: how long, after its first failure, a request is sent again; time in the queue does not count.
        backoff_s: about how long the first wait is; each further one is twice as long, up to 5 s, or up to what the
            server asks for.
        max_tokens: of an answer, thoughts included.
        thinking: whether a model whose chat template has a switch for it thinks before it answers. Then it wants more
            `max_tokens`, and a server that parts thoughts from answers (vLLM's `--reasoning-parser`): else the schema
            holds from the first word on, and leaves no room for thoughts.
        seed: of the sampling, which is greedy (temperature 0).
        max_bytes: of the server's response.

    Raises:
        InputError: one of them is out of range.
    """

    in_flight: int = 32
    timeout_s: float = 120.0
    patience_s: float = 120.0
    backoff_s: float = 0.5
    max_tokens: int = 1024
    thinking: bool = False
    seed: int = 0
    max_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        for name, low in (("in_flight", 1), ("max_tokens", 1), ("max_bytes", 1), ("patience_s", 0), ("backoff_s", 0)):
            if not getattr(self, name) >= low:
                raise InputError(f"{name} is out of range.", expected=f"at least {low}", got=getattr(self, name))
        if not self.timeout_s > 0:
            raise InputError("timeout_s is out of range.", expected="more than 0", got=self.timeout_s)


class Refused(MllmError):
    """The server understood and said no; asking again as before is of no use.

    Attributes:
        status: of HTTP.
        said: the server's message.
        too_long: whether the question is longer than it can hold.
    """

    def __init__(self, message: str, *, status: int, said: str, too_long: bool = False, **parts: Any) -> None:
        super().__init__(message, **parts)
        self.status, self.said, self.too_long = status, said, too_long


class TooLarge(Exception):
    """The response is longer than `max_bytes`. It was not read further."""


@dataclass(frozen=True)
class Received:
    """A response.

    Attributes:
        value: its JSON object.
        retries: how often the request was sent again.
        seconds: what the request took that was answered.
    """

    value: Mapping[str, Any]
    retries: int
    seconds: float


class _PassingError(Exception):
    """A failure that may be over when the request is sent again, perhaps after the wait that the server names."""

    def __init__(self, what: str, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class Transport:
    """A pool of connections to one endpoint. Lives on one event loop.

    A request holds one of the `in_flight` slots only while it is sent and answered, not while it waits to be sent
    again: those that the server refuses for a while (429, 503) do not keep others from being served, and the bound
    holds for what the server sees. Slots are given in the order of asking. No proxy, no redirect, no compression.
    Where nothing takes the first connection, that is an error at once; a server that was there may be starting again.

    Args:
        endpoint: where.
        settings: how.
        tally: is told of every request.
        notice: is told, in a line for a person every ten seconds at most, that a request is sent again.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: ClientSettings,
        tally: Tally,
        notice: Callable[[str], object] | None = None,
    ) -> None:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": "application/json"}
        if endpoint.api_key:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        self._endpoint = endpoint
        self._settings = settings
        self._tally = tally
        self._notice = notice
        self._noticed: float | None = None
        self._reached = False
        self._slots = asyncio.Semaphore(settings.in_flight)
        self._jitter = random.Random()
        self._http = httpx.AsyncClient(
            headers=headers,
            transport=AsyncTransport(
                endpoint,
                verify=_trusted(endpoint),
                trust_env=False,
                limits=httpx.Limits(
                    max_connections=settings.in_flight,
                    max_keepalive_connections=settings.in_flight,
                    keepalive_expiry=_KEEPALIVE_S,
                ),
            ),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(settings.timeout_s, connect=min(_CONNECT_S, settings.timeout_s), pool=None),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def models(self) -> dict[str, str | None]:
        """Names of the models that are served, and their folders where the server says so. Raises MllmError."""
        try:
            listed = (await self._request("GET", "/models", None, timeout_s=_LIST_S)).value["data"]
            roots = {str(each["id"]): each.get("root") for each in listed}
            return {name: root if isinstance(root, str) else None for name, root in roots.items()}
        except (KeyError, TypeError, AttributeError, TooLarge) as error:
            raise self._no_api("its list of models has another form") from error

    async def complete(self, make: Callable[[], Mapping[str, Any]], *, patience_s: float = float("inf")) -> Received:
        """Asks for a chat completion.

        Args:
            make: makes the request, when it is about to be sent: those in the queue take no memory.
            patience_s: if less than that of the settings, it counts.

        Raises:
            TooLarge: the response is longer than `max_bytes`.
            Refused: the server said no.
            MllmError: it cannot be reached, or failed for longer than `patience_s`, or is no such API.
        """
        return await self._request("POST", "/chat/completions", make, patience_s=patience_s)

    async def _request(
        self,
        method: str,
        path: str,
        make: Callable[[], Mapping[str, Any]] | None,
        *,
        timeout_s: float = float("inf"),
        patience_s: float = float("inf"),
    ) -> Received:
        timeout_s = min(timeout_s, self._settings.timeout_s)
        patience_s = min(patience_s, self._settings.patience_s)
        retries, spent_s = 0, 0.0
        while True:
            async with self._slots:
                began = time.monotonic()
                self._tally.began(again=retries > 0)
                try:
                    # ASCII: a lone surrogate, which UTF-8 has not, stays an escape.
                    body = None if make is None else json.dumps(make()).encode("ascii")
                    sent = self._once(method, path, body)
                    value = await asyncio.wait_for(sent, timeout_s)
                    seconds = time.monotonic() - began
                    _log.info("%s %s was answered in %.2f s, sent %d times", method, path, seconds, retries + 1)
                    return Received(value, retries, seconds)
                except (TimeoutError, asyncio.TimeoutError):
                    trouble = _PassingError(f"no answer within {timeout_s:g} s")
                except httpx.TransportError as error:
                    trouble = _PassingError(self._printable(str(error)) or type(error).__name__)
                    if not self._reached and isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
                        raise self._nobody(trouble) from error
                except _PassingError as error:
                    trouble = error
                finally:
                    self._tally.ended()
            wait_s = self._wait_s(retries, trouble.wait_s)
            spent_s += wait_s + (time.monotonic() - began if retries else 0.0)
            if spent_s > patience_s:
                raise MllmError(
                    f"The LLM's server at {self._endpoint.url} has not answered a request, sent {retries + 1} times.",
                    got=trouble,
                    mend=f"see whether it runs ({SERVE}), and run again: answers in a cache are not asked for twice.",
                ) from trouble
            self._tell(f"a request to the LLM's server at {self._endpoint.url} failed and is sent again: {trouble}")
            retries += 1
            _log.info("%s %s failed and is sent again in %.1f s, as number %d", method, path, wait_s, retries + 1)
            _log.debug("it failed with: %s", trouble)  # what the server says may quote the question
            await asyncio.sleep(wait_s)

    def _tell(self, text: str) -> None:
        now = time.monotonic()
        if self._notice is not None and (self._noticed is None or now - self._noticed >= _NOTICE_EVERY_S):
            self._noticed = now
            self._notice(text)

    def _wait_s(self, retries: int, asked_s: float) -> float:
        """What the server asked for and a back-off, of which up to half is left to chance: requests drift apart."""
        longest = min(self._settings.backoff_s * 2.0 ** min(retries, 20), _LONGEST_WAIT_S)
        return asked_s + longest * self._jitter.uniform(0.5, 1.0)

    async def _once(self, method: str, path: str, body: bytes | None) -> Mapping[str, Any]:
        async with self._http.stream(method, self._endpoint.http + path, content=body) as response:
            self._reached = True
            received = bytearray()
            async for chunk in response.aiter_raw():  # as it came: nothing is unpacked
                received += chunk
                if len(received) > self._settings.max_bytes:
                    break
        status, said = response.status_code, "" if response.status_code == 200 else self._message(received)
        if status != 200:
            _log.info("the LLM's server answers %s with status %d", path, status)
        if status in RETRIED and not (status == 500 and any(word in said for word in _UNKNOWN)):
            raise _PassingError(f"status {status}: {said}", _retry_after_s(response.headers.get("retry-after", "")))
        if status != 200:
            raise self._refusal(status, said)
        if len(received) > self._settings.max_bytes:
            raise TooLarge(f"the answer is over {self._settings.max_bytes} bytes")
        try:
            value = json.loads(received)
        except (ValueError, RecursionError) as error:
            raise self._no_api("what it sent is no JSON") from error
        if not isinstance(value, dict):
            raise self._no_api("what it sent is no JSON object")
        return value

    def _refusal(self, status: int, said: str) -> MllmError:
        """The error for a status after which asking again is of no use."""
        url = self._endpoint.url
        too_long = status in (400, 413, 422) and any(words in said.lower() for words in _TOO_LONG)
        if status in (401, 403):
            message, mend = "does not take the API key", f"give the server's key in {KEY_VARIABLE}."
        elif status == 404:
            message = "has no such model or path"
            mend = f"check the URL, and the model's name: {url}/models lists them."
        elif 300 <= status < 400:
            message, mend = "points to another address; that is never followed", "give the address itself."
        elif too_long:
            message = "cannot hold the question"
            mend = "start it with a larger --context, or ask for less: --llm-max-tokens, --llm-pixels."
        else:
            message, mend = "refuses the request", "see its log."
        return Refused(
            f"The LLM's server at {url} {message}.",
            status=status,
            said=said,
            too_long=too_long,
            got=f"status {status}: {said}",
            mend=mend,
        )

    def _nobody(self, trouble: Exception) -> MllmError:
        return MllmError(
            f"No server of an LLM is to be found at {self._endpoint.url}.",
            got=trouble,
            mend=f"see whether it runs ({SERVE}), and whether this is its address.",
        )

    def _no_api(self, why: str) -> MllmError:
        return MllmError(
            f"{self._endpoint.url} is not an OpenAI-compatible API: {why}.",
            mend=f"check the URL; such a server is started by: {SERVE}",
        )

    def _message(self, body: bytes | bytearray) -> str:
        """What an error's body says: `message` of its JSON, else its beginning."""
        try:
            value = json.loads(body)
            value = value.get("error", value)
            said = value["message"] if isinstance(value, dict) else value
        except (ValueError, KeyError, AttributeError, RecursionError):
            said = body.decode("utf-8", "replace")
        return self._printable(str(said)) or "no message"

    def _printable(self, text: str) -> str:
        """A text of the server's on one short line; the key, should it be in there, is left out."""
        if self._endpoint.api_key:
            text = text.replace(self._endpoint.api_key, "***")
        words = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * _MOST_SHOWN]).split()
        return " ".join(words)[:_MOST_SHOWN]


def _trusted(endpoint: Endpoint) -> ssl.SSLContext:
    """Whose certificates are believed: those that the system trusts; nobody's where there is no TLS."""
    secure = endpoint.url.startswith("https:")
    return ssl.create_default_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _retry_after_s(value: str) -> float:
    """The wait of a Retry-After header, in seconds or as a date (RFC 9110); 0 if it has neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return max(seconds, 0.0) if seconds < float("inf") else 0.0
