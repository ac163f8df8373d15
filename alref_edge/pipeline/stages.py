"""Stages of work beside each other: each is drawn ahead, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from alref_edge.pipeline.measure import RunStats, drawn

Item = TypeVar("Item")

_log = logging.getLogger(__name__)

DEPTH = 2
"""Items that lie ready between two stages; one more is being made, and one is in use."""


class Stages:
    """Iterators that are drawn ahead of who uses them, and end together. A context manager.

        with Stages(stats) as stages:
            frames = stages.over("decode", source.frames())
            for encoded in stages.over("encode", (encode(image) for _, image in frames)):
                ...

    Items keep their order. What a stage raises is raised where its item would have come, once. However the block ends,
    all threads have ended behind it and all iterators are closed, each as soon as it is done with the item in its
    hands. What a stage raised until then, and nobody drew, is raised by the block, or logged where the block raises
    something itself.

    Args:
        stats: what `over` counts.
        patience_s: how long the end waits for a thread that does not come back; None: till it does.
    """

    def __init__(self, stats: RunStats | None = None, *, patience_s: float | None = None) -> None:
        self._stats = stats or RunStats()
        self._patience_s = patience_s
        self._stages: list[_Stage[Any]] = []

    def over(self, name: str, items: Iterable[Item], /, *, ahead: bool = True) -> Iterator[Item]:
        """The same items, drawn ahead unless that is not wanted.

        As with `RunStats.over` the time that it takes to make them counts, waiting for them does not.
        """
        timed = self._stats.over(name, items)
        return self._stats.over(None, self.ahead(timed, name=name)) if ahead else timed

    def ahead(
        self,
        items: Iterable[Item],
        *,
        most: float = DEPTH,
        size: Callable[[Item], float] = lambda _: 1,
        name: str = "ahead",
    ) -> Iterator[Item]:
        """The same items, drawn ahead.

        Args:
            items: drawn from now on, and closed, in a thread.
            most: what items that lie ready may measure together; a single larger one lies alone.
            size: the measure of an item.
            name: of the thread.
        """
        stage = _Stage(items, most, size)
        stage.thread = threading.Thread(target=stage.work, name=f"alref-edge-{name}", daemon=True)
        self._stages.append(stage)
        stage.thread.start()
        return stage.items()

    def __enter__(self) -> Stages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stage in self._stages:
            stage.end()
        for stage in self._stages:
            if stage.thread.ident is not None:  # a signal may come before it is started
                stage.thread.join(self._patience_s)
        late = [stage.error for stage in self._stages if stage.error is not None]
        self._stages.clear()
        raised = late.pop(0) if late and kind in (None, GeneratorExit) else None
        for error in late:
            _log.error("A stage failed, and nobody drew what it raised.", exc_info=error)
        if raised is not None:
            raise raised


class _Stage(Generic[Item]):
    """One iterator, and what lies ready of it.

    Attributes:
        thread: runs `work`.
        error: what was raised, until that is raised where its item would have come.
    """

    thread: threading.Thread

    def __init__(self, source: Iterable[Item], most: float, size: Callable[[Item], float]) -> None:
        self._source, self._most, self._size = source, most, size
        self._changed = threading.Condition()
        self._ready: deque[Item] = deque()
        self._measured = 0.0
        self._done = self._ended = False
        self.error: BaseException | None = None

    def items(self) -> Iterator[Item]:
        """The items as they come, and the error that ended them."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._done or self._ended)
                if self._ended:
                    raise GeneratorExit  # unwinds the stage that waits here, in its own thread
                if not self._ready:
                    break
                item = self._ready.popleft()
                self._measured -= self._size(item)
                self._changed.notify_all()
            yield item
        error, self.error = self.error, None
        if error is not None:
            raise error

    def work(self) -> None:
        """Draw all items."""
        try:
            with drawn(self._source) as items:
                for item in items:
                    if not self._lay(item):
                        break
        except GeneratorExit:
            pass
        except BaseException as error:
            self.error = error
        with self._changed:
            self._done = True
            self._changed.notify_all()

    def _lay(self, item: Item) -> bool:
        """Wait for room, and lay an item ready; False if all is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or not self._ready or self._measured < self._most)
            if not self._ended:
                self._ready.append(item)
                self._measured += self._size(item)
                self._changed.notify_all()
            return not self._ended

    def end(self) -> None:
        """Wake whoever waits here: nothing more is wanted."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
