"""Result folders: whole under their name, or not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.errors import InputError
from alref_edge.media import decode_rle, open_video
from alref_edge.pipeline.masks import MaskStore
from alref_edge.pipeline.output import ResultFolder, slug
from alref_edge.pipeline.replay import ReplaySelector
from alref_edge.pipeline.results import RunReport, RvosResult
from alref_edge.pipeline.settings import RvosSettings
from alref_edge.types import Detections, Pivot
from tests.media.clips import make_clip

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
        str(clip), source.info, 4, "toy", "0" * 64, True, "cpu", {}, "grounding", RvosSettings(), {"frames": 4}, {}
    )
    found = Detections(np.array([[1, 2, 30, 40]], np.float32), np.array([0.5], np.float32), ("ball",))
    pivots = (Pivot(2, found.boxes_n4[0], 0.5, "ball"),)
    first = RvosResult(0, SENTENCES[0], pivots, {2: found}, 2, False, ("careful",), report, store)
    return [first, RvosResult(1, SENTENCES[1], (), {}, None, False, ("careful", "empty"), report, store)]


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
    assert record["bundle"] == {"name": "toy", "sha256": "0" * 64, "trained": True}
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
