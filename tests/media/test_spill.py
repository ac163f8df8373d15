"""The frame stack, and the memory and the disk of backward walks."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from alref_edge.errors import CapacityError
from alref_edge.media import open_video
from alref_edge.media.spill import FrameStack, spill_folder
from tests.media.clips import frame_number, make_clip

SHAPE = (30, 40, 3)
BYTES = 30 * 40 * 3


def frames(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, SHAPE, np.uint8) for i in range(count)]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_last_in_first_out_across_memory_and_file(tmp_path: Path) -> None:
    pushed = frames(10)
    with FrameStack(SHAPE, 3 * BYTES, str(tmp_path)) as stack:
        for frame in pushed:
            stack.push(frame)
        assert (len(stack), stack.spilled) == (10, 7)
        for frame in reversed(pushed[4:]):
            np.testing.assert_array_equal(stack.pop(), frame)
        stack.push(pushed[9])
        np.testing.assert_array_equal(stack.pop(), pushed[9])
        for frame in reversed(pushed[:4]):
            np.testing.assert_array_equal(stack.pop(), frame)
        with pytest.raises(IndexError):
            stack.pop()


def test_frames_are_read_where_they_lie(tmp_path: Path) -> None:
    pushed = frames(6)
    with FrameStack(SHAPE, 2 * BYTES, str(tmp_path)) as stack:
        for frame in pushed:
            stack.push(frame)
        stack.pop()
        for index in (4, 0, 2, 1, 3, 2):
            np.testing.assert_array_equal(stack[index], pushed[index])
        for index in (5, -1):
            with pytest.raises(IndexError):
                stack[index]


def test_nothing_is_ever_to_be_seen_in_the_folder(tmp_path: Path) -> None:
    stack = FrameStack(SHAPE, 0, str(tmp_path))
    for frame in frames(4):
        stack.push(frame)
    assert stack.spilled == 3
    assert list(tmp_path.iterdir()) == []
    stack.close()
    assert len(stack) == 0


def test_a_disk_without_room_is_told_before_decoding(tmp_path: Path) -> None:
    with FrameStack(SHAPE, 0, str(tmp_path)) as stack, pytest.raises(CapacityError, match="TMPDIR"):
        stack.reserve(1 << 40)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    first, second = frames(2)
    with FrameStack(SHAPE, 0, str(tmp_path / "gone")) as stack:
        stack.push(first)
        with pytest.raises(CapacityError, match="No room"):
            stack.push(second)


def test_temporary_frames_go_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert spill_folder() == str(tmp_path)


def test_a_full_disk_ends_a_backward_walk_before_it_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_video(make_clip(tmp_path / "clip.mp4", 30, (1280, 720), gop=1000))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=300 << 20))
    with pytest.raises(CapacityError, match="No room for temporary frames"):
        list(source.frames_reversed())
    assert source.decoded == 0
    assert len(list(source.frames_reversed(0, 9))) == 9


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_backward_walk_over_one_group_of_1200_frames_is_bounded(tmp_path: Path) -> None:
    """1,200 frames of 320x180 are 207 MB; they lie in one key-frame group."""
    count = 1200
    path = make_clip(tmp_path / "long.mp4", count, (320, 180), gop=10_000, b_frames=0)
    source = open_video(path)
    assert source._group_start(count - 1) == 0
    before = resident_bytes()
    most = 0
    expected = count - 1
    for index, frame in source.frames_reversed():
        assert index == expected
        assert frame_number(frame) == index
        expected -= 1
        if index % 50 == 0:
            most = max(most, resident_bytes())
    assert expected == -1
    assert source.decoded == count
    assert most - before < 80e6
