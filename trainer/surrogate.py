"""The surrogate: one network that predicts the smoothed classifier's class probabilities in a single pass.

Soft-label cross-entropy on class shares n_c / N is, at fixed weights, an unbiased estimate of the cross-entropy to
the true class probabilities, for any N (MATHEMATICS 3). Both methods start at the base classifier's own weights.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibration.evaluation import label_agreement, probit_rmse
from trainer.augment import augment
from trainer.errors import TrainerError
from trainer.networks import Network, load_network, save_network
from trainer.scoring import pytorch_execution, score
from trainer.targets import stored_counts
from trainer.training import Recipe, Trained, seeded, train
from trainer.workspace import Workspace

UNSAVED = "0" * 64


@dataclass(frozen=True)
class Candidate:
    """One way of training, judged on the tuning split.

    agreement: share of frames where its label is the most frequent Monte Carlo class. probit_rmse: root mean square
    error of its probit. passes and trained: base evaluations and training examples that it took.
    """

    method: str
    agreement: float
    probit_rmse: float
    passes: int
    trained: int


@dataclass(frozen=True)
class SurrogateResult:
    """digest: of surrogate.safetensors; method: the one kept; candidates: all that were trained.

    kept: whether a finished surrogate with the same settings was found and left as it is. seconds: of this run.
    """

    digest: str
    method: str
    candidates: tuple[Candidate, ...]
    kept: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def train_surrogate(
    workspace: Workspace, *, again: bool = False, allow_code: bool = False
) -> SurrogateResult:
    """Train surrogate.safetensors by the configured method; "auto" trains by both and keeps the smaller probit RMSE.

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
    trained = [(_train_one(workspace, base, method)) for method in methods]
    network, best = min(trained, key=lambda pair: pair[1].probit_rmse)
    candidates = tuple(candidate for _, candidate in trained)
    metadata = {
        **settings,
        "method": best.method,
        "candidates": [asdict(candidate) for candidate in candidates],
    }
    digest = save_network(workspace.surrogate_path, network, base.spec, metadata)
    return SurrogateResult(digest, best.method, candidates, False, time.monotonic() - start)


def _settings(workspace: Workspace, base: Network) -> dict[str, Any]:
    return {
        **workspace.fingerprint(),
        "base_digest": base.digest,
        "settings": asdict(workspace.config.surrogate),
        "train_samples": workspace.config.targets.train,
    }


def _keep(workspace: Workspace, settings: dict[str, Any], allow_code: bool) -> SurrogateResult:
    network = load_network(workspace.surrogate_path, allow_code=allow_code)
    for name, expected in settings.items():
        got = network.metadata.get(name)
        if got != expected:
            raise TrainerError(
                f"{workspace.surrogate_path}: {name}: got {got}, expected {expected}; restore the settings, or train a "
                f"new surrogate with `rrise-train surrogate {workspace.path} --again`"
            )
    candidates = tuple(Candidate(**item) for item in network.metadata["candidates"])
    return SurrogateResult(network.digest, str(network.metadata["method"]), candidates, True, 0.0)


def _train_one(workspace: Workspace, base: Network, method: str) -> tuple[nn.Module, Candidate]:
    network = copy.deepcopy(base.module).requires_grad_(True)
    inputs = workspace.inputs("train")
    if method == "stored":
        trained, passes = _train_on_stored(workspace, base, network, inputs), 0
    else:
        trained, passes = _train_on_fresh(workspace, base, network, inputs)
    workspace.record_cost(f"surrogate-{method}", passes=passes, trained=trained.examples)
    table = score(network, workspace.preprocess, workspace.references("tuning"), pytorch_execution(UNSAVED))
    return network, Candidate(method, label_agreement(table), probit_rmse(table), passes, trained.examples)


def _train_on_stored(workspace: Workspace, base: Network, network: nn.Module, inputs: Tensor) -> Trained:
    """The paper's way: stored class counts of the training frames themselves."""
    asked = workspace.config.surrogate
    counts = stored_counts(workspace, "train", base.digest).astype(np.float32)
    shares = torch.from_numpy(counts / counts.sum(axis=1, keepdims=True))

    def loss_of(index: Tensor) -> Tensor:
        return F.cross_entropy(network(inputs[index]), shares[index])

    return train(
        network, _recipe(workspace, asked.stored_epochs, "stored"), inputs, loss_of, seeded(asked.seed)
    )


def _train_on_fresh(
    workspace: Workspace, base: Network, network: nn.Module, inputs: Tensor
) -> tuple[Trained, int]:
    """New noise on a new view of every frame at every step; returns the base evaluations as well."""
    asked, generator = workspace.config.surrogate, seeded(workspace.config.surrogate.seed)
    shares_of = fresh_shares(base.module, workspace.config.smoothing.sigma, asked.samples_per_view, generator)

    def loss_of(index: Tensor) -> Tensor:
        views = augment(inputs[index], asked.shift, asked.flip, generator)
        return F.cross_entropy(network(views), shares_of(views))

    trained = train(network, _recipe(workspace, asked.epochs, "fresh"), inputs, loss_of, generator)
    return trained, trained.examples * asked.samples_per_view


def fresh_shares(
    base: nn.Module, sigma: float, num_samples: int, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """A function from views float32 [B, C, H, W] to class shares float32 [B, K] over `num_samples` noisy evaluations."""

    def shares_of(views: Tensor) -> Tensor:
        with torch.inference_mode():
            many = views.repeat(num_samples, 1, 1, 1)
            logits = base(many + sigma * torch.randn(many.shape, generator=generator))
            hits = F.one_hot(logits.argmax(1), logits.shape[1]).float()
            shares = hits.view(num_samples, len(views), -1).mean(0)
        return shares.clone()

    return shares_of


def _recipe(workspace: Workspace, epochs: int, method: str) -> Recipe:
    asked = workspace.config.surrogate
    label = f"surrogate ({method})"
    return Recipe(epochs, asked.batch_size, asked.learning_rate, asked.weight_decay, label)
