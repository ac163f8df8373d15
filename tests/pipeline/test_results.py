"""What a run gives: results as a sequence, as COCO's annotations, as plain values, and as files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from alref_edge.datasets.synthetic import Scene, SceneSource, make_scene
from alref_edge.datasets.synthetic.sound import make_sound
from alref_edge.errors import InputError
from alref_edge.media import VideoSource, decode_rle
from alref_edge.pipeline import AvsRun, Pipeline, Progress, ReplaySelector, RvosRun
from alref_edge.types import Pivot
from alref_edge.writing.result_folder import ResultFolder
from tests.media.clips import make_folder


@pytest.fixture(scope="module")
def pipeline(nano_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.from_bundle(nano_bundle, "cpu", threads=1) as made:
        yield made


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(3, 96, 128, num_frames=12)


@pytest.fixture(scope="module")
def run(pipeline: Pipeline, scene: Scene) -> RvosRun:
    """Two sentences, and a third that has no pivot, so no masks."""
    return segmented(pipeline, scene)


def segmented(pipeline: Pipeline, scene: Scene, **options: Any) -> RvosRun:
    texts = [each.text for each in scene.expressions[:2]]
    given = {text: (Pivot(2, scene.boxes(2)[number]),) for number, text in enumerate(texts)}
    selector = ReplaySelector({**given, "nothing": ()}, {})
    return pipeline.rvos(SceneSource(scene), [*texts, "nothing"], selector=selector, **options)


@pytest.fixture(scope="module")
def heard(pipeline: Pipeline) -> AvsRun:
    found = listened(pipeline)
    assert len(found)
    return found


def listened(pipeline: Pipeline, **options: Any) -> AvsRun:
    scene = make_scene(49, num_frames=16)
    return pipeline.avs(SceneSource(scene), make_sound(scene).wave_16khz, **options)


def test_a_run_is_the_sequence_of_its_results(run: RvosRun, heard: AvsRun) -> None:
    for each in (run, heard):
        assert list(each) == list(each.results)
        assert [result.index for result in each] == list(range(len(each)))
        assert each[-1] is each.results[-1]
        assert each[:2] == each.results[:2]
        assert all(result.run is each.report for result in each)
        named = each.named("elsewhere.mp4")
        assert type(named) is type(each)
        assert {named.report.video, *(result.run.video for result in named)} == {"elsewhere.mp4"}
        np.testing.assert_array_equal(named[0].mask(3), each[0].mask(3))


def test_coco_reads_what_is_written_for_it(run: RvosRun, heard: AvsRun, tmp_path: Path) -> None:
    for made in (run, heard):
        path = tmp_path / "coco.json"
        path.write_text(json.dumps(made.to_coco()))
        read = COCO(str(path))
        frames, size = made.report.frame_count, (made.report.info.height, made.report.info.width)
        assert sorted(read.getImgIds()) == list(range(1, 1 + frames))
        assert [each["name"] for each in read.loadCats(sorted(read.getCatIds()))] == [each.label for each in made]
        for result in made:
            for frame, mask in result.masks():
                found = read.loadAnns(read.getAnnIds(imgIds=[1 + frame], catIds=[1 + result.index], iscrowd=None))
                assert len(found) == int(mask.any())
                for annotation in found:
                    assert annotation["frame_id"] == frame
                    assert annotation["area"] == mask.sum()
                    rows, columns = np.nonzero(mask)
                    corner, far = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
                    assert annotation["bbox"] == [*corner, far[0] - corner[0], far[1] - corner[1]]
                    assert annotation["segmentation"]["size"] == list(size)
                    np.testing.assert_array_equal(read.annToMask(annotation), mask)
                    np.testing.assert_array_equal(decode_rle(annotation["segmentation"]), mask)
    assert run[2].to_coco() == []
    assert len({each["id"] for each in run.to_coco()["annotations"]}) == len(run.to_coco()["annotations"]) > 12


@pytest.mark.parametrize("form", ["png", "rle", "none"])
def test_saved_results_are_those_of_a_result_folder_without_an_overlay(
    run: RvosRun, heard: AvsRun, scene: Scene, tmp_path: Path, form: str
) -> None:
    for made in (run, heard):
        name = type(made).__name__
        record = made.save(tmp_path / name / "saved", masks=form)
        with ResultFolder(tmp_path / name / "folder", masks=form, overlay=False) as folder:
            written = folder.write(made, SceneSource(scene))
        files = [
            {path.relative_to(where).as_posix(): path.read_bytes() for path in where.rglob("*") if path.is_file()}
            for where in (tmp_path / name / "saved", tmp_path / name / "folder")
        ]
        records = [json.loads(each.pop("result.json")) for each in files]
        assert files[0] == files[1]
        assert bool(files[0]) == (form != "none")
        assert records[0] == record
        for each in (records[1], written):
            del each["timings_s"]["write"]
            assert each["elapsed_s"] > records[0]["elapsed_s"] > 0
            each["elapsed_s"] = records[0]["elapsed_s"]
        assert records[0] == records[1] == written
        assert list(records[0]) == list(records[1])
    with ResultFolder(tmp_path / "RvosRun" / "saved", overwrite=True, overlay=False) as folder:
        folder.write(run, SceneSource(scene))  # it is known as a result


@pytest.mark.parametrize("form", ["png", "rle"])
def test_masks_that_are_written_while_others_are_tracked_are_those_that_are_saved(
    pipeline: Pipeline, run: RvosRun, heard: AvsRun, scene: Scene, tmp_path: Path, form: str
) -> None:
    written: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.stage in ("forward", "backward"):
            written.append(len(list(tmp_path.rglob("masks/*/*.png"))))

    for before, again in ((run, partial(segmented, pipeline, scene)), (heard, partial(listened, pipeline))):
        name = type(before).__name__
        with ResultFolder(tmp_path / name / "beside", masks=form, overlay=False) as folder:
            written.clear()
            made = again(sink=folder, progress=watch)
            record = folder.write(made, SceneSource(scene))
        assert any(written) == (form == "png")
        assert record[before.listed_as] == before.save(tmp_path / name / "saved", masks=form)[before.listed_as]
        one, other = (
            {path.relative_to(where).as_posix(): path.read_bytes() for path in where.rglob("*.*")}
            for where in (tmp_path / name / "beside" / "masks", tmp_path / name / "saved" / "masks")
        )
        assert one == other
        assert one


class Seen:
    """A sink that keeps what it is given, by video."""

    def __init__(self) -> None:
        self.labels: list[list[str]] = []
        self.masks: list[dict[tuple[int, int], np.ndarray]] = []

    def begin(self, labels: Sequence[str], source: VideoSource) -> None:
        self.labels.append(list(labels))
        self.masks.append({})

    def put(self, index: int, frame: int, mask_hw: np.ndarray) -> None:
        assert self.masks[-1].setdefault((index, frame), mask_hw) is mask_hw  # each comes once


def test_a_sink_takes_the_masks_of_one_video_after_the_other(pipeline: Pipeline, scene: Scene) -> None:
    seen, texts = Seen(), [each.text for each in scene.expressions[:2]]
    given = {text: (Pivot(5, scene.boxes(5)[number]),) for number, text in enumerate(texts)}
    videos = [(SceneSource(scene), texts), (SceneSource(scene), texts[1:])]
    runs = list(pipeline.rvos_many(videos, selector=ReplaySelector(given, {}), sink=seen))
    assert seen.labels == [texts, texts[1:]]
    for run, masks in zip(runs, seen.masks, strict=True):
        assert sorted(masks) == [(result.index, frame) for result in run for frame in range(12)]
        for (index, frame), mask_hw in masks.items():
            np.testing.assert_array_equal(mask_hw, run[index].mask(frame))


def test_masks_of_one_run_are_not_taken_for_anothers(
    pipeline: Pipeline, run: RvosRun, heard: AvsRun, scene: Scene, tmp_path: Path
) -> None:
    with ResultFolder(tmp_path / "out", overlay=False) as folder:
        segmented(pipeline, scene, sink=folder)
        with pytest.raises(InputError, match="another run"):
            folder.write(heard, SceneSource(scene))
    assert list(tmp_path.iterdir()) == []


def test_plain_values_are_those_of_the_record(run: RvosRun, heard: AvsRun, tmp_path: Path) -> None:
    for number, (made, key) in enumerate(((run, "sentences"), (heard, "objects"))):
        record = made.save(tmp_path / str(number), masks="none")
        assert record == json.loads(json.dumps(made.to_json()))
        for result, entry in zip(made, record[key], strict=True):
            assert {**json.loads(json.dumps(result.to_json())), "masks": {"format": "none"}} == entry
    again = ReplaySelector.from_file(tmp_path / "0" / "result.json")
    for result in run:
        assert list(again.given(result.sentence) or ()) == list(result.pivots)


def test_a_folder_is_saved_whole_or_not_at_all(run: RvosRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file", "file/inside"):
        with pytest.raises(InputError):
            run.save(tmp_path / name)
    with pytest.raises(InputError, match="no such form of masks"):
        run.save(tmp_path / "new", masks="gif")
    monkeypatch.setattr(type(run[2]), "mask", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.save(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "mine.txt"]
    monkeypatch.undo()
    (tmp_path / "empty").mkdir()
    run.save(tmp_path / "empty")
    assert (tmp_path / "empty" / "result.json").is_file()


def test_masks_of_a_folders_frames_are_saved_under_their_names(pipeline: Pipeline, tmp_path: Path) -> None:
    make_folder(tmp_path / "frames", 3, (64, 48))
    names = ["7", "8", "9"]
    for path, name in zip(sorted((tmp_path / "frames").iterdir()), names, strict=True):
        path.rename(path.with_stem(name))
    selector = ReplaySelector({"it": (Pivot(1, np.array([5, 5, 30, 30])),)}, {})
    run = pipeline.rvos(tmp_path / "frames", "it", selector=selector)
    record: dict[str, Any] = run.save(tmp_path / "out")
    assert record["input"]["frame_names"] == names
    assert [each["file_name"] for each in run.to_coco()["images"]] == names
    for frame, name in enumerate(names):
        saved = np.asarray(Image.open(tmp_path / "out" / record["sentences"][0]["masks"]["folder"] / f"{name}.png"))
        np.testing.assert_array_equal(saved > 0, run[0].mask(frame))
