"""What a run counts, times and reports while it works."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

Item = TypeVar("Item")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `done` of `total` frames."""

    stage: str
    done: int
    total: int


ProgressCallback: TypeAlias = Callable[[Progress], None]


@contextmanager
def drawn(items: Iterable[Item]) -> Iterator[Iterator[Item]]:
    """The iterator of something, closed behind the block if it can be, which `for` leaves to the collector."""
    iterator = iter(items)
    try:
        yield iterator
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def one_at_a_time(progress: ProgressCallback | None) -> ProgressCallback | None:
    """A callback that threads may share: it is called by one after the other."""
    if progress is None:
        return None
    lock = threading.Lock()

    def tell(told: Progress) -> None:
        with lock:
            progress(told)

    return tell


@dataclass
class Counters:
    """How often the expensive things were done.

    Attributes:
        frames: frames of the video.
        decoded_pivots: frames that left the decoder in the look for pivots.
        decoded_forward: the same in the forward sweep.
        decoded_backward: the same in the backward sweep.
        encoded_image_predictor: pivot frames encoded for the image predictor.
        encoded_pivots: pivot frames encoded for the tracker's memory of them.
        encoded_forward: frames encoded for the tracker in the forward sweep.
        encoded_backward: the same in the backward sweep.
        encoded_again: of those in the sweeps, pivot frames whose features had not been kept.
        grounding_backbone: frames through Grounding DINO's image backbone.
        grounding_decoder: pairs of frame and sentence through its decoder.
        text_encodings: sentences through its text encoder.
        track_calls: calls of the track graph.
        object_frames: objects tracked, summed over those calls.
    """

    frames: int = 0
    decoded_pivots: int = 0
    decoded_forward: int = 0
    decoded_backward: int = 0
    encoded_image_predictor: int = 0
    encoded_pivots: int = 0
    encoded_forward: int = 0
    encoded_backward: int = 0
    encoded_again: int = 0
    grounding_backbone: int = 0
    grounding_decoder: int = 0
    text_encodings: int = 0
    track_calls: int = 0
    object_frames: int = 0


@dataclass
class RunStats:
    """The measuring side of one run: counters, seconds by stage, and progress. Threads may share it.

    Stages nest: the time of an inner stage is not counted to the outer one of the same thread.

    Attributes:
        counters: see there.
        seconds: by stage.
        events: what selectors counted, by name.
        elapsed_s: how long a run took, from the first wait for a pivot to the last mask; stages that work ahead of it
            are not counted.
        progress: told how far a stage is; calls come from the threads that work.
    """

    counters: Counters = field(default_factory=Counters)
    seconds: dict[str, float] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)
    elapsed_s: float = 0.0
    progress: ProgressCallback | None = None
    _own: _Stages = field(default_factory=lambda: _Stages())
    _under_way: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def stage(self, name: str | None) -> Iterator[None]:
        """Count the time of a `with` block; a stage that is entered again goes on counting. None: nobody's time."""
        self._charge()
        self._own.stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._own.stack.pop()

    def over(self, name: str | None, items: Iterable[Item]) -> Iterator[Item]:
        """Count the time that it takes to get the items out of an iterable, which is closed with this."""
        with drawn(items) as source:
            while True:
                with self.stage(name):
                    try:
                        item = next(source)
                    except StopIteration:
                        return
                yield item

    def add(self, name: str, seconds: float) -> None:
        """Count time that was measured elsewhere."""
        if seconds > 0:
            with self._lock:
                self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def count(self, event: str, times: int = 1) -> None:
        """Count something that a selector met with."""
        with self._lock:
            self.events[event] += times

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell whoever watches; the log has where a stage begins and ends."""
        with self._lock:
            begins = stage not in self._under_way
            (self._under_way.discard if done >= total else self._under_way.add)(stage)
        if begins:
            _log.info("the stage %s begins: %d of %d", stage, done, total)
        if done >= total:
            _log.info("the stage %s ends: %d of %d", stage, done, total)
        if self.progress is not None:
            self.progress(Progress(stage, done, total))

    def _charge(self) -> None:
        now, own = time.perf_counter(), self._own
        if own.stack and own.stack[-1] is not None:
            self.add(own.stack[-1], now - own.since)
        own.since = now


class _Stages(threading.local):
    """The stages that a thread is in, and since when it is in the innermost."""

    def __init__(self) -> None:
        self.stack: list[str | None] = []
        self.since = 0.0
