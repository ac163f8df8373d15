"""Grounding DINO: boxes for a caption (arXiv 2303.05499; official `util/inference.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import numpy as np

from alref_edge.bundle import Component
from alref_edge.bundle.configs import GroundingDinoConfig
from alref_edge.errors import InputError
from alref_edge.models.grounding_dino import preprocess
from alref_edge.models.grounding_dino.geometry import Geometry, backbone_tables, decoder_tables
from alref_edge.models.grounding_dino.text import CaptionTokenizer, CaptionTokens
from alref_edge.models.resizing import Preprocessor, pillow_bilinear
from alref_edge.models.resizing import signature as preprocess_signature
from alref_edge.runtime import Buffer, Session, SessionOptions, Signature, open_session
from alref_edge.runtime.session import Wanted
from alref_edge.types import Detections


@dataclass(frozen=True)
class ImageFeatures:
    """What the backbone made of one image; it serves any number of captions.

    Attributes:
        features: `[1, L, d]`, every level flattened, on the detector's device.
        network_hw: height and width of the image as the network saw it.
        image_hw: height and width of the image itself, in which boxes are answered.
    """

    features: Buffer
    network_hw: tuple[int, int]
    image_hw: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Size in bytes on the device."""
        return self.features.nbytes


@dataclass(frozen=True)
class TextFeatures:
    """A caption of T tokens and what the text encoder made of it.

    Attributes:
        tokens: the caption's tokens.
        features: float32 `[1, T, d]`.
    """

    tokens: CaptionTokens
    features: np.ndarray


class GroundingDino:
    """Open-vocabulary detection with one image backbone run an image and one text encoder run a caption.

    Args:
        backbone, text_encoder, decoder: sessions of the component's graphs, all on one device.
        tokenizer: of the component's vocabulary.
        config: the component's configuration.
        preprocess: resizes and normalises on the device; None: the host does.
    """

    def __init__(
        self,
        backbone: Session,
        text_encoder: Session,
        decoder: Session,
        tokenizer: CaptionTokenizer,
        config: GroundingDinoConfig,
        preprocess: Preprocessor | None = None,
    ) -> None:
        self._backbone, self._text_encoder, self._decoder = backbone, text_encoder, decoder
        self._tokenizer, self._preprocess = tokenizer, preprocess
        self._geometry = geometry_of(config)
        self._mean, self._std = config.image_mean, config.image_std
        self._short, self._long = config.resize_short, config.resize_long

    @classmethod
    def from_component(
        cls, component: Component, device: str = "auto", *, options: SessionOptions | None = None
    ) -> GroundingDino:
        """Load the component's graphs.

        Args:
            component: "grounding_dino" of a verified bundle.
            device: "cpu", "cuda", "cuda:N", or "auto".
            options: threads, fall-back and provider settings.

        Raises:
            BundleError: a graph or the vocabulary is missing, or the configuration makes no sense.
            EngineError: a graph cannot be loaded.
            ProviderError: the device does not work here.
        """
        config = component.settings(GroundingDinoConfig)
        tokenizer = CaptionTokenizer(component.open_file("vocab"), max_text_len=config.max_text_len)
        backbone, text_encoder, decoder = (
            open_session(component.open_graph(name), device=device, options=options, signature=signature)
            for name, signature in signatures(config).items()
        )
        preprocess = None
        if "preprocess" in component.graphs:
            columns_first, rows_first = (
                open_session(
                    component.open_graph(name),
                    device=device,
                    options=options,
                    signature=preprocess_signature(2, "h", "w"),
                )
                for name in ("preprocess", "preprocess_tall")
            )
            preprocess = Preprocessor(columns_first, rows_first, pillow_bilinear)
        return cls(backbone, text_encoder, decoder, tokenizer, config, preprocess)

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graphs."""
        return self._backbone.provider

    def encode_image(self, image_hw3_u8: np.ndarray, *, resize: bool = True) -> ImageFeatures:
        """Run the backbone on an image.

        Args:
            image_hw3_u8: uint8 `[H, W, 3]`, RGB.
            resize: bring it to the size that the model was trained at, as the official code does; False takes the image
                as it is.

        Raises:
            InputError: it is no such image, or too narrow.
            EngineError: it is too small for the model's number of queries.
        """
        if image_hw3_u8.ndim != 3 or image_hw3_u8.shape[2] != 3 or image_hw3_u8.dtype != np.uint8:
            raise InputError(
                "Grounding DINO takes RGB images.",
                expected="uint8 [H, W, 3]",
                got=f"{image_hw3_u8.dtype}{list(image_hw3_u8.shape)}",
            )
        height, width = image_hw3_u8.shape[:2]
        network_hw = height, width
        if resize:
            network_hw = preprocess.network_size(height, width, short=self._short, long=self._long)
        tables = backbone_tables(*network_hw, self._geometry)
        length = sum(rows * columns for rows, columns in self._geometry.level_sizes(*network_hw))
        features = self._backbone.buffer((1, length, self._geometry.d_model), self._backbone.outputs["features"].dtype)
        image: np.ndarray | Buffer
        if self._preprocess is not None:
            image = self._preprocess(image_hw3_u8, *network_hw)
        else:
            image = preprocess.normalise(preprocess.resize(image_hw3_u8, network_hw), self._mean, self._std)
        self._backbone.run({"image": image, **tables}, into={"features": features})
        return ImageFeatures(features, network_hw, (height, width))

    def encode_text(self, caption: str) -> TextFeatures:
        """Run the text encoder on a caption.

        Raises:
            InputError: the caption is empty, too long, or has no word that the vocabulary knows.
        """
        tokens = self._tokenizer.encode(caption)
        feeds = {
            "input_ids": tokens.input_ids,
            "position_ids": tokens.position_ids,
            "attention_mask": tokens.attention_mask,
        }
        return TextFeatures(tokens, self._text_encoder.run(feeds)["text_features"])

    def detect(
        self, image: ImageFeatures, text: TextFeatures, *, box_threshold: float = 0.25, text_threshold: float = 0.2
    ) -> Detections:
        """Boxes that answer to a caption, in the order of the decoder's queries, as the official `predict` has them.

        AL-Ref-SAM 2 takes at most the three best: `detect(...).top(3)`.

        Args:
            image: of `encode_image`.
            text: of `encode_text`.
            box_threshold: a box is kept if its best token scores above this.
            text_threshold: a token belongs to a box's phrase if it scores above this.

        Returns:
            Boxes in pixels of the image given to `encode_image`; they may reach a little beyond it.

        Raises:
            InputError: a threshold is not within 0 to 1.
        """
        for name, threshold in (("box", box_threshold), ("text", text_threshold)):
            if not 0 <= threshold <= 1:
                raise InputError(f"The {name} threshold is not a score.", expected="0 to 1", got=threshold)
        logits_qt, boxes_q4 = self.predict_raw(image, text)
        scores_qt = _sigmoid(logits_qt)
        scores_q = scores_qt.max(axis=1)
        kept = np.flatnonzero(scores_q > np.float32(box_threshold))
        phrases = tuple(
            self._tokenizer.phrase(text.tokens, scores_qt[row] > np.float32(text_threshold)) for row in kept
        )
        return Detections(boxes_to_pixels(boxes_q4[kept], *image.image_hw), scores_q[kept], phrases)

    def predict_raw(self, image: ImageFeatures, text: TextFeatures) -> tuple[np.ndarray, np.ndarray]:
        """The network's own answer.

        Returns:
            logits float32 `[Q, T]`, one for each query and token, and boxes float32 `[Q, 4]`, cxcywh normalised.
        """
        feeds: dict[str, np.ndarray | Buffer] = {
            "features": image.features,
            "text_features": text.features,
            "position_ids": text.tokens.position_ids,
            "attention_mask": text.tokens.attention_mask,
            **decoder_tables(*image.network_hw, self._geometry),
        }
        outputs = self._decoder.run(feeds)
        return outputs["logits"][0, :, : len(text.tokens)], outputs["boxes"][0]

    def close(self) -> None:
        """Give back what the sessions hold."""
        for each in (self._backbone, self._text_encoder, self._decoder, self._preprocess):
            if each is not None:
                each.close()

    def __enter__(self) -> GroundingDino:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def geometry_of(config: GroundingDinoConfig) -> Geometry:
    """What the tables of the graphs depend on."""
    swin = config.swin
    return Geometry(
        depths=swin.depths,
        window_size=swin.window_size,
        d_model=config.d_model,
        num_queries=config.num_queries,
        temperature=config.position_temperature,
        patch_size=swin.patch_size,
    )


def signatures(config: GroundingDinoConfig) -> dict[str, Signature]:
    """Inputs and outputs of the three graphs, by their names; the tables are those of `geometry`."""
    width, queries, window = config.d_model, config.num_queries, config.swin.window_size**2
    backbone: dict[str, Wanted] = {"image": ("float32", (1, 3, "H", "W")), "stride": ("int64", ("N4", 9))}
    for stage, depth in enumerate(config.swin.depths):
        for name in ("windows", "shifted") if depth > 1 else ("windows",):
            backbone[f"{name}_{stage}"] = ("int64", (f"W{stage}", window))
            backbone[f"un{name}_{stage}"] = ("int64", (f"N{stage}",))
        if depth > 1:
            backbone[f"kinds_{stage}"] = ("int64", (f"W{stage}",))
        if stage < 3:
            backbone[f"merge_{stage}"] = ("int64", (f"N{stage + 1}", 4))
    tables: dict[str, Wanted] = {}
    for level in range(4):
        for name, axis in (("row", f"h{level}"), ("column", f"w{level}")):
            tables[f"{name}s_{level}"] = ("float32", (axis, width // 2))
            tables[f"{name}_centres_{level}"] = ("float32", (axis,))
    caption: dict[str, Wanted] = {
        "position_ids": ("int64", (1, "T")),
        "attention_mask": ("bool", (1, "T", "T")),
    }
    features: Wanted = ("float32|float16", (1, "L", width))
    text: dict[str, Wanted] = {"text_features": ("float32", (1, "T", width))}
    return {
        "backbone": Signature(backbone, {"features": features}),
        "text_encoder": Signature({"input_ids": ("int64", (1, "T")), **caption}, text),
        "decoder": Signature(
            {"features": features, **text, **caption, **tables},
            {"logits": ("float32", (1, queries, "T")), "boxes": ("float32", (1, queries, 4))},
        ),
    }


def boxes_to_pixels(boxes_cxcywh_norm: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes `[N, 4]`, centre and size by the frame, as xyxy in pixels of a frame of that height and width.

    As AL-Ref-SAM 2 does it: times width and height first, `torchvision.ops.box_convert` then, in float32.
    """
    boxes_n4 = boxes_cxcywh_norm.astype(np.float32) * np.asarray([width, height, width, height], np.float32)
    centre, half = boxes_n4[:, :2], np.float32(0.5) * boxes_n4[:, 2:]
    return np.concatenate([centre - half, centre + half], axis=1)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.float32(1) / (np.float32(1) + np.exp(-logits.astype(np.float32)))
