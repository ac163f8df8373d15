"""The stages of tracking beside each other: with sessions that only wait, and with real ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alref_edge.bundle import Bundle
from alref_edge.datasets.synthetic import SceneSource, make_scene
from alref_edge.errors import CapacityError
from alref_edge.media import FrameSource
from alref_edge.models.protocols import Item, in_line
from alref_edge.models.sam2 import transforms
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.measure import RunStats
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.settings import RvosSettings
from alref_edge.pipeline.stages import Stages
from alref_edge.pipeline.tracking import ObjectTracking
from alref_edge.runtime import SessionOptions
from alref_edge.runtime.device import BACKENDS
from benchmarks.memory import resident_mb
from tests.pipeline import waiting_backend

FRAMES = 100
BOX = np.array([8, 8, 40, 40], np.float32)
SECONDS = {"decode": 0.010, "prepare": 0.003, "encode": 0.020, "track": 0.015, "masks": 0.010, "store": 0.015}

Wait = Callable[[str], None]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [each.name for each in threading.enumerate() if each.name.startswith("alref-edge")] == []


def wait(stage: str) -> None:
    time.sleep(SECONDS.get(stage, 0))


class WaitingVideo:
    """Objects through a video on a device of its own; every stage only waits.

    Args:
        bundle: whose networks it is.
        wait: told of each stage.
        frames: of the video.
        objects: how many.
        start: the frame on which they are prompted.
    """

    def __init__(
        self,
        bundle: Path,
        monkeypatch: pytest.MonkeyPatch,
        wait: Wait = wait,
        *,
        frames: np.ndarray = np.zeros((FRAMES, 48, 48, 3), np.uint8),  # noqa: B008
        objects: int = 1,
        start: int = 0,
    ) -> None:
        class Source(FrameSource):
            def _read(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
                for each in super()._read(wanted):
                    wait("decode")
                    yield each

        def prepare(image_hw3_u8: np.ndarray, size: int, *_: object) -> np.ndarray:
            wait("prepare")
            return np.zeros((1, 3, size, size), np.float32)

        def enlarge(planes: np.ndarray, height: int, width: int) -> np.ndarray:
            wait("masks")
            return np.ones((height, width), np.float32)

        monkeypatch.setitem(BACKENDS, "waiting", waiting_backend.__name__)
        monkeypatch.setattr(waiting_backend, "wait", lambda graph: wait({"image_encoder": "encode"}.get(graph, graph)))
        monkeypatch.setattr(transforms, "video_pixels", prepare)
        monkeypatch.setattr(transforms, "resize_bilinear", enlarge)
        self.wait = wait
        self.source = Source(frames)
        self.starts = dict.fromkeys(range(objects), start)
        self.networks = Networks(Bundle.open(bundle), "waiting", SessionOptions())
        self.stats = RunStats()
        self.stored: list[int] = []

    def track(self) -> float:
        """Seconds from the first frame to the last mask."""
        with self.networks:
            tracking = ObjectTracking(self.networks, self.source, RvosSettings(), self.stats)
            start = self.starts[0]
            tracking.prompt(start, self.source.frame(start), dict.fromkeys(self.starts, BOX))
            began = time.perf_counter()
            try:
                tracking.propagate_both_ways(self.starts, self.put)
            finally:
                took_s = time.perf_counter() - began
                tracking.close()
        return took_s

    def put(self, item: int, frame: int, mask_hw: np.ndarray) -> None:
        assert mask_hw.all()
        self.wait("store")
        self.stored.append(frame)


def test_the_stages_of_a_sweep_take_as_long_as_the_longest_of_them(
    nano_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed_s = 1.15 * FRAMES * max(SECONDS.values())
    for _ in range(3):  # whatever else the machine does only adds
        video = WaitingVideo(nano_bundle, monkeypatch)
        took_s = video.track()
        if took_s <= allowed_s:
            break
    assert took_s <= allowed_s, f"one after the other: {FRAMES * sum(SECONDS.values()):.1f} s"
    assert video.stored == list(range(FRAMES))
    for name, seconds in SECONDS.items():
        assert video.stats.seconds[name] >= (FRAMES - 1) * seconds, name
    counters = video.stats.counters
    assert counters.decoded_forward == FRAMES
    assert counters.encoded_forward == counters.track_calls == FRAMES - 1


@pytest.mark.parametrize("stage", SECONDS)
def test_a_stage_that_fails_ends_all_with_its_own_error(
    stage: str, nano_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed_at: list[float] = []
    turns = iter(range(20))

    def wait_or_fail(each: str) -> None:
        wait(each)
        if each == stage and next(turns, None) is None:
            failed_at.append(time.perf_counter())
            raise CapacityError(f"no room to {stage}")

    video = WaitingVideo(nano_bundle, monkeypatch, wait_or_fail)
    with pytest.raises(CapacityError, match=f"no room to {stage}"):
        video.track()
    assert time.perf_counter() - failed_at[0] < 2
    assert len(failed_at) == 1
    assert 10 < len(video.stored) <= 21


@pytest.mark.parametrize("objects", [1, 10])
def test_memory_does_not_grow_with_the_video(objects: int, nano_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 frames, both ways: what is kept of each would be 230 kB, and 77 kB for each object."""
    frames = np.broadcast_to(np.uint8(9), (2000, 240, 320, 3))
    video = WaitingVideo(nano_bundle, monkeypatch, lambda _: None, frames=frames, objects=objects, start=1000)
    resident: list[float] = []
    with MaskStore(objects, *frames.shape[:3]) as store:

        def put(item: int, frame: int, mask_hw: np.ndarray) -> None:
            store.put(item, frame, mask_hw)
            if item == 0:
                resident.append(resident_mb())

        monkeypatch.setattr(video, "put", put)
        video.track()
    assert len(resident) == 2000
    assert max(resident[200:]) - resident[199] <= 60


def test_results_and_counters_are_those_of_one_stage_after_the_other(nano_bundle: Path) -> None:
    source = SceneSource(make_scene(4, num_frames=24))
    starts = {0: 9, 1: 14}

    def swept(beside: bool) -> tuple[list[Any], dict[str, int]]:
        stats = RunStats()
        found = []
        with Networks(Bundle.open(nano_bundle), "cpu", SessionOptions(threads=1)) as networks:
            tracking = ObjectTracking(networks, source, RvosSettings(), stats)
            for item, frame in starts.items():
                tracking.prompt(frame, source.frame(frame), {item: source.scene.boxes(frame)[item]})
            for reverse in (False, True):
                with Stages() as stages:

                    def over(name: str, items: Iterable[Item], /, *, ahead: bool = True) -> Iterator[Item]:
                        return stages.over(name, items)

                    stage = over if beside else in_line
                    for frame, result in tracking.propagate(starts, reverse=reverse, stage=stage):
                        found.append((frame, result.object_ids, result.low_res_nhw, result.scores_n))
            tracking.close()
        return found, asdict(stats.counters)

    (one, counted), (other, counted_too) = swept(False), swept(True)
    assert counted == counted_too
    assert counted["encoded_backward"] > 0
    assert len(one) == len(other) == (24 - 9) + (14 + 1)
    for (frame, ids, *arrays), (frame_too, ids_too, *arrays_too) in zip(one, other, strict=True):
        assert (frame, ids) == (frame_too, ids_too)
        for expected, got in zip(arrays, arrays_too, strict=True):
            np.testing.assert_array_equal(expected, got)
