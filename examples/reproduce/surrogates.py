"""The surrogates of a run, each by its recipe: trained where it is not there yet, and continued after an interruption."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.reproduce.difficulty import DRAWS, learn_difficulty
from examples.reproduce.learn import LossOf, Schedule
from examples.reproduce.run import Run, safe
from examples.reproduce.settings import Recipe, plain
from examples.reproduce.views import blend
from rrise.calibration.storage.digests import json_digest
from rrise.calibration.tables.thinning import thin_counts
from rrise.trainer.data.augment import augment
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.losses import jensen_shannon
from rrise.trainer.learning.views import fresh_shares
from rrise.trainer.networks import Network, build_network, differences, load_network, save_network

BATCH = 256


class Surrogates:
    """Trains what is missing into the run's folder, and enters what it cost."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def plain(self, recipe: Recipe) -> Network:
        """The surrogate of a recipe, trained where it is not there yet."""
        path, schedule = self._path(recipe.name), self._schedule(recipe)
        made_from = {
            "base_digest": self.run.base.digest,
            "recipe": plain(recipe),
            "schedule": schedule.digest,
        }
        if not path.exists():
            self._train(recipe, schedule, path, made_from)
        found = self._load(path, made_from)
        trained = schedule.examples(len(self.run.train_frames))
        fresh = trained * recipe.samples_per_view if recipe.targets == "fresh" else 0
        self.run.record_cost(f"surrogate-{recipe.name}", passes=fresh, trained=trained)
        return found

    def _path(self, name: str) -> Path:
        return self.run.folder / "surrogates" / f"{safe(name)}.safetensors"

    def _load(self, path: Path, made_from: dict[str, Any]) -> Network:
        found = load_network(path)
        if any(differences(found.metadata, made_from)):
            raise TrainerError(f"{path}: made from another base classifier or in another way; remove it")
        found.module.to(self.run.device)
        return found

    def _schedule(self, recipe: Recipe) -> Schedule:
        asked = self.run.settings
        rate, decay, optimiser = self._optimisation(recipe)
        drawn = {"base": self.run.base.digest, "dtype": asked.dtype}
        if recipe.targets == "stored":
            drawn["samples"] = asked.train_samples
        return Schedule(
            recipe.name,
            asked.epochs_of(recipe),
            asked.batch_size,
            rate,
            decay,
            optimiser,
            seed=asked.seed + 1,
            settings=json_digest({"recipe": plain(recipe), **drawn}),
        )

    def _train(self, recipe: Recipe, schedule: Schedule, path: Path, made_from: dict[str, Any]) -> None:
        asked = self.run.settings
        spec = self.run.spec(recipe.widths or asked.widths)
        torch.manual_seed(asked.seed + 1)
        network = copy.deepcopy(self.run.base.module) if recipe.start == "base" else build_network(spec)
        network.requires_grad_(True)
        loss_of = (self._stored_loss if recipe.targets == "stored" else self._fresh_loss)(recipe, network)
        self.run.fit(network, schedule, loss_of)
        save_network(path, network, spec, made_from)
        self.run.checkpoint(schedule).unlink(missing_ok=True)

    def _optimisation(self, recipe: Recipe) -> tuple[float, float, str]:
        """Learning rate, weight decay and optimiser."""
        asked = self.run.settings
        if recipe.loss == "js":
            # Accelerated Smoothing trains with Adam (rate 1e-3, betas .5 and .999) and no weight decay.
            return 1e-3, 0.0, "adam"
        if recipe.start == "base":
            return asked.surrogate_rate, asked.surrogate_decay, "sgd"
        return asked.scratch_rate, asked.weight_decay, "sgd"

    def _stored_loss(self, recipe: Recipe, network: nn.Module) -> LossOf:
        counts = self.run.counts("train", "train", self.run.settings.train_samples)
        if recipe.stored_samples:
            counts = thin_counts(counts, recipe.stored_samples, np.random.default_rng(self.run.settings.seed))
        counts = counts.astype(np.float32)
        shares = torch.from_numpy(counts / counts.sum(axis=1, keepdims=True)).to(self.run.device)
        loss = jensen_shannon if recipe.loss == "js" else F.cross_entropy

        def loss_of(index: Tensor, generator: torch.Generator) -> Tensor:
            return loss(network(self.run.inputs(index)).float(), shares[index])

        return loss_of

    def _fresh_loss(self, recipe: Recipe, network: nn.Module) -> LossOf:
        asked, draws = self.run.settings, recipe.samples_per_view
        labeller = self.run.labeller()

        def loss_of(index: Tensor, generator: torch.Generator) -> Tensor:
            views = augment(self.run.inputs(index), asked.shift, asked.flip, generator)
            views = blend(views, recipe.mix, generator)
            shares_of = fresh_shares(labeller, len(self.run.class_names), asked.sigma, draws, generator)
            with torch.autocast(self.run.device.type, enabled=False):
                shares = shares_of(views)
            if recipe.guard:
                views = views + recipe.guard * torch.randn(
                    views.shape, generator=generator, device=views.device
                )
            return F.cross_entropy(network(views), shares)

        return loss_of

    def with_difficulty(self, recipe: Recipe) -> Network:
        """The surrogate of a recipe with a difficulty head, or as it is where the settings want none."""
        surrogate, asked = self.plain(recipe), self.run.settings
        if not asked.difficulty or recipe.guard:
            return surrogate
        path = self._path(f"{recipe.name} difficulty")
        made_from = {"surrogate": surrogate.digest, "frames": asked.difficulty}
        if not path.exists():
            self.run.clock.check("difficulty")
            self._train_difficulty(recipe, surrogate, path, made_from)
        found = self._load(path, made_from)
        self.run.record_cost(f"difficulty-{recipe.name}", passes=found.metadata["passes"])
        return found

    def _train_difficulty(
        self, recipe: Recipe, surrogate: Network, path: Path, made_from: dict[str, Any]
    ) -> None:
        asked = self.run.settings
        generator = torch.Generator(self.run.device).manual_seed(asked.seed + 5)
        index = torch.randperm(len(self.run.train_frames), generator=generator, device=self.run.device)
        views = augment(self.run.inputs(index[: asked.difficulty]), asked.shift, asked.flip, generator)
        views = blend(views, recipe.mix, generator)
        counts = self._view_counts(views, generator)
        module = learn_difficulty(surrogate.module, views, counts, asked.sigma, asked.seed)
        spec = {
            "kind": "difficulty",
            "network": dict(surrogate.spec),
            "num_features": module.first.in_features,
            "hidden": module.first.out_features,
        }
        save_network(path, module, spec, {**made_from, "passes": int(counts.sum())})

    def _view_counts(self, views: Tensor, generator: torch.Generator) -> np.ndarray:
        """Class counts int64 [n, K] of fresh draws at views float32 [n, C, h, w]."""
        labeller = self.run.labeller()
        counts = torch.zeros(len(views), len(self.run.class_names), dtype=torch.int64, device=self.run.device)
        with torch.inference_mode():
            for _ in range(DRAWS):
                for start in range(0, len(views), BATCH):
                    part = views[start : start + BATCH]
                    noise = torch.randn(part.shape, generator=generator, device=self.run.device)
                    label = labeller(part + self.run.settings.sigma * noise)[:, None]
                    counts[start : start + len(part)].scatter_add_(1, label, torch.ones_like(label))
        return counts.cpu().numpy()
