"""How the weights move: optimiser, learning rate over time, decay by layer, clipping, averaging."""

from __future__ import annotations

import copy
import math
from dataclasses import MISSING, dataclass, fields

import torch
from torch import Tensor, nn

from rrise.trainer.errors import TrainerError

OPTIMISERS = ("sgd", "adamw")
SHAPES = ("one-cycle", "cosine")

WARM_UP, FIRST_SHARE = 0.2, 0.04
COSINE_WARM_UP = 0.05


@dataclass(frozen=True)
class Schedule:
    """Everything about the optimisation that decides the outcome.

    learning_rate: the largest of the whole course. optimiser: "sgd" (Nesterov momentum 0.9) or "adamw" (no decay of
    biases and normalisation). shape: "one-cycle" (Smith and Topin 2019) or "cosine".
    layer_decay: factor on the rate from each layer to the one before it, 1 = none: what early layers of a pretrained
    network have learned is general, and small noisy data sets would only damage it.
    clip: largest L2 norm of the gradient, 0 = any. ema: decay per step of the weights' running average, which is then what
    training returns, 0 = none. seed: of the order of frames and of everything that the objective draws.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    optimiser: str = "sgd"
    shape: str = "one-cycle"
    layer_decay: float = 1.0
    clip: float = 0.0
    ema: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, got, allowed in (
            ("optimiser", self.optimiser, OPTIMISERS),
            ("schedule", self.shape, SHAPES),
        ):
            if got not in allowed:
                raise TrainerError(f"{name}: got {got!r}, expected one of {', '.join(allowed)}")

    def size(self, num_frames: int, processes: int = 1) -> int:
        """Frames of one step: the batch size, not more than there are, and the same number for every process.

        Raises TrainerError where a process would get none, since the mean of nothing is NaN.
        """
        size = min(self.batch_size, num_frames) // processes * processes
        if size == 0:
            raise TrainerError(
                f"got a batch of {min(self.batch_size, num_frames)} frames for {processes} processes, expected at least "
                "one frame for each; raise batch_size or start fewer processes"
            )
        return size

    def steps(self, num_frames: int, processes: int = 1) -> int:
        """Of the whole training: whole batches only; the ragged rest of an epoch waits for another epoch's order."""
        return self.epochs * (num_frames // self.size(num_frames, processes))

    def examples(self, num_frames: int, processes: int = 1) -> int:
        """Frames seen in training steps, with repeats."""
        return self.steps(num_frames, processes) * self.size(num_frames, processes)

    def rate(self, progress: float) -> float:
        """Learning rate after `progress` in [0, 1] of the steps."""
        return self.learning_rate * (one_cycle if self.shape == "one-cycle" else cosine)(progress)


SCHEDULE_DEFAULTS = {entry.name: entry.default for entry in fields(Schedule) if entry.default is not MISSING}
"""What a schedule that does not name them had."""


def one_cycle(progress: float) -> float:
    """Share of the largest learning rate after `progress` in [0, 1] of the steps.

    A linear rise over the first fifth from 1/25, then half a cosine down to nothing (after Smith and Topin 2019).
    """
    return _warmed(progress, WARM_UP, FIRST_SHARE)


def cosine(progress: float) -> float:
    """The same with a short rise from nothing over the first twentieth: for weights that are good already."""
    return _warmed(progress, COSINE_WARM_UP, 0.0)


def _warmed(progress: float, warm_up: float, first: float) -> float:
    if progress < warm_up:
        return first + (1 - first) * progress / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warm_up) / (1 - warm_up))


class Optimiser:
    """The optimiser of a schedule on one network; every parameter group keeps its own factor on the rate."""

    def __init__(self, network: nn.Module, schedule: Schedule) -> None:
        self.schedule = schedule
        self._groups = _groups(network, schedule)
        self.inner = _inner(self._groups, schedule)
        self._weights = [weight for group in self._groups for weight in group.weights]

    def step(self, progress: float, scaler: torch.amp.GradScaler) -> None:
        """One step at the rate that belongs to `progress`, with gradients that `scaler` made larger."""
        rate = self.schedule.rate(progress)
        for group, planned in zip(self.inner.param_groups, self._groups, strict=True):
            group["lr"] = rate * planned.factor
        if self.schedule.clip:
            scaler.unscale_(self.inner)
            torch.nn.utils.clip_grad_norm_(self._weights, self.schedule.clip)
        scaler.step(self.inner)
        scaler.update()

    def state(self) -> dict[str, Tensor]:
        """Momenta and the like as tensors by name, for a checkpoint."""
        found = {}
        for number, values in self.inner.state_dict()["state"].items():
            found.update(
                {f"{number}/{name}": torch.as_tensor(v) for name, v in values.items() if v is not None}
            )
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue with what `state` gave."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            number, _, entry = name.partition("/")
            state.setdefault(int(number), {})[entry] = value
        self.inner.load_state_dict({**self.inner.state_dict(), "state": state})


@dataclass(frozen=True)
class Group:
    """Weights that share weight decay and factor on the learning rate."""

    weights: list[nn.Parameter]
    decay: float
    factor: float


def _inner(groups: list[Group], schedule: Schedule) -> torch.optim.Optimizer:
    plain = [{"params": group.weights, "weight_decay": group.decay} for group in groups]
    if schedule.optimiser == "adamw":
        return torch.optim.AdamW(plain, schedule.learning_rate)
    return torch.optim.SGD(plain, schedule.learning_rate, momentum=0.9, nesterov=True)


def _groups(network: nn.Module, schedule: Schedule) -> list[Group]:
    """Trainable weights by factor on the rate and by decay; in a fixed order, which checkpoints rely on."""
    named = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
    if not named:
        raise TrainerError("the network has no trainable weight; expected a module with parameters")
    factors = layer_factors([name for name, _ in named], schedule.layer_decay)
    found: dict[tuple[float, float], Group] = {}
    for name, weight in named:
        spared = schedule.optimiser == "adamw" and weight.ndim < 2
        decay, factor = 0.0 if spared else schedule.weight_decay, factors[name]
        found.setdefault((factor, decay), Group([], decay, factor)).weights.append(weight)
    return list(found.values())


def layer_factors(names: list[str], decay: float) -> dict[str, float]:
    """Factor on the learning rate of each parameter: `decay` once for every layer between it and the last one.

    A layer is what a name says up to its first number, in the order in which the network registers them.

    >>> layer_factors(["stem.weight", "blocks.0.a", "blocks.0.b", "blocks.1.a", "head.weight"], 0.5)["blocks.0.b"]
    0.25
    """
    layers: dict[str, int] = {}
    keys = {name: _layer(name) for name in names}
    for key in keys.values():
        layers.setdefault(key, len(layers))
    return {name: decay ** (len(layers) - 1 - layers[key]) for name, key in keys.items()}


def _layer(name: str) -> str:
    words = name.split(".")
    number = next((place for place, word in enumerate(words) if word.isdigit()), None)
    return ".".join(words[: number + 1]) if number is not None else words[0]


class Average:
    """The running average of a network's weights and statistics (Polyak and Juditsky 1992), slower as steps pass."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps: at first quickly, so that the start is forgotten."""
        share = 1.0 - min(self._decay, (1.0 + step) / (10.0 + step))
        mine, theirs = self.network.state_dict(), network.state_dict()
        floats = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], share)
        for name in mine.keys() - set(floats):
            mine[name].copy_(theirs[name])
