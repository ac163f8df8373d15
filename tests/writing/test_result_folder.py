"""Result folders: whole under their name, or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.errors import CapacityError, InputError
from alref_edge.media import VideoSource, decode_audio, decode_rle, open_video, probe_audio
from alref_edge.pipeline import RunReport, RvosResult
from alref_edge.pipeline.jobs import Query
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.saving import slug
from alref_edge.pipeline.selectors.replay import ReplaySelector
from alref_edge.pipeline.settings import RvosSettings
from alref_edge.types import Detections, Pivot
from alref_edge.writing.result_folder import ResultFolder
from tests.media.clips import make_clip, make_folder
from tests.media.sounds import make_sound_file

SENTENCES = ["The red ball!", "犬"]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.mp4", frames=4, size=(64, 48))


@pytest.fixture
def masks() -> np.ndarray:
    """bool `[2, 4, 48, 64]`."""
    return np.random.default_rng(0).random((2, 4, 48, 64)) > 0.5


@pytest.fixture
def results(clip: Path, masks: np.ndarray) -> list[RvosResult]:
    source = open_video(clip)
    store = MaskStore(2, 4, 48, 64)
    for item in range(2):
        for frame in range(4):
            store.put(item, frame, masks[item, frame])
    report = RunReport(
        video=str(clip),
        info=source.info,
        frame_count=4,
        bundle="toy",
        bundle_sha256="0" * 64,
        trained=True,
        precision="float32",
        forms={"sam2": "standard"},
        device="cpu",
        providers={},
        selector="grounding",
        settings=RvosSettings(),
        counters={"frames": 4},
        timings_s={},
    )
    found = Detections(np.array([[1, 2, 30, 40]], np.float32), np.array([0.5], np.float32), ("ball",))
    pivots = (Pivot(2, found.boxes_n4[0], 0.5, "ball"),)
    first = RvosResult(0, SENTENCES[0], pivots, {2: found}, ("careful",), report, store, {}, 2, False)
    return [first, RvosResult(1, SENTENCES[1], (), {}, ("careful", "empty"), report, store, {}, None, False)]


def of_source(results: list[RvosResult], source: VideoSource) -> list[RvosResult]:
    """The same masks, as of a run on another source."""
    run = replace(results[0].run, info=source.info, frame_names=source.frame_names)
    return [replace(each, run=run) for each in results]


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "clip.mp4")


def test_a_result_holds_what_the_run_came_to(
    tmp_path: Path, clip: Path, results: list[RvosResult], masks: np.ndarray
) -> None:
    with ResultFolder(tmp_path / "deep" / "out") as folder:
        record = folder.write(results, open_video(clip))
        assert not (tmp_path / "deep" / "out").exists()
    out = tmp_path / "deep" / "out"
    assert left_over(out.parent) == ["out"]
    assert json.loads((out / "result.json").read_text(encoding="utf-8")) == record
    assert record["schema"] == "alref-edge.rvos/1"
    forms = {"sam2": "standard"}
    assert record["bundle"] == {
        "name": "toy",
        "sha256": "0" * 64,
        "trained": True,
        "precision": "float32",
        "forms": forms,
    }
    assert record["warnings"] == ["careful", "empty"]
    first, second = record["sentences"]
    assert first["pivots"] == [{"frame": 2, "box": [1.0, 2.0, 30.0, 40.0], "score": 0.5, "phrase": "ball"}]
    assert first["considered"][0]["frame"] == 2
    assert (first["masks"]["folder"], second["masks"]["folder"]) == ("masks/00-the-red-ball", "masks/01-sentence")
    for item, entry in enumerate(record["sentences"]):
        for frame in range(4):
            with Image.open(out / entry["masks"]["folder"] / f"{frame:05d}.png") as image:
                assert image.mode == "P"
                np.testing.assert_array_equal(np.asarray(image), masks[item, frame] * (item + 1))
    assert open_video(out / "overlay.mp4").frame_count() == 4


def test_a_result_can_be_replayed(tmp_path: Path, clip: Path, results: list[RvosResult]) -> None:
    with ResultFolder(tmp_path / "out", masks="none", overlay=False) as folder:
        folder.write(results, open_video(clip))
    selector = ReplaySelector.from_file(tmp_path / "out" / "result.json")
    given = selector.given(SENTENCES[0])
    assert given == results[0].pivots
    np.testing.assert_array_equal(given[0].box_xyxy, results[0].pivots[0].box_xyxy)
    assert selector.given(SENTENCES[1]) == ()


def test_masks_as_run_lengths(tmp_path: Path, clip: Path, results: list[RvosResult], masks: np.ndarray) -> None:
    with ResultFolder(tmp_path / "out", masks="rle", overlay=False) as folder:
        record = folder.write(results, open_video(clip))
    assert record["overlay"] is None
    for item, entry in enumerate(record["sentences"]):
        rles = json.loads((tmp_path / "out" / entry["masks"]["file"]).read_text())
        np.testing.assert_array_equal(np.stack([decode_rle(rle) for rle in rles]), masks[item])


def test_an_error_leaves_what_was_there_before(tmp_path: Path, clip: Path, results: list[RvosResult]) -> None:
    def interrupted(path: Path, *, overwrite: bool) -> None:
        with ResultFolder(path, overwrite=overwrite, overlay=False) as folder:
            folder.write(results, open_video(clip))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "new" / "out", overwrite=False)
    assert left_over(tmp_path) == []
    with ResultFolder(tmp_path / "out", overlay=False) as folder:
        folder.write(results[:1], open_video(clip))
    before = (tmp_path / "out" / "result.json").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "result.json").read_bytes() == before
    assert left_over(tmp_path) == ["out"]


def test_a_block_that_wrote_nothing_publishes_nothing(tmp_path: Path) -> None:
    with ResultFolder(tmp_path / "out"):
        pass
    assert left_over(tmp_path) == []


def test_overwriting_replaces_results_and_nothing_else(tmp_path: Path, clip: Path, results: list[RvosResult]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for masks in ("png", "rle"):
        with ResultFolder(out, overwrite=masks == "rle", masks=masks, overlay=False) as folder:
            folder.write(results, open_video(clip))
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["00-the-red-ball.json", "01-sentence.json"]
    assert left_over(tmp_path) == ["out"]
    with pytest.raises(InputError, match="--overwrite"):
        ResultFolder(out)
    (out / "result.json").unlink()
    with pytest.raises(InputError, match="something else"):
        ResultFolder(out, overwrite=True)
    assert (out / "masks").is_dir()


@pytest.mark.parametrize("written", ["{}", "[]", "no JSON", '{"schema": "alref-edge.rvos/0"}', "\udcff"])
def test_a_result_of_another_program_is_not_replaced(tmp_path: Path, written: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_bytes(os.fsencode(written))
    with pytest.raises(InputError, match="something else"):
        ResultFolder(out, overwrite=True)
    assert os.listdir(tmp_path) == ["out"]
    assert (out / "result.json").read_bytes() == os.fsencode(written)


def test_a_result_with_files_of_the_users_beside_it_is_not_replaced(
    tmp_path: Path, clip: Path, results: list[RvosResult]
) -> None:
    with ResultFolder(tmp_path / "out", masks="none", overlay=False) as folder:
        folder.write(results, open_video(clip))
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"something else.*thesis\.tex"):
        ResultFolder(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("start", ["nothing", "empty folder", "result"])
def test_what_comes_during_a_run_is_not_deleted(
    tmp_path: Path, clip: Path, results: list[RvosResult], start: str
) -> None:
    out = tmp_path / "out"
    if start == "empty folder":
        out.mkdir()
    if start == "result":
        with ResultFolder(out, masks="none", overlay=False) as folder:
            folder.write(results, open_video(clip))

    def run() -> None:
        with ResultFolder(out, overwrite=start == "result", masks="none", overlay=False) as folder:
            folder.write(results, open_video(clip))
            out.mkdir(exist_ok=True)
            (out / "thesis.tex").write_text("years of work")

    with pytest.raises(InputError, match=r"not empty|something else"):
        run()
    assert (out / "thesis.tex").read_text() == "years of work"
    assert left_over(tmp_path) == ["out"]


def test_another_runs_result_is_not_replaced_where_none_was_at_the_start(
    tmp_path: Path, clip: Path, results: list[RvosResult]
) -> None:
    def run() -> None:
        with ResultFolder(tmp_path / "out", overwrite=True, masks="none", overlay=False) as slower:
            with ResultFolder(tmp_path / "elsewhere", masks="rle", overlay=False) as faster:
                faster.write(results, open_video(clip))
            (tmp_path / "elsewhere").rename(tmp_path / "out")
            slower.write(results, open_video(clip))

    with pytest.raises(InputError, match="not empty"):
        run()
    assert (tmp_path / "out" / "masks").is_dir()
    assert left_over(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["out", "犬" * 85, "deep/out", "link"])
def test_a_second_run_to_one_name_is_refused_at_its_start(
    tmp_path: Path, clip: Path, results: list[RvosResult], name: str
) -> None:
    if name == "link":
        (tmp_path / "link").symlink_to(tmp_path / "target")
    for overwrite in (False, True):
        with ResultFolder(tmp_path / name, overwrite=overwrite, masks="none", overlay=False) as first:
            before = sorted(tmp_path.rglob("*"))
            with pytest.raises(InputError, match="Another run is writing"):
                ResultFolder(tmp_path / name, overwrite=overwrite)
            assert sorted(tmp_path.rglob("*")) == before
            with ResultFolder(tmp_path / f"{name[:-1]}2"):
                pass
            first.write(results, open_video(clip))
        assert os.listdir(tmp_path / name) == ["result.json"]


def test_what_comes_between_check_and_renaming_is_not_deleted(
    tmp_path: Path, clip: Path, results: list[RvosResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with ResultFolder(out, masks="none", overlay=False) as folder:
        folder.write(results, open_video(clip))
    before = (out / "result.json").read_bytes()
    rename = Path.rename

    def raced(path: Path, target: Path) -> Path:
        if ".partial-" in path.name:
            out.mkdir()
            (out / "thesis.tex").write_text("years of work")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", raced)
    with (
        pytest.raises(InputError, match="cannot be written"),
        ResultFolder(out, overwrite=True, masks="none", overlay=False) as folder,
    ):
        folder.write(results, open_video(clip))
    assert (out / "thesis.tex").read_text() == "years of work"
    (kept,) = tmp_path.glob(".out.replaced-*/old/result.json")
    assert kept.read_bytes() == before


def test_a_link_gives_its_target_the_result(tmp_path: Path, clip: Path, results: list[RvosResult]) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "out"
    link.symlink_to(tmp_path / "disk" / "target")
    for overwrite in (False, True):
        with ResultFolder(link, overwrite=overwrite, masks="none", overlay=False) as folder:
            folder.write(results, open_video(clip))
        assert link.is_symlink()
        assert os.listdir(tmp_path / "disk") == ["target"]
        assert os.listdir(tmp_path / "disk" / "target") == ["result.json"]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="not a folder"):
        ResultFolder(tmp_path / "loop")


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="/proc is the mount point that is tried")
def test_a_mount_point_is_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"mount point.*--out /proc/result"):
        ResultFolder("/proc", overwrite=True)


def test_a_file_name_that_is_no_utf8(tmp_path: Path, clip: Path, results: list[RvosResult]) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        odd.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    video = shutil.copy(clip, odd / os.fsdecode(b"\xff.mp4"))
    report = replace(results[0].run, video=str(video))
    results = [replace(result, run=report, warnings=(f"{video} is odd",)) for result in results]
    with ResultFolder(odd / "out") as folder:
        record = folder.write(results, open_video(video))
    path = f"{tmp_path}/caf\ufffd/\ufffd.mp4"
    assert record["input"]["path"] == os.fsencode(video).decode("utf-8", "replace") == path
    assert record["warnings"] == [f"{path} is odd"]
    assert json.loads((odd / "out" / "result.json").read_text(encoding="utf-8")) == record
    assert open_video(odd / "out" / "overlay.mp4").frame_count() == 4


def test_the_longest_name_that_a_folder_may_have(tmp_path: Path, clip: Path, results: list[RvosResult]) -> None:
    for overwrite in (False, True):
        with ResultFolder(tmp_path / ("犬" * 85), overwrite=overwrite, masks="none", overlay=False) as folder:
            folder.write(results, open_video(clip))
    assert left_over(tmp_path) == ["犬" * 85]


def test_frames_closer_than_the_clock_of_the_overlay(tmp_path: Path, results: list[RvosResult]) -> None:
    clip = make_clip(
        tmp_path / "close.mp4", 4, (64, 48), b_frames=0, times=[0, 1, 2, 90_000], time_base=Fraction(1, 90_000)
    )
    with ResultFolder(tmp_path / "out", masks="none") as folder:
        folder.write(results, open_video(clip))
    times = open_video(tmp_path / "out" / "overlay.mp4").times_s()
    np.testing.assert_allclose(times, [0, 1 / 60_000, 2 / 60_000, 1], atol=1e-9)


@pytest.mark.parametrize("fps", [1e-5, 5e5])
def test_a_folders_rate_may_be_any(tmp_path: Path, results: list[RvosResult], fps: float) -> None:
    source = open_video(make_folder(tmp_path / "frames", 4, (64, 48)), fps=fps)
    with ResultFolder(tmp_path / "out", masks="none") as folder:
        folder.write(results, source)
    assert open_video(tmp_path / "out" / "overlay.mp4").frame_count() == 4


def _full_json(partial: Path) -> None:
    (partial / "result.json").symlink_to("/dev/full")


def _full_rle(partial: Path) -> None:
    (partial / "masks").mkdir()
    (partial / "masks" / "00-the-red-ball.json").symlink_to("/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("fill", [_full_json, _full_rle])
def test_a_full_disk_is_a_capacity_error(
    tmp_path: Path, clip: Path, results: list[RvosResult], fill: Callable[[Path], None]
) -> None:
    def run() -> None:
        with ResultFolder(tmp_path / "out", masks="rle", overlay=False) as folder:
            fill(folder.partial)
            folder.write(results, open_video(clip))

    with pytest.raises(CapacityError, match=r"cannot be written.*No space left"):
        run()
    assert left_over(tmp_path) == []


def test_places_that_cannot_be_written_are_refused_at_once(tmp_path: Path, clip: Path) -> None:
    for path in (clip, clip / "out", clip / "deep" / "out", Path("/proc/nothing/out"), Path("/")):
        with pytest.raises(InputError, match=r"cannot be written|not a folder|not empty"):
            ResultFolder(path)
    with pytest.raises(InputError, match="png, rle, none"):
        ResultFolder(tmp_path / "out", masks="gif")
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("sentence", "name"),
    [
        ("The red ball!", "the-red-ball"),
        ("../../etc/passwd", "etc-passwd"),
        ("Café  crème", "cafe-creme"),
        ("犬", "sentence"),
        ("a" * 90, "a" * 40),
        ("x" * 39 + " yes", "x" * 39),
    ],
)
def test_slugs_are_safe_names(sentence: str, name: str) -> None:
    assert slug(sentence) == name


def test_extras_are_published_with_the_result_and_replaced_with_it(
    tmp_path: Path, clip: Path, results: list[RvosResult]
) -> None:
    out = tmp_path / "out"
    for words in ("one", "two"):
        with ResultFolder(out, overwrite=True, overlay=False, masks="none", extras=("report.html",)) as folder:
            folder.write(results, open_video(clip))
            (folder.partial / "report.html").write_text(words)
        assert (out / "report.html").read_text() == words
    with ResultFolder(out, overwrite=True, overlay=False, masks="none") as folder:
        assert folder.write(results, open_video(clip))["extras"] == []
    assert [path.name for path in out.iterdir()] == ["result.json"]


@pytest.mark.parametrize("extras", [None, "notes.txt", ["other.txt"], ["notes.txt"], [{"notes.txt": 1}]])
def test_only_files_that_a_result_lists_go_with_it(
    tmp_path: Path, clip: Path, results: list[RvosResult], extras: object
) -> None:
    out = tmp_path / "out"
    with ResultFolder(out, overlay=False, masks="none") as folder:
        folder.write(results, open_video(clip))
    record = json.loads((out / "result.json").read_text(encoding="utf-8"))
    (out / "result.json").write_text(json.dumps({**record, "extras": extras}), encoding="utf-8")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"something else than a result.*notes\.txt"):
        ResultFolder(out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_masks_of_a_folders_frames_bear_the_frames_names(
    tmp_path: Path, results: list[RvosResult], masks: np.ndarray
) -> None:
    names = ["1", "2", "A", "a"]
    make_folder(tmp_path / "frames", 4, (64, 48))
    for path, name in zip(sorted((tmp_path / "frames").iterdir()), names, strict=True):
        path.rename(path.with_stem(name))
    source = open_video(tmp_path / "frames")
    for form in ("png", "rle"):
        with ResultFolder(tmp_path / form, masks=form, overlay=False) as folder:
            record = folder.write(of_source(results, source), source)
        assert record["input"]["frame_names"] == names
    for item, entry in enumerate(json.loads((tmp_path / "png" / "result.json").read_bytes())["sentences"]):
        where = tmp_path / "png" / entry["masks"]["folder"]
        assert sorted(os.listdir(where)) == [f"{name}.png" for name in names]
        for frame, name in enumerate(names):
            np.testing.assert_array_equal(np.asarray(Image.open(where / f"{name}.png")) > 0, masks[item, frame])
    (_, entry) = record["sentences"]
    rles = json.loads((tmp_path / "rle" / entry["masks"]["file"]).read_text())
    assert [rle["name"] for rle in rles] == names
    np.testing.assert_array_equal(decode_rle(rles[3]), masks[1, 3])


def test_a_videos_frames_have_no_names(tmp_path: Path, clip: Path, results: list[RvosResult]) -> None:
    with ResultFolder(tmp_path / "out", masks="rle", overlay=False) as folder:
        record = folder.write(results, open_video(clip))
    assert record["input"]["frame_names"] is None
    rles = json.loads((tmp_path / "out" / record["sentences"][0]["masks"]["file"]).read_text())
    assert [sorted(rle) for rle in rles] == [["counts", "size"]] * 4


def test_names_that_the_disk_takes_for_one_overwrite_nothing(
    tmp_path: Path, results: list[RvosResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that does not tell capitals: `a.jpg` and `A.jpg` may come from another one."""
    make_folder(tmp_path / "frames", 4, (64, 48))
    source = open_video(tmp_path / "frames")
    monkeypatch.setattr(type(source), "frame_names", ("1", "a", "2", "a"))
    with (
        pytest.raises(InputError, match=r"one file.*'a' a second time.*--masks rle"),
        ResultFolder(tmp_path / "out", overlay=False) as folder,
    ):
        folder.write(of_source(results, source), source)
    assert left_over(tmp_path) == ["frames"]


def test_boxes_are_clipped_to_the_frame_and_replayed_as_they_were(
    tmp_path: Path, clip: Path, results: list[RvosResult]
) -> None:
    beyond = np.array([-3, 2, 70, 40], np.float32)
    inside = np.array([1, 2, 30, 40], np.float32)
    found = Detections(np.stack([beyond, inside]), np.array([0.6, 0.5], np.float32), ("ball", "ball"))
    query = Query("ball", None, [Pivot(1, beyond), Pivot(2, inside)], considered={2: found}, warnings=["odd"])
    result = RvosResult.of(0, query, ["general"], results[0].run, results[0]._masks)
    with ResultFolder(tmp_path / "out", masks="none", overlay=False) as folder:
        record = folder.write([result], open_video(clip))
    (entry,) = record["sentences"]
    assert [pivot["box"] for pivot in entry["pivots"]] == [[0, 2, 64, 40], [1, 2, 30, 40]]
    assert [pivot.get("prompt_box") for pivot in entry["pivots"]] == [[-3, 2, 70, 40], None]
    assert entry["considered"][0]["boxes"] == [[0, 2, 64, 40], [1, 2, 30, 40]]
    one, two = ReplaySelector.from_file(tmp_path / "out" / "result.json").given("ball")
    np.testing.assert_array_equal(one.prompt_xyxy, beyond)
    np.testing.assert_array_equal(two.prompt_xyxy, inside)
    np.testing.assert_array_equal(one.box_xyxy, [0, 2, 64, 40])


def test_warnings_of_a_sentence_name_it_and_those_of_the_whole_stand_once(
    tmp_path: Path, clip: Path, results: list[RvosResult]
) -> None:
    texts = ["a dog", "x" * 100, "the \x1b[31mred\nball"]
    own = [["lost"], ["lost"], []]
    queries = [Query(text, None, warnings=each) for text, each in zip(texts, own, strict=True)]
    run, store = results[0].run, results[0]._masks
    made = [RvosResult.of(0, query, ["general"], run, store) for query in queries]
    made[2] = replace(made[2], warnings=("general", "odd"), own_warnings=("odd",))
    with ResultFolder(tmp_path / "out", masks="none", overlay=False) as folder:
        record = folder.write(made, open_video(clip))
    assert record["warnings"] == [
        "general",
        "'a dog': lost",
        f"'{'x' * 57}...': lost",
        r"'the \x1b[31mred\nball': odd",
    ]
    assert [entry["warnings"] for entry in record["sentences"]] == [["general", "lost"]] * 2 + [["general", "odd"]]


def test_characters_that_the_overlay_cannot_draw_are_noted(
    tmp_path: Path, clip: Path, results: list[RvosResult]
) -> None:
    for labels, lacks in ((["große", "собака"], ""), (["红 große", "\x1b[31m"], r"lacks '红', '\x1b': code points")):
        labelled = [replace(result, label=label) for result, label in zip(results, labels, strict=True)]
        with ResultFolder(tmp_path / "out", masks="none", overwrite=True) as folder:
            notes = folder.write(labelled, open_video(clip))["notes"]
        assert len(notes) == bool(lacks)
        assert lacks in "".join(notes)


def test_an_images_overlay_is_an_image(tmp_path: Path, results: list[RvosResult], masks: np.ndarray) -> None:
    Image.new("RGB", (64, 48), (90, 90, 90)).save(tmp_path / "image.png")
    source = open_video(tmp_path / "image.png")
    run = replace(results[0].run, frame_count=1, info=source.info)
    shown = [replace(result, run=run, label=label) for result, label in zip(results, ("a", "犬"), strict=True)]
    for overlay in (True, False, True):
        with ResultFolder(tmp_path / "out", overwrite=True, overlay=overlay) as folder:
            record = folder.write(shown, source)
        assert record["overlay"] == ("overlay.png" if overlay else None)
        assert sorted(os.listdir(tmp_path / "out")) == ["masks", *["overlay.png"] * overlay, "result.json"]
    with Image.open(tmp_path / "out" / "overlay.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 48))
        drawn = np.asarray(image)
    assert (drawn[masks[0, 0] & ~masks[1, 0]] != 90).any()
    assert "犬" in record["notes"][0]
    assert os.listdir(tmp_path / "out" / "masks" / "00-a") == ["00000.png"]


def heard(path: Path) -> np.ndarray:
    """When a click is heard, in seconds after the first frame."""
    loud = np.flatnonzero(np.abs(decode_audio(path, origin_s=float(open_video(path).times_s()[0])).wave) > 0.2)
    return loud[np.insert(np.diff(loud) > 1600, 0, True)] / 16_000


def clicks(*at_s: float, seconds: float, rate: int = 48_000) -> np.ndarray:
    sound = np.zeros(round(seconds * rate))
    for time_s in at_s:
        start = round(time_s * rate)
        sound[start : start + rate // 100] = 0.8
    return sound


@pytest.mark.parametrize("start_s", [0.0, 0.4])
def test_the_overlay_keeps_the_sound_of_its_video(tmp_path: Path, results: list[RvosResult], start_s: float) -> None:
    sound = clicks(0.2, 0.6, 0.9, seconds=1.0)
    video = make_sound_file(tmp_path / "v.mp4", sound, 48_000, "aac", picture=True, start_s=start_s)
    source = open_video(video)
    frames = source.frame_count()
    store = MaskStore(1, frames, 48, 64)
    run = replace(results[0].run, frame_count=frames)
    with ResultFolder(tmp_path / "out", masks="none") as folder:
        record = folder.write([replace(results[0], run=run, _masks=store)], source)
    assert record["warnings"] == ["careful"]
    np.testing.assert_allclose(heard(tmp_path / "out" / "overlay.mp4"), start_s + np.array([0.2, 0.6, 0.9]), atol=2e-3)
    assert probe_audio(tmp_path / "out" / "overlay.mp4").codec == "aac"


def test_a_folders_overlay_is_silent_where_no_sound_is_given(tmp_path: Path, results: list[RvosResult]) -> None:
    source = open_video(make_folder(tmp_path / "frames", 4, (64, 48)))
    with ResultFolder(tmp_path / "out", masks="none") as folder:
        folder.write(results, source)
    assert probe_audio(tmp_path / "out" / "overlay.mp4") is None
