"""What the folder layouts share: a folder that is whole or not there, frames, label maps, and a record of the truth."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from PIL import Image

from alref_edge.datasets.synthetic.scene import Scene
from alref_edge.datasets.synthetic.sound import SoundTrack
from alref_edge.errors import InputError
from alref_edge.files import PartialFolder, unwritable

RECORD = "synthetic.json"
SCHEMA = "alref-edge.synthetic/1"

_JPEG_QUALITY = 95


class FolderLayout(Protocol):
    """A dataset that is written video by video."""

    def __init__(self, root: Path, split: str) -> None: ...

    def add(self, scene: Scene) -> dict[str, Any] | None:
        """Write a scene as a video; what `RECORD` says of it, or None where the scene does not suit the layout."""

    def finish(self) -> None:
        """Write what covers all videos."""


class DatasetFolder:
    """A folder that is filled beside its name and renamed at the end.

    A block that ends well leaves a whole folder with `RECORD` in it; any other end leaves what was there before.

    Args:
        path: its name; of a symbolic link, the folder that it points to.
        overwrite: replace an earlier folder of this kind; one that holds anything else is never replaced.

    Attributes:
        partial: the folder to fill.
        record: goes into `RECORD`.

    Raises:
        InputError: something is there already, another run is writing there, or the folder cannot be made. At the end
            of the block: something has come there meanwhile.
        CapacityError: the disk is full.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.path = Path(os.path.realpath(path))
        self.record: dict[str, Any] = {"schema": SCHEMA}
        self._overwrite = overwrite
        self._check_free()
        try:
            self._folder = PartialFolder(self.path)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.partial = self._folder.folder

    def _check_free(self) -> None:
        path = self.path
        try:
            if os.path.lexists(path) and (not path.is_dir() or os.path.ismount(path)):
                raise InputError(f"{path} cannot be made anew.", expected="a new folder", mend="give another name.")
            names = set(os.listdir(path)) if path.is_dir() else set()
            if not names:
                return
            if not self._overwrite:
                raise InputError(
                    f"The output folder {path} is not empty.",
                    mend="give another name, or replace the dataset in it with --overwrite.",
                )
            known = _entries(path / RECORD)
            if known is None or names - known:
                raise InputError(
                    f"The output folder {path} holds something else than a synthetic dataset.",
                    expected=f"a {RECORD} of {SCHEMA} in it, and nothing beside what it lists",
                    got=", ".join(sorted(names - (known or set()))[:3]),
                    mend="give another name, or empty it yourself.",
                )
        except OSError as error:
            raise unwritable(path, error) from error

    def _publish(self) -> None:
        try:
            self.record["entries"] = sorted({RECORD, *os.listdir(self.partial)})
            write_json(self.partial / RECORD, self.record)
            self._check_free()
            replaced = self.path.is_dir() and any(self.path.iterdir())
            self._folder.publish(replace=replaced)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def __enter__(self) -> DatasetFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._publish()
            elif isinstance(error, OSError):
                raise unwritable(self.path, error) from error
        finally:
            self._folder.close()


def _entries(record: Path) -> set[str] | None:
    """The names that a dataset's folder holds by its own record; None if that is no such record."""
    try:
        values = json.loads(record.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        return None
    entries = values.get("entries")
    return {name for name in entries if isinstance(name, str)} if isinstance(entries, list) else None


def video_name(scene: Scene) -> str:
    """The name of a scene's video: its seed, such as `scene0000012`."""
    return f"scene{scene.seed:07d}"


def truth_of(scene: Scene, sound: SoundTrack | None = None) -> dict[str, Any]:
    """What is true of a scene beyond its masks, ready for JSON: its making, objects, expressions with kinds, sound."""
    values: dict[str, Any] = {
        "seed": scene.seed,
        "width": scene.width,
        "height": scene.height,
        "fps": scene.fps,
        "frames": scene.num_frames,
        "objects": [
            {"shape": each.shape, "colour": each.colour, "size": each.size, "motion": each.motion}
            for each in scene.objects
        ],
        "expressions": [asdict(expression) for expression in scene.expressions],
    }
    if sound is not None:
        values["sound"] = {
            "mode": sound.mode,
            "noise_db": sound.noise_db,
            "seconds": [asdict(label) for label in sound.labels],
            "events": [asdict(event) for event in sound.events],
        }
    return values


def write_json(path: Path, values: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Write UTF-8 JSON; the folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write RGB or grey uint8 as PNG, or as JPEG (quality 95, colours at full resolution), by the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if path.suffix == ".jpg":
        image.save(path, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        image.save(path, format="PNG", compress_level=3)
