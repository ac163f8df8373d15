"""A folder with an open multimodal LLM, looked at before a server takes a minute to say what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alref_edge.errors import InputError

_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
_NOT_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state.*)\.(bin|pt)")
_TEXTS = (".json", ".jinja", ".txt", ".model")
_SEES = re.compile(r"vision|visual|image|img_|mm_|multi_?modal", re.IGNORECASE)
_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "image_processor_config.json")
_POINTER = b"version https://git-lfs"
_MAX_CONFIG_BYTES = 4 << 20
_MAX_HEADER_BYTES = 100 << 20  # as safetensors itself allows
_LONGEST_EDGE = 10_000  # pixels; a larger number is an area
_SAMPLE_BYTES = 1 << 20
_WANTED = "a folder as transformers writes one: config.json, weights, tokenizer and image processor"
_WHOLE = "copy the whole model folder to this machine, its large files too; nothing is fetched from a hub."


@dataclass(frozen=True)
class ModelFolder:
    """A model that vLLM can be started with.

    Attributes:
        path: absolute.
        name: the folder's name and 12 digits of the hash of what is in it: two models never share one, so that answers
            kept on disk are never those of another model.
        context: most tokens of a prompt and its answer together, as the model was made; None if it does not say.
        dtype: of its weights, as config.json has it, or "".
    """

    path: Path
    name: str
    context: int | None
    dtype: str

    @classmethod
    def open(cls, path: Path | str) -> ModelFolder:
        """Look at a folder: configuration, weights, whether it sees images. Hashes a few MB of each file of weights.

        Raises:
            InputError: missing, not a model's folder, without weights or with some of them missing, or of a model for
                text alone.
        """
        folder = Path(os.path.abspath(os.path.expanduser(path)))
        if not folder.is_dir():
            raise InputError(
                "The model's folder is not there.",
                expected=_WANTED,
                got=f"{folder}{' is a file' if folder.exists() else ''}",
                mend="check --model. A model's name on a hub is no folder: nothing is fetched.",
            )
        try:
            config = _config(folder)
            weights = _weights(folder)
            _check_sees(folder, config)
            digest = _digest(folder, weights)
        except OSError as error:
            raise InputError(
                f"The model's folder {folder} cannot be read.", got=error, mend="check who may read it."
            ) from error
        text = next((part for key in ("text_config", "llm_config") if isinstance(part := config.get(key), dict)), {})
        context = text.get("max_position_embeddings", config.get("max_position_embeddings"))
        dtype = next((part[key] for part in (config, text) for key in ("dtype", "torch_dtype") if part.get(key)), "")
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-.") or "model"
        return cls(folder, f"{name}-{digest[:12]}", context if isinstance(context, int) else None, str(dtype))


def pixel_budget(folder: Path | str) -> int | None:
    """Most pixels of an image that the model's image processor keeps; None if the folder does not say.

    Written as `max_pixels`, or as the `longest_edge` of `size`, which is an area for the Qwen-VL family; a length, as
    others mean it by the same name, says nothing of the area and is left out.
    """
    for name in _PROCESSORS:
        try:
            with Path(folder, name).open("rb") as stream:
                processor = json.loads(stream.read(_MAX_CONFIG_BYTES))
            processor = processor.get("image_processor", processor)
            pixels = processor.get("max_pixels") or processor["size"].get("longest_edge")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
        if isinstance(pixels, int) and not isinstance(pixels, bool) and pixels > _LONGEST_EDGE:
            return pixels
    return None


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        with file.open("rb") as stream:
            config = json.loads(stream.read(_MAX_CONFIG_BYTES))
        if not isinstance(config, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError as error:
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "an empty folder"
        raise InputError(f"{folder} is not a model's folder.", expected=_WANTED, got=found, mend=_WHOLE) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read.", expected="a JSON object", got=error, mend=_WHOLE) from error
    return config


def _weights(folder: Path) -> list[Path]:
    """The files of weights, sorted, each of which is whole as far as can be told. Raises InputError."""
    found = sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix in _WEIGHTS and entry.is_file() and not _NOT_WEIGHTS.fullmatch(entry.name)
    )
    for index in sorted(folder.glob("*.index.json")):
        try:
            listed = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{index} cannot be read.", got=error, mend=_WHOLE) from error
        missing = sorted(str(name) for name in listed - {file.name for file in found})
        if missing and not _other_format_is_whole(index, found):
            raise InputError(
                f"Weights are missing in {folder}.",
                expected=f"{len(listed)} files that {index.name} lists",
                got=f"no {', '.join(missing[:4])}" + (f" and {len(missing) - 4} more" if len(missing) > 4 else ""),
                mend=_WHOLE,
            )
    if not found:
        raise InputError(f"There are no weights in {folder}.", expected=", ".join(_WEIGHTS), mend=_WHOLE)
    for file in found:
        if (damage := _damage(file)) is not None:
            raise InputError(f"The weights {file} are not whole.", got=damage, mend=_WHOLE)
    return found


def _damage(file: Path) -> str | None:
    """What is wrong with a file of weights, as far as its beginning and its size can tell; None if nothing is."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(len(_POINTER))
        if not start:
            return "an empty file"
        if start == _POINTER:
            return "a pointer of Git LFS in its place"
        if file.suffix != ".safetensors":
            return None
        length = int.from_bytes(start[:8], "little")
        stream.seek(8)
        try:
            header = json.loads(stream.read(min(length, _MAX_HEADER_BYTES)))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return "no header of safetensors"
    return None if size == expected else f"{size} bytes, and its header tells of {expected}"


def _other_format_is_whole(index: Path, found: list[Path]) -> bool:
    """Whether the index is that of a format which the folder need not have, beside one that it has."""
    return index.name.startswith("pytorch_model") and any(file.suffix == ".safetensors" for file in found)


def _check_sees(folder: Path, config: dict[str, Any]) -> None:
    if any(_SEES.search(key) for key in config) or any((folder / name).is_file() for name in _PROCESSORS):
        return
    architectures = config.get("architectures")
    raise InputError(
        f"The model in {folder} reads text alone.",
        expected="a multimodal model, such as Qwen2.5-VL, Qwen3-VL, InternVL or Gemma 3",
        got=", ".join(map(str, architectures)) if isinstance(architectures, list) else config.get("model_type"),
        mend="name the folder of a model that sees images.",
    )


def _digest(folder: Path, weights: list[Path]) -> str:
    """Hash of all small texts, and of the size, beginning, middle and end of each file of weights."""
    sha = hashlib.sha256()
    texts = sorted(entry for entry in folder.iterdir() if entry.suffix in _TEXTS and entry.is_file())
    for file in (*texts, *weights):
        size = file.stat().st_size
        sha.update(f"{file.name}\0{size}\0".encode(errors="surrogateescape"))
        with file.open("rb") as stream:
            if file in texts or size <= 3 * _SAMPLE_BYTES:
                sha.update(hashlib.sha256(stream.read()).digest())
                continue
            for offset in (0, size // 2, size - _SAMPLE_BYTES):
                stream.seek(offset)
                sha.update(stream.read(_SAMPLE_BYTES))
    return sha.hexdigest()
