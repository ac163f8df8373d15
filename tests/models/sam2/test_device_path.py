"""Masks that stay on the device until they are enlarged and packed: the `cuda` form of the shipped nano, on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from alref_edge.bundle import Bundle
from alref_edge.datasets.synthetic import Scene, make_scene
from alref_edge.models.protocols import TrackingOptions
from alref_edge.models.sam2 import Sam2Graphs, Sam2ImagePredictor, Sam2VideoTracker, TrackingState, graphs, tracking
from alref_edge.models.sam2.holes import fill_holes
from alref_edge.models.sam2.results import FrameResult
from alref_edge.models.sam2.transforms import resize_bilinear
from alref_edge.runtime import Buffer

SURE = 1e-3  # logits of a pixel that both ways of enlarging put on the same side of zero


@pytest.fixture(scope="module")
def opened() -> Iterator[Sam2Graphs]:
    with Sam2Graphs.open(Bundle.open().component("sam2", forms=("cuda",)), "cpu") as made:
        yield made


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(5, num_frames=8)


def prompted(opened: Sam2Graphs, scene: Scene, options: TrackingOptions | None = None, **limits: int) -> TrackingState:
    state = Sam2VideoTracker(opened, options, **limits).start(scene.num_frames, scene.height, scene.width)
    for number, mask_hw in enumerate(scene.masks(0)[:3]):
        state.add_mask(0, number, mask_hw, scene.frame(0))
    return state


def sweep(state: TrackingState, scene: Scene) -> list[FrameResult]:
    return list(state.propagate((number, scene.frame(number)) for number in range(scene.num_frames)))


def assert_enlarged(masks_nhw: np.ndarray, low_res_nhw: np.ndarray) -> None:
    logits = resize_bilinear(low_res_nhw, *masks_nhw.shape[1:])
    sure = np.abs(logits) > SURE
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(masks_nhw[sure], logits[sure] > 0)


@pytest.mark.parametrize("area", [0, 8])
def test_masks_are_those_of_the_logits(opened: Sam2Graphs, scene: Scene, area: int) -> None:
    results = sweep(prompted(opened, scene, TrackingOptions(area)), scene)
    assert all(bits is not None for result in results[1:] for bits in result.bits)
    for result in results:
        assert_enlarged(result.masks_nhw(), result.low_res_nhw)
        np.testing.assert_array_equal(fill_holes(result.low_res_nhw, area), result.low_res_nhw)
    assert 0.01 < np.mean([result.masks_nhw().mean() for result in results]) < 0.9


def test_the_host_waits_when_all_of_a_frame_is_queued(
    opened: Sam2Graphs, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three objects in two calls: no output comes to the host but by a reading, and no reading is waited for before."""
    state, events = prompted(opened, scene, max_batch=2), []
    start_reading = tracking.start_reading

    def reading(buffers: Sequence[Buffer]) -> Callable[[], list[np.ndarray]]:
        events.append("read")
        finish = start_reading(buffers)

        def waited() -> list[np.ndarray]:
            events.append("wait")
            return finish()

        return waited

    monkeypatch.setattr(tracking, "start_reading", reading)
    for name in ("track", "postprocess"):
        record_runs(opened, name, monkeypatch, lambda name, feeds, out: events.append(name) if not out else None)
    results = sweep(state, scene)
    assert events == [*["track", "postprocess", "read"] * 2, "wait", "wait"] * (len(results) - 1)


def test_a_run_enlarges_no_more_than_its_memory_takes(opened: Sam2Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    low_res = np.random.default_rng(2).standard_normal((5, 1, 64, 64)).astype(np.float32)
    low_res = resize_bilinear(low_res[..., :9, :9], 64, 64)
    height, width, rows = 90, 77, []
    whole = bits_of(opened, low_res, height, width)
    record_runs(opened, "postprocess", monkeypatch, lambda _, feeds, out: rows.append(feeds["low_res"].shape[0]))
    on_device = opened.session("track").buffer(low_res.shape)
    on_device.write(low_res)
    for budget, wanted in ((2 * 9 * height * 80, [2, 2, 1]), (1, [1] * 5), (1 << 30, [5])):
        monkeypatch.setattr(graphs, "_ENLARGED_BYTES", budget)
        for source in (low_res, on_device):
            rows.clear()
            np.testing.assert_array_equal(bits_of(opened, source, height, width), whole)
            assert rows == wanted
    assert_enlarged(np.unpackbits(whole, axis=2, count=width).view(bool), low_res[:, 0])


def test_the_next_video_takes_the_same_places(opened: Sam2Graphs, scene: Scene) -> None:
    first, beside = prompted(opened, scene), prompted(opened, scene)
    expected = sweep(first, scene)
    room, other = first._room, beside._room
    assert room.bank.buffer.ptr != other.bank.buffer.ptr
    assert len(room.bank) > 0
    assert len(room.features) == 1
    places = [each.ptr for each in (room.bank.buffer, room.features[0].embed, *room.tracked.values())]
    first.close()
    first.close()
    second = prompted(opened, scene)
    assert second._room is room
    assert len(room.bank) == 3, "only the prompts of the second video"
    for one, two in zip(expected, sweep(second, scene), strict=True):
        np.testing.assert_array_equal(one.low_res_nhw, two.low_res_nhw)
        np.testing.assert_array_equal(one.masks_nhw(), two.masks_nhw())
    assert places == [each.ptr for each in (room.bank.buffer, room.features[0].embed, *room.tracked.values())]


def test_masks_of_an_image_are_those_of_the_logits(opened: Sam2Graphs, scene: Scene) -> None:
    predictor = Sam2ImagePredictor(opened)
    predictor.set_image(scene.frame(0))
    boxes = []
    for mask_hw in scene.masks(0)[:3]:
        y, x = np.nonzero(mask_hw)
        boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    masks, _, low_res = predictor.predict_boxes(np.array(boxes, np.float32))
    assert masks.dtype == bool
    assert masks.shape == (3, scene.height, scene.width)
    assert_enlarged(masks, low_res)
    np.testing.assert_array_equal(np.packbits(masks, axis=2), bits_of(opened, low_res[:, None], *masks.shape[1:]))
    several, _, low_res = predictor.predict(box=np.array(boxes[0]), multimask=True)
    assert_enlarged(several, low_res)


def bits_of(opened: Sam2Graphs, low_res: np.ndarray | Buffer, height: int, width: int) -> np.ndarray:
    bits = opened.mask_bits(low_res, height, width)
    assert bits is not None
    return bits.numpy()


def record_runs(
    opened: Sam2Graphs, name: str, monkeypatch: pytest.MonkeyPatch, record: Callable[[str, Mapping[str, Any], Any], Any]
) -> None:
    """Have the runs of a graph recorded: its name, what is fed, and what comes to the host."""
    session = opened.session(name)
    run = session.run

    def recorded(feeds: Mapping[str, Any], **rest: Any) -> dict[str, np.ndarray]:
        out = run(feeds, **rest)
        record(name, feeds, out)
        return out

    monkeypatch.setattr(session, "run", recorded)
