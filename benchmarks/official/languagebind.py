"""The official LanguageBind (languagebind 0.1.0) on given sounds and texts. For the reference environment's Python.

    python -m benchmarks.official.languagebind REQUEST.json OUT.npz

REQUEST.json holds `folder` (of an official model, on this machine), `kind` ("audio" or "image"), `texts`, and for
audio `waves` (`.npy` files, float32 `[samples]` at 16 kHz). OUT.npz gets `text_embeddings` `[N, D]`, `input_ids`
`[N, 77]` and for audio `audio_embeddings` `[M, D]` and `pictures` `[M, 3, 112, 1036]`.

The official model, processor and tokenizer run as AL-Ref-SAM 2 calls them, with transformers 4.57.6. (In 5.x the
official text tower loses its causal mask without a word; `check_causal` holds that here it does not.) Five things are
replaced:

- transformers' check that pictures are square, which refuses those of sounds, is switched off (`AnySize`);
- the random crops of sounds above 1,036 frames begin at the first place of each third;
- sounds are read from `.npy` instead of by torchaudio, of which only `compliance/kaldi.py` is there;
- decord and pytorchvideo, which read videos and which importing the package asks for, are empty modules;
- the implementation of attention is set to "eager" on both towers, which transformers leaves unset here.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.official.kaldi import stub_torchaudio
from export.torchvision_ops import declare_operators

RATE = 16_000
# Modules that only the official readers of video use, and the names that importing these asks for.
_VIDEO = {
    "decord": ("VideoReader", "cpu"),
    "pytorchvideo": (),
    "pytorchvideo.data": (),
    "pytorchvideo.data.encoded_video": ("EncodedVideo",),
    "pytorchvideo.transforms": ("ApplyTransformToKey", "ShortSideScale", "UniformTemporalSubsample"),
}


class AnySize:
    """Equals every size."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


def import_languagebind() -> ModuleType:
    """The official package, without its readers of video.

    Raises:
        ImportError: something else that it needs is not there.
    """
    declare_operators()
    importlib.import_module("transformers.utils")  # it looks for the true torchaudio
    stub_torchaudio()
    for name, names in _VIDEO.items():
        sys.modules[name] = ModuleType(name)
        for each in names:
            setattr(sys.modules[name], each, None)
    sys.modules["decord"].bridge = SimpleNamespace(set_bridge=lambda kind: None)  # type: ignore[attr-defined]
    return importlib.import_module("languagebind")


def load(kind: str, folder: Path) -> tuple[Any, Any, Any]:
    """The official model of a folder, its tokenizer and its processor.

    Raises:
        RuntimeError: the folder lacks weights, or has others than the model.
    """
    package = import_languagebind()
    name = {"audio": "LanguageBindAudio", "image": "LanguageBindImage"}[kind]
    model, report = getattr(package, name).from_pretrained(
        folder, local_files_only=True, output_loading_info=True, attn_implementation="eager"
    )
    wrong = [key for part in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in report[part]]
    wrong = [key for key in wrong if not str(key).endswith("position_ids")]
    if wrong:
        raise RuntimeError(f"{folder} does not fit the official model: {wrong[:10]} and {len(wrong)} in all")
    for part in (model.text_model, model.vision_model):
        for module in part.modules():
            if getattr(module, "config", None) is not None:
                module.config._attn_implementation = "eager"
    tokenizer = getattr(package, f"{name}Tokenizer").from_pretrained(folder, local_files_only=True)
    processor = getattr(package, f"{name}Processor")(model.config, tokenizer)
    if kind == "audio":
        model.vision_model.embeddings.image_size = AnySize()
        processing: Any = sys.modules["languagebind.audio.processing_audio"]
        processing.torchaudio_loader = lambda path: (torch.from_numpy(np.load(path))[None], RATE)
        processing.np = SimpleNamespace(
            array_split=np.array_split, random=SimpleNamespace(choice=lambda places: places[0])
        )
    return model.eval(), tokenizer, processor


def check_causal(model: Any) -> None:
    """Raise a RuntimeError unless the text tower's answer at a token depends on nothing after it."""
    last = model.config.text_config.vocab_size - 1
    ids = torch.tensor([[last - 1, 5, 6, last, 7, 8], [last - 1, 5, 6, last, 9, 10]])
    states = model.text_model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, :4]
    if not torch.equal(states[0], states[1]):
        raise RuntimeError("the official text tower looks ahead: its causal mask is lost with this transformers")


@torch.inference_mode()
def answer(request: dict[str, Any]) -> dict[str, np.ndarray]:
    """What the official code makes of a request."""
    model, tokenizer, processor = load(request["kind"], Path(request["folder"]))
    check_causal(model)
    encoding = tokenizer(request["texts"], max_length=77, padding="max_length", truncation=True, return_tensors="pt")
    texts = model.get_text_features(**encoding)
    made = {"text_embeddings": texts / texts.norm(p=2, dim=-1, keepdim=True), "input_ids": encoding["input_ids"]}
    if request["kind"] == "audio" and request.get("waves"):
        data = processor(request["waves"], request["texts"], return_tensors="pt")
        start = time.perf_counter()
        out = model(**data)
        made |= {"audio_embeddings": out.image_embeds, "pictures": data["pixel_values"]}
        made |= {"text_embeddings": out.text_embeds, "input_ids": data["input_ids"]}
        print(f"{time.perf_counter() - start:.1f} s")
    return {name: tensor.numpy() for name, tensor in made.items()}


if __name__ == "__main__":
    arrays: dict[str, Any] = answer(json.loads(Path(sys.argv[1]).read_text()))
    np.savez(sys.argv[2], **arrays)
