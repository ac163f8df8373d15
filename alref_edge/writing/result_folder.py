"""Results on disk: a folder that has its name when it is whole, and not before."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from alref_edge.errors import AlrefError, CapacityError, InputError
from alref_edge.files import PartialFolder, is_full
from alref_edge.media import OVERLAY_TICKS, OverlayWriter, VideoSource, write_overlay_png
from alref_edge.pipeline import AvsRun, MaskResult, ProgressCallback, RvosResult, RvosRun
from alref_edge.pipeline.measure import RunStats
from alref_edge.pipeline.saving import (
    MASKS,
    RESULT,
    FrameFiles,
    MaskFolders,
    PngWriters,
    check_mask_format,
    write_record,
)
from alref_edge.pipeline.stages import Stages

OVERLAY, OVERLAY_OF_IMAGE = "overlay.mp4", "overlay.png"
SEMANTIC = "semantic"
EXTRAS = ("clip.mp4", "report.html", "sound", "truth.json")
"""Further files and folders that a caller may leave with a result, which `overwrite` may replace too."""
_SCHEMAS = (RvosRun.schema, AvsRun.schema)
_SLOWEST, _FASTEST = 0.001, 1000.0


class ResultFolder:
    """The output folder of one run, filled beside its name and renamed at the end.

    A block that ends well leaves `result.json`, `masks/` and `overlay.mp4` (of an image `overlay.png`) under the name;
    any other end leaves what was there before.

        with ResultFolder("out") as folder:
            folder.write(pipeline.rvos(...), source)

    Args:
        path: its name; of a symbolic link, the folder that it points to.
        overwrite: replace a result that is there; a folder that holds anything else is never replaced.
        masks: "png": an indexed PNG a frame; "rle": COCO run-length encodings; "none".
        overlay: also write a video with the masks drawn over the frames, and with the sound of the video or of the run.
        extras: which of `EXTRAS` the caller writes into `partial` before the block ends.
        semantic: also write `semantic/`, an indexed PNG a frame whose values are classes; of sounding objects alone.

    Raises:
        InputError: something is there already, another run is writing there, the folder cannot be made, or there is no
            such form of masks. At the end of the block: something has come there meanwhile.
        CapacityError: the disk is full.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        masks: str = "png",
        overlay: bool = True,
        extras: Sequence[str] = (),
        semantic: bool = False,
    ) -> None:
        check_mask_format(masks)
        self._masks, self._overlay, self._extras, self._semantic = masks, overlay, tuple(extras), semantic
        self.path = Path(os.path.realpath(path))
        self._replace = self._check_free(overwrite)
        self._done = False
        self._stats = RunStats()
        self._begun: MaskFolders | None = None
        try:
            self._folder = PartialFolder(self.path)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self.partial = self._folder.folder

    def begin(self, labels: Sequence[str], source: VideoSource) -> None:
        """Make room for the masks of a run that is to come: see `MaskSink`. Errors as of `write`."""
        if self._masks == "png":
            numbered, names = dict(enumerate(labels)), FrameFiles(source.frame_names)
            try:
                self._begun = MaskFolders(self.partial, numbered, source.frame_count(), names, self._stats)
            except OSError as error:
                raise _unwritable(self.path, error) from error

    def put(self, index: int, frame: int, mask_hw: np.ndarray) -> None:
        """Have a mask written while the run goes on: see `MaskSink`. Errors as of `write`."""
        if self._begun is not None:
            try:
                self._begun.put(index, frame, mask_hw)
            except OSError as error:
                raise _unwritable(self.path, error) from error

    def write(
        self,
        results: Sequence[RvosResult] | AvsRun,
        source: VideoSource,
        progress: ProgressCallback | None = None,
    ) -> dict[str, Any]:
        """Write what a run came to, but for the masks that were put before.

        Args:
            results: all of one run.
            source: the video, decoded once more for the overlay.
            progress: called after every frame that is written.

        Returns:
            What `result.json` holds. Bytes of a file name that are no UTF-8 are U+FFFD in it.

        Raises:
            InputError: the system refuses to write, or a class map is asked for and there are no categories.
            CapacityError: the disk is full.
            MediaError: the video cannot be decoded again, or no encoder works.
        """
        began, stats = time.perf_counter(), self._stats
        stats.progress = progress
        run = results if isinstance(results, AvsRun) else RvosRun.of(results)
        try:
            with stats.stage("write"):
                record = run.write_masks(self.partial, self._masks, stats, self._begun)
                if isinstance(run, AvsRun) and self._semantic:
                    self._write_classes(run)
            if self._overlay:
                name = OVERLAY_OF_IMAGE if source.info.kind == "image" else OVERLAY
                with stats.stage("overlay"):
                    write_overlay = self._write_image if name == OVERLAY_OF_IMAGE else self._write_overlay
                    warnings, notes = write_overlay(run, source, stats)
                record |= {"overlay": name, "warnings": [*record["warnings"], *warnings], "notes": notes}
            record["extras"] = list(self._extras)
            spent = record["timings_s"]
            spent |= {name: round(spent.get(name, 0) + s, 4) for name, s in stats.seconds.items()}
            record["elapsed_s"] = round(record["elapsed_s"] + time.perf_counter() - began, 4)
            written = write_record(self.partial, record)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._done = True
        return written

    def _write_classes(self, run: AvsRun) -> None:
        where = self.partial / SEMANTIC
        where.mkdir()
        with PngWriters(FrameFiles(run.report.frame_names), self._stats) as writers:
            for frame in range(run.report.frame_count):
                writers.write(where, frame, run.class_map(frame))
            writers.finish()

    def _write_overlay(
        self, results: Sequence[MaskResult], source: VideoSource, stats: RunStats
    ) -> tuple[list[str], list[str]]:
        """The overlay video; its warnings and notes."""
        info, count = source.info, source.frame_count()
        fps = min(max(info.fps, _SLOWEST), _FASTEST)
        times = source.times_s() if info.kind == "video" else None
        sound = results.sound if isinstance(results, AvsRun) else source.path if info.kind == "video" else None
        from_s = float(times[0]) if times is not None and sound == source.path else None
        last = -1
        with (
            OverlayWriter(
                self.partial / OVERLAY,
                info.width,
                info.height,
                fps,
                labels=[each.label for each in results],
                sound=sound,
                sound_from_s=from_s,
            ) as writer,
            Stages(stats) as stages,
        ):
            frames = stages.over("decode", source.frames())
            drawn = ((frame, writer.draw(image, _masks_on(frame, results, source))) for frame, image in frames)
            for frame, image in stages.over("draw", drawn):
                if times is not None:
                    # A video's clock may be finer than the overlay's.
                    last = max(last + 1, round(float(times[frame] - times[0]) * OVERLAY_TICKS))
                writer.add(image, None if times is None else last / OVERLAY_TICKS)
                stats.report("overlay", frame + 1, count)
        return writer.warnings, writer.notes

    def _write_image(
        self, results: Sequence[MaskResult], source: VideoSource, stats: RunStats
    ) -> tuple[list[str], list[str]]:
        labels = [each.label for each in results]
        path, masks_nhw = self.partial / OVERLAY_OF_IMAGE, _masks_on(0, results, source)
        notes = write_overlay_png(path, source.frame(0), masks_nhw, labels)
        stats.report("overlay", 1, 1)
        return [], notes

    def _check_free(self, overwrite: bool) -> bool:
        """Whether a result is there that may be replaced. InputError if anything is there that may not be."""
        path = self.path
        if path.name == "" or (os.path.lexists(path) and not path.is_dir()):
            raise InputError(f"{path} is not a folder.", expected="a new folder", mend="give another name with --out.")
        if os.path.ismount(path):
            raise InputError(
                f"The output folder {path} is a mount point, which cannot be renamed.",
                expected="a folder that can be made anew",
                mend=f"give a folder inside it: --out {path / 'result'}",
            )
        try:
            names = set(os.listdir(path)) if path.is_dir() else set()
            if not names:
                return False
            if not overwrite:
                raise InputError(
                    f"The output folder {path} is not empty.",
                    mend="give another name with --out, or replace the result in it with --overwrite.",
                )
            record = _record_at(path / RESULT)
            others = names - {RESULT, OVERLAY, OVERLAY_OF_IMAGE, MASKS, SEMANTIC, *_extras_of(record)}
            if others or record is None:
                raise InputError(
                    f"The output folder {path} holds something else than a result.",
                    expected=f"a {RESULT} of {' or '.join(_SCHEMAS)}, and nothing that a run does not leave",
                    got=", ".join(sorted(others)[:3]) or None,
                    mend="give another name with --out, or empty it yourself.",
                )
        except OSError as error:
            raise _unwritable(path, error) from error
        return True

    def _publish(self) -> None:
        replaced = self._check_free(self._replace)
        try:
            self._folder.publish(replace=replaced)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._done:
                self._publish()
        finally:
            try:
                if self._begun is not None:
                    self._begun.close()
            finally:
                self._folder.close()


def _masks_on(frame: int, results: Sequence[MaskResult], source: VideoSource) -> np.ndarray:
    """bool `[N, H, W]`."""
    masks_nhw = np.zeros((len(results), source.info.height, source.info.width), bool)
    for row, result in enumerate(results):
        masks_nhw[row] = result.mask(frame)
    return masks_nhw


def _record_at(path: Path) -> dict[str, Any] | None:
    """What the `result.json` of a run holds; None where a file is something else. OSError where it cannot be read."""
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.get("schema") in _SCHEMAS else None


def _extras_of(record: dict[str, Any] | None) -> list[str]:
    extras = (record or {}).get("extras")
    return [name for name in extras if name in EXTRAS] if isinstance(extras, list) else []


def _unwritable(path: Path, error: OSError) -> AlrefError:
    return (CapacityError if is_full(error) else InputError)(
        f"{path} cannot be written.",
        expected="a folder that can be made, on a disk with room",
        got=error.strerror or str(error),
        mend="give another folder with --out, or make room.",
    )
