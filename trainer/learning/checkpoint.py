"""A training that can be killed: everything it continues from, in one safetensors file with a JSON header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from rrise.calibration.storage.files import atomic_file, parse_json
from rrise.calibration.storage.formats import check_format
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.schedule import Average, Optimiser
from rrise.trainer.networks.files import differences, read_safetensors, with_defaults

FORMAT = 1
KEY = "rrise-checkpoint"


@dataclass(frozen=True)
class Position:
    """How far a training is.

    steps: done; examples and seconds: spent; parts: pieces that a batch is cut into. loss_sum, loss_steps: of the epoch
    that runs, or that ended last.

    Random numbers need no state of their own: order, views and noise of a step follow from the seed and its number.
    """

    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    parts: int = 1
    loss_sum: float = 0.0
    loss_steps: int = 0

    @property
    def loss(self) -> float:
        """Mean over the epoch."""
        return self.loss_sum / max(self.loss_steps, 1)


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds."""

    network: nn.Module
    optimiser: Optimiser
    average: Average | None
    scaler: torch.amp.GradScaler

    def tensors(self) -> dict[str, Tensor]:
        """By name; copies in host memory, since weights may share it."""
        found = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        found |= {f"optimiser/{name}": value for name, value in self.optimiser.state().items()}
        if self.average is not None:
            found |= {f"average/{name}": v for name, v in self.average.network.state_dict().items()}
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in found.items()}


def save_checkpoint(
    path: Path,
    state: TrainingState,
    position: Position,
    settings: Mapping[str, Any],
    machine: Mapping[str, Any],
) -> None:
    """Write a checkpoint, whole or not at all."""
    header = {
        "format": FORMAT,
        "settings": settings,
        "machine": machine,
        "position": asdict(position),
        "scaler": state.scaler.state_dict(),
    }
    with atomic_file(path) as file:
        file.write(save(state.tensors(), {KEY: json.dumps(header, sort_keys=True)}))


def restore_checkpoint(
    path: Path,
    state: TrainingState,
    settings: Mapping[str, Any],
    machine: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    again: bool = False,
) -> Position:
    """Continue from a checkpoint, where there is one.

    defaults: of settings that a checkpoint of an older version does not name. again: start over where it is of other settings.

    Raises TrainerError where it belongs to other settings (named), or to another device type, precision or number of
    processes: the weights would be neither those of the one nor of the other.
    """
    if not path.exists():
        return Position()
    tensors, header = read_safetensors(path)
    if KEY not in header:
        raise TrainerError(f"{path}: not a checkpoint of rrise-train; remove it")
    try:
        found = dict(parse_json(header[KEY], finite=False))
    except (ValueError, TypeError) as error:
        raise TrainerError(
            f"{path}: its header is no JSON ({error}); remove it, and training starts over"
        ) from error
    mend = "finish this training with the version that began it, or start over with --again"
    check_format(f"checkpoint {path}", found.get("format"), (FORMAT,), mend, TrainerError)
    wanted, known = (
        json.loads(json.dumps(table)) for table in ({**settings, "machine": machine}, defaults or {})
    )
    given = with_defaults({**found["settings"], "machine": found["machine"]}, known)
    for name, got, expected in differences(given, wanted):
        if again:
            return Position()
        raise TrainerError(
            f"{path}: an unfinished training with other settings: {name}: got {got}, expected {expected}; restore "
            "them to continue, or start over with --again"
        )
    _load(state, tensors, found["scaler"])
    return Position(**found["position"])


def _load(state: TrainingState, tensors: Mapping[str, Tensor], scaler: Mapping[str, Any]) -> None:
    state.network.load_state_dict(_below(tensors, "network/"))
    state.optimiser.load(_below(tensors, "optimiser/"))
    if state.average is not None:
        state.average.network.load_state_dict(_below(tensors, "average/"))
    state.scaler.load_state_dict(dict(scaler))


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
