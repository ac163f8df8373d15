"""The official Grounding DINO (groundingdino-py 0.4.0) on given weights, images and captions.

Run by the Python of the reference environment, from the root of the clone:

    python -m benchmarks.official.grounding_dino REQUEST.json OUT

REQUEST.json holds `variant` (of `export.grounding_dino.configs`), `checkpoint` (an official `.pth`), `vocab` (its
`vocab.txt`), and `runs`: a list of `{"name", "image", "caption", "resize", "box_threshold", "text_threshold"}`, where
`resize` false takes the image as it is for the network's input, and an optional `"onednn": false` rounds otherwise.
Each run becomes `OUT/<name>.npz`; one that is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.grounding_dino.configs import official_config
from export.torchvision_ops import declare_operators

declare_operators()

import torch  # noqa: E402
from groundingdino.datasets import transforms  # noqa: E402
from groundingdino.models import build_model  # noqa: E402
from groundingdino.models.GroundingDINO import groundingdino, transformer  # noqa: E402
from groundingdino.models.GroundingDINO.backbone import backbone  # noqa: E402
from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer  # noqa: E402
from groundingdino.models.GroundingDINO.bertwarper import (  # noqa: E402
    generate_masks_with_special_tokens_and_transfer_map,
)
from groundingdino.models.GroundingDINO.utils import gen_sineembed_for_position, get_sine_pos_embed  # noqa: E402
from groundingdino.util.inference import preprocess_caption  # noqa: E402
from groundingdino.util.misc import clean_state_dict  # noqa: E402
from groundingdino.util.slconfig import SLConfig  # noqa: E402
from groundingdino.util.utils import get_phrases_from_posmap  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision.ops import box_convert  # noqa: E402
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerBase  # noqa: E402

# The official model cannot be built without these in its checkpoint's stead: they are made anew, not learnt.
NOT_IN_CHECKPOINTS = ("bert.embeddings.position_ids", "bert.pooler.", "label_enc.")


@dataclass(frozen=True)
class Prediction:
    """What the official model answers for an image and a caption.

    Attributes:
        logits_qt: float32 `[Q, 256]`, minus infinity beyond the caption's tokens.
        boxes_cxcywh_norm: float32 `[Q, 4]`.
        kept: int64 `[N]`, the queries above the box threshold, as `predict` returns them.
        scores_n: float32 `[N]`.
        phrases: N phrases, of the repository's `get_phrases_from_posmap`.
        input_ids, position_ids: int64 `[1, T]`, and `attention_mask`, bool `[1, T, T]`: the caption as it was read.
        network_hw: height and width that the network saw.
        forward_s: seconds of the forward pass.
    """

    logits_qt: np.ndarray
    boxes_cxcywh_norm: np.ndarray
    kept: np.ndarray
    scores_n: np.ndarray
    phrases: tuple[str, ...]
    input_ids: np.ndarray
    position_ids: np.ndarray
    attention_mask: np.ndarray
    network_hw: tuple[int, int]
    forward_s: float


def build_official(variant: str, checkpoint: Path, vocab: Path) -> Any:
    """The official model with the weights of an official checkpoint; `model.resize` is what `load_image` wants.

    The text encoder comes from the checkpoint and the tokenizer from the vocabulary, where the official code asks a
    hub for both. Sizes that the official code does not know (nano) replace those that it holds as numbers.

    Raises:
        InputError: there is no such variant.
        RuntimeError: the checkpoint lacks weights, or has others than the model.
    """
    config = official_config(variant)
    args = SLConfig({**config["args"], "device": "cpu"})
    hidden = config["args"]["hidden_dim"]
    groundingdino.get_tokenlizer.get_tokenlizer = lambda _: _tokenizer(vocab)
    groundingdino.get_tokenlizer.get_pretrained_language_model = lambda _: BertModel(BertConfig(**config["bert"]))
    backbone.build_swin_transformer = lambda _, pretrain_img_size, **rest: SwinTransformer(
        pretrain_img_size=pretrain_img_size, **config["swin"], **rest
    )
    transformer.get_sine_pos_embed, transformer.gen_sineembed_for_position = (
        get_sine_pos_embed,
        gen_sineembed_for_position,
    )
    if hidden != 256:
        transformer.get_sine_pos_embed = lambda positions, num_pos_feats, **rest: get_sine_pos_embed(
            positions, num_pos_feats=hidden, **rest
        )
        transformer.gen_sineembed_for_position = lambda positions: get_sine_pos_embed(
            positions, num_pos_feats=hidden // 2
        )
    model = build_model(args)
    state = clean_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["model"])
    derived = {key: value for key, value in model.state_dict().items() if key.endswith("relative_position_index")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = [key for key in (*missing, *unexpected) if not key.startswith(NOT_IN_CHECKPOINTS)]
    wrong += [key for key, value in derived.items() if not torch.equal(value, state.get(key, value))]
    if wrong:
        raise RuntimeError(f"{checkpoint.name} does not fit the official model: {wrong[:10]} and {len(wrong)} in all")
    model.resize = tuple(config["resize"])
    return model.eval()


def _tokenizer(vocab: Path) -> PreTrainedTokenizerBase:
    # The files of bert-base-uncased say no more than these.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_bytes(vocab.read_bytes())
        (Path(folder) / "config.json").write_text('{"model_type": "bert"}')
        (Path(folder) / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512}')
        return AutoTokenizer.from_pretrained(folder)


def load_image(path: Path, resize: tuple[int, int] | None) -> torch.Tensor:
    """The image as the network takes it, float32 `[3, H, W]`: `load_image` of the official `inference.py`.

    Args:
        path: an image file.
        resize: short side and longest long side, 800 and 1333 in the official code; None leaves the size alone.
    """
    steps = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    if resize is not None:
        steps.insert(0, transforms.RandomResize([resize[0]], max_size=resize[1]))
    tensor, _ = transforms.Compose(steps)(Image.open(path).convert("RGB"), None)
    return tensor


@torch.inference_mode()
def predict(
    model: Any, image: torch.Tensor, caption: str, *, box_threshold: float, text_threshold: float
) -> Prediction:
    """`predict` of the official `inference.py`, with the raw outputs beside it.

    The phrases leave out the tokens that the repository's `get_phrases_from_posmap` leaves out and the release's does
    not: the first, and those from 255 on.
    """
    caption = preprocess_caption(caption)
    start = time.perf_counter()
    outputs = model(image[None], captions=[caption])
    forward_s = time.perf_counter() - start
    boxes = outputs["pred_boxes"][0]
    probabilities = outputs["pred_logits"].sigmoid()[0]
    kept = probabilities.max(dim=1)[0] > box_threshold
    batch = model.tokenizer([caption], padding="longest", return_tensors="pt")
    attention_mask, position_ids, _ = generate_masks_with_special_tokens_and_transfer_map(
        batch, model.specical_tokens, model.tokenizer
    )
    tokenized = model.tokenizer(caption)
    phrases = []
    for row in probabilities[kept]:
        posmap = row > text_threshold
        posmap[:1] = False
        posmap[255:] = False
        phrases.append(get_phrases_from_posmap(posmap, tokenized, model.tokenizer).replace(".", ""))
    return Prediction(
        logits_qt=outputs["pred_logits"][0].numpy(),
        boxes_cxcywh_norm=boxes.numpy(),
        kept=torch.nonzero(kept)[:, 0].numpy(),
        scores_n=probabilities[kept].max(dim=1)[0].numpy() if kept.any() else np.zeros(0, np.float32),
        phrases=tuple(phrases),
        input_ids=batch["input_ids"].numpy(),
        position_ids=position_ids.numpy(),
        attention_mask=attention_mask.numpy(),
        network_hw=(image.shape[1], image.shape[2]),
        forward_s=forward_s,
    )


def predict_image(
    model: Any, image: Path, caption: str, *, box_threshold: float, text_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and scores of an image file, in the order of the queries, as AL-Ref-SAM 2 computes them.

    Returns:
        Boxes float32 `[N, 4]`, xyxy in pixels, and scores float32 `[N]`.
    """
    tensor = load_image(image, model.resize)
    prediction = predict(model, tensor, caption, box_threshold=box_threshold, text_threshold=text_threshold)
    with Image.open(image) as picture:
        width, height = picture.size
    boxes = torch.from_numpy(prediction.boxes_cxcywh_norm[prediction.kept]) * torch.Tensor(
        [width, height, width, height]
    )
    return box_convert(boxes=boxes, in_fmt="cxcywh", out_fmt="xyxy").numpy(), prediction.scores_n


def save(prediction: Prediction, path: Path) -> None:
    """Write a prediction to an `.npz`, whole or not at all."""
    beside = path.with_suffix(f".{os.getpid()}.part")
    with beside.open("wb") as file:
        np.savez_compressed(file, **{**vars(prediction), "phrases": np.asarray(prediction.phrases, np.str_)})
    beside.replace(path)


def main(argv: list[str]) -> int:
    """Answer a request file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("request", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(argv)
    request = json.loads(options.request.read_text())
    options.out.mkdir(parents=True, exist_ok=True)
    runs = [run for run in request["runs"] if not (options.out / f"{run['name']}.npz").exists()]
    if not runs:
        return 0
    model = build_official(request["variant"], Path(request["checkpoint"]), Path(request["vocab"]))
    for run in runs:
        image = load_image(Path(run["image"]), model.resize if run["resize"] else None)
        with torch.backends.mkldnn.flags(enabled=run.get("onednn", True)):
            prediction = predict(
                model,
                image,
                run["caption"],
                box_threshold=run["box_threshold"],
                text_threshold=run["text_threshold"],
            )
        save(prediction, options.out / f"{run['name']}.npz")
        print(f"{run['name']}: {len(prediction.kept)} boxes, {prediction.forward_s:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
