"""One video being tracked: prompts, and sweeps over its frames.

Every object is tracked by itself, as in the official code; objects whose memories have the same length share a call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from alref_edge.errors import InputError
from alref_edge.models.protocols import Stage, TrackingCounters, TrackingOptions, in_line
from alref_edge.models.sam2 import policy, transforms
from alref_edge.models.sam2.graphs import FrameFeatures, Sam2Graphs, VideoRoom
from alref_edge.models.sam2.holes import fill_holes
from alref_edge.models.sam2.memory import MemoryBank, ObjectMemory, Prompted, Remembered
from alref_edge.models.sam2.policy import MemoryPlan
from alref_edge.models.sam2.results import FrameResult
from alref_edge.runtime import start_reading
from alref_edge.runtime.session import Feeds

FeatureLookup = Callable[[int], "FrameFeatures | None"]


class _TrackedMask(NamedTuple):
    """One object's logits, its score, and its mask where the device enlarged it; see `FrameResult`."""

    logits_hw: np.ndarray
    score: float
    bits: np.ndarray | None = None


@dataclass(frozen=True)
class _Frame:
    """A frame on its way through a sweep.

    Attributes:
        index: of the frame.
        active: the objects whose start was reached.
        image: what is to be encoded, if anything: see `Sam2Graphs.encode_frame`.
        features: what is known of it, if anything is needed.
        room: where those lie, to be used again.
    """

    index: int
    active: Sequence[Hashable]
    image: np.ndarray | None = None
    features: FrameFeatures | None = None
    room: FrameFeatures | None = None


class TrackingState:
    """One video: prompts go in, then sweeps are run over its frames, forward, backward, or both in turn.

    Between calls it holds, on the device, the memory of every prompted frame, of the last frames swept, and of the
    frames around each sweep's start (a backward sweep attends to what the forward one saw after the start). Its size
    does not depend on the video's length. Made by `Sam2VideoTracker.start`.
    """

    def __init__(
        self,
        graphs: Sam2Graphs,
        options: TrackingOptions,
        max_batch: int | None,
        num_frames: int,
        height: int,
        width: int,
    ) -> None:
        if min(num_frames, height, width) < 1:
            raise InputError("A video has no frames or no size.", got=f"{num_frames} frames of {width}x{height}")
        self.num_frames, self.height, self.width = num_frames, height, width
        self.counters = TrackingCounters()
        self._options, self._max_batch = options, max_batch
        self._graphs = graphs
        self._config = graphs.config
        self._objects: dict[Hashable, ObjectMemory] = {}
        self._taken_room: VideoRoom | None = graphs.take_video_room()

    @property
    def object_ids(self) -> tuple[Hashable, ...]:
        """The objects prompted so far, in that order."""
        return tuple(self._objects)

    def encode(self, image_hw3_u8: np.ndarray) -> FrameFeatures:
        """Encode a frame for prompts on it, or for `propagate` to find by its lookup.

        Raises:
            InputError: it is not an RGB image of the video's size.
        """
        self.counters.encoded_prompts += 1
        return self._graphs.encode_frame(self._prepare(image_hw3_u8))

    def add_mask(
        self, frame: int, object_id: Hashable, mask_hw: np.ndarray, image: np.ndarray | FrameFeatures
    ) -> FrameResult:
        """Say what an object's mask is on a frame.

        Args:
            frame: index of the frame.
            object_id: an object known or new.
            mask_hw: bool, of any size; it is resized to the model's.
            image: the frame, uint8 `[H, W, 3]`, or its features.

        Raises:
            InputError: the frame was already swept, lies outside the video, or has another size.
        """
        memory = self._object_for(frame, object_id)
        mask = np.asarray(mask_hw)
        if mask.ndim != 2 or not mask.size:
            raise InputError("A mask is not a plane.", expected="bool [height, width]", got=list(mask.shape))
        features = self._features_of(image)
        prompt = transforms.mask_prompt(mask, self._config.image_size)
        out = self._graphs.session("mask_prompt").run({**features.feeds(), "mask": prompt})
        logits, score = transforms.mask_logits(prompt), float(out["object_score"][0, 0])
        return self._prompted(frame, object_id, memory, features, Prompted(None, out["pointer"][0], logits, score))

    def add_points_or_box(
        self,
        frame: int,
        object_id: Hashable,
        image: np.ndarray | FrameFeatures,
        *,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        clear_old_points: bool = True,
    ) -> FrameResult:
        """Say where an object is on a frame; a frame prompted before lends its mask to the new prompt.

        Args:
            frame: index of the frame.
            object_id: an object known or new.
            image: the frame, uint8 `[H, W, 3]`, or its features.
            points: `[K, 2]`, xy in pixels of the video.
            labels: `[K]`, 1 for a point of the object, 0 for one beside it.
            box: `[4]`, xyxy in pixels of the video.
            clear_old_points: forget earlier points on this frame; a box cannot be added to them.

        Raises:
            InputError: as `add_mask`, or the prompt is missing or malformed.
        """
        coords, tags = self._points(points, labels, box, clear_old_points)
        memory = self._object_for(frame, object_id)
        earlier = memory.prompted.get(frame)
        if earlier and earlier.points_n2 is not None and earlier.labels_n is not None and not clear_old_points:
            coords = np.concatenate([earlier.points_n2, coords])
            tags = np.concatenate([earlier.labels_n, tags])
        features = self._features_of(image)
        guide = np.clip(earlier.logits_hw, -policy.PROMPT_CLAMP, policy.PROMPT_CLAMP) if earlier else None
        padded = np.concatenate([coords, np.zeros((1, 2), np.float32)])
        padded_tags = np.concatenate([tags, np.array([policy.PADDING], np.int32)])
        out = self._graphs.prompt(features, padded[None], padded_tags[None], guide)
        score = float(out["object_score"][0, 0])
        choice = policy.choose_mask(out["masks"][0], out["ious"][0], out["pointers"][0], len(tags), self._config)
        logits = choice.logits_hw if score > 0 else np.full_like(choice.logits_hw, policy.NO_OBJECT_LOGIT)
        entry = Prompted(None, choice.pointer_c, logits, score, coords, tags)
        return self._prompted(frame, object_id, memory, features, entry)

    def propagate(
        self,
        frames: Iterable[tuple[int, np.ndarray]],
        *,
        reverse: bool = False,
        starts: Mapping[Hashable, int] | None = None,
        keep: Iterable[int] = (),
        features: FeatureLookup | None = None,
        stage: Stage = in_line,
    ) -> Iterator[FrameResult]:
        """Sweep over the video once, following every object from its own start.

        An object's results are those of a sweep of its own. Its start frame is part of every sweep, as in the
        official code; an object that starts on frame 0 takes no part in a backward sweep.

        Args:
            frames: (index, uint8 `[H, W, 3]`) in the order of the sweep, without gaps, from the first start on
                (frames before it are passed over); only what is asked for is drawn.
            reverse: sweep toward frame 0.
            starts: first frame of each object that is to be followed; None: the first prompted frame for all.
            keep: frames near which a later sweep is to start, other than this sweep's starts.
            features: gives a frame's features where they are at hand, so that it is not encoded again.
            stage: runs the stages "prepare" (the host resizes, unless the device does) and "encode"; one that draws
                ahead draws frames ahead, too.

        Yields:
            One result a frame, of the objects whose start was reached.

        Raises:
            InputError: there are no prompts, a start is unknown or outside the video, frames are out of order, or
                memory near a start was dropped since (give `keep` to the earlier sweep).
        """
        begins, kept = self._begins(starts, reverse), tuple(keep)
        for object_id, begin in begins.items():
            self._objects[object_id].anchors = (begin, *kept)
        return self._propagate(frames, begins, reverse, features or (lambda _: None), stage)

    def close(self) -> None:
        """Forget the video and leave its room on the device to the next; closing twice does nothing."""
        self._objects.clear()
        if self._taken_room is not None:
            self._graphs.give_back(self._taken_room)
            self._taken_room = None

    @property
    def _room(self) -> VideoRoom:
        if self._taken_room is None:
            raise InputError("The tracking state is closed.", mend="start the video again.")
        return self._taken_room

    @property
    def _bank(self) -> MemoryBank:
        return self._room.bank

    # Prompts

    def _object_for(self, frame: int, object_id: Hashable) -> ObjectMemory:
        if not 0 <= frame < self.num_frames:
            raise InputError(
                "A prompt lies outside the video.", expected=f"a frame from 0 to {self.num_frames - 1}", got=frame
            )
        memory = self._objects.get(object_id, ObjectMemory())
        if memory.was_tracked(frame):
            raise InputError(
                f"Frame {frame} was already swept for the object {object_id!r}.",
                mend="start a new state, and give it every prompt before its first sweep.",
            )
        return memory

    def _points(
        self, points: np.ndarray | None, labels: np.ndarray | None, box: np.ndarray | None, clear_old_points: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The prompt as points of the model's square, without padding."""
        if (points is None) != (labels is None):
            raise InputError("Points and their labels come together.", mend="give both or neither.")
        coords, tags = np.zeros((0, 2), np.float32), np.zeros(0, np.int32)
        if points is not None and labels is not None:
            coords, tags = np.asarray(points, np.float32), np.asarray(labels, np.int32)
            policy.check_points(coords, tags)
        if box is not None:
            if not clear_old_points:
                raise InputError("A box cannot be added to earlier points.", mend="set clear_old_points.")
            corners = np.asarray(box, np.float32)
            policy.check_box(corners)
            coords = np.concatenate([corners.reshape(2, 2), coords])
            tags = np.concatenate([np.array([policy.BOX_FIRST, policy.BOX_SECOND], np.int32), tags])
        if not len(tags):
            raise InputError("There is no prompt.", expected="points or a box")
        return transforms.to_model_points(coords, self.height, self.width, self._config.image_size), tags

    def _prompted(
        self, frame: int, object_id: Hashable, memory: ObjectMemory, features: FrameFeatures, entry: Prompted
    ) -> FrameResult:
        """Store a prompt's outcome with its memory."""
        entry.logits_hw = fill_holes(entry.logits_hw[None], self._options.fill_hole_area)[0]
        earlier = memory.prompted.get(frame)
        entry.row = self._bank.allocate(1) if earlier is None else earlier.row
        assert entry.row is not None
        self._graphs.session("memory_encoder").run(
            {
                "embed": features.embed,
                "low_res": entry.logits_hw[None, None],
                "object_score": np.array([[entry.score]], np.float32),
            },
            into={"memory": self._bank.buffer.rows(entry.row, entry.row + 1)},
        )
        memory.prompted[frame] = entry
        self._objects[object_id] = memory
        return self._result(frame, {object_id: _TrackedMask(entry.logits_hw, entry.score)})

    def _features_of(self, image: np.ndarray | FrameFeatures) -> FrameFeatures:
        return image if isinstance(image, FrameFeatures) else self.encode(image)

    def _prepare(self, image_hw3_u8: np.ndarray) -> np.ndarray:
        """A frame as `Sam2Graphs.encode_frame` takes it."""
        transforms.check_image(image_hw3_u8)
        if image_hw3_u8.shape[:2] != (self.height, self.width):
            raise InputError(
                "A frame has another size than the video.",
                expected=f"{self.width}x{self.height}",
                got=f"{image_hw3_u8.shape[1]}x{image_hw3_u8.shape[0]}",
            )
        return self._graphs.prepare_frame(image_hw3_u8)

    # Propagation

    def _begins(self, starts: Mapping[Hashable, int] | None, reverse: bool) -> dict[Hashable, int]:
        """First frame of each object that takes part."""
        if not self._objects:
            raise InputError("There is nothing to track.", mend="add a mask, points or a box first.")
        if starts is None:
            first = min(frame for memory in self._objects.values() for frame in memory.prompted)
            starts = dict.fromkeys(self._objects, first)
        unknown = [object_id for object_id in starts if object_id not in self._objects]
        if unknown:
            raise InputError("A start is given for an unknown object.", expected=self.object_ids, got=unknown)
        outside = {key: frame for key, frame in starts.items() if not 0 <= frame < self.num_frames}
        if outside:
            raise InputError("A start lies outside the video.", expected=f"0 to {self.num_frames - 1}", got=outside)
        step = -1 if reverse else 1
        for object_id, start in starts.items():
            memory = self._objects[object_id]
            for distance in range(1, self._config.recent_pointers + 1):
                spatial = distance <= self._config.recent_frames
                if memory.lacks(start - step * distance, spatial=spatial):
                    raise InputError(
                        f"What the object {object_id!r} left near frame {start} was dropped to bound memory.",
                        mend=f"pass keep=[{start}] to the sweep before.",
                    )
        return {key: starts[key] for key in self._objects if key in starts and not (reverse and starts[key] == 0)}

    def _propagate(
        self,
        frames: Iterable[tuple[int, np.ndarray]],
        begins: Mapping[Hashable, int],
        reverse: bool,
        features: FeatureLookup,
        stage: Stage,
    ) -> Iterator[FrameResult]:
        prepared = stage("prepare", self._prepared(frames, begins, reverse, features))
        # Two graphs at a time share a CPU's cores, and gain nothing.
        beside = self._graphs.session("image_encoder").device != "cpu"
        for each in stage("encode", self._encoded(prepared, reverse), ahead=beside):
            result = self._step(each, reverse)
            if each.room is not None:
                self._room.features.append(each.room)
            yield result

    def _prepared(
        self,
        frames: Iterable[tuple[int, np.ndarray]],
        begins: Mapping[Hashable, int],
        reverse: bool,
        features: FeatureLookup,
    ) -> Iterator[_Frame]:
        """The frames on which an object is active; made ready if one of them is tracked there, not prompted."""
        step = -1 if reverse else 1
        expected: int | None = None
        for frame, image in frames if begins else ():
            late = [begin for begin in begins.values() if step * (frame - begin) > 0] if expected is None else []
            if late or (expected is not None and frame != expected) or not 0 <= frame < self.num_frames:
                wanted = (max(late) if reverse else min(late)) if late else expected
                raise InputError("Frames do not come in the order of the sweep.", expected=wanted, got=frame)
            expected = frame + step
            active = [key for key, begin in begins.items() if step * (frame - begin) >= 0]
            if any(frame not in self._objects[key].prompted for key in active):
                known = features(frame)
                yield _Frame(frame, active, self._prepare(image) if known is None else None, known)
            elif active:
                yield _Frame(frame, active)

    def _encoded(self, prepared: Iterable[_Frame], reverse: bool) -> Iterator[_Frame]:
        """The same frames with their features, in rooms that were given back or new ones."""
        for each in prepared:
            if each.image is not None:
                free = self._room.features
                room = free.popleft() if free else self._graphs.new_features()
                if reverse:
                    self.counters.encoded_backward += 1
                else:
                    self.counters.encoded_forward += 1
                yield _Frame(each.index, each.active, None, self._graphs.encode_frame(each.image, room), room)
            else:
                yield each

    def _step(self, each: _Frame, reverse: bool) -> FrameResult:
        """All active objects on one frame."""
        masks: dict[Hashable, _TrackedMask] = {}
        groups: dict[tuple[int, int], list[tuple[Hashable, MemoryPlan]]] = defaultdict(list)
        for key in each.active:
            memory = self._objects[key]
            if each.index in memory.prompted:
                entry = memory.prompted[each.index]
                masks[key] = _TrackedMask(entry.logits_hw, entry.score)
                continue
            plan = policy.plan_memory(
                each.index,
                memory.prompted,
                memory.recent,
                self.num_frames,
                reverse=reverse,
                config=self._config,
                max_prompts=self._options.max_pivots_in_attention,
            )
            groups[plan.lengths].append((key, plan))
        started: list[Callable[[], dict[Hashable, _TrackedMask]]] = []
        for members in groups.values():
            assert each.features is not None
            size = self._max_batch or len(members)
            batches = (members[first : first + size] for first in range(0, len(members), size))
            started += [self._start_tracking(each.index, batch, each.features) for batch in batches]
        for finish in started:
            masks.update(finish())
        for key in each.active:
            memory = self._objects[key]
            memory.mark_tracked(each.index)
            for row in memory.forget(each.index, self._config.recent_frames, self._config.recent_pointers):
                self._bank.release(row)
        return self._result(each.index, {key: masks[key] for key in each.active})

    def _start_tracking(
        self, frame: int, members: list[tuple[Hashable, MemoryPlan]], encoded: FrameFeatures
    ) -> Callable[[], dict[Hashable, _TrackedMask]]:
        """Objects whose memories have the same length, in one call; their new memories go into rows of the bank.

        Returns:
            Waits for the results, remembers them, and returns the masks. Only where the host fills holes, it waits
            before.
        """
        count, config = len(members), self._config
        pairs = [(self._objects[key], plan) for key, plan in members]
        memory_shape, pointer_shape = (count, len(pairs[0][1].memories)), (count, len(pairs[0][1].pointers))
        rows = [memory.look_up(other).row for memory, plan in pairs for other, _ in plan.memories]
        pointers = [memory.look_up(other).pointer_c for memory, plan in pairs for other, _ in plan.pointers]
        feeds: Feeds = {
            **encoded.feeds(),
            "bank": self._bank.buffer,
            "slots": np.array(rows, np.int64).reshape(memory_shape),
            "tpos": np.array([p for _, plan in pairs for _, p in plan.memories], np.int64).reshape(memory_shape),
            "pointers": np.array(pointers, np.float32).reshape(*pointer_shape, config.hidden_dim),
        }
        if config.pointer_tpos:
            distance = np.array([d for _, plan in pairs for _, d in plan.pointers], np.float32).reshape(pointer_shape)
            feeds = {**feeds, "pointer_pos": distance / np.float32(policy.pointer_span(self.num_frames, config))}
        out = self._graphs.track(feeds, count, self._room)
        first = self._bank.allocate(count)
        self._bank.buffer.rows(first, first + count).write(out["memory"])
        self.counters.track_calls += 1
        self.counters.objects_tracked += count
        if self._options.fill_hole_area:
            logits_nhw = out["low_res"].numpy()[:, 0]
            out["low_res"].write(fill_holes(logits_nhw, self._options.fill_hole_area)[:, None])
        bits = self._graphs.mask_bits(out["low_res"], self.height, self.width)
        wanted = [out["low_res"], out["pointer"], out["object_score"]]
        read = start_reading(wanted if bits is None else [*wanted, bits])

        def finish() -> dict[Hashable, _TrackedMask]:
            low_res, pointers, scores, *packed = read()
            for number, (memory, _) in enumerate(pairs):
                earlier = memory.recent.get(frame)
                if earlier is not None and earlier.row is not None:
                    self._bank.release(earlier.row)
                memory.recent[frame] = Remembered(first + number, pointers[number].copy())
            rows = zip(low_res[:, 0], scores[:, 0].tolist(), packed[0] if packed else [None] * count, strict=True)
            return {key: _TrackedMask(*row) for (key, _), row in zip(members, rows, strict=True)}

        return finish

    def _result(self, frame: int, masks: Mapping[Hashable, _TrackedMask]) -> FrameResult:
        logits = np.stack([mask.logits_hw for mask in masks.values()])
        scores = np.array([mask.score for mask in masks.values()], np.float32)
        bits = tuple(mask.bits for mask in masks.values())
        return FrameResult(frame, tuple(masks), logits, scores, self.height, self.width, bits)
