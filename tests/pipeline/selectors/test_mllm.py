"""Selectors that ask an LLM, on the shipped bundle, with a real client and a server that answers as it is told."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alref_edge import Pipeline
from alref_edge.datasets.synthetic import Scene, SceneSource, make_scene
from alref_edge.datasets.synthetic.sound import make_sound
from alref_edge.errors import InputError, MediaError, MllmError
from alref_edge.media import open_video
from alref_edge.mllm import ClientSettings, Endpoint, MllmClient, Questioner, Templates
from alref_edge.mllm.strips import BOX_COLOURS
from alref_edge.pipeline import GroundingSelector, MllmSelector, MllmSoundSelector, RvosResult, RvosSettings
from alref_edge.pipeline.rvos import FELL_BACK
from alref_edge.pipeline.selectors.base import Decision, pivot_of
from alref_edge.types import clip_boxes
from alref_edge.writing.result_folder import ResultFolder
from tests.mllm.fake_server import KEY, Behaviour, FakeServer, Request, error, says

QUESTIONER = Questioner(Templates.load())
QUICK = ClientSettings(in_flight=8, timeout_s=20, patience_s=0.5, backoff_s=0.05)
SETTINGS = RvosSettings(box_threshold=0.05)
STRING = "seen"


def answering(decide: Callable[[str, str], int | list[dict[str, Any]] | None], delay_s: float = 0.0) -> Behaviour:
    """Answers what `decide` says for the kind of the question and the last line of the prompt; None: nonsense."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        properties = request.schema["properties"]
        kind = "frame" if "frame" in properties else "objects" if "objects" in properties else "box"
        choice = decide(kind, request.texts[0].strip().splitlines()[-1])
        if choice is None:
            await says("I cannot tell.")(request, writer)
            return
        answer: dict[str, Any] = {}
        for name, part in properties.items():
            answer[name] = [STRING] * part.get("minItems", 0) if part["type"] == "array" else STRING
        await says({**answer, next(reversed(properties)): choice})(request, writer)

    return behave


@pytest.fixture(scope="module")
def pipeline(nano_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.from_bundle(nano_bundle, device="cpu", threads=1) as made:
        yield made


def scene(seed: int, frames: int = 21) -> Scene:
    return make_scene(seed, 112, 112, frames)


def client_of(server: FakeServer, **changes: Any) -> MllmClient:
    return MllmClient(Endpoint.at(server.url, KEY), settings=QUICK, **changes)


def sentence_of(made: Scene) -> str:
    """One for whose grounding there is more than one box."""
    return next(each.text for each in made.expressions if each.kind == "appearance")


def run(
    pipeline: Pipeline,
    decide: Callable[[str, str], Any],
    made: Scene,
    *,
    mixed: bool = False,
    settings: RvosSettings = SETTINGS,
    allow_unusable: bool = True,
) -> RvosResult:
    with FakeServer(then=answering(decide)) as server, client_of(server) as client:
        otherwise = GroundingSelector() if mixed else None
        selector = MllmSelector(client, QUESTIONER, otherwise, allow_unusable=allow_unusable)
        (result,) = pipeline.rvos(SceneSource(made), sentence_of(made), selector=selector, settings=settings)
    return result


def test_the_frame_and_the_box_that_are_answered_become_the_pivot(pipeline: Pipeline) -> None:
    result = run(pipeline, lambda kind, _: {"frame": 2, "box": 2}[kind], scene(3))
    (pivot,) = result.pivots
    assert result.decisions == {0: Decision(10, 1)}
    found = result.considered[10]
    assert len(found) >= 2
    np.testing.assert_array_equal(pivot.box_xyxy, found.boxes_n4[1])
    assert (result.run.selector, result.fell_back) == ("mllm", False)
    assert result.run.reasoning == {
        "model": "fake", "templates": "1", "questions": 2, "prompt_tokens": 200, "completion_tokens": 20
    }  # fmt: skip


def test_the_questions_show_the_segment_then_its_boxes(pipeline: Pipeline) -> None:
    made = scene(3)
    with FakeServer(then=answering(lambda kind, _: 2)) as server, client_of(server) as client:
        (result,) = pipeline.rvos(
            SceneSource(made), sentence_of(made), selector=MllmSelector(client, QUESTIONER), settings=SETTINGS
        )
        first, second = server.requests
    shown = [made.frame(frame) for frame in (0, 10, 20)]
    assert _image(first) == QUESTIONER.stacked(shown)
    count = len(result.considered[10])
    assert f"Boxes on frame 2: 1 (green, proposed for {result.considered[10].phrases[0]})" in second.texts[0]
    assert second.schema["properties"]["choice"]["maximum"] == count
    with Image.open(io.BytesIO(_image(second))) as picture:
        strip = np.asarray(picture).astype(int)
    for colour in tuple(BOX_COLOURS)[:count]:
        assert (np.abs(strip - BOX_COLOURS[colour]).max(axis=-1) == 0).any()
    assert f"Sentence: {sentence_of(made)}" in first.texts[0]


def _image(request: Request) -> bytes:
    import base64

    (content,) = [message["content"] for message in request.body["messages"]]
    assert [part["type"] for part in content] == ["image_url", "text"]
    return base64.b64decode(content[0]["image_url"]["url"].partition(",")[2])


NO: list[tuple[str, Callable[[str, str], Any], dict[str, int]]] = [
    ("no frame", lambda kind, _: None if kind == "frame" else 1, {"questions": 1, "unusable": 1}),
    ("no box", lambda kind, _: None if kind == "box" else 1, {"questions": 2, "unusable": 1}),
    ("all rejected", lambda kind, _: {"frame": 1, "box": 0}[kind], {"questions": 2, "rejected": 1}),
    ("a frame that is none", lambda kind, _: {"frame": 9, "box": 1}[kind], {"questions": 1, "unusable": 1}),
]


@pytest.mark.parametrize(("decide", "counts"), [case[1:] for case in NO], ids=[case[0] for case in NO])
def test_without_a_choice_the_segment_is_dropped_or_grounding_decides(
    pipeline: Pipeline, decide: Callable[[str, str], Any], counts: dict[str, int]
) -> None:
    pure, mixed = (run(pipeline, decide, scene(3), mixed=each) for each in (False, True))
    (expected,) = pipeline.rvos(SceneSource(scene(3)), sentence_of(scene(3)), settings=SETTINGS)
    assert pure.fell_back
    assert FELL_BACK in pure.warnings
    assert not mixed.fell_back
    assert [pivot.frame for pivot in mixed.pivots] == [pivot.frame for pivot in expected.pivots]
    np.testing.assert_array_equal(mixed.pivots[0].box_xyxy, expected.pivots[0].box_xyxy)
    assert {name: pure.run.reasoning.get(name) for name in counts} == counts
    assert mixed.run.reasoning["by_grounding"] == 1
    assert "by_grounding" not in pure.run.reasoning


NO_JSON = "no JSON in the answer"


def test_unusable_answers_are_said_with_counts_and_the_commonest_reason(pipeline: Pipeline, tmp_path: Path) -> None:
    """Of two segments and three sentences: two get prose, one endless thoughts but for its first frame."""
    made = scene(3, 71)
    texts = [sentence_of(made), "the other", "the other one"]

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal given
        if "Sentence: the other" in request.texts[0]:
            await says("I cannot help with that.")(request, writer)
        elif given or "frame" not in request.schema["properties"]:
            await says("<think>Hm")(request, writer)
        else:
            given = True
            await answering(lambda *_: 1)(request, writer)

    for otherwise in (None, GroundingSelector()):
        given = False
        with FakeServer(then=behave) as server, client_of(server) as client:
            selector = MllmSelector(client, QUESTIONER, otherwise)
            results = list(pipeline.rvos(SceneSource(made), texts, selector=selector, settings=SETTINGS))
        asked = results[0].run.reasoning["questions"]
        assert asked == 7
        expected = f"the LLM gave no usable answer to 6 of 7 questions: {NO_JSON} (4 of them)"
        for result in results:
            assert expected in result.warnings
        out = tmp_path / results[0].run.selector
        with ResultFolder(out, overlay=False) as folder:
            folder.write(results, SceneSource(made))
        record = json.loads((out / "result.json").read_text())
        assert record["warnings"].count(expected) == 1
        counts = {"questions": 7, "unusable": 6, f"unusable: {NO_JSON}": 4}
        assert counts.items() <= record["reasoning"].items()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says("I cannot help with that."), NO_JSON),
        (says(None), "an empty answer"),
        (says("<think>so many thoughts", finish="length"), "cut off at its 1024 tokens.*--llm-max-tokens"),
        (says({"frame": 1}), "JSON that is not as asked"),
    ],
)
def test_where_no_answer_is_usable_the_llm_alone_is_an_error_before_anything_is_tracked(
    pipeline: Pipeline, answer: Behaviour, reason: str
) -> None:
    made = scene(3)
    stages: set[str] = set()
    with FakeServer(then=answer) as server, client_of(server) as client:
        with pytest.raises(MllmError, match=f"no usable answer to 1 of 1 questions.*{reason}.*--allow-unusable"):
            pipeline.rvos(
                SceneSource(made),
                sentence_of(made),
                selector=MllmSelector(client, QUESTIONER),
                progress=lambda each: stages.add(each.stage),
            )
        assert "track" not in stages
        selector = MllmSelector(client, QUESTIONER, allow_unusable=True)
        (result,) = pipeline.rvos(SceneSource(made), sentence_of(made), selector=selector)
    assert result.fell_back
    assert sum(each.startswith("the LLM gave no usable answer to 1 of 1") for each in result.warnings) == 1


def test_an_answer_that_the_repair_attempt_makes_usable_is_one(pipeline: Pipeline) -> None:
    made = scene(3)
    with FakeServer([says("no")], then=answering(lambda *_: 1)) as server, client_of(server) as client:
        selector = MllmSelector(client, QUESTIONER)
        (result,) = pipeline.rvos(SceneSource(made), sentence_of(made), selector=selector, settings=SETTINGS)
    assert result.run.reasoning["repaired"] == 1
    assert result.warnings == ()


def test_of_many_videos_one_without_an_answer_is_a_warning_and_all_are_an_error(pipeline: Pipeline) -> None:
    jobs = [(SceneSource(scene(seed)), sentence_of(scene(seed))) for seed in range(3)]
    silent = sentence_of(scene(1))
    assert [text for _, text in jobs].count(silent) == 1
    with FakeServer(then=answering(lambda _, line: None if silent in line else 1)) as server:
        with client_of(server) as client:
            found = list(pipeline.rvos_many(jobs, selector=MllmSelector(client, QUESTIONER), settings=SETTINGS))
        said = [[text for text in results[0].warnings if "no usable answer" in text] for results in found]
        assert [len(each) for each in said] == [0, 1, 0]
    with FakeServer(then=says("no")) as server, client_of(server) as client:
        finding = pipeline.rvos_many(jobs, selector=MllmSelector(client, QUESTIONER), settings=SETTINGS)
        assert len([next(finding) for _ in jobs]) == 3  # few answers prove little: there may be better ones
        with pytest.raises(MllmError, match="no usable answer to 3 of 3 questions"):
            next(finding)
        many = [(source, [f"{text} {number}" for number in range(10)]) for source, text in jobs]
        finding = pipeline.rvos_many(many, selector=MllmSelector(client, QUESTIONER), settings=SETTINGS)
        next(finding)
        with pytest.raises(MllmError, match="no usable answer to 20 of 20 questions"):
            next(finding)


@pytest.mark.parametrize("frames", [1, 3, 10])
@pytest.mark.parametrize("mixed", [False, True])
def test_of_a_clip_without_a_segment_it_is_said_that_the_llm_was_not_asked(
    pipeline: Pipeline, frames: int, mixed: bool, tmp_path: Path
) -> None:
    made = scene(3, frames)
    result = run(pipeline, lambda *_: 1, made, mixed=mixed, allow_unusable=False)
    (told,) = (text for text in result.warnings if "frame 0" in text)  # and not that no segment has a pivot
    assert told.startswith("the LLM was not asked")
    assert "--ask-short" in told
    assert result.fell_back
    with ResultFolder(tmp_path / "out", overlay=False) as folder:
        record = folder.write([result], SceneSource(made))
    assert (record["selector"], record["reasoning"]["questions"]) == (result.run.selector, 0)
    (grounded,) = pipeline.rvos(SceneSource(made), sentence_of(made), settings=SETTINGS)
    assert not [text for text in grounded.warnings if "LLM" in text]


@pytest.mark.parametrize(("frames", "shown"), [(1, (0,)), (2, (0, 1)), (3, (0, 1, 2)), (10, (0, 2, 4, 6, 8))])
def test_a_short_clip_makes_a_segment_where_the_settings_say_so(
    pipeline: Pipeline, frames: int, shown: tuple[int, ...]
) -> None:
    made = scene(3, frames)
    settings = SETTINGS.changed({"ask_short": True})
    asked: list[str] = []

    def decide(kind: str, _: str) -> int:
        asked.append(kind)
        return len(shown) if kind == "frame" else 1

    result = run(pipeline, decide, made, settings=settings)
    assert result.decisions == {0: Decision(shown[-1], 0)}
    assert asked == (["frame", "box"] if frames > 1 else ["box"])  # of one frame there is nothing to choose
    assert result.run.reasoning["questions"] == len(asked)
    assert not [text for text in result.warnings if "LLM" in text]
    assert not result.fell_back


def test_a_frame_without_boxes_has_no_second_question(pipeline: Pipeline) -> None:
    blind = RvosSettings(box_threshold=1.0)
    pure = run(pipeline, lambda *_: 1, scene(3), settings=blind)
    assert pure.decisions == {0: Decision(0, None)}
    assert (pure.run.reasoning["questions"], pure.run.reasoning["no_boxes"], pure.fell_back) == (1, 1, True)


def test_many_videos_are_asked_about_at_once_and_come_in_order(pipeline: Pipeline) -> None:
    scenes = [scene(seed) for seed in range(6)]

    def decide(kind: str, line: str) -> int:
        return 1 + len(line) % 2 if kind == "frame" else 1

    jobs = [(SceneSource(each), [one.text for one in each.expressions[:2]]) for each in scenes]
    with FakeServer(then=answering(decide, delay_s=0.1)) as server, client_of(server) as client:
        selector = MllmSelector(client, QUESTIONER)
        together = list(pipeline.rvos_many(jobs, selector=selector, settings=SETTINGS))
        at_once = server.most_at_once
        apart = [list(pipeline.rvos(*job, selector=selector, settings=SETTINGS)) for job in jobs]
    assert 4 <= at_once <= QUICK.in_flight
    assert [[each.sentence for each in results] for results in together] == [texts for _, texts in jobs]
    for ours, theirs in zip(together, apart, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.decisions == other.decisions
            assert one.run.counters == other.run.counters
            for frame, mask in one.masks():
                np.testing.assert_array_equal(mask, other.mask(frame))


def test_many_videos_without_an_llm_are_as_one_by_one(pipeline: Pipeline) -> None:
    jobs = [(SceneSource(scene(seed)), sentence_of(scene(seed))) for seed in (1, 2)]
    for (video, text), (result,) in zip(jobs, pipeline.rvos_many(iter(jobs)), strict=True):
        (alone,) = pipeline.rvos(video, text)
        assert result.run.counters == alone.run.counters
        assert (result.run.wait_share, result.run.reasoning) == (0, {})
        np.testing.assert_array_equal(result.mask(7), alone.mask(7))


def test_the_time_that_the_tracker_waits_is_in_the_result(pipeline: Pipeline, tmp_path: Path) -> None:
    made = scene(3)
    with FakeServer(then=answering(lambda *_: 1, delay_s=0.4)) as server, client_of(server) as client:
        began = time.perf_counter()
        source = SceneSource(made)
        results = list(
            pipeline.rvos(source, sentence_of(made), selector=MllmSelector(client, QUESTIONER), settings=SETTINGS)
        )
        took = time.perf_counter() - began
    (result,) = results
    assert 0.8 <= result.run.timings_s["wait"] <= result.run.elapsed_s <= took + 0.01
    assert result.run.wait_share == pytest.approx(result.run.timings_s["wait"] / result.run.elapsed_s)
    with ResultFolder(tmp_path / "out", overlay=False) as folder:
        folder.write(results, source)
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["reasoning"]["wait_share"] == pytest.approx(result.run.wait_share)
    assert record["reasoning"]["questions"] == 2


def test_one_question_at_a_time_is_waited_for_too(pipeline: Pipeline) -> None:
    with FakeServer(then=answering(lambda *_: 1, delay_s=0.3)) as server:
        one = ClientSettings(in_flight=1, timeout_s=20)
        with MllmClient(Endpoint.at(server.url, KEY), settings=one) as client:
            (result,) = pipeline.rvos(
                SceneSource(scene(3)), sentence_of(scene(3)), selector=MllmSelector(client, QUESTIONER)
            )
        assert server.most_at_once == 1
    assert 0.6 <= result.run.timings_s["wait"] <= result.run.elapsed_s


def test_the_sentences_of_a_segment_share_its_strip(pipeline: Pipeline) -> None:
    made = next(each for each in map(scene, range(40)) if len(each.expressions) >= 4)
    drawn: list[int] = []

    class Counting(Questioner):
        def stacked(self, images: Any, marks: Any = None) -> bytes:
            if marks is None:
                drawn.append(len(images))
            return super().stacked(images, marks)

    with FakeServer(then=answering(lambda *_: 1)) as server, client_of(server) as client:
        texts = [each.text for each in made.expressions]
        list(pipeline.rvos(SceneSource(made), texts, selector=MllmSelector(client, Counting(Templates.load()))))
    assert drawn == [3]


def test_leaving_while_the_llm_is_slow_does_not_wait_for_it(pipeline: Pipeline) -> None:
    made = scene(3)
    with FakeServer(then=answering(lambda *_: 1, delay_s=15)) as server, client_of(server) as client:
        selector = MllmSelector(client, QUESTIONER)

        def interrupt(_: object) -> None:
            raise KeyboardInterrupt

        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            pipeline.rvos(SceneSource(made), sentence_of(made), selector=selector, progress=interrupt)
        assert time.monotonic() - began < 8


def test_a_bad_video_ends_the_run_after_those_before_it(pipeline: Pipeline, tmp_path: Path) -> None:
    jobs: list[tuple[Any, str]] = [
        (SceneSource(scene(1)), sentence_of(scene(1))),
        (tmp_path / "nothing.mp4", "a dog"),
        (SceneSource(scene(2)), sentence_of(scene(2))),
    ]
    with FakeServer(then=answering(lambda *_: 1)) as server, client_of(server) as client:
        found = pipeline.rvos_many(jobs, selector=MllmSelector(client, QUESTIONER))
        assert len(next(found)) == 1
        with pytest.raises(MediaError, match=r"nothing\.mp4"):
            next(found)


def test_a_dead_server_is_an_error_and_what_was_answered_is_not_asked_again(pipeline: Pipeline, tmp_path: Path) -> None:
    jobs = [(SceneSource(scene(seed)), sentence_of(scene(seed))) for seed in range(4)]
    one_at_a_time = ClientSettings(in_flight=1, patience_s=0.3, backoff_s=0.05)
    answer = answering(lambda *_: 1)
    with FakeServer(script=[answer] * 3, then=error("503 Service Unavailable")) as server:
        endpoint = Endpoint.at(server.url, KEY)
        with MllmClient(endpoint, settings=one_at_a_time, cache_dir=tmp_path) as client:
            found = pipeline.rvos_many(jobs, selector=MllmSelector(client, QUESTIONER), settings=SETTINGS)
            first = next(found)
            with pytest.raises(MllmError):
                list(found)
    assert first[0].run.reasoning["questions"] == 2
    with FakeServer(then=answer, models=["fake"]) as server:
        with MllmClient(Endpoint.at(server.url, KEY), settings=one_at_a_time, cache_dir=tmp_path) as client:
            again = list(pipeline.rvos_many(jobs, selector=MllmSelector(client, QUESTIONER), settings=SETTINGS))
        asked = len(server.requests)
    reports = [results[0].run.reasoning for results in again]
    assert sum(int(report.get("cached", 0)) for report in reports) == 3
    assert asked == sum(int(report["questions"]) for report in reports) - 3
    np.testing.assert_array_equal(again[0][0].mask(5), first[0].mask(5))


def test_leaving_early_leaves_no_thread_at_work(pipeline: Pipeline) -> None:
    import threading

    jobs = [(SceneSource(scene(seed)), sentence_of(scene(seed))) for seed in range(5)]
    with FakeServer(then=answering(lambda *_: 1, delay_s=0.05)) as server, client_of(server) as client:
        before = set(threading.enumerate())
        found = pipeline.rvos_many(jobs, selector=MllmSelector(client, QUESTIONER))
        next(found)
        found.close()  # type: ignore[attr-defined]
        deadline = time.monotonic() + 5
        while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not left


# What sounds.


@pytest.fixture(scope="module")
def sounding(pipeline: Pipeline) -> tuple[Scene, np.ndarray, str]:
    """A scene that sounds, its sound, and a shape that grounding finds more than once on frame 8."""
    for seed in range(40):
        made = make_scene(seed, 160, 160, 16)
        shapes = [each.shape for each in made.objects]
        twice = [shape for shape in shapes if shapes.count(shape) > 1]
        if twice:
            return made, make_sound(made).wave_16khz, twice[0]
    raise AssertionError("no scene has two of a shape")


def sounds(
    pipeline: Pipeline,
    case: tuple[Scene, np.ndarray, str],
    decide: Callable[[str, str], Any],
    mixed: bool = False,
    allow_unusable: bool = True,
) -> tuple[Any, list[Request]]:
    made, wave, _ = case
    settings = pipeline.avs_settings().changed({"silence_db": None, "box_threshold": 0.05})
    with FakeServer(then=answering(decide)) as server, client_of(server) as client:
        otherwise = pipeline.sound_selector(settings) if mixed else None
        selector = MllmSoundSelector(
            client, QUESTIONER, settings.categories, settings.max_categories, otherwise, allow_unusable=allow_unusable
        )
        return pipeline.avs(SceneSource(made), wave, selector=selector, settings=settings), server.requests


def test_what_sounds_and_where_is_as_answered(pipeline: Pipeline, sounding: tuple[Scene, np.ndarray, str]) -> None:
    name = sounding[2]
    found, asked = sounds(
        pipeline, sounding, lambda kind, _: [{"category": name, "frame": 2}] if kind == "objects" else 2
    )
    (one,) = found
    (heard,) = found.windows
    assert (one.name, heard.objects[0].frame) == (name, 15)  # the last frame of the second second
    boxes = heard.objects[0].considered
    assert len(boxes) >= 2
    np.testing.assert_array_equal(one.pivots[0].box_xyxy, boxes.boxes_n4[1])
    size = found.report.info.width, found.report.info.height
    np.testing.assert_array_equal(boxes.clipped(*size).boxes_n4, boxes.boxes_n4)
    np.testing.assert_array_equal(
        clip_boxes(one.pivots[0].prompt_xyxy, *size), one.pivots[0].box_xyxy, "the prompt is the box that was found"
    )
    assert heard.objects[0].box == 1
    assert found.report.reasoning["questions"] == len(asked) == 2
    tags = ", ".join(dict.fromkeys(tag.name for tag in heard.tags))
    assert f"Heard: {tags}" in asked[0].texts[0]
    assert f"Category: {name}" in asked[1].texts[0]
    assert "Boxes on frame 2: 1 (green), 2 (magenta)" in asked[1].texts[0]


def test_without_a_choice_nothing_sounds_or_grounding_decides(
    pipeline: Pipeline, sounding: tuple[Scene, np.ndarray, str]
) -> None:
    made, wave, name = sounding
    pure, _ = sounds(pipeline, sounding, lambda *_: None)
    assert len(pure) == 0
    assert pure.report.reasoning["unusable"] == 1
    mixed, _ = sounds(pipeline, sounding, lambda *_: None, mixed=True)
    settings = pipeline.avs_settings().changed({"silence_db": None, "box_threshold": 0.05})
    plain = pipeline.avs(SceneSource(made), wave, settings=settings)
    assert [each.name for each in mixed] == [each.name for each in plain]
    for one, other in zip(mixed, plain, strict=True):
        np.testing.assert_array_equal(one.pivots[0].box_xyxy, other.pivots[0].box_xyxy)
    choose = {"objects": [{"category": name, "frame": 2}]}
    first, _ = sounds(pipeline, sounding, lambda kind, _: choose.get(kind))
    found = first.windows[0].objects[0].considered
    np.testing.assert_array_equal(first[0].pivots[0].box_xyxy, found.boxes_n4[0])
    best, _ = sounds(pipeline, sounding, lambda kind, _: choose.get(kind), mixed=True)
    expected = pivot_of(15, found, int(found.scores_n.argmax()))
    assert expected is not None
    np.testing.assert_array_equal(best[0].pivots[0].box_xyxy, expected.box_xyxy)


def test_unusable_answers_about_sounds_are_said_or_an_error(
    pipeline: Pipeline, sounding: tuple[Scene, np.ndarray, str]
) -> None:
    with pytest.raises(MllmError, match=f"no usable answer to 1 of 1 questions. Got: {NO_JSON}"):
        sounds(pipeline, sounding, lambda *_: None, allow_unusable=False)
    mixed, _ = sounds(pipeline, sounding, lambda *_: None, mixed=True, allow_unusable=False)
    assert any(text.startswith("the LLM gave no usable answer to ") for text in mixed.warnings)
    choose = {"objects": [{"category": sounding[2], "frame": 2}]}
    half, _ = sounds(pipeline, sounding, lambda kind, _: choose.get(kind), allow_unusable=False)
    assert f"the LLM gave no usable answer to 1 of 2 questions: {NO_JSON}" in half.warnings


def test_windows_are_asked_about_at_once(pipeline: Pipeline) -> None:
    made = make_scene(4, 112, 112, 32)
    wave = make_sound(make_scene(4, 112, 112, 32)).wave_16khz
    settings = pipeline.avs_settings().changed({"silence_db": None, "window_s": 1})
    with FakeServer(then=answering(lambda *_: [], delay_s=0.2)) as server, client_of(server) as client:
        found = pipeline.avs(SceneSource(made), wave, selector=MllmSoundSelector(client, QUESTIONER), settings=settings)
        assert server.most_at_once >= 2
    assert [heard.start_s for heard in found.windows] == [0, 1, 2, 3]


def test_a_selector_is_asked_about_real_files_too(pipeline: Pipeline, tmp_path: Path) -> None:
    made = scene(3)
    for frame in range(made.num_frames):
        Image.fromarray(made.frame(frame)).save(tmp_path / f"{frame:03d}.png")
    with FakeServer(then=answering(lambda *_: 1)) as server, client_of(server) as client:
        (result,) = pipeline.rvos(
            open_video(tmp_path), sentence_of(made), selector=MllmSelector(client, QUESTIONER), settings=SETTINGS
        )
        with pytest.raises(InputError):
            pipeline.rvos(tmp_path, "", selector=MllmSelector(client, QUESTIONER))
    assert result.decisions == {0: Decision(0, 0)}
