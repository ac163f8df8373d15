"""Masks of one image from boxes, points or a rough mask: SAM 2 as `SAM2ImagePredictor` runs it."""

from __future__ import annotations

from types import TracebackType

import numpy as np

from alref_edge.bundle import Component
from alref_edge.errors import InputError
from alref_edge.models.sam2 import policy, transforms
from alref_edge.models.sam2.graphs import FrameFeatures, Sam2Graphs
from alref_edge.runtime import SessionOptions


class Sam2ImagePredictor:
    """Prompts on one image after another.

    A single mask is the decoder's mask 0 whatever its stability, as from `build_sam2(apply_postprocessing=False)`.

    Args:
        graphs: may be shared with a tracker.
    """

    def __init__(self, graphs: Sam2Graphs) -> None:
        self.graphs = graphs
        self.encoded = 0
        self._features: FrameFeatures | None = None
        self._room: FrameFeatures | None = None
        self._size = (0, 0)

    @classmethod
    def from_component(
        cls, component: Component, device: str = "auto", *, options: SessionOptions | None = None
    ) -> Sam2ImagePredictor:
        """A predictor with graphs of its own; arguments and errors as `Sam2Graphs.open`."""
        return cls(Sam2Graphs.open(component, device, options))

    @property
    def provider(self) -> str:
        """The execution provider that runs the graphs."""
        return self.graphs.provider

    def set_image(self, image_hw3_u8: np.ndarray) -> None:
        """Encode the image that the following prompts are about.

        Raises:
            InputError: it is not RGB bytes.
        """
        self._room = self._room or self.graphs.new_features()
        self._features = self.graphs.encode_image(image_hw3_u8, self._room)
        self._size = (image_hw3_u8.shape[0], image_hw3_u8.shape[1])
        self.encoded += 1

    def predict(
        self,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masks of one object.

        Args:
            points: `[K, 2]`, xy in pixels of the image.
            labels: `[K]`, 1 for a point of the object, 0 for one beside it.
            box: `[4]`, xyxy in pixels.
            mask_input: `[S/4, S/4]` low-resolution logits, such as an earlier result's.
            multimask: give three masks to choose from instead of one.

        Returns:
            masks bool `[N, H, W]`, predicted IoUs float32 `[N]`, low-resolution logits float32 `[N, S/4, S/4]` within
            plus and minus 32; N is 3 or 1.

        Raises:
            InputError: no image was set, there is no prompt, or one is malformed.
        """
        coords, tags = np.zeros((0, 2), np.float32), np.zeros(0, np.int32)
        if (points is None) != (labels is None):
            raise InputError("Points and their labels come together.", mend="give both or neither.")
        if points is not None and labels is not None:
            coords, tags = np.asarray(points, np.float32), np.asarray(labels, np.int32)
            policy.check_points(coords, tags)
        if box is not None:
            corners = np.asarray(box, np.float32)
            policy.check_box(corners)
            coords = np.concatenate([corners.reshape(-1, 2)[:2], coords])
            tags = np.concatenate([np.array([policy.BOX_FIRST, policy.BOX_SECOND], np.int32), tags])
        if mask_input is not None:
            mask_input = np.asarray(mask_input, np.float32)
            side = self.graphs.config.mask_size
            if mask_input.size != side * side or mask_input.shape[-2:] != (side, side):
                raise InputError(
                    "A mask prompt is not low-resolution logits.", expected=[side, side], got=list(mask_input.shape)
                )
            mask_input = mask_input.reshape(side, side)
        if not len(coords) and mask_input is None:
            raise InputError("There is no prompt.", expected="points, a box or a mask")
        masks, ious, low_res = self._decode(coords[None], tags[None], mask_input)
        picked = slice(1, None) if multimask else slice(0, 1)
        return self._finish(masks[0, picked]), ious[0, picked], low_res[0, picked]

    def predict_boxes(self, boxes_n4: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One mask for each of N boxes, decoded in one call.

        Args:
            boxes_n4: `[N, 4]`, xyxy in pixels of the image.

        Returns:
            masks bool `[N, H, W]`, predicted IoUs float32 `[N]`, low-resolution logits float32 `[N, S/4, S/4]`.

        Raises:
            InputError: no image was set, or a box is malformed.
        """
        boxes = np.asarray(boxes_n4, np.float32).reshape(-1, 4)
        policy.check_box(boxes)
        tags = np.tile(np.array([policy.BOX_FIRST, policy.BOX_SECOND], np.int32), (len(boxes), 1))
        masks, ious, low_res = self._decode(boxes.reshape(-1, 2, 2), tags, None)
        return self._finish(masks[:, 0]), ious[:, 0], low_res[:, 0]

    def _decode(
        self, points_bk2: np.ndarray, labels_bk: np.ndarray, mask_input: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._features is None:
            raise InputError("No image was set.", mend="call set_image first.")
        rows, count = labels_bk.shape
        coords = transforms.to_model_points(points_bk2, *self._size, self.graphs.config.image_size)
        if count:
            coords = np.concatenate([coords, np.zeros((rows, 1, 2), np.float32)], 1)
            labels_bk = np.concatenate([labels_bk, np.full((rows, 1), policy.PADDING, np.int32)], 1)
        out = self.graphs.prompt(self._features, coords, labels_bk, mask_input)
        return out["masks"], out["ious"], np.clip(out["masks"], -policy.PROMPT_CLAMP, policy.PROMPT_CLAMP)

    def _finish(self, logits_nhw: np.ndarray) -> np.ndarray:
        bits = self.graphs.mask_bits(logits_nhw[:, None], *self._size)
        if bits is not None:
            return np.unpackbits(bits.numpy(), axis=2, count=self._size[1]).view(bool)
        return np.stack([transforms.resize_bilinear(logits, *self._size) > 0 for logits in logits_nhw])

    def close(self) -> None:
        """Close the graphs, shared or not."""
        self.graphs.close()

    def __enter__(self) -> Sam2ImagePredictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
