"""Scenes in the folder layouts of the benchmarks with sentences: Ref-YouTube-VOS, Ref-DAVIS17 and MeViS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.datasets.synthetic.folders import truth_of, video_name, write_image, write_json
from alref_edge.datasets.synthetic.scene import Scene
from alref_edge.datasets.synthetic.words import names
from alref_edge.media import encode_rle, write_indexed_png

ANNOTATORS = 4
"""Sentences for each object of Ref-DAVIS17, each by another person."""

_YOUTUBE_STEP = 5


class RefYoutubeVos:
    """Ref-YouTube-VOS, as published by its competition.

        meta_expressions/SPLIT/meta_expressions.json
            {"videos": {VIDEO: {"expressions": {"0": {"exp": TEXT, "obj_id": "1"}, ...}, "frames": ["00000", ...]}}}
        meta_expressions/test/meta_expressions.json     {"videos": {}}, with the split valid
        SPLIT/JPEGImages/VIDEO/00000.jpg, 00005.jpg, ...
        SPLIT/Annotations/VIDEO/00000.png, ...          palette PNG, the value is the object's id, from 1
        SPLIT/meta.json     {"videos": {VIDEO: {"objects": {"1": {"category": SHAPE, "frames": [those it is in]}}}}}

    Numbers go in steps of five, since there every fifth frame of a video was annotated; here they are all frames of a
    scene. Published validation data have no `obj_id`, `Annotations` or `meta.json`: its masks are on a server. They are
    here so that results can be scored. Its list of sentences holds the test videos too, and readers take those away by
    the list in `test`, which is empty here.

    Args:
        root: folder of the dataset.
        split: "valid" or "train".
    """

    def __init__(self, root: Path, split: str) -> None:
        self._root, self._split = root, split
        self._expressions: dict[str, Any] = {}
        self._objects: dict[str, Any] = {}

    def add(self, scene: Scene) -> dict[str, Any] | None:
        """See `FolderLayout`; a scene without expressions is left out."""
        if not scene.expressions:
            return None
        video = video_name(scene)
        frames = [f"{_YOUTUBE_STEP * index:05d}" for index in range(scene.num_frames)]
        objects = _write_frames(self._root / self._split, scene, video, frames, list(range(len(scene.objects))))
        self._expressions[video] = {
            "expressions": {
                str(number): {"exp": each.text, "obj_id": str(each.target + 1)}
                for number, each in enumerate(scene.expressions)
            },
            "frames": frames,
        }
        self._objects[video] = {"objects": objects}
        return truth_of(scene)

    def finish(self) -> None:
        """See `FolderLayout`."""
        _write_lists(self._root, self._split, self._expressions, self._objects)
        if self._split == "valid":
            write_json(self._root / "meta_expressions" / "test" / "meta_expressions.json", {"videos": {}})


class RefDavis17:
    """Ref-DAVIS17 in the layout of Ref-YouTube-VOS, as ReferFormer's conversion makes it and its successors read it.

    As `RefYoutubeVos`, with every frame numbered (00000, 00001, ...). Each object has four sentences, by four people,
    that follow one another: sentence i is of the object i // 4 (from 0; its id is one more), by the person i % 4. An
    evaluation takes one person at a time, with all objects of the video. So objects that no sentence of their own can
    name are left out of the annotations, and the others numbered anew. Where an object has fewer than four sentences,
    they come again.

    The evaluation by the official DAVIS code needs the DAVIS folders besides (`Annotations_unsupervised/480p`,
    `ImageSets/2017/val.txt`), which are not written here.

    Args:
        root: folder of the dataset.
        split: "valid" or "train".
    """

    def __init__(self, root: Path, split: str) -> None:
        self._root, self._split = root, split
        self._expressions: dict[str, Any] = {}
        self._objects: dict[str, Any] = {}

    def add(self, scene: Scene) -> dict[str, Any] | None:
        """See `FolderLayout`; a scene in which nothing can be named is left out. "ids" maps ids to objects."""
        texts = {number: _texts(scene, number) for number in range(len(scene.objects))}
        named = [number for number, found in texts.items() if found]
        if not named:
            return None
        video = video_name(scene)
        frames = [f"{index:05d}" for index in range(scene.num_frames)]
        objects = _write_frames(self._root / self._split, scene, video, frames, named)
        expressions = [
            {"exp": texts[number][person % len(texts[number])], "obj_id": str(new + 1)}
            for new, number in enumerate(named)
            for person in range(ANNOTATORS)
        ]
        self._expressions[video] = {
            "expressions": {str(number): each for number, each in enumerate(expressions)},
            "frames": frames,
        }
        self._objects[video] = {"objects": objects}
        return {**truth_of(scene), "ids": {str(new + 1): number for new, number in enumerate(named)}}

    def finish(self) -> None:
        """See `FolderLayout`."""
        _write_lists(self._root, self._split, self._expressions, self._objects)


class Mevis:
    """MeViS, as published.

        SPLIT/JPEGImages/VIDEO/00000.jpg, 00001.jpg, ...
        SPLIT/meta_expressions.json
            {"videos": {VIDEO: {"expressions": {"0": {"exp": TEXT, "obj_id": [1], "anno_id": [7]}, ...},
                                "frames": ["00000", ...], "vid_id": 0}}}
        SPLIT/mask_dict.json    {"7": [RLE or null for each frame], ...}

    `obj_id` counts the objects within a video, `anno_id` over all videos of the split; there an expression may mean
    several objects, here it means one. An RLE is COCO's compressed one with its counts as text; null where nothing of
    the object is seen.

    Args:
        root: folder of the dataset.
        split: "valid_u" or "train", the splits that have masks.
    """

    def __init__(self, root: Path, split: str) -> None:
        self._root, self._split = root / split, split
        self._videos: dict[str, Any] = {}
        self._masks: dict[str, list[dict[str, Any] | None]] = {}

    def add(self, scene: Scene) -> dict[str, Any] | None:
        """See `FolderLayout`; a scene without expressions is left out."""
        if not scene.expressions:
            return None
        video, first = video_name(scene), len(self._masks)
        frames = [f"{index:05d}" for index in range(scene.num_frames)]
        self._masks |= {str(first + number): [] for number in range(len(scene.objects))}
        for index, frame in enumerate(frames):
            write_image(self._root / "JPEGImages" / video / f"{frame}.jpg", scene.frame(index))
            for number, mask in enumerate(scene.masks(index)):
                self._masks[str(first + number)].append(encode_rle(mask) if mask.any() else None)
        self._videos[video] = {
            "expressions": {
                str(number): {"exp": each.text, "obj_id": [each.target], "anno_id": [first + each.target]}
                for number, each in enumerate(scene.expressions)
            },
            "frames": frames,
            "vid_id": len(self._videos),
        }
        return truth_of(scene)

    def finish(self) -> None:
        """See `FolderLayout`."""
        write_json(self._root / "meta_expressions.json", {"videos": self._videos})
        write_json(self._root / "mask_dict.json", self._masks, indent=None)


def _write_frames(
    folder: Path, scene: Scene, video: str, frames: list[str], numbers: list[int]
) -> dict[str, dict[str, Any]]:
    """Frames and annotations of a video; gives the objects' entries of `meta.json`, by id."""
    ids = np.zeros(len(scene.objects) + 1, np.uint8)
    ids[np.array(numbers) + 1] = np.arange(1, len(numbers) + 1)
    objects: dict[str, dict[str, Any]] = {
        str(int(ids[number + 1])): {"category": scene.objects[number].shape, "frames": []} for number in numbers
    }
    annotations = folder / "Annotations" / video
    annotations.mkdir(parents=True)
    for index, frame in enumerate(frames):
        write_image(folder / "JPEGImages" / video / f"{frame}.jpg", scene.frame(index))
        labels = ids[scene.labels(index).astype(np.int64) + 1]
        write_indexed_png(annotations / f"{frame}.png", labels)
        for each in np.unique(labels[labels > 0]).tolist():
            objects[str(each)]["frames"].append(frame)
    return objects


def _write_lists(root: Path, split: str, expressions: dict[str, Any], objects: dict[str, Any]) -> None:
    write_json(root / "meta_expressions" / split / "meta_expressions.json", {"videos": expressions})
    write_json(root / split / "meta.json", {"videos": objects})


def _texts(scene: Scene, number: int) -> list[str]:
    """Sentences that mean one object alone: the scene's own, then names that fit no other, up to four."""
    texts = [each.text for each in scene.expressions if each.target == number]
    for fits, phrase in names(scene.objects[number]):
        if sum(map(fits, scene.objects)) == 1:
            texts.append(phrase)
    return list(dict.fromkeys(texts))[:ANNOTATORS]
