"""The memory bank and what an object keeps."""

from __future__ import annotations

import numpy as np

from alref_edge.models.sam2.memory import MemoryBank, ObjectMemory, Remembered
from alref_edge.runtime import Buffer


def room(shape: tuple[int, ...]) -> Buffer:
    return Buffer.on_host(shape, np.dtype(np.float32))


def test_rows_are_contiguous_disjoint_and_used_again() -> None:
    bank = MemoryBank(room, (2, 1, 1), capacity=4)
    first, second = bank.allocate(2), bank.allocate(2)
    assert (first, second) == (0, 2)
    assert bank.capacity == 4, "what fits needs no more room"
    bank.release(1)
    assert bank.allocate(1) == 1
    bank.release(0)
    bank.release(2)
    assert bank.allocate(2) == 4  # two free rows, but not side by side
    assert (len(bank), bank.capacity) == (4, 8)


def test_a_cleared_bank_is_as_new() -> None:
    bank = MemoryBank(room, (2, 1, 1), capacity=2)
    bank.allocate(5)
    bank.clear()
    assert (len(bank), bank.capacity, bank.allocate(5)) == (0, 5, 0)


def test_growing_keeps_what_is_stored() -> None:
    bank = MemoryBank(room, (2, 1, 1), capacity=2)
    start = bank.allocate(2)
    stored = np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1)
    bank.buffer.rows(start, start + 2).write(stored)
    bank.allocate(7)
    np.testing.assert_array_equal(bank.buffer.numpy()[:2], stored)
    assert bank.buffer.shape == (bank.capacity, 2, 1, 1) == (9, 2, 1, 1)
    assert len(bank) == 9


def test_memory_near_the_frame_and_the_anchors_is_kept() -> None:
    memory = ObjectMemory(anchors=(10,))
    for frame in range(10, 60):
        memory.recent[frame] = Remembered(frame, np.zeros(1, np.float32))
        memory.mark_tracked(frame)
        memory.forget(frame, 6, 15)
    assert sorted(memory.recent) == [*range(10, 26), *range(44, 60)]
    assert sorted(f for f, entry in memory.recent.items() if entry.row is not None) == [*range(10, 17), *range(53, 60)]
    assert memory.tracked == [range(10, 60)]
    assert memory.lacks(30, spatial=False)
    assert memory.lacks(20, spatial=True)
    assert not memory.lacks(20, spatial=False)
    assert not memory.lacks(60, spatial=True)


def test_spans_join() -> None:
    memory = ObjectMemory()
    for frame in (5, 6, 4, 3, 20):
        memory.mark_tracked(frame)
    assert memory.tracked == [range(3, 7), range(20, 21)]
    assert memory.was_tracked(4)
    assert not memory.was_tracked(7)
