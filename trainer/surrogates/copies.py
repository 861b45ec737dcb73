"""Copies of the frame for a trained surrogate: how many, and the four numbers that pool them with it.

All is decided on the tuning split (and the milliseconds of this machine), before any calibration count is seen.
"""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rrise.calibration.errors import CheckFailed
from rrise.calibration.storage.onnx_limits import OPSET
from rrise.trainer.brought.user_code import describe_error
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.onnx_classifier import OnnxClassifier
from rrise.trainer.networks import Network
from rrise.trainer.networks.copies import WithCopies, pool
from rrise.trainer.workspace import Workspace

CHOICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Numbers of copies that a budget is tried with."""
WARM_UP, TIMED, QUANTILE = 3, 25, 0.9
PART = 64
FIT_NUMBERS = 1 << 25
"""Log-probabilities that fitting holds; of more classes it takes fewer tuning frames."""
RIDGE = 1e-5
"""Keeps the four numbers finite where the copies leave nothing to learn."""


@dataclass(frozen=True)
class Copies:
    """What was decided about copies.

    copies: k; 0 where not even one fits the budget. loss_alone, loss: mean cross-entropy of a Monte Carlo draw on the tuning
    frames, of the surrogate alone and with copies. temperature, sharpness, weight, power: see `WithCopies`.
    passes: base evaluations that fitting took. milliseconds: of one pass with so many copies, where a budget was asked.
    """

    copies: int
    loss_alone: float = 0.0
    loss: float = 0.0
    temperature: float = 1.0
    sharpness: float = 1.0
    weight: float = 0.0
    power: float = 1.0
    passes: int = 0
    milliseconds: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> tuple[str, str]:
        """Its line in a summary."""
        took = ", ".join(f"{count}: {value:.3g} ms" for count, value in self.milliseconds.items())
        text = f"{self.copies}" + (f" (measured here, {took})" if took else "")
        if not self.copies:
            return (
                "copies",
                text + "; not even one fits [surrogate] budget_ms, so the surrogate answers alone",
            )
        return (
            "copies",
            f"{text}; cross-entropy to the counts of tuning frames {self.loss_alone:.4f} alone, {self.loss:.4f} with them",
        )


def add_copies(
    workspace: Workspace, base: Network, network: nn.Module, spec: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any], Copies]:
    """The surrogate with the copies that [surrogate] asks for, the spec that builds it, and what was decided.

    Raises:
        TrainerError: the network cannot be timed here. CheckFailed: no pool of the two gives finite answers.
    """
    asked = workspace.config.surrogate
    times: dict[str, float] = {}
    count = asked.copies
    if asked.budget_ms:
        count, times = within_budget(workspace, base, network, asked.budget_ms)
    if not count:
        return network, dict(spec), Copies(0, milliseconds=times)
    module = with_copies(workspace, base, network, count)
    x, counts = workspace.inputs("tuning"), workspace.references("tuning").counts
    return module, copies_spec(workspace, base, spec, count), fit_pool(module, x, counts, times)


def core(network: Network) -> tuple[nn.Module, dict[str, Any]]:
    """The network that was trained, without its difficulty head and copies, and its spec."""
    module, spec = network.module, dict(network.spec)
    while spec["kind"] in ("difficulty", "copies"):
        module, spec = module.get_submodule("network"), dict(spec["network"])
    return module, spec


def with_copies(workspace: Workspace, base: Network, network: nn.Module, copies: int) -> WithCopies:
    """The surrogate with so many copies, before the pool is fitted."""
    sigma, seed = workspace.config.smoothing.sigma, workspace.config.surrogate.seed
    return WithCopies(network, base.module, copies, workspace.preprocess.output_shape, sigma, seed).eval()


def copies_spec(workspace: Workspace, base: Network, spec: Mapping[str, Any], copies: int) -> dict[str, Any]:
    """What `build_network` needs for it."""
    return {
        "kind": "copies",
        "network": dict(spec),
        "base": dict(base.spec),
        "copies": copies,
        "shape": list(workspace.preprocess.output_shape),
        "sigma": workspace.config.smoothing.sigma,
        "seed": workspace.config.surrogate.seed,
    }


def fit_pool(
    module: WithCopies, x: Tensor, counts: np.ndarray, times: Mapping[str, float] | None = None
) -> Copies:
    """Fit the four numbers of a module by the likelihood of class counts, and put them into it.

    x: tuning frames float32 [n, C, H, W]; counts: [n, K].

    Raises CheckFailed where the likelihood is not finite.
    """
    classes = counts.shape[1]
    used = min(len(x), max(FIT_NUMBERS // (module.copies * classes), 1))
    # Spread over the split, whose frames often come class by class.
    rows = torch.linspace(0, len(x) - 1, used, dtype=torch.float64).round().long()
    with torch.inference_mode():
        parts = [(module.network(part), module.answers(part)) for part in x[rows].split(PART)]
    alone, copies = (torch.cat(column).clone().double() for column in zip(*parts, strict=True))
    shares = torch.from_numpy(counts[rows.numpy()].astype(np.float64))
    shares /= shares.sum(1, keepdim=True)
    raw = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([raw], lr=0.5, max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        return cross_entropy(pool(alone, copies, *_numbers(raw)), shares)

    def closure() -> Tensor:
        optimiser.zero_grad()
        total = loss() + RIDGE * raw.square().sum()
        total.backward()
        return total

    optimiser.step(closure)
    with torch.no_grad():
        fitted, before = float(loss()), float(cross_entropy(alone, shares))
        numbers = [float(value) for value in _numbers(raw)]
    if not np.isfinite([fitted, before, *numbers]).all():
        raise CheckFailed(
            f"copies: the cross-entropy to the counts of tuning frames is {fitted}, expected a finite number; set [surrogate] "
            "copies = 0, or train the surrogate again"
        )
    for buffer, value in zip(
        (module.temperature, module.sharpness, module.weight, module.power), numbers, strict=True
    ):
        buffer.fill_(value)
    temperature, sharpness, weight, power = numbers
    return Copies(
        copies=module.copies,
        loss_alone=before,
        loss=fitted,
        temperature=temperature,
        sharpness=sharpness,
        weight=weight,
        power=power,
        passes=used * module.copies,
        milliseconds=dict(times or {}),
    )


def _numbers(raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Temperature, sharpness, weight and power from four free numbers."""
    return raw[0].exp(), raw[1].exp(), 1e-4 + (1 - 2e-4) * raw[2].sigmoid(), raw[3].exp()


def cross_entropy(logits: Tensor, shares: Tensor) -> Tensor:
    """Mean cross-entropy of one draw from class shares [n, K]."""
    return -(shares * logits.log_softmax(1)).sum(1).mean()


def within_budget(
    workspace: Workspace, base: Network, network: nn.Module, budget: float
) -> tuple[int, dict[str, float]]:
    """The most copies of CHOICES whose pass stays within `budget` milliseconds here, and what each that was tried took."""
    best, times = 0, {}
    for count in CHOICES:
        module = with_copies(workspace, base, network, count)
        times[str(count)] = milliseconds(module, workspace.preprocess.output_shape)
        if times[str(count)] > budget:
            break
        best = count
    return best, times


def milliseconds(module: nn.Module, shape: tuple[int, int, int]) -> float:
    """What nine of ten passes of one frame stay below: the module as an ONNX graph, ONNX Runtime, one thread, here.

    Processor time: what an idle machine would take, however busy this one is with other things.
    """
    x = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0))
    run, frame = OnnxClassifier(_graph(module, x), threads=1, origin="the surrogate with copies"), x.numpy()
    taken = []
    for _ in range(WARM_UP + TIMED):
        start = time.thread_time()
        run(frame)
        taken.append(1000 * (time.thread_time() - start))
    return float(np.quantile(taken[WARM_UP:], QUANTILE))


def _graph(module: nn.Module, x: Tensor) -> bytes:
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(module.eval(), (x,), buffer, dynamo=False, opset_version=OPSET)  # type: ignore[arg-type]
    except Exception as error:  # exporters raise whatever they like
        raise TrainerError(
            f"[surrogate] budget_ms: the network cannot be written as ONNX, so no pass can be timed ({describe_error(error)}); "
            "set copies to a number instead"
        ) from error
    return buffer.getvalue()
