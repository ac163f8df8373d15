"""The folder that vLLM serves: weights in float16, configuration, tokenizer, and how images are prepared."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from alref_edge.errors import InputError
from export.nano.mllm_model import GRID, MERGE, PATCH, Mllm, MllmConfig
from export.nano.mllm_scenes import PIXEL_BUDGET
from export.nano.mllm_tokens import CHAT_TEMPLATE, SPECIALS, VOCABULARY, special, tokenizer

_TRAINED = "mllm."


def write_folder(folder: Path, checkpoint: Path | None, *, seed: int = 0) -> Path:
    """Write a model as transformers and vLLM read one.

    Args:
        folder: it is made if need be; files of the same names are replaced.
        checkpoint: of the training, `mllm.pt`, or a folder that was written before, such as `engines/nano_mllm`, for a
            tokenizer of changed templates; None takes random weights, which tests of the plumbing can do with.
        seed: of random weights.

    Raises:
        InputError: the checkpoint cannot be read, or is of another network.
    """
    torch.manual_seed(seed)
    model = Mllm(MllmConfig(VOCABULARY))
    if checkpoint is not None:
        read_weights(checkpoint, model)
    ids = {each: special(each) for each in SPECIALS}
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in model.official_weights().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", model.config.official(ids))
    end = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    _write(folder / "generation_config.json", {"do_sample": False, "eos_token_id": end, "pad_token_id": end[1]})
    tokenizer().save(str(folder / "tokenizer.json"), pretty=False)
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 4096,
            "clean_up_tokenization_spaces": False,
            "processor_class": "Qwen3VLProcessor",
        },
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    image, video = _image_processor(), _video_processor()
    _write(folder / "preprocessor_config.json", {**image, "processor_class": "Qwen3VLProcessor"})
    _write(folder / "video_preprocessor_config.json", {**video, "processor_class": "Qwen3VLProcessor"})
    together = {"processor_class": "Qwen3VLProcessor", "image_processor": image, "video_processor": video}
    _write(folder / "processor_config.json", together)
    return folder


def read_weights(checkpoint: Path, model: Mllm) -> None:
    """Give a model the weights of `mllm.pt`, or of a folder that was written before.

    Raises:
        InputError: it cannot be read, or is of another network.
    """
    if checkpoint.is_dir():
        model.load_official_weights(load_file(checkpoint / "model.safetensors"))
    else:
        model.load_state_dict(_of_checkpoint(checkpoint, model))


def _of_checkpoint(checkpoint: Path, model: Mllm) -> dict[str, torch.Tensor]:
    try:
        trained = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    except (OSError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise InputError(
            f"The checkpoint {checkpoint} cannot be read.",
            expected="mllm.pt of a training run",
            got=str(error).splitlines()[0],
            mend="python -m export.nano mllm --folder ...",
        ) from error
    own = {name.removeprefix(_TRAINED): value.float() for name, value in trained.items() if name.startswith(_TRAINED)}
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if {name: tuple(value.shape) for name, value in own.items()} != shapes:
        raise InputError(
            f"The checkpoint {checkpoint} is of another network.", expected=f"{len(shapes)} tensors of the nano MLLM"
        )
    return own


def _image_processor() -> dict[str, Any]:
    """Strips within the budget whose sides are multiples of 32 are taken as they are."""
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": 1,
        "size": {"shortest_edge": GRID * GRID, "longest_edge": PIXEL_BUDGET},
    }


def _video_processor() -> dict[str, Any]:
    """Videos are not what the model is for, but its kind has a processor of them."""
    return {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": 1,
        "size": {"shortest_edge": 4 * GRID * GRID, "longest_edge": PIXEL_BUDGET},
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
