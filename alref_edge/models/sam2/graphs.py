"""The graphs of a SAM 2 component on one device, loaded when first needed and shared by its predictors."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from alref_edge.bundle import Component
from alref_edge.bundle.configs import Sam2Config
from alref_edge.errors import EngineError
from alref_edge.models.resizing import Matrices, Preprocessor, Weights, pillow_bicubic
from alref_edge.models.resizing import signature as preprocess_signature
from alref_edge.models.sam2 import transforms
from alref_edge.models.sam2.memory import MemoryBank
from alref_edge.runtime import Buffer, Session, SessionOptions, Signature, open_session
from alref_edge.runtime.session import Feeds, Wanted

_HANDED_ON = "float32|float16"  # between graphs, in the type of their weights
_ENLARGED_BYTES = 256 << 20  # what the graph of `mask_bits` may take for one run, unless it is one mask
_BYTES_PER_PIXEL = 9  # of it: a logit, whether it is above zero, and that as a number
_Pixels = Callable[[np.ndarray, int, Sequence[float], Sequence[float]], np.ndarray]


@dataclass(frozen=True)
class FrameFeatures:
    """An encoded image, on the device, in the type that the graphs hand on.

    Attributes:
        embed: `[1, C, S/16, S/16]`, the top level.
        feat_s0: `[1, C/8, S/4, S/4]`.
        feat_s1: `[1, C/4, S/8, S/8]`.
    """

    embed: Buffer
    feat_s0: Buffer
    feat_s1: Buffer

    def feeds(self) -> dict[str, Buffer]:
        """The features by the names that every graph gives them."""
        return {"embed": self.embed, "feat_s0": self.feat_s0, "feat_s1": self.feat_s1}

    @property
    def nbytes(self) -> int:
        """Memory that they take on the device."""
        return self.embed.nbytes + self.feat_s0.nbytes + self.feat_s1.nbytes


@dataclass
class VideoRoom:
    """What the tracking of one video takes of the device. The next video's takes the same places again: a captured CUDA
    graph repeats a run at its addresses.

    Attributes:
        bank: spatial memories.
        features: rooms for encoded frames, those that are free; the one that was given back first is taken first.
        tracked: rows for what `Sam2Graphs.track` gives, by the output's name; none before its first call.
    """

    bank: MemoryBank
    features: deque[FrameFeatures] = field(default_factory=deque)
    tracked: dict[str, Buffer] = field(default_factory=dict)


class Sam2Graphs:
    """A SAM 2 component made ready to run. A context manager; closing it ends the predictors that use it."""

    def __init__(self, component: Component, device: str = "auto", options: SessionOptions | None = None) -> None:
        """See `open`."""
        self.config = component.settings(Sam2Config)
        self._signatures = signatures(self.config)
        self._component = component
        self._device = device
        self._options = options
        self._sessions: dict[str, Session] = {}
        self._matrices: Matrices | None = None
        self._bits: Buffer | None = None
        self._video_rooms: list[VideoRoom] = []
        self._preprocessors: dict[str, Preprocessor] = {}
        self._closed = False

    @classmethod
    def open(cls, component: Component, device: str = "auto", options: SessionOptions | None = None) -> Sam2Graphs:
        """Make a component ready to run.

        Args:
            component: of kind "sam2".
            device: "cpu", "cuda", "cuda:N" or "auto".
            options: threads, fall-back and provider settings.

        Raises:
            BundleError: the component is another network, or its configuration makes no sense.
        """
        return cls(component, device, options)

    def session(self, name: str) -> Session:
        """The session of a graph.

        Raises:
            BundleError: the component has no such graph, or it was altered since it was verified.
            EngineError: the graph cannot be loaded, is another network's, or these graphs were closed.
            ProviderError: the device does not work here.
        """
        if self._closed:
            raise EngineError("The SAM 2 graphs are closed.", mend="open them again.")
        if name not in self._sessions:
            self._sessions[name] = open_session(
                self._component.open_graph(name),
                device=self._device,
                options=self._options,
                signature=self._signatures[name],
            )
        return self._sessions[name]

    @property
    def provider(self) -> str:
        """The execution provider that runs the graphs."""
        return self.session("image_encoder").provider

    def new_features(self) -> FrameFeatures:
        """Room for one encoded image."""
        size, width = self.config.image_size, self.config.hidden_dim
        session = self.session("image_encoder")
        shapes = {
            "embed": (1, width, size // 16, size // 16),
            "feat_s0": (1, width // 8, size // 4, size // 4),
            "feat_s1": (1, width // 4, size // 8, size // 8),
        }
        return FrameFeatures(
            **{name: session.buffer(shape, session.outputs[name].dtype) for name, shape in shapes.items()}
        )

    def take_video_room(self) -> VideoRoom:
        """Room for tracking a video, of an earlier one or new, with an empty bank."""
        if self._video_rooms:
            return self._video_rooms.pop()
        track, config = self.session("track"), self.config
        dtype = track.inputs["bank"].dtype
        shape = (config.mem_dim, config.grid, config.grid)
        return VideoRoom(MemoryBank(lambda shape: track.buffer(shape, dtype), shape))

    def give_back(self, room: VideoRoom) -> None:
        """Let another video have a room."""
        room.bank.clear()
        if not self._closed:
            self._video_rooms.append(room)

    def prepare_frame(self, image_hw3_u8: np.ndarray) -> np.ndarray:
        """The host's part of `encode_frame`: the frame resized, or as it is where the device resizes.

        Raises:
            InputError: it is not RGB bytes.
        """
        return self._prepare(image_hw3_u8, "preprocess_video", transforms.video_pixels)

    def encode_frame(self, image: np.ndarray, into: FrameFeatures | None = None) -> FrameFeatures:
        """Encode a frame as the tracker sees it (`transforms.video_pixels`), into the room given or new room.

        Args:
            image: RGB uint8 `[H, W, 3]`, or what `prepare_frame` made of it.
            into: room.

        Raises:
            InputError: it is not RGB bytes.
        """
        return self._encode(image, "preprocess_video", pillow_bicubic, transforms.video_pixels, into)

    def encode_image(self, image_hw3_u8: np.ndarray, into: FrameFeatures | None = None) -> FrameFeatures:
        """Encode an image as the image predictor sees it (`transforms.image_pixels`), otherwise as `encode_frame`."""
        weights = transforms.antialiased_matrix
        return self._encode(image_hw3_u8, "preprocess_image", weights, transforms.image_pixels, into)

    def _prepare(self, image_hw3_u8: np.ndarray, graph: str, on_host: _Pixels) -> np.ndarray:
        """The image itself where the device has a graph that resizes and normalises, else what the host makes of it."""
        transforms.check_image(image_hw3_u8)
        if graph in self._component.graphs:
            return image_hw3_u8
        return on_host(image_hw3_u8, self.config.image_size, self.config.pixel_mean, self.config.pixel_std)

    def _encode(
        self, image: np.ndarray, graph: str, weights: Weights, on_host: _Pixels, into: FrameFeatures | None
    ) -> FrameFeatures:
        """Prepare an image that is not, here or on the device, and encode it."""
        pixels: np.ndarray | Buffer = image if image.ndim == 4 else self._prepare(image, graph, on_host)
        if graph in self._component.graphs:
            if graph not in self._preprocessors:
                tall = f"{graph}_tall"
                rows_first = self.session(tall) if tall in self._component.graphs else None
                self._preprocessors[graph] = Preprocessor(self.session(graph), rows_first, weights)
            pixels = self._preprocessors[graph](image, self.config.image_size, self.config.image_size)
        into = into or self.new_features()
        self.session("image_encoder").run({"image": pixels}, into=into.feeds())
        return into

    def track(self, feeds: Feeds, count: int, room: VideoRoom) -> dict[str, Buffer]:
        """Track objects on an encoded frame.

        Args:
            feeds: of the graph.
            count: objects, B.
            room: of the video; the next call with it writes over what this one returns.

        Returns:
            On the device: low_res float32 `[B, 1, S/4, S/4]`, pointer `[B, C]`, object_score `[B, 1]`, and memory
            `[B, D, S/16, S/16]` in the type of the bank.
        """
        track, config = self.session("track"), self.config
        if not room.tracked or room.tracked["low_res"].shape[0] < count:
            shapes = {
                "low_res": (1, config.mask_size, config.mask_size),
                "pointer": (config.hidden_dim,),
                "object_score": (1,),
                "memory": (config.mem_dim, config.grid, config.grid),
            }
            room.tracked = {
                name: track.buffer((count, *shape), track.outputs[name].dtype) for name, shape in shapes.items()
            }
        out = {name: buffer.rows(0, count) for name, buffer in room.tracked.items()}
        track.run(feeds, into=out)
        return out

    def mask_bits(self, low_res_b1ss: np.ndarray | Buffer, height: int, width: int) -> Buffer | None:
        """Masks at the video's size, enlarged on the device as `transforms.resize_bilinear` does it.

        Args:
            low_res_b1ss: float32 `[B, 1, S/4, S/4]`, logits.
            height, width: of the video.

        Returns:
            On the device, uint8 `[B, H, ceil(W / 8)]`, packed as `numpy.packbits` does; the next call writes over it.
            None where the graphs leave that to the host.
        """
        if "postprocess" not in self._component.graphs:
            return None
        session, side = self.session("postprocess"), self.config.mask_size
        self._matrices = self._matrices or Matrices(session)
        rows = self._matrices.of(transforms.bilinear_matrix, side, height)
        columns = self._matrices.of(transforms.bilinear_matrix_of_bytes, side, width)
        count, padded = low_res_b1ss.shape[0], columns.shape[0]
        shape = (count, height, padded // 8)
        if self._bits is None or self._bits.nbytes < math.prod(shape):
            self._bits = session.buffer(shape, np.uint8)
        bits = self._bits.view(shape, self._bits.dtype)
        most = max(1, _ENLARGED_BYTES // (_BYTES_PER_PIXEL * height * padded))
        for start in range(0, count, most):
            stop = min(start + most, count)
            some = low_res_b1ss.rows(start, stop) if isinstance(low_res_b1ss, Buffer) else low_res_b1ss[start:stop]
            session.run({"low_res": some, "rows": rows, "columns": columns}, into={"bits": bits.rows(start, stop)})
        return bits

    def prompt(
        self,
        features: FrameFeatures,
        points_bk2: np.ndarray,
        labels_bk: np.ndarray,
        mask_input_hw: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Decode prompts on an encoded image.

        Args:
            features: of the image.
            points_bk2: float32, in pixels of the model's square; the padding that the official code appends included.
            labels_bk: int32.
            mask_input_hw: float32 low-resolution logits that guide every row, if any.

        Returns:
            masks float32 `[B, 4, S/4, S/4]` as raw logits, ious `[B, 4]`, pointers `[B, 4, C]`, object_score `[B, 1]`.
        """
        rows, side = len(points_bk2), self.config.mask_size
        mask_input = np.zeros((rows, 1, side, side), np.float32)
        if mask_input_hw is not None:
            mask_input[:, 0] = mask_input_hw
        return self.session("prompt").run(
            {
                **features.feeds(),
                "point_coords": points_bk2,
                "point_labels": labels_bk,
                "mask_input": mask_input,
                "has_mask": np.full((rows, 1), mask_input_hw is not None, np.float32),
            }
        )

    def close(self) -> None:
        """Give back what the sessions hold; closing twice does nothing."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._preprocessors.clear()
        self._video_rooms.clear()
        self._matrices = self._bits = None
        self._closed = True

    def __enter__(self) -> Sam2Graphs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def signatures(config: Sam2Config) -> dict[str, Signature]:
    """Inputs and outputs of the five graphs, and of those that some forms have besides, by their names."""
    size, width, side = config.image_size, config.hidden_dim, config.mask_size
    memory = (config.mem_dim, config.grid, config.grid)
    embed: dict[str, Wanted] = {"embed": (_HANDED_ON, (1, width, config.grid, config.grid))}
    features: dict[str, Wanted] = {
        **embed,
        "feat_s0": (_HANDED_ON, (1, width // 8, side, side)),
        "feat_s1": (_HANDED_ON, (1, width // 4, size // 8, size // 8)),
    }
    low_res: Wanted = ("float32", ("B", 1, side, side))
    score: Wanted = ("float32", ("B", 1))
    mask: dict[str, Wanted] = {"low_res": low_res, "pointer": ("float32", ("B", width)), "object_score": score}
    track: dict[str, Wanted] = {
        **features,
        "bank": (_HANDED_ON, ("N", *memory)),
        "slots": ("int64", ("B", "M")),
        "tpos": ("int64", ("B", "M")),
        "pointers": ("float32", ("B", "P", width)),
    }
    if config.pointer_tpos:
        track["pointer_pos"] = ("float32", ("B", "P"))
    prompt: dict[str, Wanted] = {
        **features,
        "point_coords": ("float32", ("B", "K", 2)),
        "point_labels": ("int32", ("B", "K")),
        "mask_input": low_res,
        "has_mask": score,
    }
    prompted: dict[str, Wanted] = {
        "masks": ("float32", ("B", 4, side, side)),
        "ious": ("float32", ("B", 4)),
        "pointers": ("float32", ("B", 4, width)),
        "object_score": score,
    }
    remembered: dict[str, Wanted] = {"memory": (_HANDED_ON, ("B", *memory))}
    image: dict[str, Wanted] = {"image": ("float32", (1, 3, size, size))}
    bits: Wanted = ("uint8", ("B", "H", "bytes"))
    return {
        "preprocess_video": preprocess_signature(2, size, size),
        "preprocess_video_tall": preprocess_signature(2, size, size),
        "preprocess_image": preprocess_signature(1, size, size),
        "image_encoder": Signature(image, features),
        "prompt": Signature(prompt, prompted),
        "mask_prompt": Signature({**features, "mask": ("float32", ("B", 1, size, size))}, mask),
        "memory_encoder": Signature({**embed, "low_res": low_res, "object_score": score}, remembered),
        "track": Signature(track, {**mask, **remembered}),
        "postprocess": Signature(
            {"low_res": low_res, "rows": ("float32", ("H", side)), "columns": ("float32", ("W", side))}, {"bits": bits}
        ),
    }
