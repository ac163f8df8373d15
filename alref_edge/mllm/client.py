"""Puts questions to the LLM's server: many at once, from any thread, each answered once."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from alref_edge.errors import MllmError
from alref_edge.mllm.answers import TOO_LONG, Reply, read_answer
from alref_edge.mllm.chat import Attempt, Manner, judged, reply_of, request
from alref_edge.mllm.counting import ClientStats, Tally
from alref_edge.mllm.endpoint import Endpoint
from alref_edge.mllm.store import AnswerCache, Known, Transcript, cache_key
from alref_edge.mllm.transport import ClientSettings, Received, Refused, TooLarge, Transport

if TYPE_CHECKING:
    from alref_edge.mllm.questions import Question

__all__ = ["ClientSettings", "ClientStats", "MllmClient", "Reply"]

Answer = TypeVar("Answer")
T = TypeVar("T")

_log = logging.getLogger(__name__)

_PROBING_S = 2.0


class MllmClient:
    """A client of one endpoint, with an event loop in a thread of its own. A context manager; any thread may ask.

    A question is sent as one user message, the image first, with temperature 0, a seed, and the schema, by which the
    server constrains the answer. The answer is held against the schema again, and given to the question's `parse`. If
    it is unusable, one repair attempt says so to the LLM. Two equal questions that are under way at once are asked
    once. What the server or the connection fails at is sent again; see `ClientSettings` and `Transport`. A server that
    knows no schemas, or no switch for thoughts, is asked without from then on; see `Manner`.

    Args:
        endpoint: the server. Nothing is sent to it before the first question.
        settings: how it is asked.
        cache_dir: folder of usable answers: a question with an answer there is not asked. None: no cache.
        transcript: folder to which every question, its image and its answers are written. None: none.
        notice: is told, in lines for a person and from the client's own thread, what the client waits for.

    Raises:
        InputError, CapacityError: one of the folders cannot be written.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        settings: ClientSettings | None = None,
        cache_dir: str | Path | None = None,
        transcript: str | Path | None = None,
        notice: Callable[[str], object] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.settings = settings or ClientSettings()
        self._cache = None if cache_dir is None else AnswerCache(cache_dir)
        self._transcript = None if transcript is None else Transcript(transcript)
        self._tally = Tally()
        self._transport = Transport(endpoint, self.settings, self._tally, notice)
        self._tell = notice or (lambda _: None)
        self._manner = Manner()
        self._finding_manner = asyncio.Lock()
        self._model = endpoint.model
        self._naming = asyncio.Lock()
        self._under_way: dict[str, _Shared] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="mllm-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> MllmClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def model(self) -> str:
        """Name of the served model; the server is asked if the endpoint does not say.

        Raises:
            MllmError: it does not answer, or serves none or several.
        """
        return self._wait(self._start(self._model_name()))

    @property
    def root(self) -> str | None:
        """Folder of the served model, where the server tells it.

        Raises:
            MllmError: it does not answer.
        """
        return self._wait(self._start(self._model_root()))

    @property
    def form(self) -> str:
        """How the server is told the form of an answer so far: "json_schema", "json_object" or "none"."""
        return self._manner.form

    @property
    def in_flight(self) -> int:
        """Requests under way at once, at most."""
        return self.settings.in_flight

    @property
    def stats(self) -> ClientStats:
        """What the client did so far."""
        return self._tally.snapshot()

    def ask(self, question: Question[Answer]) -> Reply[Answer]:
        """Asks, and waits for the reply. An interruption of the wait takes the question back.

        Raises:
            MllmError: the server cannot be reached, failed for too long, or refuses the request; or the client is
                closed. Never because of what the LLM wrote.
            InputError, CapacityError: the cache or the transcript cannot be written.
        """
        return self._wait(self.submit(question))

    async def ask_async(self, question: Question[Answer]) -> Reply[Answer]:
        """As `ask`, from a coroutine on any event loop."""
        return await asyncio.wrap_future(self.submit(question))

    def submit(self, question: Question[Answer]) -> Future[Reply[Answer]]:
        """As `ask`, without waiting: the future raises what `ask` does. Cancelling it takes the question back."""
        return self._start(self._reply(question))

    def close(self) -> None:
        """Ends what is under way, for which those who wait get an MllmError, and the thread. May be called again."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._ending = asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop)
        self._thread.join()
        if self._transcript is not None:
            self._transcript.close()

    # In the calling thread.

    def _start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._closed:
                work.close()
                raise _closed()
            asked: list[Future[T]] = []
            asked.append(asyncio.run_coroutine_threadsafe(self._until_closed(work, asked), self._loop))
            return asked[0]

    def _wait(self, future: Future[T]) -> T:
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    # On the event loop.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _shut_down(self) -> None:
        try:  # what was started before has begun, since it stood before this in the loop's queue
            others = asyncio.all_tasks() - {asyncio.current_task()}
            while others:  # again and again: before Python 3.12 `wait_for` can lose a cancellation
                for task in others:
                    task.cancel()
                _, others = await asyncio.wait(others, timeout=0.5)
            await self._transport.close()
        finally:
            self._loop.stop()

    async def _until_closed(self, work: Coroutine[Any, Any, T], asked: Sequence[Future[T]]) -> T:
        try:
            return await work
        except asyncio.CancelledError:
            if self._closed and not any(each.cancelled() for each in asked):  # somebody waits for it still
                raise _closed() from None
            raise

    async def _model_name(self) -> str:
        async with self._naming:
            if self._model is None:
                names = list(await self._transport.models())
                if len(names) != 1:
                    raise MllmError(
                        f"The LLM's server at {self.endpoint.url} does not serve just one model.",
                        got=", ".join(names[:20]) or "none",
                        mend="name one of them.",
                    )
                self._model = names[0]
        return self._model

    async def _model_root(self) -> str | None:
        model = await self._model_name()
        return (await self._transport.models()).get(model)

    async def _reply(self, question: Question[Answer]) -> Reply[Answer]:
        """The reply, of a request that is shared by all who ask the same at the same time."""
        model = await self._model_name()
        how = self.settings
        key = cache_key(model, question, max_tokens=how.max_tokens, seed=how.seed, thinking=how.thinking)
        shared = self._under_way.get(key)
        joined = shared is not None
        if shared is None:
            shared = self._under_way[key] = _Shared(self._loop.create_task(self._decide(model, key, question)))
        shared.waiting += 1
        try:
            reply: Reply[Answer] = await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if shared.waiting == 0:
                shared.task.cancel()
                self._under_way.pop(key, None)
        if joined:
            reply = replace(reply, cached=True, retries=0, prompt_tokens=0, completion_tokens=0, seconds=0.0)
        self._tally.replied(reply)
        return reply

    async def _decide(self, model: str, key: str, question: Question[Answer]) -> Reply[Answer]:
        """The reply of the cache, or else of the LLM; kept, and written to the transcript."""
        reply = self._known(key, question)
        if reply is None:
            attempts = await self._attempts(model, question)
            reply = reply_of(attempts)
            if self._cache is not None and reply.usable:
                about = {"model": model, "template": question.template, "version": question.version}
                self._cache.put(key, Known(reply.text, reply.repaired), about)
        else:
            attempts = [Attempt(reply.text, reply.answer)]
        if self._transcript is not None:
            facts = ("cached", "repaired", "retries", "prompt_tokens", "completion_tokens", "seconds")
            answers = [
                {"text": each.text, "reasoning": each.thoughts or None, "problem": each.problem} for each in attempts
            ]
            self._transcript.add(
                question, {"model": model, "answers": answers, **{name: getattr(reply, name) for name in facts}}
            )
        return reply

    def _known(self, key: str, question: Question[Answer]) -> Reply[Answer] | None:
        known = None if self._cache is None else self._cache.get(key)
        if known is not None:
            with suppress(ValueError):
                answer = question.parse(read_answer(known.text, question.schema))
                return Reply(answer, known.text, cached=True, repaired=known.repaired)
        return None

    async def _attempts(self, model: str, question: Question[Answer]) -> list[Attempt]:
        """What the LLM wrote, and what it wrote when it was told what is wrong with that."""
        first = await self._attempt(model, question)
        if first.problem is None:
            return [first]
        try:
            return [first, await self._attempt(model, question, first)]
        except Refused as error:
            if error.status not in (400, 413, 422):
                raise
            return [first]  # with the wrong answer in it, the request may be too long

    async def _attempt(self, model: str, question: Question[Any], wrong: Attempt | None = None) -> Attempt:
        try:
            received = await self._complete(model, question, wrong)
        except TooLarge as error:
            return Attempt("", problem=str(error), reason=TOO_LONG)
        return judged(received, question, self.settings, self.endpoint)

    async def _complete(self, model: str, question: Question[Any], wrong: Attempt | None) -> Received:
        """The response, in the best manner that the server knows; which one that is gets found out once."""

        manner = self._manner

        def make() -> dict[str, Any]:  # when its turn has come: others may have found out meanwhile
            nonlocal manner
            manner = self._manner
            return request(model, question, self.settings, manner, wrong)

        try:
            return await self._transport.complete(make)
        except Refused as refused:
            async with self._finding_manner:
                if self._manner == manner:
                    received = await self._in_another_manner(model, question, wrong, refused)
                    if received is None:
                        raise
                    return received
        return await self._complete(model, question, wrong)  # in the manner that another found out meanwhile

    async def _in_another_manner(
        self, model: str, question: Question[Any], wrong: Attempt | None, refused: Refused
    ) -> Received | None:
        """The response in the first manner that the server does not refuse, which is kept; None if it refuses all."""
        manners = list(self._manner.others(refused))
        for manner in manners:  # a refusal may add some
            body = partial(request, model, question, self.settings, manner, wrong)
            with suppress(MllmError):
                try:
                    received = await self._transport.complete(body, patience_s=_PROBING_S)
                except Refused as again:
                    manners += [each for each in manner.others(again) if each not in manners]
                    continue
                self._manner = manner
                _log.info("the LLM's server is asked in another manner from now on: %s", manner)
                self._tell(f"the LLM's server refused a request, and is asked with less: {refused.said}")
                return received
        return None


@dataclass
class _Shared:
    """A question under way, and how many wait for it."""

    task: asyncio.Task[Reply[Any]]
    waiting: int = 0


def _closed() -> MllmError:
    return MllmError("The client of the LLM is closed.", mend="ask before it is closed.")
