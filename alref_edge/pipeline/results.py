"""What a run gives back: one frozen result a sentence, its masks read from disk frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from alref_edge.media import VideoInfo, VideoSource, encode_rle
from alref_edge.pipeline.masks import MaskStore
from alref_edge.pipeline.measure import Watch
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.settings import RvosSettings
from alref_edge.types import Detections, Pivot

if TYPE_CHECKING:
    from alref_edge.pipeline.rvos import Query


@dataclass(frozen=True)
class RunReport:
    """What all sentences of one run have in common.

    Attributes:
        video: path of the video, as it was given.
        info: its size, rate and kind.
        frame_count: its exact number of frames.
        bundle: name of the bundle.
        bundle_sha256: hash that names its whole contents.
        trained: False where any of its weights are random.
        precision: of the graphs that ran.
        device: the device asked for.
        providers: the execution provider that ran each network.
        selector: who picked the pivots.
        settings: numbers of the method.
        counters: see `Counters`.
        timings_s: seconds by stage; stages do not overlap.
    """

    video: str
    info: VideoInfo
    frame_count: int
    bundle: str
    bundle_sha256: str
    trained: bool
    precision: str
    device: str
    providers: Mapping[str, str]
    selector: str
    settings: RvosSettings
    counters: Mapping[str, int]
    timings_s: Mapping[str, float]

    @classmethod
    def of(
        cls, networks: Networks, source: VideoSource, selector: str, settings: RvosSettings, watch: Watch
    ) -> RunReport:
        """The report of a run that is done."""
        bundle = networks.bundle
        return cls(
            video=str(source.path),
            info=source.info,
            frame_count=watch.counters.frames,
            bundle=bundle.manifest.name,
            bundle_sha256=bundle.sha256,
            trained=bundle.manifest.trained,
            precision=networks.precision,
            device=networks.device,
            providers=networks.providers,
            selector=selector,
            settings=settings,
            counters=asdict(watch.counters),
            timings_s={name: round(seconds, 4) for name, seconds in watch.seconds.items()},
        )


@dataclass(frozen=True)
class RvosResult:
    """What one sentence came to. A context manager, which gives the masks' disk space back at its end.

    The masks of a run's sentences lie in one file: closing one result closes them all. It closes by itself when the
    last of them is forgotten.

    Attributes:
        index: number of the sentence, from 0.
        sentence: the sentence.
        pivots: frames and boxes from which it was tracked, ascending; none if no box was found.
        considered: the boxes looked at, by frame, best first.
        start_frame: the pivot from which tracking began; None without one.
        fell_back: whether frame 0 had to serve, no segment having a pivot.
        warnings: what the user should know.
        run: what all sentences of the run have in common.
    """

    index: int
    sentence: str
    pivots: tuple[Pivot, ...]
    considered: Mapping[int, Detections]
    start_frame: int | None
    fell_back: bool
    warnings: tuple[str, ...]
    run: RunReport
    _masks: MaskStore = field(repr=False, compare=False)

    @classmethod
    def of(cls, index: int, query: Query, general: Sequence[str], report: RunReport, masks: MaskStore) -> RvosResult:
        """The result of a query that went through the method."""
        return cls(
            index=index,
            sentence=query.text,
            pivots=tuple(query.pivots),
            considered=dict(sorted(query.considered.items())),
            start_frame=query.start if query.pivots else None,
            fell_back=query.fell_back,
            warnings=(*general, *query.warnings),
            run=report,
            _masks=masks,
        )

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

    def close(self) -> None:
        """Give back the disk space of the run's masks."""
        self._masks.close()

    def __enter__(self) -> RvosResult:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
