"""Results as files: the record and the masks, written alike by `save` and by `alref_edge.writing.ResultFolder`."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alref_edge.errors import InputError
from alref_edge.files import PartialFolder, unwritable
from alref_edge.media import encode_rle, write_indexed_png

RESULT = "result.json"
MASKS = "masks"
MASK_FORMATS = ("png", "rle", "none")


class Masked(Protocol):
    """What is written of a result."""

    @property
    def index(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def frame_count(self) -> int: ...
    def masks(self) -> Iterator[tuple[int, np.ndarray]]: ...


class FrameFiles:
    """What the files of frames are called: as a folder's frames are, else by their index."""

    def __init__(self, names: Sequence[str] | None) -> None:
        self._names = names

    def free(self, folder: Path, frame: int) -> Path:
        """The path of a frame's PNG, which is not there yet.

        Raises:
            InputError: it is, since the disk takes two names for one, such as `a.png` and `A.png`.
        """
        path = folder / f"{f'{frame:05d}' if self._names is None else self._names[frame]}.png"
        if self._names is not None and os.path.lexists(path):
            raise InputError(
                "Two frames would have their masks in one file.",
                expected="names that the disk of the output folder tells apart",
                got=f"{self._names[frame]!r} a second time, in other letters",
                mend="give the frames other names, or take --masks rle.",
            )
        return path

    def entry(self, frame: int) -> dict[str, str]:
        """What a list that goes by index says of a frame beside its mask."""
        return {} if self._names is None else {"name": self._names[frame]}


def check_mask_format(form: str) -> None:
    """Raises InputError if masks are not written in that form."""
    if form not in MASK_FORMATS:
        raise InputError("There is no such form of masks.", expected=", ".join(MASK_FORMATS), got=form)


def write_masks(
    folder: Path,
    result: Masked,
    count: int,
    names: FrameFiles,
    form: str = "png",
    report: Callable[[str, int, int], None] | None = None,
) -> dict[str, str]:
    """Write the masks of one of `count` results into `folder/masks`.

    Args:
        folder: of the run; it is there.
        result: whose.
        count: how many results the run has.
        names: of the frames.
        form: "png": an indexed PNG a frame; "rle": a file of COCO run-length encodings; "none".
        report: told the stage "masks", and how many frames of all are done.

    Returns:
        What `result.json` says of them.

    Raises:
        InputError: two frames have one name.
        OSError: the system refuses to write.
    """
    if form == "none":
        return {"format": "none"}
    name = f"{result.index:0{max(2, len(str(count - 1)))}d}-{slug(result.label)}"
    done, total = result.index * result.frame_count, count * result.frame_count
    tell = report or (lambda *_: None)
    where = folder / MASKS
    where.mkdir(exist_ok=True)
    if form == "rle":
        with (where / f"{name}.json").open("w", encoding="ascii") as file:
            for frame, mask_hw in result.masks():
                entry = json.dumps({**names.entry(frame), **encode_rle(mask_hw)})
                file.write(("[\n" if frame == 0 else ",\n") + entry)
                tell("masks", done + frame + 1, total)
            file.write("\n]\n")
        return {"format": "rle", "file": f"{MASKS}/{name}.json"}
    (where / name).mkdir()
    for frame, mask_hw in result.masks():
        label = np.uint8(1 + result.index % 255)
        write_indexed_png(names.free(where / name, frame), mask_hw.astype(np.uint8) * label)
        tell("masks", done + frame + 1, total)
    return {"format": "png", "folder": f"{MASKS}/{name}"}


def write_record(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write `result.json`; bytes of a file name that are no UTF-8 are U+FFFD in it. What it holds. OSError."""
    text = re.sub("[\ud800-\udfff]", "\ufffd", json.dumps(record, indent=1, ensure_ascii=False))
    (folder / RESULT).write_text(text + "\n", encoding="utf-8")
    written: dict[str, Any] = json.loads(text)
    return written


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden folder to fill, which takes the name `path` when the block ends well, and vanishes otherwise.

    Raises:
        InputError: something is there already, or another run writes there, or the system refuses.
        CapacityError: the disk is full.
    """
    where = Path(os.path.realpath(path))
    if os.path.lexists(where) and not (where.is_dir() and not any(where.iterdir())):
        raise InputError(f"{where} is there already.", expected="a new folder, or an empty one", mend="give another.")
    try:
        folder = PartialFolder(where)
        try:
            yield folder.folder
            folder.publish(replace=False)
        finally:
            folder.close()
    except OSError as error:
        raise unwritable(where, error) from error


def slug(sentence: str) -> str:
    """A sentence as part of a file name: letters and digits of ASCII, joined by dashes, at most 40."""
    plain = unicodedata.normalize("NFKD", sentence).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "sentence"
