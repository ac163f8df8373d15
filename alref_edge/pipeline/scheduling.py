"""Working ahead: what comes next is made in a thread of its own while what is there is used."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")

_LEAVE_S = 1.0
LOOKAHEAD_BYTES = 512 << 20
"""Frames that may lie ready for the tracker, and as many again of which the LLM is asked."""


class Inline(Executor):
    """Runs what is submitted at once, in the calling thread."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `concurrent.futures.Executor`; an error is raised here."""
        future: Future[Any] = Future()
        future.set_result(call(*args, **kwargs))
        return future


def executor(in_flight: int) -> Executor:
    """What runs so many calls at once, each in a thread of its own; with 0, one after the other in the caller's."""
    return ThreadPoolExecutor(in_flight, "alref-edge-ask") if in_flight else Inline()


def ahead(
    items: Generator[Item, None, None], nbytes: Callable[[Item], int], most_bytes: int = LOOKAHEAD_BYTES
) -> Generator[tuple[float, Item], None, None]:
    """Take items out of a generator in a thread of its own, as far ahead as memory allows.

    Args:
        items: it; closed at the end, in that thread.
        nbytes: the memory of an item.
        most_bytes: what items that wait may take together; a single larger one waits alone.

    Yields:
        How many seconds an item was waited for, and the item. An error of the generator is raised in its place.
    """
    ready: deque[Item] = deque()
    failed: list[BaseException] = []
    changed = threading.Condition()
    state = {"bytes": 0, "done": False, "stopped": False}

    def produce() -> None:
        try:
            for item in items:
                with changed:
                    changed.wait_for(lambda: state["stopped"] or not ready or state["bytes"] < most_bytes)
                    if state["stopped"]:
                        return
                    ready.append(item)
                    state["bytes"] += nbytes(item)
                    changed.notify_all()
        except BaseException as error:
            failed.append(error)
        finally:
            items.close()
            with changed:
                state["done"] = True
                changed.notify_all()

    thread = threading.Thread(target=produce, name="alref-edge-ahead", daemon=True)
    thread.start()
    try:
        while True:
            before = time.perf_counter()
            with changed:
                changed.wait_for(lambda: ready or state["done"])
                if not ready:
                    break
                item = ready.popleft()
                state["bytes"] -= nbytes(item)
                changed.notify_all()
            yield time.perf_counter() - before, item
        if failed:
            raise failed[0]
    finally:
        with changed:
            state["stopped"] = True
            changed.notify_all()
        thread.join(_LEAVE_S)
