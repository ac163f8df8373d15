"""Results on disk: a folder that has its name when it is whole, and not before."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from alref_edge import __version__
from alref_edge.errors import AlrefError, CapacityError, InputError, quoted
from alref_edge.files import PartialFolder, is_full
from alref_edge.media import OverlayWriter, VideoSource, write_indexed_png
from alref_edge.media.overlay import TICKS, write_overlay_png
from alref_edge.models.audio.log_mel import SAMPLE_RATE
from alref_edge.pipeline.measure import RunStats
from alref_edge.pipeline.results import AvsResult, AvsRun, MaskResult, RunReport, RvosResult
from alref_edge.pipeline.selectors.replay import RESULT_SCHEMA
from alref_edge.types import Detections, Pivot

RESULT = "result.json"
OVERLAY, OVERLAY_OF_IMAGE = "overlay.mp4", "overlay.png"
MASKS = "masks"
SEMANTIC = "semantic"
AVS_SCHEMA = "alref-edge.avs/1"
EXTRAS = ("clip.mp4", "report.html", "sound", "truth.json")
"""Further files and folders that a caller may leave with a result, which `overwrite` may replace too."""
_MASK_FORMATS = ("png", "rle", "none")
_SLOWEST, _FASTEST = 0.001, 1000.0


class ResultFolder:
    """The output folder of one run, filled beside its name and renamed at the end.

    A block that ends well leaves `result.json`, `masks/` and `overlay.mp4` (of an image `overlay.png`) under the name;
    any other end leaves what was there before.

        with ResultFolder("out") as folder:
            folder.write(list(pipeline.rvos(...)), source)

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
        if masks not in _MASK_FORMATS:
            raise InputError("There is no such form of masks.", expected=", ".join(_MASK_FORMATS), got=masks)
        self._masks, self._overlay, self._extras, self._semantic = masks, overlay, tuple(extras), semantic
        self.path = Path(os.path.realpath(path))
        self._replace = self._check_free(overwrite)
        self._done = False
        try:
            self._folder = PartialFolder(self.path)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self.partial = self._folder.folder

    def write(
        self, results: Sequence[RvosResult] | AvsRun, source: VideoSource, stats: RunStats | None = None
    ) -> dict[str, Any]:
        """Write what a run came to.

        Args:
            results: all of one run.
            source: the video, decoded once more for the overlay.
            stats: times and reports.

        Returns:
            What `result.json` holds. Bytes of a file name that are no UTF-8 are U+FFFD in it.

        Raises:
            InputError: the system refuses to write, or a class map is asked for and there are no categories.
            CapacityError: the disk is full.
            MediaError: the video cannot be decoded again, or no encoder works.
        """
        stats = stats or RunStats()
        run = results.report if isinstance(results, AvsRun) else results[0].run
        warnings = _warnings(results)
        names = _Names(source.frame_names)
        entries = []
        try:
            for result in results:
                with stats.stage("write"):
                    entries.append({**_entry(result), "masks": self._write_masks(result, len(results), names, stats)})
            if isinstance(results, AvsRun) and self._semantic:
                with stats.stage("write"):
                    self._write_classes(results, names)
            notes: list[str] = []
            overlay = OVERLAY_OF_IMAGE if source.info.kind == "image" else OVERLAY
            if self._overlay:
                with stats.stage("overlay"):
                    write_overlay = self._write_image if overlay == OVERLAY_OF_IMAGE else self._write_overlay
                    more, notes = write_overlay(results, source, stats)
                warnings += more
            record = {
                "schema": AVS_SCHEMA if isinstance(results, AvsRun) else RESULT_SCHEMA,
                "alref_edge": __version__,
                "input": {
                    **asdict(run.info),
                    "path": run.video,
                    "frames": run.frame_count,
                    "frame_names": source.frame_names,
                },
                "bundle": {
                    "name": run.bundle,
                    "sha256": run.bundle_sha256,
                    "trained": run.trained,
                    "precision": run.precision,
                },
                "device": {"asked": run.device, "providers": dict(run.providers)},
                "selector": run.selector,
                **({"reasoning": _reasoning(run)} if run.reasoning else {}),
                "settings": asdict(run.settings),
                **(
                    {"sound": _sound(results), "objects": entries}
                    if isinstance(results, AvsRun)
                    else {"sentences": entries}
                ),
                "overlay": overlay if self._overlay else None,
                "extras": list(self._extras),
                "counters": dict(run.counters),
                "timings_s": {**run.timings_s, **{name: round(s, 4) for name, s in stats.seconds.items()}},
                "warnings": warnings,
                "notes": notes,
            }
            text = re.sub("[\ud800-\udfff]", "\ufffd", json.dumps(record, indent=1, ensure_ascii=False))
            (self.partial / RESULT).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._done = True
        written: dict[str, Any] = json.loads(text)
        return written

    def _write_masks(self, result: MaskResult, count: int, names: _Names, stats: RunStats) -> dict[str, str]:
        if self._masks == "none":
            return {"format": "none"}
        name = f"{result.index:0{max(2, len(str(count - 1)))}d}-{slug(result.label)}"
        done, total = result.index * result.frame_count, count * result.frame_count
        where = self.partial / MASKS
        where.mkdir(exist_ok=True)
        if self._masks == "rle":
            with (where / f"{name}.json").open("w", encoding="ascii") as file:
                for frame, rle in result.rles():
                    entry = json.dumps({**names.entry(frame), **rle})
                    file.write(("[\n" if frame == 0 else ",\n") + entry)
                    stats.report("masks", done + frame + 1, total)
                file.write("\n]\n")
            return {"format": "rle", "file": f"{MASKS}/{name}.json"}
        (where / name).mkdir()
        for frame, mask_hw in result.masks():
            label = np.uint8(1 + result.index % 255)
            write_indexed_png(names.free(where / name, frame), mask_hw.astype(np.uint8) * label)
            stats.report("masks", done + frame + 1, total)
        return {"format": "png", "folder": f"{MASKS}/{name}"}

    def _write_classes(self, run: AvsRun, names: _Names) -> None:
        where = self.partial / SEMANTIC
        where.mkdir()
        for frame in range(run.report.frame_count):
            write_indexed_png(names.free(where, frame), run.class_map(frame))

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
        with OverlayWriter(
            self.partial / OVERLAY,
            info.width,
            info.height,
            fps,
            labels=[each.label for each in results],
            sound=sound,
            sound_from_s=from_s,
        ) as writer:
            for frame, image in source.frames():
                if times is not None:
                    # A video's clock may be finer than the overlay's.
                    last = max(last + 1, round(float(times[frame] - times[0]) * TICKS))
                time_s = None if times is None else last / TICKS
                writer.write(image, _masks_on(frame, results, source), time_s=time_s)
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
                    expected=f"a {RESULT} of {RESULT_SCHEMA} or {AVS_SCHEMA}, and nothing that a run does not leave",
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
            self._folder.close()


def slug(sentence: str) -> str:
    """A sentence as part of a file name: letters and digits of ASCII, joined by dashes, at most 40."""
    plain = unicodedata.normalize("NFKD", sentence).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "sentence"


def _masks_on(frame: int, results: Sequence[MaskResult], source: VideoSource) -> np.ndarray:
    """bool `[N, H, W]`."""
    masks_nhw = np.zeros((len(results), source.info.height, source.info.width), bool)
    for row, result in enumerate(results):
        masks_nhw[row] = result.mask(frame)
    return masks_nhw


class _Names:
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


def _warnings(results: Sequence[MaskResult]) -> list[str]:
    """What the user should know of the whole, and of each sentence by its name; each once."""
    if isinstance(results, AvsRun):
        return list(dict.fromkeys([*results.warnings, *(warning for each in results for warning in each.warnings)]))
    named = (
        f"{quoted(result.label)}: {warning}" if warning in result.own_warnings else warning
        for result in results
        for warning in result.warnings
    )
    return list(dict.fromkeys(named))


def _entry(result: MaskResult) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "pivots": [_pivot(pivot) for pivot in result.pivots],
        "considered": [{"frame": frame, **_detections(found)} for frame, found in result.considered.items()],
        "warnings": list(result.warnings),
    }
    if isinstance(result, RvosResult):
        return {"text": result.label, "start_frame": result.start_frame, "fell_back": result.fell_back, **entry}
    if isinstance(result, AvsResult):
        return {"name": result.label, "seconds": list(result.seconds), **entry}
    return entry


def _reasoning(run: RunReport) -> dict[str, Any]:
    waiting = {"wait_s": run.timings_s.get("wait", 0.0), "elapsed_s": run.elapsed_s, "wait_share": run.wait_share}
    return {**run.reasoning, **(waiting if run.elapsed_s else {})}


def _sound(run: AvsRun) -> dict[str, Any]:
    windows = [
        {
            "start_s": window.start_s,
            "frames": [window.frames.start, window.frames.stop],
            "tags": [asdict(tag) for tag in window.tags],
            "segments": [[each.start_s, each.end_s] for each in window.audio_segments],
            "silent": list(window.silent),
        }
        for window in run.windows
    ]
    return {
        "duration_s": len(run.wave_16khz) / SAMPLE_RATE,
        "labels": [list(labels) for labels in run.labels],
        "classes": dict(run.class_of),
        "windows": windows,
    }


def _pivot(pivot: Pivot) -> dict[str, Any]:
    entry = {"frame": pivot.frame, "box": pivot.box_xyxy.tolist(), "score": pivot.score, "phrase": pivot.phrase}
    beyond = not np.array_equal(pivot.prompt_xyxy, pivot.box_xyxy)
    return {**entry, **({"prompt_box": pivot.prompt_xyxy.tolist()} if beyond else {})}


def _detections(found: Detections) -> dict[str, Any]:
    return {"boxes": found.boxes_n4.tolist(), "scores": found.scores_n.tolist(), "phrases": list(found.phrases)}


def _record_at(path: Path) -> dict[str, Any] | None:
    """What the `result.json` of a run holds; None where a file is something else. OSError where it cannot be read."""
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.get("schema") in (RESULT_SCHEMA, AVS_SCHEMA) else None


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
