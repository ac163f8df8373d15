"""Stages beside each other: order, bounds, errors, ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator

import pytest

from alref_edge.pipeline.measure import RunStats
from alref_edge.pipeline.stages import DEPTH, Stages


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert stage_threads() == []


def stage_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("alref-edge")]


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert true()


def taking(seconds: float, items: Iterable[int]) -> Generator[int, None, None]:
    for item in items:
        time.sleep(seconds)
        yield item


def test_items_come_in_order_while_the_next_are_made() -> None:
    made: list[int] = []

    def items() -> Generator[int, None, None]:
        for number in range(5):
            made.append(number)
            yield number

    with Stages() as stages:
        found = stages.ahead(items(), most=2)
        assert next(found) == 0
        until(lambda: len(made) == 4)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3]  # two wait, and the next one is made and waits for room
        assert list(found) == [1, 2, 3, 4]


def test_a_single_item_over_the_bound_goes_through() -> None:
    with Stages() as stages:
        assert list(stages.ahead(range(3), most=10, size=lambda _: 100)) == [0, 1, 2]


def test_stages_in_a_row_take_as_long_as_the_longest() -> None:
    began = time.perf_counter()
    with Stages() as stages:
        items: Iterator[int] = iter(range(20))
        for seconds in (0.01, 0.02, 0.03, 0.02):
            items = stages.ahead(taking(seconds, items))
        assert list(items) == list(range(20))
    assert 0.6 < time.perf_counter() - began < 1.1  # one after the other: 1.6


def test_each_stage_counts_its_own_time_and_waiting_is_nobodys() -> None:
    stats = RunStats()
    with Stages(stats) as stages:
        first = stages.over("first", taking(0.04, range(5)))
        for item in stages.over("second", taking(0.01, first)):
            with stats.stage("third"):
                time.sleep(0.02 if item else 0)
    assert stats.seconds.keys() == {"first", "second", "third"}
    assert 0.2 <= stats.seconds["first"] < 0.3
    assert 0.05 <= stats.seconds["second"] < 0.12
    assert 0.08 <= stats.seconds["third"] < 0.16


def failing(error: BaseException, after: int = 1) -> Generator[int, None, None]:
    yield from range(after)
    raise error


def test_an_error_comes_in_its_place_once_and_with_its_own_traceback() -> None:
    with Stages() as stages:
        found = stages.ahead(taking(0, stages.ahead(failing(KeyError("here")))))
        assert next(found) == 0
        with pytest.raises(KeyError, match="here") as caught:
            next(found)
        assert "failing" in [entry.name for entry in caught.traceback]
        assert list(found) == []


def test_an_error_ends_the_stages_before_it_and_after_it() -> None:
    closed: list[str] = []

    def noted(name: str, items: Iterable[int], fails: bool = False) -> Generator[int, None, None]:
        try:
            for item in items:
                if fails and item == 3:
                    raise ValueError("in the middle")
                yield item
        finally:
            closed.append(name)

    def four_in_a_row() -> None:
        with Stages() as stages:
            first = stages.ahead(noted("first", iter(int, 1)))
            second = stages.ahead(noted("second", (number for number, _ in enumerate(first))))
            third = stages.ahead(noted("third", second, fails=True))
            for item in stages.ahead(noted("fourth", third)):
                seen.append(item)  # noqa: PERF402

    seen: list[int] = []
    with pytest.raises(ValueError, match="in the middle"):
        four_in_a_row()
    assert seen == [0, 1, 2]
    assert sorted(closed) == ["first", "fourth", "second", "third"]


def test_leaving_early_wakes_whoever_waits_for_room_and_whoever_waits_for_an_item() -> None:
    closed: list[str] = []
    gate = threading.Event()

    def noted(name: str, items: Iterable[int]) -> Generator[int, None, None]:
        try:
            yield from items
        finally:
            closed.append(name)

    def stuck() -> Generator[int, None, None]:
        yield 0
        gate.wait(5)
        yield 1

    with Stages() as stages:
        full = stages.ahead(noted("full", range(1000)))
        hungry = stages.ahead(noted("hungry", stages.ahead(noted("stuck", stuck()))))
        assert (next(full), next(hungry)) == (0, 0)
        threading.Timer(0.2, gate.set).start()
    assert sorted(closed) == ["full", "hungry", "stuck"]


def test_a_generator_that_is_closed_ends_its_stages() -> None:
    def numbers() -> Generator[int, None, None]:
        with Stages() as stages:
            yield from stages.ahead(range(1000))

    found = numbers()
    assert next(found) == 0
    assert stage_threads()
    found.close()


def fails_at_its_end() -> Generator[int, None, None]:
    try:
        yield from range(100)
    finally:
        raise OSError("the file cannot be closed")


def test_what_fails_at_the_end_is_raised_where_nothing_else_is() -> None:
    with pytest.raises(OSError, match="cannot be closed"), Stages() as stages:
        next(stages.ahead(fails_at_its_end()))


def test_what_fails_at_the_end_is_logged_where_something_else_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        with Stages() as stages:
            next(stages.ahead(fails_at_its_end()))
            raise KeyError("first")

    with caplog.at_level(logging.ERROR), pytest.raises(KeyError, match="first"):
        fail()
    assert "cannot be closed" in caplog.text


def test_an_error_that_nobody_drew_is_raised_at_the_end() -> None:
    def leave() -> None:
        with Stages() as stages:
            assert next(stages.ahead(failing(ValueError("further on")))) == 0
            until(lambda: not stage_threads())

    with pytest.raises(ValueError, match="further on"):
        leave()


def test_an_error_that_nobody_drew_is_logged_where_something_else_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        with Stages() as stages:
            assert next(stages.ahead(failing(ValueError("further on")))) == 0
            until(lambda: not stage_threads())
            raise KeyError("first")

    with caplog.at_level(logging.ERROR), pytest.raises(KeyError, match="first"):
        fail()
    assert caplog.text.count("ValueError: further on") == 1


def test_who_does_not_come_back_is_waited_for_no_longer_than_said() -> None:
    gate = threading.Event()

    def asleep() -> Generator[int, None, None]:
        yield 0
        gate.wait()

    began = time.perf_counter()
    with Stages(patience_s=0.1) as stages:
        assert next(stages.ahead(asleep())) == 0
    assert time.perf_counter() - began < 2
    gate.set()
    until(lambda: not stage_threads())


def test_what_lies_ready_is_bounded_between_all_stages() -> None:
    alive: set[int] = set()

    def made() -> Generator[int, None, None]:
        for number in range(40):
            alive.add(number)
            yield number

    with Stages() as stages:
        items = stages.ahead(taking(0, stages.ahead(made())))
        for item in items:
            time.sleep(0.002)
            assert len(alive) <= 2 * (DEPTH + 2)
            alive.discard(item)
