"""The search of the attack: projected gradient ascent on the overshoot of the surrogate over the smoothed classifier."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from rrise.calibration.console import Progress
from rrise.calibration.promise.head import CertificateHead
from rrise.trainer.classifiers.blackbox import BlackBoxModule, label_function
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.feed import seeded
from rrise.trainer.networks import Network
from rrise.trainer.scores.surrogate_scores import predict_inputs

BATCH = 64
CLASSES = 3
"""Labels aimed at: the surrogate's most likely ones, in turn."""
SAMPLED_PASSES = 32
"""Guarded tier: draws of the guard noise under which the attacker compares his results; the judged one he cannot know."""
FAR = 1e3
"""A frame on which nothing is issued is worth less than any on which something is, by this, and the nearer one more."""
SPARE = 1.0
"""Log-odds beyond what a certificate needs, against guard noise that the attacker does not know."""
MOMENTUM = 0.75
WAY = 2.5
"""Length of all steps of an ascent together, in units of the budget; from the first to the last they shrink to nothing."""
VOTES = 400
"""Noisy evaluations by which the attacker compares his results; the judge draws others."""


@dataclass(frozen=True)
class Search:
    """Budget and effort of the attack.

    rho: L2 budget in [0, 1] pixel units. steps: of gradient ascent. draws: noise draws per step, of the smoothing noise
    and of the guard noise. seed: of all of them. restarts: ascents for each label, the first two from the clean frame
    and the others from random points of the ball.
    """

    rho: float
    steps: int = 40
    draws: int = 8
    seed: int = 0
    restarts: int = 2

    def __post_init__(self) -> None:
        for name, value in (
            ("rho", self.rho),
            ("steps", self.steps),
            ("draws", self.draws),
            ("restarts", self.restarts),
        ):
            if not (math.isfinite(value) and (value > 0 or (name == "rho" and value == 0))):
                raise TrainerError(f"attack: got {name} {value}, expected a positive number")


def search(
    base: nn.Module,
    surrogate: Network,
    head: CertificateHead,
    clean: Tensor,
    num_classes: int,
    settings: Search,
    device: torch.device | None = None,
) -> Tensor:
    """Move each of `clean`, float32 [n, C, h, w] in [0, 1], by at most rho so that its issued radius overshoots.

    For each aimed-at label the objective is the surrogate's log-odds of it (over the guard noise) minus the smoothed
    classifier's (over the smoothing noise, with softmax in place of votes). Every second ascent counts the surrogate's only
    up to a little more than the smallest certificate needs, and spends the rest of its way on the classifier. Of all
    results, half-way ones too, the attacker keeps frame by frame the one that most often issues a radius above his own
    estimate of the true one; where none issues anything, the one that comes nearest to it.

    device: where gradients and votes are computed; None is the processor. Noise is drawn on the processor, so that every device
    sees the same, and so does what a candidate issues: the execution that was calibrated runs there. The result lies there, too.
    """
    place, generator = device or torch.device("cpu"), seeded(settings.seed)
    labels = label_function(base, num_classes, "float32", place)
    # Copies: what is calibrated stays where it is.
    followed = replace(surrogate, module=_copied(surrogate.module, place))
    base = base if isinstance(base, BlackBoxModule) else _copied(base, place)
    parts = []
    aims = min(CLASSES, num_classes)
    with Progress(len(clean) * aims * settings.restarts * settings.steps, "steps", "attack") as progress:
        for part in clean.split(BATCH):
            with torch.inference_mode():
                ranked = _logits(surrogate, part).topk(aims, dim=1).indices
            found = [part]
            clean_part = part.to(place)
            for label in ranked.clone().unbind(1):
                needed = needed_log_odds(head, label.numpy())
                for start in range(settings.restarts):
                    first = part if start < 2 else _anywhere(part, settings.rho, generator)
                    enough = needed if start % 2 else torch.full_like(needed, math.inf)
                    aim = Aim(label.to(place), enough.to(place))
                    ends = _ascend(
                        base, followed, clean_part, first.to(place), aim, head.sigma, settings, generator
                    )
                    found += [end.cpu() for end in ends]
                    progress.advance(len(part) * settings.steps)
            parts.append(_keep_best(labels, surrogate, head, found, generator, place))
    return torch.cat(parts)


def _copied(module: nn.Module, device: torch.device) -> nn.Module:
    """The module itself on the processor, elsewhere a copy."""
    return module if device.type == "cpu" else copy.deepcopy(module).to(device)


@dataclass(frozen=True)
class Aim:
    """label: int64 [B]. enough: float32 [B], the surrogate's log-odds of it beyond which an ascent wants no more."""

    label: Tensor
    enough: Tensor


def needed_log_odds(head: CertificateHead, label: np.ndarray) -> Tensor:
    """The surrogate's log-odds of `label` int64 [B] at which it issues its smallest certificate, and `SPARE` more.

    At a difficulty of 1 where the head has one; infinite where no probit is enough.
    """
    grid = np.linspace(-4.0, 8.0, 481, dtype=np.float32)
    ones = np.ones(len(grid), np.float32) if head.difficulty else None
    found = np.full(len(label), np.inf)
    for name in np.unique(label):
        issued = head.radius(grid, np.full(len(grid), name), ones) > 0
        if issued.any():
            probit = torch.tensor(float(grid[issued.argmax()])).double()
            log_odds = torch.special.log_ndtr(probit) - torch.special.log_ndtr(-probit)
            found[label == name] = float(log_odds) + SPARE
    return torch.from_numpy(found).float()


def _anywhere(clean: Tensor, rho: float, generator: torch.Generator) -> Tensor:
    """A random point on the sphere of radius rho around each frame, pulled back into range."""
    way = torch.randn(clean.shape, generator=generator)
    length = way.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
    return project(clean + rho * way / length, clean, rho)


def _ascend(
    base: nn.Module,
    surrogate: Network,
    clean: Tensor,
    first: Tensor,
    aim: Aim,
    sigma: float,
    settings: Search,
    generator: torch.Generator,
) -> list[Tensor]:
    """The frames half-way and at the end of one ascent that begins at `first`."""
    moved, kept, way = first.clone(), [], torch.zeros_like(first)
    for step in range(settings.steps):
        moved = moved.detach().requires_grad_(True)
        claimed = _log_odds(
            lambda x: _logits(surrogate, x), moved, surrogate.guard_noise, aim.label, settings, generator
        )
        objective = claimed.minimum(aim.enough).sum()
        if not isinstance(
            base, BlackBoxModule
        ):  # which has no gradient: then the surrogate alone is attacked
            objective = objective - _log_odds(base, moved, sigma, aim.label, settings, generator).sum()
        (gradient,) = torch.autograd.grad(objective, moved)
        moved = moved.detach()
        # A pixel at the end of its range that is pushed further would eat the step and go nowhere.
        stuck = ((moved <= 0) & (gradient < 0)) | ((moved >= 1) & (gradient > 0))
        gradient = gradient.masked_fill(stuck, 0.0)
        # Every gradient is of other noise; their mean knows the way better than the last of them.
        way = MOMENTUM * way + gradient / _length(gradient)
        size = 2 * WAY * settings.rho / settings.steps * (1 - step / settings.steps)
        moved = project(moved + size * way.masked_fill(stuck, 0.0) / _length(way), clean, settings.rho)
        if step + 1 in (settings.steps, settings.steps // 2):
            kept.append(moved)
    return kept


def _length(x: Tensor) -> Tensor:
    length: Tensor = x.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
    return length


def project(moved: Tensor, clean: Tensor, rho: float) -> Tensor:
    """The nearest frame within rho of `clean`, and within [0, 1] (pulling a pixel back into range shortens the way)."""
    way = moved - clean
    length: Tensor = way.flatten(1).norm(dim=1).clamp_min(1e-12)
    return (clean + way * (rho / length).clamp_max(1.0)[:, None, None, None]).clamp(0.0, 1.0)


def _logits(surrogate: Network, x: Tensor) -> Tensor:
    outputs = surrogate.module(x)
    logits: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return logits


def _log_odds(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    noise: float,
    label: Tensor,
    settings: Search,
    generator: torch.Generator,
) -> Tensor:
    """Log-odds of `label`, [B], of the mean softmax over noise draws; of one plain pass where there is no noise.

    From logits: a softmax is 1 in float32 from log-odds of 17 on, and then says nothing of the way.
    """
    draws = settings.draws if noise else 1
    many = x.repeat(draws, 1, 1, 1)
    if noise:
        many = many + noise * torch.randn(many.shape, generator=generator).to(x.device)
    logs = network(many).log_softmax(1).view(draws, len(x), -1)
    mine = label[None, :, None].expand(draws, -1, 1)
    others = logs.scatter(2, mine, -math.inf).logsumexp(2)
    chosen: Tensor = logs.gather(2, mine)[:, :, 0].logsumexp(0) - others.logsumexp(0)
    return chosen


def _keep_best(
    labels: Callable[[Tensor], Tensor],
    surrogate: Network,
    head: CertificateHead,
    found: list[Tensor],
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Of several results per frame, the one with the largest estimated overshoot."""
    # The same noise for every candidate: else the luckiest of a dozen estimates wins, not the best move.
    seed = int(torch.randint(2**62, (1,), generator=generator))
    overshoots = torch.stack([_overshoot(labels, surrogate, head, x, seeded(seed), device) for x in found])
    best = overshoots.argmax(0)
    return torch.stack(found)[best, torch.arange(len(best))]


def _overshoot(
    labels: Callable[[Tensor], Tensor],
    surrogate: Network,
    head: CertificateHead,
    x: Tensor,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """How much the attacker likes each frame, float64 [B].

    Mean over passes of whether the radius issued is above his estimate of the true one, and by how much; where nothing
    is issued, how far it is from that, less `FAR`.
    """
    noise = surrogate.guard_noise
    votes = []
    with torch.inference_mode():
        for _ in range(VOTES):
            noisy = x + head.sigma * torch.randn(x.shape, generator=generator)
            votes.append(labels(noisy.to(device)).cpu().numpy())
    counts = np.stack(votes)
    total = np.zeros(len(x))
    for _ in range(SAMPLED_PASSES if noise else 1):
        seen = x + noise * torch.randn(x.shape, generator=generator) if noise else x
        predicted = predict_inputs(surrogate.module, seen.numpy())
        radius = head.radius(predicted.probit, predicted.label, predicted.difficulty)
        share = ((counts == predicted.label[None]).sum(0) + 0.5) / (VOTES + 1)
        above = radius - head.sigma * torch.special.ndtri(torch.from_numpy(share)).numpy()
        margin = head.raw_radius(predicted.probit) - head.margin(predicted.label, predicted.difficulty)
        total += np.where(radius > 0, (above > 0) + above, margin - FAR)
    return torch.from_numpy(total)
