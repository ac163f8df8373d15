"""Counts of a client: what it asked, what that cost, and how it went."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from alref_edge.mllm.answers import Reply


@dataclass(frozen=True)
class ClientStats:
    """What a client did so far.

    Attributes:
        questions: that got a reply.
        requests: that were sent, the one for the list of models and those sent again included.
        retries: requests that were sent again because the server or the connection failed.
        cached: questions for which no request was made.
        repaired: questions that only the repair attempt answered, then or when the answer was put into the cache.
        unusable: questions without a usable answer, the repair attempt included.
        prompt_tokens, completion_tokens: as the server counted them.
        busy_s: time with at least one request under way.
    """

    questions: int = 0
    requests: int = 0
    retries: int = 0
    cached: int = 0
    repaired: int = 0
    unusable: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    busy_s: float = 0.0


class Tally:
    """Counts up. Threads may read it while another counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._so_far = ClientStats()
        self._under_way = 0
        self._since = 0.0

    def began(self, *, again: bool) -> None:
        """A request is sent; `again` after a failure."""
        with self._lock:
            now = self._so_far
            self._so_far = replace(now, requests=now.requests + 1, retries=now.retries + again)
            if self._under_way == 0:
                self._since = time.monotonic()
            self._under_way += 1

    def ended(self) -> None:
        """A request was answered, or failed."""
        with self._lock:
            self._under_way -= 1
            if self._under_way == 0:
                self._so_far = replace(self._so_far, busy_s=self._so_far.busy_s + time.monotonic() - self._since)

    def replied(self, reply: Reply[Any]) -> None:
        """A question got its reply."""
        with self._lock:
            now = self._so_far
            self._so_far = replace(
                now,
                questions=now.questions + 1,
                cached=now.cached + reply.cached,
                repaired=now.repaired + reply.repaired,
                unusable=now.unusable + (not reply.usable),
                prompt_tokens=now.prompt_tokens + reply.prompt_tokens,
                completion_tokens=now.completion_tokens + reply.completion_tokens,
            )

    def snapshot(self) -> ClientStats:
        """The counts of this moment."""
        with self._lock:
            if self._under_way == 0:
                return self._so_far
            return replace(self._so_far, busy_s=self._so_far.busy_s + time.monotonic() - self._since)
