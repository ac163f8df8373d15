"""Objects of one video from pivot boxes to masks: prompting, and propagation forward and backward, shared by all.

Whatever finds the boxes (a sentence, or a sound), this is what comes next. A *sweep* is propagation in one direction.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from alref_edge.errors import MediaError
from alref_edge.media import VideoSource
from alref_edge.models.protocols import ImageSegmenter, Stage, TrackedFrame, in_line
from alref_edge.pipeline.measure import RunStats
from alref_edge.pipeline.networks import Networks
from alref_edge.pipeline.settings import TrackingSettings
from alref_edge.pipeline.stages import Stages

FEATURE_CACHE_BYTES = 1 << 30
"""Tracker features of pivot frames that are kept from prompting to the sweeps."""


class ObjectTracking:
    """The objects of one video, or of a part of it, numbered by the caller. Frames are those of the video.

    Args:
        networks: SAM 2 is taken from them.
        source: the video.
        settings: options of the tracker.
        stats: counts and times.
        cache_bytes: features of pivot frames kept for the sweeps; a frame over it is encoded again.
        frames: those that are tracked; the whole video if None.
    """

    def __init__(
        self,
        networks: Networks,
        source: VideoSource,
        settings: TrackingSettings,
        stats: RunStats,
        cache_bytes: int = FEATURE_CACHE_BYTES,
        frames: range | None = None,
    ) -> None:
        self._source = source
        self._stats = stats
        self._frames = frames or range(source.frame_count())
        self._cache: dict[int, Any] = {}
        self._cache_room = cache_bytes
        self._pivots: dict[int, set[int]] = {}
        self._predictors: dict[int, ImageSegmenter] = {}
        self._encoded: dict[int, int] = {}
        with stats.stage("load"):
            self._networks = networks
            tracker = networks.tracker(settings)
            self._state = tracker.start(len(self._frames), source.info.height, source.info.width)

    def prompt(self, frame: int, image_hw3_u8: np.ndarray, boxes: Mapping[int, np.ndarray]) -> None:
        """Turn pivot boxes of one frame into masks, and give the masks to the tracker as prompts.

        As the official `segment_inference_stage_2.py`: the image predictor's single mask, binary, at the video's size.

        Args:
            frame: its index.
            image_hw3_u8: the frame, RGB uint8 `[H, W, 3]`.
            boxes: object to box, float32 `[4]`, xyxy in pixels.
        """
        with self._stats.stage("prompt"):
            masks_nhw, _, _ = self._predictor(frame, image_hw3_u8).predict_boxes(np.stack(list(boxes.values())))
            features = self._cache.get(frame) or self._state.encode(image_hw3_u8)
            for item, mask_hw in zip(boxes, masks_nhw, strict=True):
                self._state.add_mask(frame - self._frames.start, item, mask_hw, features)
        self._pivots.setdefault(frame, set()).update(boxes)
        if frame not in self._cache and features.nbytes <= self._cache_room:
            self._cache[frame] = features
            self._cache_room -= features.nbytes

    def _predictor(self, frame: int, image_hw3_u8: np.ndarray) -> ImageSegmenter:
        """The image predictor, the frame encoded. Frame 0 keeps one of its own: sentences may yet fall back on it."""
        slot = min(frame, 1)
        if self._encoded.get(slot) != frame:
            predictor = self._predictors.setdefault(slot, self._networks.image_segmenter())
            predictor.set_image(image_hw3_u8)
            self._stats.counters.encoded_image_predictor += 1
            self._encoded[slot] = frame
        return self._predictors[slot]

    def propagate_both_ways(self, starts: Mapping[int, int], put: Callable[[int, int, np.ndarray], None]) -> None:
        """Propagate forward and then backward: the masks of every object are put where they belong, each once.

        Frames are decoded, encoded, tracked, made masks of and put at the same time, each a few frames ahead of the
        next.

        Args:
            starts: object to frame; nothing is done without any.
            put: takes an object, a frame, and the mask, bool `[H, W]`.
        """
        for reverse in (False, True) if starts else ():
            with Stages(self._stats) as stages:
                tracked = stages.over("track", self.propagate(starts, reverse=reverse, stage=stages.over))
                masks = stages.over("masks", _masks(tracked, starts if reverse else {}))
                for item, frame, mask_hw in masks:
                    with self._stats.stage("store"):
                        put(item, frame, mask_hw)

    def propagate(
        self, starts: Mapping[int, int], *, reverse: bool, stage: Stage = in_line
    ) -> Iterator[tuple[int, TrackedFrame]]:
        """Track every object from its own start to the end of the frames, or back to their beginning.

        The frames are decoded once and encoded once for all objects; frames that no object needs are not visited.
        Forward comes first: the backward sweep remembers what the forward one saw around each start.

        Args:
            starts: object to frame.
            reverse: toward the first frame.
            stage: runs the stages before tracking.

        Yields:
            A frame, and the result on it of the objects that were reached.

        Raises:
            MediaError: the video ends before its last frame.
        """
        name = "backward" if reverse else "forward"
        self._drop_useless_features(len(starts))
        begin, end = self._frames.start, self._frames.stop
        first = max(starts.values()) if reverse else min(starts.values())
        total = first + 1 - begin if reverse else end - first
        if reverse and first == begin:
            return
        before, again = self._source.decoded, 0

        def cached(index: int) -> Any:
            nonlocal again
            again += index + begin in self._pivots and index + begin not in self._cache
            return self._cache.get(index + begin)

        source = self._source
        frames = source.frames_reversed(begin, first + 1) if reverse else source.frames(first, end)
        results = self._state.propagate(
            ((frame - begin, image) for frame, image in stage("decode", frames)),
            reverse=reverse,
            starts=cast("Mapping[Hashable, int]", {item: frame - begin for item, frame in starts.items()}),
            features=cached,
            stage=stage,
        )
        done = 0
        for result in results:
            yield result.frame + begin, result
            done += 1
            self._stats.report(name, done, total)
        if done != total:
            raise MediaError(
                f"{self._source.path} ended early.",
                expected=f"{end} frames",
                got=f"{done} of the {total} frames of the {name} sweep",
                mend="copy the file again, or repair it: ffmpeg -i IN -c:v libx264 OUT.mp4",
            )
        counters, spent = self._stats.counters, self._source.decoded - before
        if reverse:
            counters.decoded_backward += spent
        else:
            counters.decoded_forward += spent
        counters.encoded_again += again

    def _drop_useless_features(self, objects: int) -> None:
        """A frame that is a pivot of every object is never tracked, so nobody will ask for its features."""
        for frame in [frame for frame in self._cache if len(self._pivots[frame]) == objects]:
            self._cache_room += self._cache.pop(frame).nbytes

    def close(self) -> None:
        """Write down what the tracker counted, and give back its memory."""
        counted, counters = self._state.counters, self._stats.counters
        counters.encoded_pivots += counted.encoded_prompts
        counters.encoded_forward += counted.encoded_forward
        counters.encoded_backward += counted.encoded_backward
        counters.track_calls += counted.track_calls
        counters.object_frames += counted.objects_tracked
        self._cache.clear()
        self._state.close()


def _masks(
    tracked: Iterable[tuple[int, TrackedFrame]], but: Mapping[int, int]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Object, frame and mask of every result, but for objects on a frame that was done before."""
    for frame, result in tracked:
        for row, item in enumerate(cast("tuple[int, ...]", result.object_ids)):
            if but.get(item) != frame:
                yield item, frame, result.mask_hw(row)
