"""The method end to end, on generated clips with the shipped bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from alref_edge.datasets.synthetic import SceneSource, make_scene
from alref_edge.datasets.synthetic.clips import write_clip
from alref_edge.demo import SEED
from alref_edge.errors import InputError, MediaError, ProviderError
from alref_edge.media import FrameSource, open_video
from alref_edge.pipeline import Pipeline, Progress, ReplaySelector, RvosResult, RvosSettings, Segment
from alref_edge.pipeline.rvos import FELL_BACK, NO_BOX, NO_PIVOT_GIVEN
from alref_edge.pipeline.selectors.base import Decision, Ground
from alref_edge.runtime.device import Placement
from alref_edge.runtime.ort import probe
from alref_edge.types import Pivot
from tests.media.clips import make_clip, media_folder

SENTENCES = ["the red circle", "the blue square", "a wall"]


class GivenPivots:
    """Pivots by sentence, all known beforehand."""

    name = "given"
    in_flight = 0
    facts: ClassVar[dict[str, str]] = {}

    def __init__(self, **pivots: list[tuple[int, tuple[float, float, float, float]]]) -> None:
        self._pivots = {
            text: [Pivot(frame, np.array(box, np.float32)) for frame, box in each] for text, each in pivots.items()
        }

    def given(self, sentence: str) -> list[Pivot]:
        return self._pivots[sentence]

    def select(self, segment: Segment, sentence: str, ground: Ground) -> Decision | None:
        raise AssertionError("nobody asks where pivots are given")


# Middle pivots: frames 20, 20 and 33.
GIVEN = GivenPivots(
    circle=[(5, (60, 90, 120, 150)), (20, (130, 70, 200, 130))],
    square=[(20, (120, 100, 180, 160))],
    wall=[(33, (10, 10, 300, 60))],
)


@pytest.fixture(scope="module")
def pipeline(nano_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.from_bundle(nano_bundle, device="cpu") as made:
        yield made


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames of 320x240: of a real video where there is one, else a generated one."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    bedroom = media_folder() / "bedroom.mp4"
    if not bedroom.is_file():
        write_clip(path, make_scene(SEED, 320, 240))
        return path
    frames = [np.asarray(Image.fromarray(image).resize((320, 240))) for _, image in open_video(bedroom).frames(stop=40)]
    return make_clip(path, frames=40, size=(320, 240), picture=lambda number, *_: frames[number])


@pytest.fixture(scope="module")
def together(pipeline: Pipeline, clip: Path) -> list[RvosResult]:
    """Three sentences on the clip in one run."""
    return list(pipeline.rvos(clip, ["circle", "square", "wall"], selector=GIVEN))


def masks_of(result: RvosResult) -> np.ndarray:
    return np.stack([mask_hw for _, mask_hw in result.masks()])


def iou(one_thw: np.ndarray, two_thw: np.ndarray) -> float:
    """The worst frame's."""
    union = (one_thw | two_thw).sum((1, 2))
    return float(np.where(union == 0, 1.0, (one_thw & two_thw).sum((1, 2)) / np.maximum(union, 1)).min())


def test_each_frame_is_encoded_once_a_sweep_whatever_the_number_of_sentences(together: list[RvosResult]) -> None:
    counters = dict(together[0].run.counters)
    assert counters.pop("decoded_pivots") <= 40
    assert counters.pop("decoded_forward") <= 40
    assert counters.pop("decoded_backward") <= 40
    assert counters == {
        "frames": 40,
        # Frames 5, 20 and 33 hold the pivots of all three sentences.
        "encoded_image_predictor": 3,
        "encoded_pivots": 3,
        # Frames 21 to 39 but 33, whose features are at hand; frame 20 is a pivot of all who have begun.
        "encoded_forward": 18,
        # Frames 32 to 0 but 20 and 5.
        "encoded_backward": 31,
        "encoded_again": 0,
        "grounding_backbone": 0,
        "grounding_decoder": 0,
        "text_encodings": 0,
        # Objects whose memories have the same length share a call, so there are fewer calls than tracked objects.
        "track_calls": counters["track_calls"],
        "object_frames": (19 + 19 + 6) + (19 + 20 + 33),
    }
    assert 18 + 33 <= counters["track_calls"] < counters["object_frames"]


@pytest.mark.parametrize("seed", [SEED, 4, 11])
def test_the_shipped_bundle_masks_what_a_sentence_means(pipeline: Pipeline, seed: int) -> None:
    scene = make_scene(seed, num_frames=16)
    meant = [each for each in scene.expressions if each.kind == "appearance"][:2]
    assert meant
    results = pipeline.rvos(SceneSource(scene), [each.text for each in meant])
    for each, result in zip(meant, results, strict=True):
        truth_thw = np.stack([scene.labels(frame) == each.target for frame in range(16)])
        ours_thw = masks_of(result)
        common, union = (truth_thw & ours_thw).sum((1, 2)), (truth_thw | ours_thw).sum((1, 2))
        assert (common / np.maximum(union, 1))[union > 0].mean() >= 0.8, each.text
        assert truth_thw.any((1, 2)).sum() > 8, "an object that is hardly seen proves nothing"


def test_tracking_begins_at_the_middle_pivot(together: list[RvosResult]) -> None:
    for result, start in zip(together, (20, 20, 33), strict=True):
        assert result.start_frame == result.pivots[len(result.pivots) // 2].frame == start
        assert result.frame_count == len(list(result.masks())) == 40


def test_a_sentence_alone_gets_the_masks_that_it_gets_in_company(
    pipeline: Pipeline, clip: Path, together: list[RvosResult]
) -> None:
    for result in together:
        (alone,) = pipeline.rvos(clip, result.sentence, selector=GIVEN)
        # Batches of other sizes round otherwise; on photographs, which nano does not know, that shows in a few pixels.
        assert iou(masks_of(alone), masks_of(result)) >= 0.995


def test_without_room_for_features_frames_are_encoded_again_and_masks_stay_the_same(
    pipeline: Pipeline, clip: Path, together: list[RvosResult]
) -> None:
    cramped = list(pipeline.rvos(clip, ["circle", "square", "wall"], selector=GIVEN, feature_cache_bytes=0))
    counters = cramped[0].run.counters
    assert (counters["encoded_forward"], counters["encoded_backward"], counters["encoded_again"]) == (19, 33, 3)
    for one, two in zip(cramped, together, strict=True):
        np.testing.assert_array_equal(masks_of(one), masks_of(two))


def test_a_folder_of_the_frames_gets_the_masks_of_the_video(
    pipeline: Pipeline, clip: Path, together: list[RvosResult], tmp_path: Path
) -> None:
    for frame, image in open_video(clip).frames():
        Image.fromarray(image).save(tmp_path / f"{frame}.png")
    from_folder = pipeline.rvos(tmp_path, ["circle", "square", "wall"], selector=GIVEN)
    for one, two in zip(from_folder, together, strict=True):
        np.testing.assert_array_equal(masks_of(one), masks_of(two))


@pytest.mark.parametrize("form", ["array", "generator", "spilled"])
def test_frames_in_memory_get_the_masks_of_the_video(
    pipeline: Pipeline, clip: Path, together: list[RvosResult], tmp_path: Path, form: str
) -> None:
    frames_thw3 = np.stack([image for _, image in open_video(clip).frames()])
    video = {
        "array": frames_thw3,
        "generator": (frame for frame in frames_thw3),
        "spilled": FrameSource(iter(frames_thw3), spill_dir=tmp_path, memory_bytes=0),
    }[form]
    run = pipeline.rvos(video, ["circle", "square", "wall"], selector=GIVEN, fps=10, spill_dir=tmp_path)
    assert run.report.info.fps == (24 if form == "spilled" else 10)
    for one, two in zip(run, together, strict=True):
        np.testing.assert_array_equal(masks_of(one), masks_of(two))
    assert run.save(tmp_path / "out", masks="none")["input"]["kind"] == "frames"


def test_what_is_no_video_is_refused(pipeline: Pipeline) -> None:
    for video in (np.zeros((2, 8, 8, 3)), [], b"clip.mp4", {"frames": 1}):
        with pytest.raises((InputError, MediaError)):
            pipeline.rvos(video, "a dog")  # type: ignore[arg-type]


def test_grounding_runs_the_backbone_once_a_frame_and_the_text_encoder_once_a_sentence(
    pipeline: Pipeline, clip: Path
) -> None:
    settings = replace(pipeline.settings, box_threshold=0.0, distinct_iou=None)
    results = list(pipeline.rvos(clip, SENTENCES, settings=settings))
    counters = results[0].run.counters
    assert counters["grounding_backbone"] == 4
    assert counters["grounding_decoder"] == 4 * len(SENTENCES)
    assert counters["text_encodings"] == len(SENTENCES)
    assert counters["encoded_image_predictor"] == len({pivot.frame for each in results for pivot in each.pivots})
    assert counters["encoded_forward"] <= 40
    assert counters["encoded_backward"] <= 40
    for result in results:
        assert sorted(result.considered) == [0, 10, 20, 30]
        (pivot,) = result.pivots
        assert not result.fell_back
        assert pivot.score == max(found.scores_n[0] for found in result.considered.values())
        assert all(len(found) == 3 for found in result.considered.values())


@pytest.mark.parametrize("frames", [1, 2, 10])
def test_a_clip_too_short_for_a_segment_falls_back_on_frame_0(pipeline: Pipeline, tmp_path: Path, frames: int) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=frames)
    settings = RvosSettings(fallback_box_threshold=0.0)
    one, two = pipeline.rvos(clip, SENTENCES[:2], settings=settings)
    for result in (one, two):
        assert result.fell_back
        assert FELL_BACK in result.warnings
        assert [pivot.frame for pivot in result.pivots] == [0]
        assert masks_of(result).shape == (frames, 96, 128)
    assert one.run.counters["grounding_backbone"] == one.run.counters["encoded_image_predictor"] == 1
    assert one.run.counters["decoded_backward"] == 0


def test_without_any_box_masks_are_empty_and_a_warning_says_so(pipeline: Pipeline, clip: Path) -> None:
    settings = RvosSettings(box_threshold=1.0, fallback_box_threshold=1.0)
    (result,) = pipeline.rvos(clip, SENTENCES[0], settings=settings)
    assert result.pivots == ()
    assert result.start_frame is None
    assert NO_BOX in result.warnings
    assert not masks_of(result).any()
    assert len(list(result.masks())) == 40


def test_the_shipped_bundle_is_trained(together: list[RvosResult]) -> None:
    assert together[0].run.trained
    assert not any(warning.startswith("untrained") for each in together for warning in each.warnings)


def test_falling_back_to_the_cpu_is_allowed_and_said(nano_bundle: Path, tmp_path: Path) -> None:
    if probe(Placement("cuda")).works:
        pytest.skip("CUDA works here")
    with pytest.raises(ProviderError):
        Pipeline.from_bundle(nano_bundle, device="cuda")
    with Pipeline.from_bundle(nano_bundle, device="cuda", allow_fallback=True) as pipeline:
        (result,) = pipeline.rvos(make_clip(tmp_path / "clip.mp4", frames=1), SENTENCES[0])
    assert any(warning.startswith("fell back: cuda") for warning in result.warnings)
    assert set(result.run.providers.values()) == {"CPUExecutionProvider"}


def test_a_pivot_and_a_fall_back_on_frame_0_share_its_encoding(pipeline: Pipeline, tmp_path: Path) -> None:
    class Half(GivenPivots):
        """A sentence with pivots, and one for which nothing is chosen."""

        def given(self, sentence: str) -> list[Pivot] | None:  # type: ignore[override]
            return self._pivots.get(sentence)

    clip = make_clip(tmp_path / "clip.mp4", frames=3)
    half = Half(ball=[(0, (5, 30, 60, 80)), (2, (5, 30, 60, 80))])
    settings = RvosSettings(fallback_box_threshold=0.0)
    one, two = pipeline.rvos(clip, ["ball", "a wall"], selector=half, settings=settings)
    assert (one.fell_back, two.fell_back) == (False, True)
    assert one.run.counters["encoded_image_predictor"] == one.run.counters["encoded_pivots"] == 2


def test_progress_goes_through_the_stages(pipeline: Pipeline, clip: Path) -> None:
    told: list[Progress] = []
    list(pipeline.rvos(clip, "wall", selector=GIVEN, progress=told.append))
    assert list(dict.fromkeys(each.stage for each in told)) == ["pivots", "forward", "backward"]
    assert [(each.done, each.total) for each in told if each.stage == "forward"] == [(n, 7) for n in range(1, 8)]
    assert told[-1] == Progress("backward", 34, 34)


def test_what_can_be_checked_is_checked_before_any_work(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    for sentences in ([], [" "], ["a" * 5000]):
        with pytest.raises(InputError):
            pipeline.rvos(clip, sentences)
    with pytest.raises(MediaError):
        pipeline.rvos(tmp_path / "nothing.mp4", "a dog")


@pytest.mark.parametrize(
    ("frame", "box", "words"),
    [
        (40, (0, 0, 10, 10), "beyond the video"),
        (0, (320, 0, 330, 10), "outside the frame"),
        (0, (-20, -20, 0, 0), "outside the frame"),
        (0, (9, 9, 9, 9), "no area"),
    ],
)
def test_pivots_that_do_not_fit_the_video_are_refused(
    pipeline: Pipeline, clip: Path, frame: int, box: tuple[float, float, float, float], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        list(pipeline.rvos(clip, "thing", selector=GivenPivots(thing=[(frame, box)])))


def test_a_selector_must_choose_a_frame_that_it_was_shown(pipeline: Pipeline, clip: Path) -> None:
    class Stray(GivenPivots):
        def given(self, sentence: str) -> None:  # type: ignore[override]
            return None

        def select(self, segment: Segment, sentence: str, ground: Ground) -> Decision | None:
            return Decision(7, 0)

    with pytest.raises(InputError, match="not shown"):
        list(pipeline.rvos(clip, "a wall", selector=Stray()))


def test_results_outlive_the_pipeline_and_close_together(nano_bundle: Path, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    with Pipeline.from_bundle(nano_bundle, device="cpu") as pipeline:
        one, two = pipeline.rvos(clip, SENTENCES[:2])
    assert one.mask(1).shape == (96, 128)
    assert next(one.rles())[1]["size"] == [96, 128]
    with pytest.raises(InputError, match="no such mask"):
        one.mask(2)
    with two:
        pass
    with pytest.raises(InputError, match="given back"):
        one.mask(0)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_recorded_boxes_are_tracked_as_they_were_shown(
    number: int, pipeline: Pipeline, clip: Path, tmp_path: Path
) -> None:
    boxes = [[0.5, 0.5, 0.25, 0.5], [0.25, 0.75, 0.125, 0.25]]
    answers = [{"target_frame_id": 2, "target_object_id": number, "boxes_info": {"boxes": boxes}}]
    (tmp_path / "cot_two_stage.json").write_text(json.dumps({"exp": "a wall", "res_list": answers}))
    (result,) = pipeline.rvos(clip, "a wall", selector=ReplaySelector.from_file(tmp_path / "cot_two_stage.json"))
    pixels = [[120.0, 60.0, 200.0, 180.0], [60.0, 150.0, 100.0, 210.0]]
    assert result.run.reasoning["boxes"] == "as recorded"
    assert result.considered[10].boxes_n4.tolist() == pixels
    assert result.fell_back == (number == 3)
    if number < 3:
        assert [(pivot.frame, pivot.box_xyxy.tolist()) for pivot in result.pivots] == [(10, pixels[number - 1])]
        assert result.mask(10).any()


@pytest.mark.parametrize("company", [[], ["circle"]])
def test_where_no_pivots_are_given_masks_are_empty_and_a_warning_says_so(
    pipeline: Pipeline, clip: Path, company: list[str]
) -> None:
    nothing = GivenPivots(nothing=[], circle=[(5, (60, 90, 120, 150))])
    *others, result = pipeline.rvos(clip, [*company, "nothing"], selector=nothing)
    assert (result.pivots, result.start_frame, result.fell_back) == ((), None, False)
    assert result.own_warnings == (NO_PIVOT_GIVEN,)
    assert NO_PIVOT_GIVEN in result.warnings
    assert not masks_of(result).any()
    assert result.run.counters["grounding_backbone"] == result.run.counters["text_encodings"] == 0
    assert all(each.own_warnings == () and masks_of(each).any() for each in others)


@pytest.mark.parametrize("box", [(-50, -50, 80, 80), (250, 150, 900, 900), (-3, 60, 60, 90)])
def test_a_box_beyond_the_frame_prompts_as_it_is_and_is_told_clipped(
    pipeline: Pipeline, clip: Path, box: tuple[float, float, float, float]
) -> None:
    pivot = Pivot(20, np.array(box, np.float32))
    (whole,) = pipeline.rvos(clip, "it", selector=ReplaySelector({"it": (pivot,)}, {}))
    told = whole.pivots[0]
    np.testing.assert_array_equal(told.box_xyxy, pivot.clipped(320, 240).box_xyxy)
    np.testing.assert_array_equal(told.prompt_xyxy, pivot.box_xyxy)
    (again,) = pipeline.rvos(clip, "it", selector=ReplaySelector({"it": whole.pivots}, {}))
    np.testing.assert_array_equal(masks_of(again), masks_of(whole))


@pytest.mark.parametrize(
    ("sentences", "words"),
    [
        (["a dog", "x" * 5000], r"too long.*5000 characters in 'xxx.*\.\.\.'"),
        (["a dog", "\t"], r"empty.*'\\t' as number 2 of 2"),
        (["a dog", "cross " * 400], r"too long.*tokens in 'cross cross.*\.\.\.'"),
        (["a dog", "собака"], r"No word.*'собака'"),
    ],
)
def test_errors_name_their_sentence_in_short(pipeline: Pipeline, clip: Path, sentences: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        list(pipeline.rvos(clip, sentences))
    assert len(str(caught.value)) < 400
