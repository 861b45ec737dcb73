"""One training loop for base classifiers and surrogates that can be killed, or run out of time, and continue."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from examples.reproduce.clock import Clock
from rrise.calibration.storage.digests import json_digest
from rrise.calibration.storage.files import atomic_file
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.hardware import layout_for
from rrise.trainer.learning.schedule import one_cycle
from rrise.trainer.networks import read_safetensors

SAVE_EVERY = 20.0
"""Seconds of work that a kill may cost."""

LossOf = Callable[[Tensor, torch.Generator], Tensor]
"""From frame indices int64 [B] and the generator of all randomness, both on the device, to the mean loss."""


@dataclass(frozen=True)
class Schedule:
    """optimiser: "sgd" (Nesterov momentum 0.9) or "adam" (betas 0.5 and 0.999); the rate is the largest of one cycle.

    settings: digest of whatever else decides the outcome, so that a checkpoint of other settings is refused.
    """

    name: str
    epochs: int
    batch_size: int
    rate: float
    weight_decay: float
    optimiser: str = "sgd"
    seed: int = 0
    settings: str = ""

    @property
    def digest(self) -> str:
        """Of everything that decides what this training ends with."""
        return json_digest(asdict(self))

    def examples(self, num_frames: int) -> int:
        """Training examples in all: whole batches of `num_frames` frames, in every epoch."""
        size = min(self.batch_size, num_frames)
        return self.epochs * (num_frames // size) * size


def fit(
    network: nn.Module,
    schedule: Schedule,
    num_frames: int,
    loss_of: LossOf,
    checkpoint: Path,
    clock: Clock,
    device: torch.device,
) -> None:
    """Train `network` in place from its checkpoint or the start.

    The outcome on one machine does not depend on interruptions: weights, optimiser and generator are all restored.

    Raises OutOfTime between epochs, with a checkpoint written; TrainerError where the loss is not finite or the
    checkpoint belongs to other settings.
    """
    network.to(device).train()
    network.to(memory_format=layout_for(network, device))  # type: ignore[call-overload]
    optimiser = _optimiser(network, schedule)
    generator = torch.Generator(device).manual_seed(schedule.seed)
    size = min(schedule.batch_size, num_frames)
    steps = num_frames // size
    done = _restore(checkpoint, schedule, network, optimiser, generator, device)
    saved = time.monotonic()
    for epoch in range(done, schedule.epochs):
        start = time.monotonic()
        order = torch.randperm(num_frames, generator=generator, device=device)
        total = torch.zeros((), device=device)
        for step in range(steps):
            rate = schedule.rate * one_cycle((epoch * steps + step) / (schedule.epochs * steps))
            total += _step(
                optimiser, rate, loss_of, order[step * size : (step + 1) * size], generator, device
            )
        if not torch.isfinite(total):
            raise TrainerError(
                f"{schedule.name}: the loss is not finite in epoch {epoch + 1}; lower the rate"
            )
        now = time.monotonic()
        stop = clock.out_of_time(1.3 * (now - start)) and epoch + 1 < schedule.epochs
        if stop or now - saved > SAVE_EVERY:
            _save(checkpoint, schedule, network, optimiser, generator, epoch + 1)
            saved = now
        if stop:
            clock.check(f"{schedule.name}, epoch {epoch + 1} of {schedule.epochs}", 1.3 * (now - start))
    network.eval()


def _step(
    optimiser: torch.optim.Optimizer,
    rate: float,
    loss_of: LossOf,
    index: Tensor,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        loss = loss_of(index, generator)
    loss.backward()
    optimiser.step()
    return loss.detach().float()


def _optimiser(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    if schedule.optimiser == "adam":
        return torch.optim.Adam(
            network.parameters(), schedule.rate, betas=(0.5, 0.999), weight_decay=schedule.weight_decay
        )
    return torch.optim.SGD(
        network.parameters(),
        schedule.rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=schedule.weight_decay,
    )


def _save(
    path: Path,
    schedule: Schedule,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    epochs: int,
) -> None:
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors.update({f"optimiser/{number}/{name}": value for name, value in state.items()})
    tensors["generator"] = generator.get_state()
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    header = {"schedule": schedule.digest, "epochs": str(epochs)}
    with atomic_file(path) as file:
        file.write(save(plain, header))


def _restore(
    path: Path,
    schedule: Schedule,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    device: torch.device,
) -> int:
    """Load a checkpoint, if there is one; returns the epochs that are done."""
    if not path.exists():
        return 0
    tensors, header = read_safetensors(path)
    if header.get("schedule") != schedule.digest:
        raise TrainerError(f"{path}: a checkpoint of other settings; remove it or use another --out folder")
    generator.set_state(tensors.pop("generator"))
    network.load_state_dict(
        {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith("network/")}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser/"):
            _, number, field = name.split("/")
            state.setdefault(int(number), {})[field] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return int(header["epochs"])
