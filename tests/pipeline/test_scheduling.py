"""Working ahead in a thread: order, bounds, errors, ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from alref_edge.pipeline.scheduling import Inline, ahead, executor


def test_items_come_in_order_while_the_next_are_made() -> None:
    made: list[int] = []

    def items() -> Generator[int, None, None]:
        for number in range(5):
            made.append(number)
            yield number

    found = ahead(items(), lambda _: 1, most_bytes=2)
    assert next(found)[1] == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]  # two wait, and the next one is made and waits for room
    assert [item for _, item in found] == [1, 2, 3, 4]


def test_a_single_item_over_the_bound_goes_through() -> None:
    assert [item for _, item in ahead((n for n in range(3)), lambda _: 100, most_bytes=10)] == [0, 1, 2]


def test_it_says_how_long_each_item_was_waited_for() -> None:
    def items() -> Generator[int, None, None]:
        time.sleep(0.2)
        yield 0
        yield 1

    waits = []
    for waited, item in ahead(items(), lambda _: 1):
        waits.append(waited)
        if item == 0:
            time.sleep(0.1)
    assert 0.15 < waits[0] < 2
    assert waits[1] < 0.1


def test_an_error_comes_in_its_place() -> None:
    def items() -> Generator[int, None, None]:
        yield 0
        raise KeyError("here")

    found = ahead(items(), lambda _: 1)
    assert next(found)[1] == 0
    with pytest.raises(KeyError, match="here"):
        next(found)


def test_leaving_early_ends_the_thread_and_closes_the_generator() -> None:
    closed = threading.Event()

    def items() -> Generator[int, None, None]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    before = threading.active_count()
    found = ahead(items(), lambda _: 1, most_bytes=3)
    next(found)
    found.close()
    assert closed.wait(5)
    assert threading.active_count() == before


def test_one_call_at_a_time_runs_in_the_calling_thread() -> None:
    with executor(0) as pool:
        assert isinstance(pool, Inline)
        assert pool.submit(threading.get_ident).result() == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 // 0)
    barrier = threading.Barrier(4, timeout=5)
    with executor(4) as pool:
        assert len({each.result() for each in [pool.submit(barrier.wait) for _ in range(4)]}) == 4
