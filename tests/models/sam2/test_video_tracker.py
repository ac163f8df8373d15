"""The tracker beside the official predictor, in one process, on seeded nano weights, drawn and real frames."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alref_edge.errors import InputError
from alref_edge.models.protocols import TrackingOptions
from alref_edge.models.sam2 import Sam2Graphs, Sam2VideoTracker, TrackingState
from tests.models.sam2.jobs import Job, assert_equal, assert_not_trivial, read_frames, run_job, write_mask

SHAPE = (540, 960)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Folder with two mask prompts."""
    write_mask(tmp_path / "bed.png", SHAPE, (200, 250, 620, 520))
    write_mask(tmp_path / "wall.png", SHAPE, (500, 40, 900, 300))
    return tmp_path


def job(*sweeps: dict[str, Any], frames: tuple[int, int, int] = (1, 4, 5), **options: Any) -> Job:
    """Three objects prompted on different frames, by mask, box and clicks (the second refines the first)."""
    by_mask, by_box, by_click = frames
    return {
        "prompts": [
            {"frame": by_mask, "object": 1, "mask": "bed.png"},
            {"frame": by_box, "object": 2, "box": [300, 100, 700, 400]},
            {"frame": by_click, "object": 3, "points": [[500, 300]], "labels": [1]},
            {
                "frame": by_click,
                "object": 3,
                "points": [[200, 100], [700, 200]],
                "labels": [0, 1],
                "clear_old_points": False,
            },
        ],
        "sweeps": list(sweeps),
        **options,
    }


def both(start: int) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"reverse": False, "start": start}, {"reverse": True, "start": start}


SIXTY_FRAMES = job(*both(20), frames=(5, 12, 20))
LATER_SWEEP = job({"reverse": False, "start": 5, "keep": [30]}, {"reverse": True, "start": 30}, frames=(5, 5, 5))


def compare(graphs: Sam2Graphs, official: Any, folder: Path, masks: Path, work: Job, **allowed: float) -> None:
    from benchmarks.official.sam2_video import run_job as run_official

    options = TrackingOptions(work.get("fill_hole_area", 0), work.get("max_pivots_in_attention"))
    tracker = Sam2VideoTracker(graphs, options)
    expected = run_official(official, folder, work, masks)
    ours, _ = run_job(tracker, read_frames(folder), work, masks)
    assert_equal(expected, ours, **allowed)
    assert_not_trivial(expected, absent=False)


def test_sixty_frames_and_three_objects(
    sam2_graphs: Sam2Graphs, official_video: Any, real60: Path, masks: Path
) -> None:
    compare(sam2_graphs, official_video, real60, masks, SIXTY_FRAMES)


@pytest.mark.parametrize("work", [SIXTY_FRAMES, LATER_SWEEP], ids=["sixty_frames", "later_sweep"])
def test_sixty_drawn_frames(
    sam2_graphs: Sam2Graphs, official_video: Any, frames60: Path, masks: Path, work: Job
) -> None:
    """On plain surfaces seeded weights amplify rounding more than on a real video, from frame to frame.

    The official code's own logits then move by up to 1.3e-3 with the number of threads, without oneDNN, or with
    weights a rounding step away: as far as ours lie from them. A tracker that forgets the oldest pointer is 2e-2 away,
    and misses the bars of masks and scores, which are those of every frame.
    """
    compare(sam2_graphs, official_video, frames60, masks, work, logits=5e-3)


def test_ten_frames_change_the_scale_of_pointers(
    sam2_graphs: Sam2Graphs, official_video: Any, frames10: Path, masks: Path
) -> None:
    compare(sam2_graphs, official_video, frames10, masks, job(*both(5)))


def test_several_pivots_on_both_sides_of_the_start(
    sam2_graphs: Sam2Graphs, official_video: Any, frames10: Path, masks: Path
) -> None:
    work = job(*both(5))
    work["prompts"] += [
        {"frame": 8, "object": 1, "mask": "wall.png"},
        {"frame": 7, "object": 2, "points": [[350, 300], [100, 100]], "labels": [1, 0]},
        {"frame": 1, "object": 3, "box": [100, 100, 300, 350], "points": [[200, 200]], "labels": [1]},
        {"frame": 1, "object": 1, "mask": "wall.png"},
        {"frame": 8, "object": 1, "points": [[600, 200]], "labels": [1]},
    ]
    compare(sam2_graphs, official_video, frames10, masks, work)


def test_hole_filling(sam2_graphs: Sam2Graphs, official_video: Any, frames10: Path, masks: Path) -> None:
    compare(sam2_graphs, official_video, frames10, masks, job(*both(5), fill_hole_area=8))


def test_a_limit_on_pivots(sam2_graphs: Sam2Graphs, official_video: Any, frames10: Path, masks: Path) -> None:
    work = job(*both(5), max_pivots_in_attention=2)
    work["prompts"] += [{"frame": frame, "object": 1, "mask": "wall.png"} for frame in (2, 7, 9)]
    compare(sam2_graphs, official_video, frames10, masks, work)


def test_a_later_sweep_from_elsewhere(sam2_graphs: Sam2Graphs, official_video: Any, real60: Path, masks: Path) -> None:
    compare(sam2_graphs, official_video, real60, masks, LATER_SWEEP)


def test_prompts_between_sweeps_count(
    sam2_graphs: Sam2Graphs, official_video: Any, frames10: Path, masks: Path
) -> None:
    from benchmarks.official import sam2_video

    first, second = job({"reverse": False, "start": 5}), job({"reverse": True, "start": 5})
    extra = {"frame": 2, "object": 2, "mask": "wall.png"}
    official_state = official_video.init_state(str(frames10))
    tracker, images = Sam2VideoTracker(sam2_graphs), read_frames(frames10)
    state = tracker.start(len(images), *SHAPE)
    for prompt in first["prompts"]:
        sam2_video._add(official_video, official_state, prompt, masks)
        prompt_ours(state, prompt, images, masks)
    expected = [list(sam2_video._sweep(official_video, official_state, first["sweeps"][0]))]
    ours = [list(state.propagate(enumerate(images), starts=dict.fromkeys((1, 2, 3), 5)))]
    sam2_video._add(official_video, official_state, extra, masks)
    prompt_ours(state, extra, images, masks)
    expected += [list(sam2_video._sweep(official_video, official_state, second["sweeps"][0]))]
    backward = ((index, images[index]) for index in range(9, -1, -1))
    ours += [list(state.propagate(backward, reverse=True, starts=dict.fromkeys((1, 2, 3), 5)))]
    for theirs, mine in zip(expected, ours, strict=True):
        for (frame, low_res, scores, _), result in zip(theirs, mine, strict=True):
            assert result.frame == frame
            np.testing.assert_allclose(result.low_res_nhw, low_res, rtol=0, atol=1e-3)
            np.testing.assert_allclose(result.scores_n, scores, rtol=0, atol=1e-3)


def prompt_ours(state: TrackingState, prompt: dict[str, Any], images: list[np.ndarray], masks: Path) -> None:
    from PIL import Image

    frame = prompt["frame"]
    if "mask" in prompt:
        with Image.open(masks / prompt["mask"]) as image:
            state.add_mask(frame, prompt["object"], np.array(image) > 127, images[frame])
    else:
        given = {key: value for key, value in prompt.items() if key not in ("frame", "object")}
        state.add_points_or_box(frame, prompt["object"], images[frame], **given)


# Our own promises


def test_objects_with_their_own_starts_are_tracked_as_if_alone(sam2_graphs: Sam2Graphs, frames60: Path) -> None:
    images = read_frames(frames60)[:40]
    tracker = Sam2VideoTracker(sam2_graphs)
    pivots = {"a dog": (3, 11, 24), 7: (11,), (1, "cat"): (0, 30), frozenset({2}): (11, 24), "last": (39,)}
    starts = {key: frames[len(frames) // 2] for key, frames in pivots.items()}
    boxes = {key: [100 + 60 * n, 80 + 30 * n, 420 + 90 * n, 380 + 25 * n] for n, key in enumerate(pivots)}

    def run(keys: list[Any]) -> tuple[dict[Any, dict[tuple[bool, int], tuple[np.ndarray, float]]], TrackingState]:
        state = tracker.start(len(images), *SHAPE)
        for key in keys:
            for frame in pivots[key]:
                state.add_points_or_box(frame, key, images[frame], box=boxes[key])
        found: dict[Any, dict[tuple[bool, int], tuple[np.ndarray, float]]] = {key: {} for key in keys}
        for reverse in (False, True):
            order = range(39, -1, -1) if reverse else range(40)
            frames = ((index, images[index]) for index in order)
            for result in state.propagate(frames, reverse=reverse, starts={key: starts[key] for key in keys}):
                for row, key in enumerate(result.object_ids):
                    found[key][reverse, result.frame] = (result.low_res_nhw[row], float(result.scores_n[row]))
        return found, state

    together, state = run(list(pivots))
    assert state.counters.encoded_forward <= 40
    assert state.counters.encoded_backward <= 40
    assert state.counters.track_calls < state.counters.objects_tracked
    for key, start in starts.items():
        alone, _ = run([key])
        wanted = {(False, t) for t in range(start, 40)} | ({(True, t) for t in range(start + 1)} if start else set())
        assert set(together[key]) == set(alone[key]) == wanted
        for place, (logits, score) in alone[key].items():
            np.testing.assert_allclose(together[key][place][0], logits, rtol=0, atol=1e-3)
            assert abs(together[key][place][1] - score) < 1e-3


def test_equal_objects_share_a_call_and_a_frame_is_encoded_once(sam2_graphs: Sam2Graphs, frames10: Path) -> None:
    images = read_frames(frames10)
    state = Sam2VideoTracker(sam2_graphs).start(10, *SHAPE)
    features = state.encode(images[2])
    for number in range(4):
        state.add_points_or_box(2, number, features, points=[[100 + 200 * number, 300]], labels=[1])
    results = list(state.propagate(enumerate(images), features={5: state.encode(images[5])}.get))
    assert [result.frame for result in results] == list(range(2, 10))
    counters = state.counters
    assert (counters.encoded_prompts, counters.encoded_forward, counters.encoded) == (2, 6, 8)
    assert (counters.track_calls, counters.objects_tracked) == (7, 28)


def test_max_batch_splits_calls_and_changes_nothing(sam2_graphs: Sam2Graphs, frames10: Path) -> None:
    images = read_frames(frames10)
    found = []
    for limit in (None, 2):
        state = Sam2VideoTracker(sam2_graphs, max_batch=limit).start(10, *SHAPE)
        for number in range(3):
            state.add_points_or_box(0, number, images[0], points=[[200 + 200 * number, 300]], labels=[1])
        found.append([result.low_res_nhw for result in state.propagate(enumerate(images))])
        assert state.counters.track_calls == (9 if limit is None else 18)
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-3)


def test_a_sweep_may_be_cut_in_two(sam2_graphs: Sam2Graphs, frames60: Path) -> None:
    images = read_frames(frames60)[:30]
    found = []
    for cuts in ((0, 30), (0, 14, 30)):
        state = Sam2VideoTracker(sam2_graphs).start(30, *SHAPE)
        state.add_points_or_box(0, 1, images[0], box=[300, 100, 700, 400])
        rows: list[np.ndarray] = []
        for start, stop in pairwise(cuts):
            part = ((index, images[index]) for index in range(start, stop))
            rows += [result.low_res_nhw for result in state.propagate(part, starts={1: start})]
        found.append(rows)
    np.testing.assert_array_equal(found[0], found[1])


def test_memory_does_not_grow_with_the_video(sam2_graphs: Sam2Graphs, frames10: Path) -> None:
    images = read_frames(frames10)
    state = Sam2VideoTracker(sam2_graphs).start(200, *SHAPE)
    for number, start in enumerate((90, 100, 101)):
        state.add_points_or_box(start, number, images[start % 10], box=[300, 100, 700, 400])
    starts = {0: 90, 1: 100, 2: 101}
    sizes = []
    for reverse in (False, True):
        order = range(101, -1, -1) if reverse else range(90, 200)
        frames = ((index, images[index % 10]) for index in order)
        for result in state.propagate(frames, reverse=reverse, starts=starts):
            kept = [len(memory.recent) for memory in state._objects.values()]
            sizes.append((len(state._bank), state._bank.capacity, max(kept)))
            assert result.low_res_nhw.shape[1:] == (64, 64)
    rows, capacity, kept = (max(column) for column in zip(*sizes, strict=True))
    assert rows <= 3 * (1 + 13 + 7)
    assert capacity <= 128
    assert kept <= 31 + 16
    assert sizes[60] == sizes[109]
    assert sizes[150] == sizes[-1]


def test_frames_are_drawn_only_as_far_as_results_are_asked_for(sam2_graphs: Sam2Graphs, frames10: Path) -> None:
    images, drawn = read_frames(frames10), []

    def frames() -> Iterator[tuple[int, np.ndarray]]:
        for index, image in enumerate(images):
            drawn.append(index)
            yield index, image

    state = Sam2VideoTracker(sam2_graphs).start(10, *SHAPE)
    state.add_points_or_box(1, "x", images[1], box=[300, 100, 700, 400])
    results = state.propagate(frames())
    assert drawn == []
    assert next(results).frame == 1
    assert drawn == [0, 1]


def test_video_size_masks(sam2_graphs: Sam2Graphs, frames10: Path) -> None:
    images = read_frames(frames10)
    state = Sam2VideoTracker(sam2_graphs).start(10, *SHAPE)
    mask = np.zeros(SHAPE, bool)
    mask[100:300, 200:600] = True
    result = state.add_mask(0, 1, mask, images[0])
    assert result.masks_nhw().shape == (1, *SHAPE)
    assert (result.masks_nhw()[0] & mask).sum() / (result.masks_nhw()[0] | mask).sum() > 0.95
    np.testing.assert_array_equal(result.logits_hw(0) > 0, result.mask_hw(0))
    empty = state.add_mask(1, 1, np.zeros(SHAPE, bool), images[1])
    assert not empty.masks_nhw().any()
    assert empty.scores_n[0] == -10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fill_hole_area": -1}, "fill_hole_area is out of range"),
        ({"fill_hole_area": 2.5}, "fill_hole_area is out of range"),
        ({"max_pivots_in_attention": 1}, "max_pivots_in_attention is out of range"),
        ({"max_pivots_in_attention": "3"}, "max_pivots_in_attention is out of range"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrackingOptions(**options)


def test_a_call_takes_at_least_one_object(sam2_graphs: Sam2Graphs) -> None:
    with pytest.raises(InputError, match="Too few objects"):
        Sam2VideoTracker(sam2_graphs, max_batch=0)


IMAGE = np.zeros((*SHAPE, 3), np.uint8)
BOX = [10, 10, 50, 50]


def sweep(state: TrackingState, frames: list[int], **options: Any) -> None:
    list(state.propagate(((index, IMAGE) for index in frames), **options))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda s: s.add_points_or_box(10, 1, IMAGE, box=BOX), "outside the video"),
        (lambda s: s.add_points_or_box(-1, 1, IMAGE, box=BOX), "outside the video"),
        (lambda s: s.add_points_or_box(0, 1, IMAGE), "no prompt"),
        (lambda s: s.add_points_or_box(0, 1, IMAGE, points=[[1, 2]]), "come together"),
        (lambda s: s.add_points_or_box(0, 1, IMAGE, points=[[1, 2]], labels=[3]), "unknown label"),
        (lambda s: s.add_points_or_box(0, 1, IMAGE, box=[1, 2, 3]), "not four"),
        (lambda s: s.add_points_or_box(0, 1, IMAGE, box=[1, 2, 3, np.inf]), "not four"),
        (lambda s: s.add_points_or_box(0, 1, IMAGE, box=BOX, clear_old_points=False), "cannot be added"),
        (lambda s: s.add_points_or_box(0, 1, IMAGE[:100], box=BOX), "another size"),
        (lambda s: s.add_points_or_box(0, 1, IMAGE[..., :1], box=BOX), "not RGB"),
        (lambda s: s.add_mask(0, 1, np.zeros((3, 4, 5)), IMAGE), "not a plane"),
        (lambda s: s.propagate([], starts={"other": 0}), "unknown object"),
        (lambda s: s.propagate([], starts={"known": 10}), "outside the video"),
        (lambda s: sweep(s, [5, 6]), "order of the sweep"),
        (lambda s: sweep(s, [4, 6]), "order of the sweep"),
        (lambda s: sweep(s, [4, 3]), "order of the sweep"),
        (lambda s: sweep(s, [3], reverse=True), "order of the sweep"),
        (lambda s: sweep(s, list(range(12))), "order of the sweep"),
        (lambda s: (sweep(s, [4, 5]), s.add_points_or_box(5, "known", IMAGE, box=BOX)), "already swept"),
        (lambda s: (s.close(), s.add_points_or_box(5, "known", IMAGE, box=BOX)), "closed"),
        (lambda s: (s.close(), s.propagate([])), "nothing to track"),
    ],
)
def test_bad_requests(sam2_graphs: Sam2Graphs, wrong: Any, message: str) -> None:
    state = Sam2VideoTracker(sam2_graphs).start(10, *SHAPE)
    state.add_points_or_box(4, "known", IMAGE, box=BOX)
    with pytest.raises(InputError, match=message):
        wrong(state)


def test_a_start_whose_memory_was_dropped_is_refused(sam2_graphs: Sam2Graphs) -> None:
    state = Sam2VideoTracker(sam2_graphs).start(60, *SHAPE)
    state.add_points_or_box(0, 1, IMAGE, box=BOX)
    sweep(state, list(range(60)))
    with pytest.raises(InputError, match="dropped") as caught:
        state.propagate([], reverse=True, starts={1: 30})
    assert "keep=[30]" in str(caught.value)


def test_a_video_has_frames_and_a_size(sam2_graphs: Sam2Graphs) -> None:
    with pytest.raises(InputError, match="no frames"):
        Sam2VideoTracker(sam2_graphs).start(0, 10, 10)
