"""Folder layouts: what independent readers, written after the official loaders, make of them."""

from __future__ import annotations

import csv
import json
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from typer.testing import CliRunner

from alref_edge.cli import app
from alref_edge.cli.synth import seed_range
from alref_edge.datasets.synthetic import SHAPES, Scene, make_scene
from alref_edge.datasets.synthetic.folders import DatasetFolder
from alref_edge.datasets.synthetic.layouts import LAYOUTS, Written, write_dataset
from alref_edge.datasets.synthetic.sound import SoundTrack, class_map, has_single, make_sound, sounding_mask
from alref_edge.errors import InputError

WIDTH, HEIGHT = 128, 96


# Of 96 x 96 and 5 s, in which no object could sound alone all the time.
LACKING = [seed for seed in range(60) if not has_single(make_scene(seed, 96, 96, 40))][:7]


def scene_of(seed: int, frames: int = 40) -> Scene:
    return make_scene(seed, WIDTH, HEIGHT, frames)


def written(path: Path, layout: str, seeds: Sequence[int] = range(2), **options: Any) -> Written:
    return write_dataset(path / "set", layout, seeds, width=WIDTH, height=HEIGHT, **options)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_image(path: Path, mode: str) -> np.ndarray:
    """An image that is stored in a mode, and in no other."""
    with Image.open(path) as image:
        assert image.mode == mode, path
        return np.asarray(image)


def assert_looks_like(path: Path, scene: Scene, index: int) -> None:
    """A stored frame is that frame: the same but for what JPEG costs, and another is farther."""
    stored = read_image(path, "RGB").astype(int)
    off = [np.abs(stored - scene.frame(each)).mean() for each in (index, (index + 4) % scene.num_frames)]
    assert off[0] < 3
    assert off[0] < off[1]
    if path.suffix == ".png":
        assert off[0] == 0


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("split", ["valid", "train"])
def test_ref_youtube_vos(tmp_path: Path, split: str) -> None:
    root = written(tmp_path, "ref-youtube-vos", split=split).path
    videos = read_json(root / "meta_expressions" / split / "meta_expressions.json")["videos"]
    if split == "valid":
        tests = read_json(root / "meta_expressions" / "test" / "meta_expressions.json")["videos"]
        videos = {name: video for name, video in videos.items() if name not in tests}
    meta = read_json(root / split / "meta.json")["videos"]
    assert list(videos) == list(meta) == ["scene0000000", "scene0000001"]
    for seed, (name, video) in enumerate(videos.items()):
        scene = scene_of(seed)
        assert video["frames"] == [f"{5 * index:05d}" for index in range(40)]
        assert names_in(root / split / "JPEGImages" / name) == {f"{frame}.jpg" for frame in video["frames"]}
        expressions = [video["expressions"][str(number)] for number in range(len(scene.expressions))]
        assert len(video["expressions"]) == len(expressions)
        for expression, expected in zip(expressions, scene.expressions, strict=True):
            assert expression["exp"] == expected.text
            category = meta[name]["objects"][expression["obj_id"]]["category"]
            assert category == scene.objects[expected.target].shape
            for index in (0, 17, 39):
                labels = read_image(root / split / "Annotations" / name / f"{5 * index:05d}.png", "P")
                target = labels == int(expression["obj_id"])
                np.testing.assert_array_equal(target, scene.masks(index)[expected.target])
        assert_looks_like(root / split / "JPEGImages" / name / "00085.jpg", scene, 17)
        for number in range(len(scene.objects)):
            seen = [f"{5 * index:05d}" for index in range(40) if scene.masks(index)[number].any()]
            assert meta[name]["objects"][str(number + 1)]["frames"] == seen


def test_ref_davis17(tmp_path: Path) -> None:
    """Read as ReferFormer's `inference_davis.py` does: object by object for one annotator at a time."""
    root = written(tmp_path, "ref-davis17", [0, 1, 45]).path
    videos = read_json(root / "meta_expressions" / "valid" / "meta_expressions.json")["videos"]
    truths = read_json(root / "synthetic.json")["videos"]
    objects_of = {}
    for name, video in videos.items():
        scene = scene_of(truths[name]["seed"])
        keys = list(video["expressions"])
        assert keys == [str(number) for number in range(len(keys))]
        assert video["frames"] == [f"{index:05d}" for index in range(40)]
        objects = len(keys) // 4
        assert len(keys) == 4 * objects
        objects_of[name] = objects
        labels = read_image(root / "valid" / "Annotations" / name / "00020.png", "P")
        assert labels.max() <= objects
        for annotator in range(4):
            meant = []
            for number in range(objects):
                expression = video["expressions"][keys[number * 4 + annotator]]
                assert expression["obj_id"] == str(number + 1)
                target = truths[name]["ids"][expression["obj_id"]]
                np.testing.assert_array_equal(labels == number + 1, scene.masks(20)[target])
                known = {each.text: each.target for each in scene.expressions}
                assert known.get(expression["exp"], target) == target
                meant.append(expression["exp"])
            assert len(set(meant)) == objects
        assert_looks_like(root / "valid" / "JPEGImages" / name / "00020.jpg", scene, 20)
    # Scene 45 has twins, one of which nothing names.
    assert objects_of["scene0000045"] == len(scene_of(45).objects) - 1 == 4
    assert objects_of["scene0000001"] == len(scene_of(1).objects)


def test_mevis(tmp_path: Path) -> None:
    root = written(tmp_path, "mevis", range(3)).path / "valid_u"
    videos = read_json(root / "meta_expressions.json")["videos"]
    masks = read_json(root / "mask_dict.json")
    used: set[int] = set()
    empty = 0
    for seed, (name, video) in enumerate(videos.items()):
        scene = scene_of(seed)
        assert names_in(root / "JPEGImages" / name) == {f"{frame}.jpg" for frame in video["frames"]}
        assert video["vid_id"] == seed
        ids = set()
        for number, expected in enumerate(scene.expressions):
            expression = video["expressions"][str(number)]
            assert expression["exp"] == expected.text
            assert expression["obj_id"] == [expected.target]
            (annotation,) = expression["anno_id"]
            ids.add(annotation)
            rles = masks[str(annotation)]
            assert len(rles) == len(video["frames"]) == 40
            for index, rle in enumerate(rles):
                expected_mask = scene.masks(index)[expected.target]
                empty += rle is None
                assert (rle is None) == (not expected_mask.any())
                if rle is not None:
                    assert isinstance(rle["counts"], str)
                    np.testing.assert_array_equal(coco.decode(rle).astype(bool), expected_mask)
        assert not ids & used
        used |= ids
        assert_looks_like(root / "JPEGImages" / name / "00033.jpg", scene, 33)
    assert len(masks) == sum(len(scene_of(seed).objects) for seed in range(3))


def assert_sounds_like(path: Path, sound: SoundTrack) -> None:
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    np.testing.assert_allclose(samples / 32767, sound.wave_16khz, atol=1 / 32767)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("split", ["test", "train"])
def test_avsbench_s4(tmp_path: Path, split: str) -> None:
    done = written(tmp_path, "avsbench-s4", range(6), split=split)
    root = done.path / "Single-source"
    rows = rows_of(root / "s4_meta_data.csv")
    assert done.left_out == tuple(seed for seed in range(6) if not has_single(scene_of(seed)))
    assert len(rows) + len(done.left_out) == 6
    assert len(rows) >= 2
    for row in rows:
        # The official loader takes these by position.
        name, _, category = row.values()
        assert (name, category, split) == (row["name"], row["category"], row["split"])
        scene = scene_of(int(name.removeprefix("scene")))
        sound = make_sound(scene, "single")
        assert all(label.shapes == (category,) for label in sound.labels)
        assert_sounds_like(root / "s4_data" / "audio_wav" / split / category / f"{name}.wav", sound)
        masks = root / "s4_data" / "gt_masks" / split / category / name
        count = 1 if split == "train" else 5
        assert names_in(masks) == {f"{name}_{number}.png" for number in range(1, count + 1)}
        for number in range(1, count + 1):
            mask = read_image(masks / f"{name}_{number}.png", "L")
            assert set(np.unique(mask)) == {0, 255}
            np.testing.assert_array_equal(mask == 255, sounding_mask(scene, sound, number - 1))
        frames = root / "s4_data" / "visual_frames" / split / category / name
        for number in range(1, 6):
            assert_looks_like(frames / f"{name}_{number}.png", scene, 8 * number - 1)


def test_avsbench_ms3(tmp_path: Path) -> None:
    root = written(tmp_path, "avsbench-ms3", range(4)).path / "Multi-sources"
    rows = rows_of(root / "ms3_meta_data.csv")
    assert [list(row) for row in rows] == [["video_id", "split"]] * 4
    empty = 0
    for seed, row in enumerate(rows):
        name, scene = row["video_id"], scene_of(seed)
        sound = make_sound(scene)
        assert row["split"] == "test"
        assert_sounds_like(root / "ms3_data" / "audio_wav" / "test" / f"{name}.wav", sound)
        for number in range(1, 6):
            mask = read_image(root / "ms3_data" / "gt_masks" / "test" / name / f"{name}_{number}.png", "L")
            np.testing.assert_array_equal(mask == 255, sounding_mask(scene, sound, number - 1))
            assert set(np.unique(mask)) <= {0, 255}
            empty += not mask.any()
            frame = root / "ms3_data" / "visual_frames" / name / f"{name}.mp4_{number}.png"
            assert_looks_like(frame, scene, 8 * number - 1)
    assert 0 < empty < 20


def voc_palette(classes: int) -> np.ndarray:
    """The palette of PASCAL VOC, as the official AVSS code computes it."""
    colours = np.zeros((classes, 3), np.uint8)
    for number in range(classes):
        rest, bit = number, 7
        while rest:
            colours[number] |= np.array([(rest >> channel & 1) << bit for channel in range(3)], np.uint8)
            rest, bit = rest >> 3, bit - 1
    return colours


@pytest.mark.parametrize("split", ["test", "train"])
def test_avsbench_semantic(tmp_path: Path, split: str) -> None:
    root = written(tmp_path, "avsbench-avss", range(6), split=split).path / "AVSBench-semantic"
    classes = read_json(root / "label2idx.json")
    assert classes == {"background": 0, **{shape: 1 + number for number, shape in enumerate(SHAPES)}}
    rows = rows_of(root / "metadata.csv")
    assert list(rows[0]) == ["vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"]
    assert {row["label"] for row in rows} == {"v1s", "v1m", "v2"}
    found = set()
    for seed, row in enumerate(rows):
        seconds = 10 if row["label"] == "v2" else 5
        assert row["uid"] == f"{row['vid']}_0_{1000 * seconds}"
        scene = scene_of(seed, 8 * seconds)
        sound = make_sound(scene, "single" if row["label"] == "v1s" else "multi")
        heard = {shape for label in sound.labels for shape in label.shapes}
        assert set(row["a_obj"].split("_")) == (heard or {"none"})
        folder = root / row["label"] / row["uid"]
        assert_sounds_like(folder / "audio.wav", sound)
        labelled = 1 if (row["label"], split) == ("v1s", "train") else seconds
        assert names_in(folder / "frames") == {f"{second}.jpg" for second in range(seconds)}
        assert names_in(folder / "labels_rgb") == {f"{second}.png" for second in range(labelled)}
        for second in range(labelled):
            assert_looks_like(folder / "frames" / f"{second}.jpg", scene, 8 * second + 7)
            expected = class_map(scene, sound, second)
            np.testing.assert_array_equal(read_image(folder / "labels_semantic" / f"{second}.png", "L"), expected)
            colours = read_image(folder / "labels_rgb" / f"{second}.png", "RGB")
            match = (colours[..., None, :] == voc_palette(len(classes))).all(axis=-1)
            np.testing.assert_array_equal(match.argmax(axis=-1), expected)
            assert match.any(axis=-1).all()
            found |= set(np.unique(expected))
    assert len(found) >= 4


def test_clips_play_with_their_sound(tmp_path: Path) -> None:
    import av

    root = written(tmp_path, "mp4", range(1)).path
    scene = scene_of(0)
    sound = make_sound(scene)
    with av.open(str(root / "scene0000000.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 8
    assert len(pictures) == 40
    for index in (0, 20, 39):
        assert np.abs(pictures[index].astype(int) - scene.frame(index)).mean() < 8
    with av.open(str(root / "scene0000000.mp4")) as container:
        assert container.streams.audio[0].rate == 16_000
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert abs(len(heard) - 80_000) <= 2048
    for second, label in enumerate(sound.labels):
        part = slice(second * 16_000 + 3000, (second + 1) * 16_000 - 3000)
        assert (np.sqrt(np.mean(heard[part] ** 2)) < 0.006) == label.silent
    assert np.corrcoef(heard[:79_000], sound.wave_16khz[:79_000])[0, 1] > 0.9
    for index in (0, 39):
        labels = read_image(root / "Annotations" / "scene0000000" / f"{index:05d}.png", "P")
        np.testing.assert_array_equal(labels, scene.labels(index) + 1)
    truth = read_json(root / "synthetic.json")["videos"]["scene0000000"]
    assert [each["text"] for each in truth["expressions"]] == [each.text for each in scene.expressions]
    assert [tuple(each["objects"]) for each in truth["sound"]["seconds"]] == [each.objects for each in sound.labels]


def test_a_dataset_is_whole_or_not_there(tmp_path: Path) -> None:
    """Interrupted in the middle, it leaves what was there before, and nothing else."""

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "new" / "deeper", "avsbench-ms3", progress=stop)
    assert list(tmp_path.iterdir()) == []
    written(tmp_path, "avsbench-ms3")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, "avsbench-ms3", range(5), overwrite=True, progress=stop)
    assert sorted(tmp_path.rglob("*")) == before


def test_only_a_dataset_is_replaced(tmp_path: Path) -> None:
    path = written(tmp_path, "avsbench-ms3", range(1)).path
    with pytest.raises(InputError, match=r"not empty.*--overwrite"):
        written(tmp_path, "avsbench-s4")
    written(tmp_path, "avsbench-s4", range(3, 5), overwrite=True)
    assert names_in(path) == {"Single-source", "synthetic.json"}
    assert names_in(tmp_path) == {"set"}
    (path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"something else than a synthetic dataset.*notes\.txt"):
        written(tmp_path, "avsbench-ms3", overwrite=True)
    assert (path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", ["", "[]", '{"schema": "other"}', '{"schema": "alref-edge.synthetic/1"}'])
def test_a_folder_with_another_record_is_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "synthetic.json").write_text(content)
    with pytest.raises(InputError, match="something else"):
        DatasetFolder(tmp_path, overwrite=True)


def test_what_comes_meanwhile_is_kept(tmp_path: Path) -> None:
    folder = DatasetFolder(tmp_path / "set")
    (folder.partial / "a").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").touch()
    with pytest.raises(InputError, match="not empty"), folder:
        pass
    assert names_in(tmp_path) == {"set"}
    assert names_in(tmp_path / "set") == {"mine"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"layout": "coco"}, r"no such layout.*ref-youtube-vos, ref-davis17, mevis.*coco"),
        ({"split": "test"}, r"mevis has no such split.*valid_u or train"),
        ({"seeds": []}, "1 to 100000.*0 seeds"),
        ({"seeds": [1, 1]}, "each once"),
        ({"seeds": range(10**12)}, "1 to 100000"),
        ({"seeds": [-1]}, "no such scene"),
        ({"width": 5000}, "too large.*4096"),
        ({"width": 20}, "sides >= 96"),
        ({"layout": "mp4", "width": 97}, "even length.*97x96"),
        ({"layout": "avsbench-s4"}, r"suits avsbench-s4.*alone of its shape.*none in seed 0\..*--seeds 0:10"),
        ({"layout": "avsbench-s4", "seeds": [0, 1]}, r"suits avsbench-s4.*none in seeds 0, 1\."),
        ({"layout": "avsbench-s4", "seeds": LACKING}, r"none in seeds 0, 1, .* and 2 more\."),
    ],
    ids=str,
)
def test_a_request_that_makes_no_sense_is_refused(tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    request = {"layout": "mevis", "seeds": [0], "width": 96, "height": 96, **wrong}
    with pytest.raises(InputError, match=words):
        write_dataset(tmp_path / "set", **request)
    assert list(tmp_path.iterdir()) == []


def occupied(place: Path) -> Path:
    (place / "file").touch()
    return place / "file"


@pytest.mark.parametrize("make", [occupied, lambda place: occupied(place) / "deeper"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(InputError, match=r"cannot be (made anew|written)"):
        write_dataset(make(tmp_path), "mevis", [0])
    assert names_in(tmp_path) == {"file"}


def test_the_command(tmp_path: Path) -> None:
    arguments = ["synth", str(tmp_path / "set"), "--seeds", "0:2", "--layout", "avsbench-ms3"]
    size = ["--width", "128", "--height", "96"]
    done = CliRunner().invoke(app, [*arguments, *size])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("2 videos as avsbench-ms3 (test)")
    assert read_image(next(tmp_path.rglob("*.mp4_1.png")), "RGB").shape[:2] == (96, 128)
    again = CliRunner().invoke(app, [*arguments, *size])
    assert again.exit_code == 2
    assert "not empty" in again.output
    replaced = CliRunner().invoke(app, [*arguments, *size, "--overwrite", "--json"])
    assert json.loads(replaced.stdout)["videos"] == ["scene0000000", "scene0000001"]


def test_the_command_names_every_layout() -> None:
    text = " ".join(CliRunner().invoke(app, ["synth", "--help"], terminal_width=200).output.split())
    assert all(layout in text for layout in LAYOUTS)


@pytest.mark.parametrize(("text", "seeds"), [("0:100", range(100)), ("7", range(7, 8)), (" 3:5 ", range(3, 5))])
def test_seed_ranges(text: str, seeds: range) -> None:
    assert seed_range(text) == seeds


@pytest.mark.parametrize("text", ["", ":", "5:5", "9:3", "-1:4", "a:b", "1:2:3", "1.5", "٣"])
def test_what_is_no_seed_range_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no seeds"):
        seed_range(text)
