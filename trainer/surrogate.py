"""The surrogate: one network that predicts the smoothed classifier's class probabilities in a single pass.

Soft-label cross-entropy on class shares n_c / N is, at fixed weights, an unbiased estimate of the cross-entropy to
the true class probabilities, for any N. All methods start at the base classifier's own weights, which hold its mistakes
(unless it is a black box).
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrise.calibration.tables.evaluation import label_agreement, probit_rmse
from rrise.trainer.base import resnet_spec
from rrise.trainer.blackbox import KINDS as BLACK_BOXES
from rrise.trainer.choice import worth
from rrise.trainer.data.augment import augment, blend
from rrise.trainer.data.inputs import Inputs
from rrise.trainer.difficulty import learn_difficulty
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.distributed import Team, team
from rrise.trainer.networks import Network, build_network, differences, load_network, save_network
from rrise.trainer.scoring import score
from rrise.trainer.targets import stored_counts
from rrise.trainer.training import Recipe, Trained, seeded, train
from rrise.trainer.views import base_labels, fresh_shares
from rrise.trainer.workspace import Workspace

UNSAVED = "0" * 64


@dataclass(frozen=True)
class Candidate:
    """One way of training, judged on the tuning split.

    guard_noise: standard deviation of the noise that it takes with every frame, 0 for a plain pass.
    agreement: share of frames where its label is the most frequent Monte Carlo class.
    probit_rmse: root mean square error of its probit.
    worth: mean radius (or share issued at the asked radius) under the guarantee, the criterion of the choice.
    passes and trained: base evaluations and training examples that it took.
    """

    method: str
    guard_noise: float
    agreement: float
    probit_rmse: float
    worth: float
    passes: int
    trained: int

    def row(self) -> tuple[str, str]:
        """Its line in a summary."""
        return (
            f"method {self.method}" + (f", noise {self.guard_noise:g}" if self.guard_noise else ""),
            f"label agreement {self.agreement:.3f}, probit RMSE {self.probit_rmse:.3f}, worth {self.worth:.4f}",
        )


@dataclass(frozen=True)
class SurrogateResult:
    """digest: of surrogate.safetensors; chosen: the candidate kept; candidates: all that were trained.

    kept: whether a finished surrogate with the same settings was found and left as it is. seconds: of this run.
    """

    digest: str
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    kept: bool
    seconds: float

    @property
    def method(self) -> str:
        return self.chosen.method

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def train_surrogate(
    workspace: Workspace, *, again: bool = False, allow_code: bool = False
) -> SurrogateResult:
    """Train surrogate.safetensors: by every configured method and guard noise, keeping what is worth most.

    The choice is made on the tuning split, which calibration never sees.

    again: train although a surrogate with these settings is there. A surrogate with other settings, or of another
        base classifier, is replaced only with `again`.
    """
    start = time.monotonic()
    base = workspace.base(allow_code=allow_code)
    settings = _settings(workspace, base)
    if workspace.surrogate_path.exists() and not again:
        return _keep(workspace, settings, allow_code)
    asked = workspace.config.surrogate.method
    methods = ("stored", "fresh") if asked == "auto" else (asked,)
    ways = product(methods, workspace.config.guard.noise or (0.0,))
    trained = [_train_one(workspace, base, method, noise) for method, noise in ways]
    network, best = max(trained, key=lambda pair: (pair[1].worth, -pair[1].probit_rmse))
    digest = _save(workspace, base, network, best, [candidate for _, candidate in trained], settings)
    candidates = tuple(candidate for _, candidate in trained)
    return SurrogateResult(digest, best, candidates, False, time.monotonic() - start)


def _save(
    workspace: Workspace,
    base: Network,
    network: nn.Module,
    best: Candidate,
    candidates: list[Candidate],
    settings: dict[str, Any],
) -> str:
    spec = surrogate_spec(workspace, base)
    if workspace.config.surrogate.difficulty:
        learned = learn_difficulty(workspace, base, network, spec, best.guard_noise)
        network, spec = learned.module, learned.spec
        workspace.record_cost("surrogate-difficulty", passes=learned.passes)
    metadata = {
        **settings,
        "method": best.method,
        "guard_noise": best.guard_noise,
        "candidates": [asdict(candidate) for candidate in candidates],
    }
    return save_network(workspace.surrogate_path, network, spec, metadata)


def _settings(workspace: Workspace, base: Network) -> dict[str, Any]:
    return {
        **workspace.fingerprint(),
        "base_digest": base.digest,
        "settings": asdict(workspace.config.surrogate),
        "guard": {"rho": workspace.config.guard.rho, "noise": list(workspace.config.guard.noise)},
        "train_samples": workspace.config.targets.train,
    }


def _keep(workspace: Workspace, settings: dict[str, Any], allow_code: bool) -> SurrogateResult:
    network = load_network(workspace.surrogate_path, allow_code=allow_code)
    for name, got, expected in differences(network.metadata, settings):
        raise TrainerError(
            f"{workspace.surrogate_path}: {name}: got {got}, expected {expected}; restore the settings, or train a "
            f"new surrogate with `rrise-train surrogate {workspace.path} --again`"
        )
    candidates = tuple(Candidate(**item) for item in network.metadata["candidates"])
    kept = (network.metadata["method"], network.metadata["guard_noise"])
    chosen = next(item for item in candidates if (item.method, item.guard_noise) == kept)
    return SurrogateResult(network.digest, chosen, candidates, True, 0.0)


def _train_one(workspace: Workspace, base: Network, method: str, noise: float) -> tuple[nn.Module, Candidate]:
    inputs = workspace.training_inputs()
    network = _initial(workspace, base)
    if method == "stored":
        trained, passes = _train_on_stored(workspace, base, network, inputs, noise), 0
    else:
        trained, passes = _train_on_fresh(workspace, base, network, inputs, noise)
    stage = f"surrogate-{method}" + (f"-{noise:g}" if noise else "")
    workspace.record_cost(stage, passes=passes, trained=trained.examples)
    table = score(network, workspace.preprocess, workspace.references("tuning"), UNSAVED, noise)
    table.save(candidate_path(workspace, method, noise))
    return network, Candidate(
        method=method,
        guard_noise=noise,
        agreement=label_agreement(table),
        probit_rmse=probit_rmse(table),
        worth=worth(workspace, table, noise),
        passes=passes,
        trained=trained.examples,
    )


def candidate_path(workspace: Workspace, method: str, noise: float) -> Path:
    """Tuning scores of a candidate, kept so that `rrise-calibrate guard` can show what each guard noise costs."""
    name = method + (f"-noise-{noise:g}" if noise else "")
    return workspace.scores_path("candidates", name)


def surrogate_spec(workspace: Workspace, base: Network) -> dict[str, Any]:
    """Spec of the surrogate: the base classifier's own, or the configured residual network for a black box."""
    if base.spec["kind"] in BLACK_BOXES:
        return resnet_spec(workspace)
    return dict(base.spec)


def _initial(workspace: Workspace, base: Network) -> nn.Module:
    """The base classifier's weights to start from; fresh ones where it is a black box."""
    if base.spec["kind"] not in BLACK_BOXES:
        return copy.deepcopy(base.module).requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(workspace.config.surrogate.seed)
        return build_network(resnet_spec(workspace))


def _train_on_stored(
    workspace: Workspace, base: Network, network: nn.Module, inputs: Inputs, noise: float
) -> Trained:
    """The paper's way: stored class counts of the training frames themselves."""
    asked, generator = workspace.config.surrogate, seeded(workspace.config.surrogate.seed)
    counts = stored_counts(workspace, "train", base.digest).astype(np.float32)
    shares = torch.from_numpy(counts / counts.sum(axis=1, keepdims=True))
    crew = team()
    forward, own = crew.data_parallel(network), _own_generator(crew, generator, asked.seed)

    def loss_of(index: Tensor) -> Tensor:
        index = crew.share(index)
        return F.cross_entropy(forward(_guarded(inputs[index], noise, own)), shares[index])

    trained = train(network, _recipe(workspace, asked.stored_epochs, "stored"), inputs, loss_of, generator)
    crew.agree_on(network)
    return trained


def _train_on_fresh(
    workspace: Workspace, base: Network, network: nn.Module, inputs: Inputs, noise: float
) -> tuple[Trained, int]:
    """New noise on a new view of every frame at every step; returns the base evaluations as well."""
    asked, generator = workspace.config.surrogate, seeded(workspace.config.surrogate.seed)
    crew = team()
    forward, own = crew.data_parallel(network), _own_generator(crew, generator, asked.seed)
    labels, classes = base_labels(workspace, base.module), len(workspace.dataset.class_names)
    shares_of = fresh_shares(labels, classes, workspace.config.smoothing.sigma, asked.samples_per_view, own)

    def loss_of(index: Tensor) -> Tensor:
        views = augment(inputs[crew.share(index)], asked.shift, asked.flip, own)
        views = blend(views, asked.mix, own)
        return F.cross_entropy(forward(_guarded(views, noise, own)), shares_of(views))

    trained = train(network, _recipe(workspace, asked.epochs, "fresh"), inputs, loss_of, generator)
    crew.agree_on(network)
    return trained, trained.examples * asked.samples_per_view


def _own_generator(crew: Team, generator: torch.Generator, seed: int) -> torch.Generator:
    """Augmentation and noise differ between processes; the order of the frames, from `generator`, does not."""
    return generator if crew.size == 1 else seeded((seed + 1) * 1_000_003 + crew.rank)


def _guarded(views: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """What a guarded surrogate sees: the class shares stay those of the view without this noise."""
    return views + noise * torch.randn(views.shape, generator=generator) if noise else views


def _recipe(workspace: Workspace, epochs: int, method: str) -> Recipe:
    asked = workspace.config.surrogate
    label = f"surrogate ({method})"
    return Recipe(epochs, asked.batch_size, asked.learning_rate, asked.weight_decay, label)
