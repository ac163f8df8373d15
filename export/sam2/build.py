"""Official SAM 2 models, from an official checkpoint or from a seed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from alref_edge.errors import InputError
from export.sam2.seeding import seed_weights
from export.sam2.variants import model_config, variant_of
from export.torchvision_ops import declare_operators


def build_model(variant: str, checkpoint: Path | None = None, *, seed: int | None = None) -> Any:
    """The official `SAM2VideoPredictor` with the policy of `build_sam2_video_predictor`, in evaluation mode on the CPU.

    Args:
        variant: a key of `VARIANTS`.
        checkpoint: an official `.pt`: `{"model": state_dict}`.
        seed: seeds random weights instead; exactly one of the two is given.

    Raises:
        InputError: unknown variant, neither or both of checkpoint and seed, or a checkpoint of another variant.
    """
    variant_of(variant)
    if (checkpoint is None) == (seed is None):
        raise InputError("Weights come from a checkpoint or from a seed.", expected="one of them", mend="give one.")
    state = None if checkpoint is None else read_checkpoint(checkpoint)
    declare_operators()
    from hydra.utils import instantiate

    model = instantiate(model_config(variant, video_policy=True), _recursive_=True)
    if state is not None:
        _load(model, state, variant, checkpoint)
    else:
        seed_weights(model, int(seed or 0))
    return model.eval().requires_grad_(False)


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of an official `.pt`; pickled code in it is refused.

    Raises:
        InputError: no such file, not a file of torch, or without a "model" of tensors.
    """
    if not path.is_file():
        raise InputError(f"There is no checkpoint at {path}.", mend="give the path of the official .pt file.")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path} is not a readable checkpoint: {reason}", mend="download the official .pt file again."
        ) from error
    state = loaded.get("model") if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        got = f"keys {sorted(map(str, loaded))[:5]}" if isinstance(loaded, dict) else type(loaded).__name__
        raise InputError(
            f"{path} is not an official SAM 2 checkpoint.",
            expected='{"model": state_dict}',
            got=got,
            mend="give the official .pt file, not a converted one.",
        )
    return state


def save_seeded_checkpoint(variant: str, seed: int, path: Path) -> None:
    """Write the weights of `build_model(variant, seed=seed)` in the official format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": build_model(variant, seed=seed).state_dict()}, path)


def _load(model: torch.nn.Module, state: dict[str, torch.Tensor], variant: str, path: Path | None) -> None:
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    if wanted == given:
        model.load_state_dict(state, strict=True)
        return
    missing = sorted(wanted.keys() - given.keys())
    unexpected = sorted(given.keys() - wanted.keys())
    misshapen = sorted(key for key in wanted.keys() & given.keys() if wanted[key] != given[key])
    found = [
        f"{len(keys)} {what}, such as {keys[0]}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if keys
    ]
    raise InputError(
        f"{path} does not hold the weights of {variant}.",
        expected=f"its {len(wanted)} tensors",
        got="; ".join(found),
        mend="name the variant that the checkpoint is of.",
    )
