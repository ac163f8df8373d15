"""Which runs are captured: the second of a key, as many as there is room for."""

from __future__ import annotations

import pytest

from alref_edge.runtime.captures import NONE, GraphCaptures


def test_the_second_run_of_a_key_is_captured_and_later_ones_replay_it() -> None:
    captures = GraphCaptures()
    assert [captures.number("a") for _ in range(4)] == [NONE, 1, 1, 1]
    assert [captures.number("b") for _ in range(3)] == [NONE, 2, 2]
    assert captures.number("a") == 1
    assert len(captures) == 2


def test_captures_are_bounded_and_none_gives_way() -> None:
    captures = GraphCaptures(most=2)
    for key in "abc":
        captures.number(key)
    assert [captures.number(key) for key in "abc"] == [1, 2, NONE]
    assert [captures.number("c") for _ in range(3)] == [NONE] * 3
    assert [captures.number(key) for key in "ab"] == [1, 2]
    assert len(captures) == 2


def test_of_keys_seen_once_the_oldest_are_forgotten() -> None:
    captures = GraphCaptures(candidates=2)
    for key in "abc":
        assert captures.number(key) == NONE
    assert captures.number("a") == NONE  # forgotten for c, and takes the place of b
    assert captures.number("c") == 1
    assert captures.number("b") == NONE


@pytest.mark.parametrize("captured", [0, 2])
def test_what_was_stopped_captures_and_replays_nothing(captured: int) -> None:
    captures = GraphCaptures()
    for _ in range(captured):
        captures.number("a")
    captures.stop()
    assert [captures.number("a") for _ in range(3)] == [NONE] * 3
    assert len(captures) == 0
