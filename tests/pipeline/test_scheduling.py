"""Calls in threads of their own, or in the caller's."""

from __future__ import annotations

import threading

import pytest

from alref_edge.pipeline.scheduling import Inline, executor


def test_one_call_at_a_time_runs_in_the_calling_thread() -> None:
    with executor(0) as pool:
        assert isinstance(pool, Inline)
        assert pool.submit(threading.get_ident).result() == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 // 0)
    barrier = threading.Barrier(4, timeout=5)
    with executor(4) as pool:
        assert len({each.result() for each in [pool.submit(barrier.wait) for _ in range(4)]}) == 4
