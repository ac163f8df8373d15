"""What a run gives back: one frozen result a sentence or object, its masks read from disk frame by frame."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, overload

import numpy as np

from alref_edge import __version__
from alref_edge.media import VideoInfo, VideoSource, coco_annotation, encode_rle
from alref_edge.pipeline.mask_store import MaskStore
from alref_edge.pipeline.measure import RunStats
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.saving import (
    FrameFiles,
    MaskFolders,
    check_mask_format,
    new_folder,
    write_masks,
    write_record,
)
from alref_edge.pipeline.selectors.base import PivotSelector, SoundSelector
from alref_edge.pipeline.selectors.mllm import asks
from alref_edge.pipeline.settings import AvsSettings, RvosSettings
from alref_edge.types import Detections, Pivot

Result = TypeVar("Result", bound="MaskResult", covariant=True)
Self = TypeVar("Self", bound="MaskResult")
SelfRun = TypeVar("SelfRun", bound="Run[Any]")


@dataclass(frozen=True)
class RunReport:
    """What all sentences or objects of one run have in common.

    Attributes:
        video: path of the video, as it was given.
        info: its size, rate and kind.
        frame_count: its exact number of frames.
        bundle: name of the bundle.
        bundle_sha256: hash that names its whole contents.
        trained: False where any of its weights are random.
        precision: of the graphs that ran.
        forms: of the graphs of each network.
        device: the device asked for.
        providers: the execution provider that ran each network.
        selector: who picked the pivots.
        settings: numbers of the method.
        counters: see `Counters`.
        timings_s: seconds that each stage worked; stages work at the same time, so that they may add up to more than
            the run took.
        reasoning: what the selector says of itself and counted; nothing if it counts nothing. One that asks an LLM
            counts "questions" even if there were none.
        elapsed_s: how long it took; what was done ahead of its turn is not counted.
        frame_names: the names of a folder's frames without their suffixes, by index; None where there are none.
    """

    video: str
    info: VideoInfo
    frame_count: int
    bundle: str
    bundle_sha256: str
    trained: bool
    precision: str
    forms: Mapping[str, str]
    device: str
    providers: Mapping[str, str]
    selector: str
    settings: RvosSettings | AvsSettings
    counters: Mapping[str, int]
    timings_s: Mapping[str, float]
    reasoning: Mapping[str, str | int] = field(default_factory=dict)
    elapsed_s: float = 0.0
    frame_names: tuple[str, ...] | None = None

    @property
    def wait_share(self) -> float:
        """The share of the time in which the tracker waited for pivots, 0 to 1: for the LLM, and for boxes.

        Known where the selector asks an LLM; for others, which choose between two steps of the tracker, 0.
        """
        return min(1.0, self.timings_s.get("wait", 0.0) / self.elapsed_s) if self.elapsed_s else 0.0

    @classmethod
    def of(
        cls,
        networks: Networks,
        source: VideoSource,
        selector: PivotSelector | SoundSelector,
        settings: RvosSettings | AvsSettings,
        stats: RunStats,
    ) -> RunReport:
        """The report of a run that is done."""
        bundle = networks.bundle
        return cls(
            video=str(source.path),
            info=source.info,
            frame_count=stats.counters.frames,
            bundle=bundle.manifest.name,
            bundle_sha256=bundle.sha256,
            trained=bundle.manifest.trained,
            precision=networks.precision,
            forms=dict(networks.forms),
            device=networks.device,
            providers=networks.providers,
            selector=selector.name,
            settings=settings,
            counters=asdict(stats.counters),
            timings_s={name: round(seconds, 4) for name, seconds in stats.seconds.items()},
            reasoning={**selector.facts, **({"questions": 0} if asks(selector) else {}), **stats.events},
            elapsed_s=round(stats.elapsed_s, 4),
            frame_names=source.frame_names,
        )


@dataclass(frozen=True)
class MaskResult:
    """Masks of one thing in a video. A context manager, which gives the masks' disk space back at its end.

    The masks of a run lie in one file: closing one result closes them all. It closes by itself when the last of them is
    forgotten.

    Attributes:
        index: number of the sentence or object, from 0.
        label: what was looked for.
        pivots: frames and boxes from which it was tracked, ascending; none if no box was found.
        considered: the boxes looked at, by frame, in the order in which they were shown to the selector.
        warnings: what the user should know.
        run: what all results of the run have in common.
        own_warnings: those of `warnings` that are about this sentence or object alone.
    """

    index: int
    label: str
    pivots: tuple[Pivot, ...]
    considered: Mapping[int, Detections]
    warnings: tuple[str, ...]
    run: RunReport
    _masks: MaskStore = field(repr=False, compare=False)
    own_warnings: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def frame_count(self) -> int:
        """Frames of the video, each of which has a mask."""
        return self.run.frame_count

    def mask(self, frame: int) -> np.ndarray:
        """The mask on a frame, bool `[H, W]` of the video's size.

        Raises:
            InputError: the video has no such frame, or the result was closed.
        """
        return self._masks.get(self.index, frame)

    def masks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Every frame and its mask, bool `[H, W]`, in order; one is in memory at a time."""
        for frame in range(self.frame_count):
            yield frame, self.mask(frame)

    def rles(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every frame and its mask as COCO's compressed run-length encoding."""
        for frame, mask_hw in self.masks():
            yield frame, encode_rle(mask_hw)

    def to_coco(self) -> list[dict[str, Any]]:
        """COCO's annotations of its masks, ready for JSON: one of each frame on which there is something of it.

        Each has `segmentation` (compressed RLE), `area` and `bbox` (x, y, width, height in pixels), and, as in COCO's
        form for videos, `video_id` (1), `image_id` (the frame, from 1), `frame_id` (the frame, from 0), and
        `category_id` and `instance_id` (its number, from 1). `Run.to_coco` has the images and categories too.
        """
        return [
            {
                "id": 1 + self.index * self.frame_count + frame,
                "video_id": 1,
                "image_id": 1 + frame,
                "frame_id": frame,
                "category_id": 1 + self.index,
                "instance_id": 1 + self.index,
                **coco_annotation(mask_hw),
            }
            for frame, mask_hw in self.masks()
            if mask_hw.any()
        ]

    def to_json(self) -> dict[str, Any]:
        """All but its masks, as plain values: its entry in `result.json`."""
        return {
            "pivots": [_pivot(pivot) for pivot in self.pivots],
            "considered": [{"frame": frame, **_detections(found)} for frame, found in self.considered.items()],
            "warnings": list(self.warnings),
        }

    def close(self) -> None:
        """Give back the disk space of the run's masks."""
        self._masks.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(frozen=True, eq=False)
class Run(Sequence[Result]):
    """All results of one run, as a sequence. A context manager, which gives the masks' disk space back at its end.

    Attributes:
        results: one a sentence or object.
        report: what was run, and how long it took.
    """

    schema: ClassVar[str]
    listed_as: ClassVar[str]

    results: tuple[Result, ...]
    report: RunReport

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """What the user should know of the whole and of each result, each once."""
        return tuple(dict.fromkeys(warning for each in self for warning in each.warnings))

    def named(self: SelfRun, video: str) -> SelfRun:
        """The same results, told to be of a video at another path, where it will lie once it is published."""
        report = replace(self.report, video=video)
        return replace(self, report=report, results=tuple(replace(each, run=report) for each in self))

    def to_json(self) -> dict[str, Any]:
        """All but the masks, as plain values: what `result.json` holds where nothing else is written."""
        run = self.report
        return {
            "schema": self.schema,
            "alref_edge": __version__,
            "input": {
                **asdict(run.info),
                "path": run.video,
                "frames": run.frame_count,
                "frame_names": run.frame_names,
            },
            "bundle": {
                "name": run.bundle,
                "sha256": run.bundle_sha256,
                "trained": run.trained,
                "precision": run.precision,
                "forms": dict(run.forms),
            },
            "device": {"asked": run.device, "providers": dict(run.providers)},
            "selector": run.selector,
            **({"reasoning": _reasoning(run)} if run.reasoning else {}),
            "settings": asdict(run.settings),
            **self._more(),
            self.listed_as: [{**each.to_json(), "masks": {"format": "none"}} for each in self],
            "overlay": None,
            "extras": [],
            "counters": dict(run.counters),
            "timings_s": dict(run.timings_s),
            "elapsed_s": run.elapsed_s,
            "warnings": list(self.all_warnings),
            "notes": [],
        }

    def _more(self) -> dict[str, Any]:
        """What a run of this kind tells beside its results."""
        return {}

    def to_coco(self) -> dict[str, Any]:
        """A whole COCO file of videos, ready for JSON: `videos`, `images`, `categories` and `annotations`.

        There is one video, its frames are the images, and each sentence or object is a category of its own; see
        `MaskResult.to_coco`. pycocotools reads it as it is.
        """
        run, size = self.report, {"width": self.report.info.width, "height": self.report.info.height}
        names = run.frame_names or [f"{frame:05d}" for frame in range(run.frame_count)]
        return {
            "videos": [{"id": 1, "name": run.video, "length": run.frame_count, **size}],
            "images": [
                {"id": 1 + frame, "video_id": 1, "frame_id": frame, "file_name": name, **size}
                for frame, name in enumerate(names)
            ],
            "categories": [{"id": 1 + each.index, "name": each.label} for each in self],
            "annotations": [annotation for each in self for annotation in each.to_coco()],
        }

    def save(self, folder: str | os.PathLike[str], *, masks: str = "png") -> dict[str, Any]:
        """Write `result.json` and `masks/` into a new folder, which has its name when it is whole, and not before.

        It is what `alref-edge` writes, without an overlay: `ResultFolder`, in `alref_edge.writing`, draws that too.

        Args:
            folder: a name that is free, or an empty folder.
            masks: "png": an indexed PNG a frame; "rle": COCO run-length encodings; "none".

        Returns:
            What `result.json` holds.

        Raises:
            InputError: there is something already, or the folder cannot be made, or there is no such form of masks.
            CapacityError: the disk is full.
        """
        check_mask_format(masks)
        with new_folder(folder) as partial:
            return write_record(partial, self.write_masks(partial, masks, RunStats()))

    def write_masks(self, folder: Path, form: str, stats: RunStats, begun: MaskFolders | None = None) -> dict[str, Any]:
        """Write the masks into `folder/masks`, see `saving.write_masks`; `to_json`, with where each result's are."""
        record, names = self.to_json(), FrameFiles(self.report.frame_names)
        written = write_masks(folder, self, names, form, stats, begun)
        for entry, masks in zip(record[self.listed_as], written, strict=True):
            entry["masks"] = masks
        return record

    def close(self) -> None:
        """Give back the disk space of the masks."""
        for each in self:
            each.close()

    def __enter__(self: SelfRun) -> SelfRun:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Result, ...]: ...
    def __getitem__(self, index: int | slice) -> Result | tuple[Result, ...]:
        return self.results[index]


def _reasoning(run: RunReport) -> dict[str, Any]:
    waiting = {"wait_s": run.timings_s.get("wait", 0.0), "elapsed_s": run.elapsed_s, "wait_share": run.wait_share}
    return {**run.reasoning, **(waiting if run.elapsed_s else {})}


def _pivot(pivot: Pivot) -> dict[str, Any]:
    entry = {"frame": pivot.frame, "box": pivot.box_xyxy.tolist(), "score": pivot.score, "phrase": pivot.phrase}
    beyond = not np.array_equal(pivot.prompt_xyxy, pivot.box_xyxy)
    return {**entry, **({"prompt_box": pivot.prompt_xyxy.tolist()} if beyond else {})}


def _detections(found: Detections) -> dict[str, Any]:
    return {"boxes": found.boxes_n4.tolist(), "scores": found.scores_n.tolist(), "phrases": list(found.phrases)}
