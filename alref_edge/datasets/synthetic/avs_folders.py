"""Scenes with their sound in the folder layouts of AVSBench: S4 (single source), MS3 (multiple sources) and AVSS.

In all three a video has one frame for each second, the last of it, and the truth is what sounds in that second. Real
ones measure 224 x 224 and last 5 s (10 s in the subset v2 of AVSS). The spectrograms that the official loaders read
from pickles (`audio_log_mel`) are not written: they follow from the sound.
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.datasets.synthetic.folders import truth_of, video_name, write_image, write_json
from alref_edge.datasets.synthetic.scene import Scene
from alref_edge.datasets.synthetic.sound import (
    SoundTrack,
    class_map,
    frame_of_second,
    has_single,
    make_sound,
    sounding_mask,
)
from alref_edge.datasets.synthetic.timbres import TIMBRES
from alref_edge.media import DAVIS_PALETTE

_SHORT_S = 5


class AvsbenchS4:
    """The single-source setting, as the official loader (`avs_s4/dataloader.py`) reads it.

        Single-source/s4_meta_data.csv                                  name,split,category
        Single-source/s4_data/visual_frames/SPLIT/CATEGORY/VIDEO/VIDEO_1.png ... VIDEO_5.png
        Single-source/s4_data/audio_wav/SPLIT/CATEGORY/VIDEO.wav        mono, 16 bits
        Single-source/s4_data/gt_masks/SPLIT/CATEGORY/VIDEO/VIDEO_1.png ... VIDEO_5.png
            grey, 255 on what sounds; in train the first alone

    The loader takes a row's name and category by position, 0 and 2, and its split by the column's name. The category is
    the shape that sounds.

    Args:
        root: folder of the dataset.
        split: "train", "val" or "test".
    """

    def __init__(self, root: Path, split: str) -> None:
        self._root, self._split = root / "Single-source", split
        self._rows: list[tuple[str, ...]] = []

    def add(self, scene: Scene) -> dict[str, Any] | None:
        """See `FolderLayout`; a scene that `has_single` is not true of is left out."""
        if not has_single(scene):
            return None
        sound, video, data = make_sound(scene, "single"), video_name(scene), self._root / "s4_data"
        category = sound.labels[0].shapes[0]
        where = Path(self._split) / category
        _write_wav(data / "audio_wav" / where / f"{video}.wav", sound)
        for second in range(len(sound.labels)):
            name = f"{video}_{second + 1}.png"
            write_image(data / "visual_frames" / where / video / name, _frame(scene, second))
            if second == 0 or self._split != "train":
                write_image(data / "gt_masks" / where / video / name, _grey(sounding_mask(scene, sound, second)))
        self._rows.append((video, self._split, category))
        return truth_of(scene, sound)

    def finish(self) -> None:
        """See `FolderLayout`."""
        _write_csv(self._root / "s4_meta_data.csv", ("name", "split", "category"), self._rows)


class AvsbenchMs3:
    """The setting of multiple sources, as the official loader (`avs_ms3/dataloader.py`) reads it.

        Multi-sources/ms3_meta_data.csv                                 video_id,split
        Multi-sources/ms3_data/visual_frames/VIDEO/VIDEO.mp4_1.png ... VIDEO.mp4_5.png
        Multi-sources/ms3_data/audio_wav/SPLIT/VIDEO.wav                mono, 16 bits
        Multi-sources/ms3_data/gt_masks/SPLIT/VIDEO/VIDEO_1.png ... VIDEO_5.png
            grey, 255 on what sounds, 0 elsewhere

    Mind the `.mp4` in the names of the frames, and that their folders have no split.

    Args:
        root: folder of the dataset.
        split: "train", "val" or "test".
    """

    def __init__(self, root: Path, split: str) -> None:
        self._root, self._split = root / "Multi-sources", split
        self._rows: list[tuple[str, ...]] = []

    def add(self, scene: Scene) -> dict[str, Any] | None:
        """See `FolderLayout`."""
        sound, video, data = make_sound(scene, "multi"), video_name(scene), self._root / "ms3_data"
        _write_wav(data / "audio_wav" / self._split / f"{video}.wav", sound)
        for second in range(len(sound.labels)):
            mask = _grey(sounding_mask(scene, sound, second))
            write_image(data / "visual_frames" / video / f"{video}.mp4_{second + 1}.png", _frame(scene, second))
            write_image(data / "gt_masks" / self._split / video / f"{video}_{second + 1}.png", mask)
        self._rows.append((video, self._split))
        return truth_of(scene, sound)

    def finish(self) -> None:
        """See `FolderLayout`."""
        _write_csv(self._root / "ms3_meta_data.csv", ("video_id", "split"), self._rows)


class AvsbenchSemantic:
    """AVSBench-semantic, as the official loader (`avss/dataloader.py`) reads it.

        AVSBench-semantic/metadata.csv              vid,uid,s_min,s_sec,a_obj,split,label
        AVSBench-semantic/label2idx.json            {"background": 0, "circle": 1, ...}
        AVSBench-semantic/SUBSET/UID/frames/0.jpg, 1.jpg, ...
        AVSBench-semantic/SUBSET/UID/audio.wav      mono, 16 bits
        AVSBench-semantic/SUBSET/UID/labels_rgb/0.png, ...       RGB, a class by its colour in the palette of PASCAL VOC
        AVSBench-semantic/SUBSET/UID/labels_semantic/0.png, ...  grey, the class's number

    `label` is the subset: v1s (one source, 5 s; in train the first label map alone), v1m (several, 5 s), v2 (several,
    10 s). A UID is VIDEO_START_END in milliseconds; `s_min` and `s_sec` are the start. Here scenes longer than 5 s make
    v2, and the others v1s (even seeds that `has_single` is true of) or v1m.

    Not certain: how `a_obj` joins several names (here by "_", and "none" where only silence or off-screen sounds are),
    and whether `labels_semantic` is grey or a palette image; the official loader reads neither. It also expects 71
    entries of `label2idx.json`; here are as many as there are classes.

    Args:
        root: folder of the dataset.
        split: "train", "val" or "test".
    """

    def __init__(self, root: Path, split: str) -> None:
        self._root, self._split = root / "AVSBench-semantic", split
        self._rows: list[tuple[str, ...]] = []

    def add(self, scene: Scene) -> dict[str, Any] | None:
        """See `FolderLayout`."""
        seconds = scene.num_frames // scene.fps
        subset = "v2" if seconds > _SHORT_S else "v1s" if scene.seed % 2 == 0 and has_single(scene) else "v1m"
        sound = make_sound(scene, "single" if subset == "v1s" else "multi")
        uid = f"{video_name(scene)}_0_{1000 * seconds}"
        folder = self._root / subset / uid
        _write_wav(folder / "audio.wav", sound)
        for second in range(seconds):
            write_image(folder / "frames" / f"{second}.jpg", _frame(scene, second))
            if second == 0 or subset != "v1s" or self._split != "train":
                classes = class_map(scene, sound, second)
                write_image(folder / "labels_rgb" / f"{second}.png", DAVIS_PALETTE[classes])
                write_image(folder / "labels_semantic" / f"{second}.png", classes)
        heard = {shape for label in sound.labels for shape in label.shapes}
        names = "_".join(shape for shape in TIMBRES if shape in heard) or "none"
        self._rows.append((video_name(scene), uid, "0", "0", names, self._split, subset))
        return {**truth_of(scene, sound), "subset": subset, "uid": uid}

    def finish(self) -> None:
        """See `FolderLayout`."""
        columns = ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label")
        _write_csv(self._root / "metadata.csv", columns, self._rows)
        classes = ("background", *TIMBRES)
        write_json(self._root / "label2idx.json", {name: number for number, name in enumerate(classes)})


def _frame(scene: Scene, second: int) -> np.ndarray:
    return scene.frame(frame_of_second(scene, second))


def _grey(mask_hw: np.ndarray) -> np.ndarray:
    return mask_hw.astype(np.uint8) * np.uint8(255)


def _write_wav(path: Path, sound: SoundTrack) -> None:
    """16-bit PCM, mono."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes(np.round(sound.wave_16khz * 32767).astype("<i2").tobytes())


def _write_csv(path: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """No value here holds a comma or a quote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(row) + "\n" for row in (columns, *rows)), encoding="utf-8")
