"""Muon for the matrices of layers, AdamW for all else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_MUON_SCALE = 5 / 3


class MuonAdamW:
    """Both behind the few methods of an optimiser that a training loop calls.

    Args:
        model: what is trained.
        matrices: its parameters that Muon moves.
        weight_decay: of these; the others have none.

    Attributes:
        param_groups: of both; "scale" is what the learning rate is multiplied with.
    """

    def __init__(self, model: nn.Module, matrices: Sequence[Tensor], weight_decay: float) -> None:
        own = {id(each) for each in matrices}
        rest = [each for each in model.parameters() if id(each) not in own]
        self._parts = (
            torch.optim.Muon(matrices, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, weight_decay=0.0, betas=(0.9, 0.98)),
        )
        self._parts[0].param_groups[0]["scale"] = _MUON_SCALE

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self._parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """See `torch.optim.Optimizer`."""
        for part in self._parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """See `torch.optim.Optimizer`."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """See `torch.optim.Optimizer`."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`."""
        for part, each in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(each)
