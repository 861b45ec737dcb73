"""Training of base classifiers: one for each recipe and member, and the choice among recipes on the tuning split."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.special import ndtri
from torch import Tensor, nn

from rrise.trainer.base_classifier.specs import base_spec, load_start
from rrise.trainer.classifiers.blackbox import label_function
from rrise.trainer.data.settings import plain
from rrise.trainer.learning import Session, Trained, train_network
from rrise.trainer.learning.engine import LossFunction
from rrise.trainer.learning.fitting import PRETRAINED, SCRATCH, schedule_for
from rrise.trainer.learning.kept import Kept
from rrise.trainer.learning.recipes import consistency, gaussian
from rrise.trainer.learning.views import View, noisy
from rrise.trainer.learning.watch import Measure
from rrise.trainer.networks import Ensemble, build_network, save_network
from rrise.trainer.settings.config import BaseConfig
from rrise.trainer.workspace import Workspace

DEFAULTS = {"settings": plain(asdict(BaseConfig()))}
"""What a training of an older version had, whose settings do not name all keys of [base]."""
WATCHED = 512
"""Tuning frames on which accuracy under noise is watched while training."""
JUDGED, LEAST_DRAWS, MOST_DRAWS, PART = 1000, 200, 2000, 256
"""Tuning frames that choose a recipe, and noisy evaluations of each."""


@dataclass(frozen=True)
class Choice:
    """One recipe on the tuning split.

    certified: share of frames with the right label and an estimated radius of at least [guarantee] radius; the mean
    estimated radius of the right label where that is 0. Point estimates: they choose, they promise nothing.
    """

    recipe: str
    certified: float


@dataclass(frozen=True)
class BaseRecipe:
    """name: "gaussian" or "consistency"; strength: lambda of consistency, 0 for gaussian."""

    name: str
    strength: float = 0.0

    def __str__(self) -> str:
        return f"{self.name}-{self.strength:g}" if self.strength else self.name


def recipes(workspace: Workspace) -> tuple[BaseRecipe, ...]:
    """What [base] recipe asks to be tried."""
    asked = workspace.config.base
    found = [BaseRecipe("gaussian")] if asked.recipe in ("auto", "gaussian") else []
    if asked.recipe in ("auto", "consistency"):
        found += [BaseRecipe("consistency", strength) for strength in asked.strengths]
    return tuple(found)


def train_under_noise(
    workspace: Workspace,
    session: Session,
    settings: dict[str, Any],
    weights: tuple[dict[str, Tensor], str] | None,
    *,
    allow_code: bool = False,
) -> None:
    """Write base.safetensors: of every recipe and member one network is trained, and the best recipe kept.

    weights: to start from, with their origin; None for fresh ones.
    """
    work = _Work(workspace, session, settings, weights, allow_code)
    made = [work.classifier(recipe) for recipe in recipes(workspace)]
    choices = [Choice(str(recipe), 0.0) for recipe in recipes(workspace)]
    if len(made) > 1:
        choices = [
            Choice(choice.recipe, certified_share(workspace, module, session))
            for choice, (module, _) in zip(choices, made, strict=True)
        ]
    best = max(range(len(made)), key=lambda number: choices[number].certified)
    module, trained = made[best]
    metadata = {
        **settings,
        "loss": round(trained[0].loss, 6),
        "epochs": workspace.config.base.epochs,
        "recipe": choices[best].recipe,
        "candidates": [asdict(choice) for choice in choices] if len(made) > 1 else [],
        "trained_on": dict(trained[0].machine),
    }
    if session.first:
        save_network(workspace.base_path, module, work.spec(), metadata)
        copies = copies_of_view(workspace, recipes(workspace)[best])
        workspace.record_cost("base", trained=copies * sum(item.examples for item in trained))
    session.finish("base")
    work.kept.clear()


class _Work:
    """What the trainings of one base classifier share."""

    def __init__(
        self,
        workspace: Workspace,
        session: Session,
        settings: dict[str, Any],
        weights: tuple[dict[str, Tensor], str] | None,
        allow_code: bool,
    ) -> None:
        self.workspace, self.session, self.settings = workspace, session, settings
        self.weights, self.allow_code = weights, allow_code
        self.inputs = workspace.training_inputs()
        self.labels = torch.from_numpy(workspace.labels("train")).to(session.device)
        self.kept = Kept(session, settings, DEFAULTS)
        self._measure = watch_accuracy(workspace, session.device)

    def spec(self) -> dict[str, Any]:
        """Of the network that is written."""
        one, members = base_spec(self.workspace), self.workspace.config.base.members
        return one if members == 1 else {"kind": "ensemble", "members": [one] * members}

    def classifier(self, recipe: BaseRecipe) -> tuple[nn.Module, list[Trained]]:
        """The base classifier of one recipe: its only member, or the ensemble of them."""
        members = self.workspace.config.base.members
        made = [self._member(recipe, member) for member in range(members)]
        modules = [module for module, _ in made]
        return modules[0] if members == 1 else Ensemble(modules).eval(), [trained for _, trained in made]

    def _member(self, recipe: BaseRecipe, member: int) -> tuple[nn.Module, Trained]:
        asked = self.workspace.config.base
        several = len(recipes(self.workspace)) > 1 or asked.members > 1
        stage = f"base-{recipe}-{member}" if several else "base"
        label = f"base classifier ({recipe}" + (f", member {member + 1})" if asked.members > 1 else ")")
        module = self._initial(member)
        start = PRETRAINED if self.weights else SCRATCH
        schedule = schedule_for(asked, asked.epochs, start, len(self.inputs), member)

        def run(network: nn.Module) -> Trained:
            return train_network(
                network,
                schedule,
                self.inputs,
                self._objective(recipe),
                self.session,
                stage=stage,
                label=label,
                settings=self.settings,
                defaults=DEFAULTS,
                measure=self._measure,
                balance=self.labels if asked.balance else None,
            )

        trained = self.kept.network(stage, base_spec(self.workspace), module, run) if several else run(module)
        return module, trained

    def _initial(self, member: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.workspace.config.base.seed + 100 * member)
            network = build_network(base_spec(self.workspace), allow_code=self.allow_code)
        if self.weights:
            load_start(network, *self.weights, new_head=True)
        return network

    def _objective(self, recipe: BaseRecipe) -> LossFunction:
        asked, sigma = self.workspace.config.base, self.workspace.config.smoothing.sigma
        view, copies = View(asked.shift, asked.flip), copies_of_view(self.workspace, recipe)
        if recipe.name == "gaussian":
            return gaussian(self.labels, view, sigma, copies)
        return consistency(self.labels, view, sigma, copies, recipe.strength, asked.entropy)


def copies_of_view(workspace: Workspace, recipe: BaseRecipe) -> int:
    """Noisy copies of each view that a recipe trains on: one copy cannot disagree with itself."""
    asked = workspace.config.base.copies
    return max(asked, 2) if recipe.name == "consistency" else asked


def watch_accuracy(workspace: Workspace, device: torch.device) -> Measure:
    """Accuracy of one noisy evaluation of each of some tuning frames; always the same noise."""
    x = workspace.inputs("tuning")[:WATCHED].to(device)
    labels = torch.from_numpy(workspace.labels("tuning")[:WATCHED]).to(device)
    sigma = workspace.config.smoothing.sigma

    def measure(network: nn.Module) -> dict[str, float]:
        generator, right = torch.Generator(device).manual_seed(0), 0
        with torch.no_grad():
            for part, wanted in zip(x.split(PART), labels.split(PART), strict=True):
                right += int((network(noisy(part, sigma, generator)).argmax(1) == wanted).sum())
        return {"noisy_accuracy": right / len(x)}

    return measure


def certified_share(workspace: Workspace, module: nn.Module, session: Session) -> float:
    """What recipes are compared by, see `Choice`."""
    sigma, objective = workspace.config.smoothing.sigma, workspace.config.guarantee.objective
    x = workspace.inputs("tuning")[:JUDGED]
    wanted = torch.from_numpy(workspace.labels("tuning")[:JUDGED]).to(session.device)
    answer = label_function(
        module, len(workspace.dataset.class_names), workspace.config.targets.dtype, session.device
    )
    draws = _draws(max(objective.radii, default=0.0) / sigma)
    hits = _hits(answer, x, wanted, sigma, draws, session.device)
    estimated = sigma * ndtri(((hits + 0.5) / (draws + 1)).cpu().double().numpy())
    return objective.worth(estimated.clip(0))


def judging_passes(workspace: Workspace, frames: int) -> int:
    """Noisy evaluations that the choice among several recipes takes, of so many tuning frames."""
    asked = workspace.config
    draws = _draws(max(asked.guarantee.objective.radii, default=0.0) / asked.smoothing.sigma)
    return len(recipes(workspace)) * min(frames, JUDGED) * draws


def _draws(deviations: float) -> int:
    """Enough that a frame whose radius is `deviations` sigma is missed a few times."""
    missed = 0.5 * math.erfc(deviations / math.sqrt(2))
    return min(max(LEAST_DRAWS, math.ceil(5 / max(missed, 1e-9))), MOST_DRAWS)


def _hits(
    answer: Callable[[Tensor], Tensor],
    x: Tensor,
    wanted: Tensor,
    sigma: float,
    draws: int,
    device: torch.device,
) -> Tensor:
    """How many of `draws` noisy evaluations of each frame give its label, int64 [n]."""
    generator = torch.Generator(device).manual_seed(1)
    hits = torch.zeros(len(x), dtype=torch.int64, device=device)
    with torch.inference_mode():
        for start in range(0, len(x), PART):
            part, rows = x[start : start + PART].to(device), slice(start, start + PART)
            for _ in range(draws):
                hits[rows] += answer(noisy(part, sigma, generator)) == wanted[rows]
    return hits
