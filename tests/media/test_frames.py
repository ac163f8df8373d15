"""Frames in memory as a video."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alref_edge.errors import CapacityError, InputError, MediaError
from alref_edge.media import FrameSource, Limits

FRAMES = np.random.default_rng(0).integers(0, 256, (7, 20, 30, 3), np.uint8)
FRAME_BYTES = 20 * 30 * 3


def one_by_one(frames: np.ndarray = FRAMES) -> Iterator[np.ndarray]:
    """As a camera does: every frame in the same array."""
    room = np.empty_like(frames[0])
    for frame in frames:
        room[:] = frame
        yield room


@pytest.mark.parametrize(
    "frames",
    [
        lambda: FRAMES,
        lambda: list(FRAMES),
        lambda: one_by_one(),
        lambda: (Image.fromarray(frame) for frame in FRAMES),
        lambda: np.ascontiguousarray(FRAMES[..., ::-1])[..., ::-1],
        lambda: np.asfortranarray(FRAMES),
    ],
)
def test_frames_in_memory_are_a_video(frames: Any) -> None:
    source = FrameSource(frames(), fps=5)
    info = source.info
    assert (info.frames, info.width, info.height, info.fps, info.kind) == (7, 30, 20, 5, "frames")
    assert info.duration_s == pytest.approx(1.4)
    assert source.frame_count() == 7
    np.testing.assert_allclose(source.times_s(), np.arange(7) / 5)
    assert [index for index, _ in source.frames_at([5, 2])] == [2, 5]
    forward, backward = list(source.frames(1)), list(source.frames_reversed())
    assert [index for index, _ in backward] == list(range(6, -1, -1))
    for index, image in [*forward, *backward]:
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, FRAMES[index])
    assert source.decoded == 2 + 6 + 7
    source.frame(3)[:] = 0  # a frame is the caller's own
    np.testing.assert_array_equal(source.frame(3), FRAMES[3])
    with pytest.raises(InputError, match="no such frame"):
        source.frames_at([7])


@pytest.mark.parametrize("held", [1, 3, 7, 8])
def test_what_does_not_fit_the_memory_lies_in_a_file_without_a_name(tmp_path: Path, held: int) -> None:
    opened = set(os.listdir("/proc/self/fd"))
    source = FrameSource(one_by_one(), spill_dir=tmp_path, memory_bytes=held * FRAME_BYTES)
    assert len(set(os.listdir("/proc/self/fd")) - opened) == (held < 7)
    assert list(tmp_path.iterdir()) == []
    walks = zip(source.frames(), source.frames_reversed(), strict=True)  # interleaved
    for (forward, one), (backward, other) in walks:
        np.testing.assert_array_equal(one, FRAMES[forward])
        np.testing.assert_array_equal(other, FRAMES[backward])
    del source, walks
    assert set(os.listdir("/proc/self/fd")) == opened


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (FRAMES / 255, r"another form.*float64.*frames \* 255"),
        (list(FRAMES / 255), r"another form.*float64.*frames \* 255"),
        (FRAMES[..., :1], r"another form.*uint8 \[20, 30, 1\]"),
        (FRAMES[..., 0], r"another form.*uint8 \[7, 20, 30\]"),
        (FRAMES[0], r"another form.*frame\[None\]"),
        (np.concatenate([FRAMES, FRAMES[..., :1]], axis=3), r"another form.*frames\[\.\.\., :3\]"),
        (FRAMES.astype(np.int64), r"another form.*int64"),
        (FRAMES[:, :0], r"another form.*\[0, 30, 3\]"),
        ([*FRAMES, FRAMES[0, :10]], r"Frame 7 is not like the first.*\[20, 30, 3\].*\[10, 30, 3\]"),
        ([*FRAMES, FRAMES[0] / 255], r"Frame 7 is not like the first.*float64"),
        (["one.png", "two.png"], "another form"),
        ([[[1], [2, 3]]], "no array"),
        (FRAMES[:0], "no frames"),
        ([], "no frames"),
        (iter(()), "no frames"),
    ],
)
def test_what_are_no_frames_is_refused(frames: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        FrameSource(frames)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(fps: float) -> None:
    for frames in (FRAMES, one_by_one()):
        with pytest.raises(InputError, match="frame rate"):
            FrameSource(frames, fps)


def test_limits_hold_and_an_endless_iterable_ends_there() -> None:
    def endless() -> Iterator[np.ndarray]:
        while True:
            yield FRAMES[0]

    for limits in (Limits(frames=6), Limits(duration_s=6 / 24)):
        for frames in (FRAMES, one_by_one(), endless()):
            with pytest.raises(MediaError, match="over the limit"):
                FrameSource(frames, limits=limits)
    for frames in (FRAMES, list(FRAMES)):
        with pytest.raises(MediaError, match="over the limit `pixels`"):
            FrameSource(frames, limits=Limits(pixels=599))
        assert FrameSource(frames, limits=Limits(pixels=600, frames=7, duration_s=7 / 24)).frame_count() == 7


def test_a_full_disk_and_an_iterable_that_breaks_off_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from FRAMES
        raise RuntimeError("the camera is gone")

    opened = set(os.listdir("/proc/self/fd"))
    with pytest.raises(RuntimeError, match="camera"):
        FrameSource(broken(), spill_dir=tmp_path, memory_bytes=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(CapacityError, match="spill_dir"):
        FrameSource(one_by_one(), spill_dir=tmp_path, memory_bytes=0)
    assert set(os.listdir("/proc/self/fd")) == opened
