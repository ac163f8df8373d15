"""Results as files: the record and the masks, written alike by `save` and by `alref_edge.writing.ResultFolder`."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from alref_edge.errors import InputError
from alref_edge.files import PartialFolder, unwritable
from alref_edge.media import VideoSource, encode_rle, write_indexed_png
from alref_edge.pipeline.measure import RunStats

RESULT = "result.json"
MASKS = "masks"
MASK_FORMATS = ("png", "rle", "none")

_WRITERS = min(8, len(os.sched_getaffinity(0)))


class Masked(Protocol):
    """What is written of a result."""

    @property
    def index(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def frame_count(self) -> int: ...
    def mask(self, frame: int) -> np.ndarray: ...
    def masks(self) -> Iterator[tuple[int, np.ndarray]]: ...


class MaskSink(Protocol):
    """Takes the masks of a run while it goes on, such as `alref_edge.writing.ResultFolder`."""

    def begin(self, labels: Sequence[str], source: VideoSource) -> None:
        """Be told what the next masks are: of the sentences or objects of these labels, on the frames of a video."""
        ...

    def put(self, index: int, frame: int, mask_hw: np.ndarray) -> None:
        """Take the mask, bool `[H, W]`, of the object of that number; each comes once, an empty one may not come."""
        ...


class FrameFiles:
    """What the files of frames are called: as a folder's frames are, else by their index."""

    def __init__(self, names: Sequence[str] | None) -> None:
        self._names = names

    def new(self, folder: Path, frame: int) -> Path:
        """The path of a frame's PNG, where there is an empty file now.

        Raises:
            InputError: there was one, since the disk takes two names for one, such as `a.png` and `A.png`.
            OSError: the system refuses.
        """
        path = folder / f"{f'{frame:05d}' if self._names is None else self._names[frame]}.png"
        try:
            path.touch(exist_ok=False)
        except FileExistsError as error:
            raise InputError(
                "Two frames would have their masks in one file.",
                expected="names that the disk of the output folder tells apart",
                got=f"{path.stem!r} a second time, in other letters",
                mend="give the frames other names, or take --masks rle.",
            ) from error
        return path

    def entry(self, frame: int) -> dict[str, str]:
        """What a list that goes by index says of a frame beside its mask."""
        return {} if self._names is None else {"name": self._names[frame]}


class PngWriters:
    """Threads that write indexed PNGs. A context manager, which closes them.

    Args:
        names: of the frames.
        stats: counts the time that they take as "write".
    """

    def __init__(self, names: FrameFiles, stats: RunStats) -> None:
        self._names, self._stats = names, stats
        self._pool = ThreadPoolExecutor(_WRITERS, "alref-edge-png")
        self._under_way: deque[Future[None]] = deque()

    def write(self, folder: Path, frame: int, labels_hw: np.ndarray) -> None:
        """Have a frame's PNG written; waits where too many are under way.

        Raises:
            InputError: two frames have one name, or the system refuses to write this or an earlier one.
            CapacityError: the disk is full.
        """
        self._under_way.append(self._pool.submit(self._write, self._names.new(folder, frame), labels_hw))
        self._wait(2 * _WRITERS)

    def _write(self, path: Path, labels_hw: np.ndarray) -> None:
        with self._stats.stage("write"):
            write_indexed_png(path, labels_hw)

    def _wait(self, most: int) -> None:
        with self._stats.stage(None):
            while len(self._under_way) > most:
                self._under_way.popleft().result()

    def finish(self) -> None:
        """Wait until all are written. Errors as of `write`."""
        self._wait(0)

    def close(self) -> None:
        """Give up what is not under way yet, and wait for the rest; closing twice does nothing."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> PngWriters:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class MaskFolders:
    """The masks of a run as PNGs, one folder a result: written as they come, and at the end those that did not.

    Args:
        folder: of the run; it is there.
        labels: of all results, by number.
        frame_count: how many frames there are.
        names: of the frames.
        stats: see `PngWriters`.
    """

    def __init__(
        self, folder: Path, labels: Mapping[int, str], frame_count: int, names: FrameFiles, stats: RunStats
    ) -> None:
        self.labels = dict(labels)
        self.names = {number: _name(number, label, len(labels)) for number, label in labels.items()}
        self._folders = {number: folder / MASKS / name for number, name in self.names.items()}
        for each in self._folders.values():
            each.mkdir(parents=True)
        self._written = {number: np.zeros(frame_count, bool) for number in labels}
        self._writers, self._stats = PngWriters(names, stats), stats

    def put(self, index: int, frame: int, mask_hw: np.ndarray) -> None:
        """Have a mask written. Errors as of `PngWriters.write`."""
        self._writers.write(self._folders[index], frame, mask_hw.astype(np.uint8) * np.uint8(1 + index % 255))
        self._written[index][frame] = True

    def finish(self, results: Sequence[Masked]) -> None:
        """Write the masks that did not come. Errors as of `PngWriters.write`."""
        done = sum(int(each.sum()) for each in self._written.values())
        total = sum(len(each) for each in self._written.values())
        for result in results:
            for frame in np.flatnonzero(~self._written[result.index]).tolist():
                self.put(result.index, frame, result.mask(frame))
                done += 1
                self._stats.report("masks", done, total)
        self._writers.finish()

    def close(self) -> None:
        """See `PngWriters.close`."""
        self._writers.close()


def check_mask_format(form: str) -> None:
    """Raises InputError if masks are not written in that form."""
    if form not in MASK_FORMATS:
        raise InputError("There is no such form of masks.", expected=", ".join(MASK_FORMATS), got=form)


def write_masks(
    folder: Path,
    results: Sequence[Masked],
    names: FrameFiles,
    form: str,
    stats: RunStats,
    begun: MaskFolders | None = None,
) -> list[dict[str, str]]:
    """Write the masks of all results of a run into `folder/masks`.

    Args:
        folder: of the run; it is there.
        results: all of them.
        names: of the frames.
        form: "png": an indexed PNG a frame; "rle": a file of COCO run-length encodings each; "none".
        stats: counts the time that PNGs take, and is told how many frames of all are done.
        begun: PNGs of which some were written before.

    Returns:
        What `result.json` says of each.

    Raises:
        InputError: two frames have one name, or other masks than these were begun.
        OSError: the system refuses to write.
    """
    frame_count = results[0].frame_count if results else 0
    if form == "png":
        labels = {each.index: each.label for each in results}
        with closing(begun or MaskFolders(folder, labels, frame_count, names, stats)) as folders:
            if folders.labels != labels:
                raise InputError("Masks of another run were begun here.", expected=folders.labels, got=labels)
            folders.finish(results)
        return [{"format": "png", "folder": f"{MASKS}/{name}"} for name in folders.names.values()]
    if form == "none":
        return [{"format": "none"} for _ in results]
    (folder / MASKS).mkdir(exist_ok=True)
    files = [f"{MASKS}/{_name(each.index, each.label, len(results))}.json" for each in results]
    for number, (result, name) in enumerate(zip(results, files, strict=True)):
        with (folder / name).open("w", encoding="ascii") as file:
            for frame, mask_hw in result.masks():
                entry = json.dumps({**names.entry(frame), **encode_rle(mask_hw)})
                file.write(("[\n" if frame == 0 else ",\n") + entry)
                stats.report("masks", number * frame_count + frame + 1, len(results) * frame_count)
            file.write("\n]\n")
    return [{"format": "rle", "file": name} for name in files]


def _name(number: int, label: str, count: int) -> str:
    """What the file or folder of a result's masks is called."""
    return f"{number:0{max(2, len(str(count - 1)))}d}-{slug(label)}"


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
