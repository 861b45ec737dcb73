"""The stages of a run on one's own base classifier: base, counts, surrogates, scores, verified tier; each continues."""

from __future__ import annotations

import copy
import platform
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibration.certify import CertifyCounts
from calibration.cost import CostEntry, CostLedger
from calibration.digests import json_digest
from calibration.files import read_arrays, read_json, write_arrays, write_json
from calibration.guarded import NoiseSource
from calibration.references import References
from calibration.scores import Scores
from calibration.sequential import SequentialTest
from calibration.thinning import thin_counts
from calibration.verification import Verification
from examples.reproduce.clock import Clock
from examples.reproduce.data import Images, Source
from examples.reproduce.difficulty import DRAWS, learn_difficulty
from examples.reproduce.learn import Schedule, fit
from examples.reproduce.rows import TABLE_BETA, Tables
from examples.reproduce.scoring import execution, milliseconds_per_frame, pack, predict, score
from examples.reproduce.settings import Recipe, Settings
from examples.reproduce.views import augment, blend, jensen_shannon
from trainer.errors import TrainerError
from trainer.montecarlo import CountStore, sample_counts
from trainer.montecarlo.classifier import make_labeller
from trainer.networks import Network, build_network, load_network, save_network
from trainer.preprocess import Preprocess

SPLITS = ("tuning", "calibration", "test")
VERIFIED_BATCH = 256


class Run:
    """One folder with everything that a table is made of. What is finished is kept, what is not continues.

    Raises TrainerError where the folder was begun with other settings or other images.
    """

    def __init__(
        self, folder: Path, settings: Settings, source: Source, device: torch.device, clock: Clock
    ) -> None:
        self.folder, self.settings, self.device, self.clock = folder, settings, device, clock
        self.parts = split(source, settings)
        self.data = {
            "train": source.train.describe(),
            "held out": source.held_out.describe(),
            "splits": {name: part.describe()["digest"] for name, part in self.parts.items()},
        }
        self._claim({"settings": settings.to_json(), **self.data})
        height, width, channels = source.train.frames.shape[1:]
        self.preprocess = Preprocess((height, width, channels), "rgb8" if channels == 3 else "mono8").to(
            device
        )

    def _claim(self, made_from: dict[str, Any]) -> None:
        path = self.folder / "run.json"
        if not path.exists():
            write_json(path, made_from)
            return
        found = read_json(path, "run")
        changed = [name for name in made_from if found.get(name) != made_from[name]]
        if changed:
            raise TrainerError(
                f"{path}: begun with other {' and '.join(changed)}; use the same, or another --out folder"
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.parts["train"].class_names

    @cached_property
    def _train_frames(self) -> Tensor:
        """uint8 [n, H, W, C] on the device, where views are made."""
        return torch.from_numpy(self.parts["train"].frames).to(self.device)

    def _inputs(self, index: Tensor) -> Tensor:
        found: Tensor = self.preprocess(self._train_frames[index])
        return found

    def _spec(self, widths: tuple[int, ...]) -> dict[str, Any]:
        frames = self.parts["train"].frames
        pixels = frames.reshape(-1, frames.shape[3]).astype(np.float32) / 255
        return {
            "kind": "resnet",
            "in_channels": frames.shape[3],
            "num_classes": len(self.class_names),
            "widths": list(widths),
            "blocks": list(self.settings.blocks),
            "stem_stride": self.settings.stem_stride,
            "mean": [round(float(value), 6) for value in pixels.mean(0)],
            "std": [round(max(float(value), 0.01), 6) for value in pixels.std(0)],
        }

    def record_cost(self, stage: str, passes: int = 0, trained: int = 0) -> None:
        """Write what a stage costs into cost.json; a stage that is repeated replaces its entry."""
        path = self.folder / "cost.json"
        ledger = CostLedger.load(path) if path.exists() else CostLedger()
        ledger.with_entry(CostEntry(stage, passes, trained)).save(path)

    def cost(self) -> dict[str, int]:
        """Base passes of each stage."""
        return {entry.stage: entry.total for entry in CostLedger.load(self.folder / "cost.json").entries}

    @cached_property
    def base(self) -> Network:
        """The base classifier, trained under noise (Cohen et al. 2019, section 3.3).

        Its digest depends on what decides its weights and on nothing else, so that another run of the same base
        classifier may begin with this file and with the counts that were drawn with it.
        """
        path, asked = self.folder / "base.safetensors", self.settings
        made_from = {"settings": asked.base(), "train": self.data["splits"]["train"]}
        if not path.exists():
            torch.manual_seed(asked.seed)
            spec = self._spec(asked.widths)
            network, labels = (
                build_network(spec),
                torch.from_numpy(self.parts["train"].labels).to(self.device),
            )

            def loss_of(index: Tensor, generator: torch.Generator) -> Tensor:
                views = augment(self._inputs(index), asked.shift, asked.flip, generator)
                noise = torch.randn(views.shape, generator=generator, device=self.device)
                return F.cross_entropy(network(views + asked.sigma * noise), labels[index])

            schedule = Schedule(
                "base", asked.base_epochs, asked.batch_size, asked.learning_rate, asked.weight_decay
            )
            examples = self._fit(network, schedule, loss_of)
            save_network(path, network, spec, made_from)
            self._checkpoint(schedule).unlink(missing_ok=True)
            self.record_cost("base", trained=examples)
        found = load_network(path)
        if {name: found.metadata.get(name) for name in made_from} != made_from:
            raise TrainerError(f"{path}: trained with other settings or on other frames; remove it")
        found.module.to(self.device)
        return found

    def _fit(self, network: nn.Module, schedule: Schedule, loss_of: Any) -> int:
        count = len(self.parts["train"].labels)
        place = self._checkpoint(schedule)
        return fit(network, schedule, count, loss_of, place, self.clock, self.device)

    def _checkpoint(self, schedule: Schedule) -> Path:
        return self.folder / "checkpoints" / f"{_safe(schedule.name)}.safetensors"

    def counts(self, stream: str, part: str, num_samples: int) -> np.ndarray:
        """Class counts uint32 [n, K] of a stream of draws on the frames of a part; it continues block by block."""
        store = CountStore.open(
            self.folder / "counts.zarr",
            stream=stream,
            digests=self.parts[part].digests,
            num_classes=len(self.class_names),
            sigma=self.settings.sigma,
            seed=self.settings.seed,
            base_digest=self.base.digest,
            dtype=self.settings.dtype,
        )
        sample_counts(
            self.base.module,
            self.preprocess,
            self.parts[part].frames,
            store,
            num_samples,
            device=self.device,
            progress=lambda _: self.clock.check(f"counts, stream {stream}"),
        )
        self.preprocess.to(self.device)
        self.record_cost(f"counts-{stream}", passes=num_samples * len(self.parts[part].labels))
        return store.counts()

    def references(self, part: str) -> References:
        """Frames and counts of a split; those of the test split are the audit's own draws."""
        asked = self.settings
        stream, draws = ("audit", asked.audit) if part == "test" else (part, asked.reference_samples)
        return pack(
            self.parts[part].frames,
            self.parts[part].labels,
            self.counts(stream, part, draws),
            part,
            sigma=asked.sigma,
            class_names=self.class_names,
            base_digest=self.base.digest,
            beta=float(TABLE_BETA),
        )

    def certify(self) -> CertifyCounts:
        """Independent draws for Cohen's CERTIFY at every budget."""
        asked = self.settings
        return CertifyCounts(
            digest=self.parts["test"].digests,
            target=self.parts["test"].labels,
            selection=self.counts("selection", "test", asked.selection),
            counts=np.stack([self.counts(f"certify-{n}", "test", n) for n in asked.certify]),
            budgets=asked.certify,
            sigma=asked.sigma,
            class_names=self.class_names,
            base_digest=self.base.digest,
        )

    def surrogate(self, recipe: Recipe) -> Network:
        """The surrogate of a recipe, trained where it is not there yet."""
        path = self.folder / "surrogates" / f"{_safe(recipe.name)}.safetensors"
        if not path.exists():
            self._train_surrogate(recipe, path)
        found = load_network(path)
        if found.metadata["base_digest"] != self.base.digest or found.metadata["recipe"] != _plain(recipe):
            raise TrainerError(f"{path}: made from another base classifier or recipe; remove it")
        found.module.to(self.device)
        return found

    def _train_surrogate(self, recipe: Recipe, path: Path) -> None:
        asked = self.settings
        spec = self._spec(recipe.widths or asked.widths)
        torch.manual_seed(asked.seed + 1)
        network = copy.deepcopy(self.base.module) if recipe.start == "base" else build_network(spec)
        network.requires_grad_(True)
        rate, decay, optimiser = self._optimisation(recipe)
        schedule = Schedule(
            recipe.name,
            asked.epochs_of(recipe),
            asked.batch_size,
            rate,
            decay,
            optimiser,
            seed=asked.seed + 1,
            settings=json_digest({"recipe": _plain(recipe), "base": self.base.digest}),
        )
        loss_of = (self._stored_loss if recipe.targets == "stored" else self._fresh_loss)(recipe, network)
        examples = self._fit(network, schedule, loss_of)
        metadata = {"base_digest": self.base.digest, "recipe": _plain(recipe), "epochs": schedule.epochs}
        save_network(path, network, spec, metadata)
        self._checkpoint(schedule).unlink(missing_ok=True)
        fresh = examples * recipe.samples_per_view if recipe.targets == "fresh" else 0
        self.record_cost(f"surrogate-{recipe.name}", passes=fresh, trained=examples)

    def _optimisation(self, recipe: Recipe) -> tuple[float, float, str]:
        """Learning rate, weight decay and optimiser."""
        asked = self.settings
        if recipe.loss == "js":
            # Accelerated Smoothing trains with Adam (rate 1e-3, betas .5 and .999) and no weight decay.
            return 1e-3, 0.0, "adam"
        if recipe.start == "base":
            return asked.surrogate_rate, asked.surrogate_decay, "sgd"
        return asked.scratch_rate, asked.weight_decay, "sgd"

    def _stored_loss(self, recipe: Recipe, network: nn.Module) -> Any:
        counts = self.counts("train", "train", self.settings.train_samples)
        if recipe.stored_samples:
            counts = thin_counts(counts, recipe.stored_samples, np.random.default_rng(self.settings.seed))
        counts = counts.astype(np.float32)
        shares = torch.from_numpy(counts / counts.sum(axis=1, keepdims=True)).to(self.device)
        loss = jensen_shannon if recipe.loss == "js" else F.cross_entropy

        def loss_of(index: Tensor, generator: torch.Generator) -> Tensor:
            return loss(network(self._inputs(index)).float(), shares[index])

        return loss_of

    def _fresh_loss(self, recipe: Recipe, network: nn.Module) -> Any:
        asked, draws = self.settings, recipe.samples_per_view
        # The classifier that is certified, in the precision in which it is sampled.
        labeller = make_labeller(self.base.module, len(self.class_names), asked.dtype, self.device)

        def noisy(views: Tensor, scale: float, generator: torch.Generator) -> Tensor:
            return views + scale * torch.randn(views.shape, generator=generator, device=self.device)

        def loss_of(index: Tensor, generator: torch.Generator) -> Tensor:
            views = augment(self._inputs(index), asked.shift, asked.flip, generator)
            views = blend(views, recipe.mix, generator)
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                labels = labeller(noisy(views.repeat(draws, 1, 1, 1), asked.sigma, generator))
            shares = F.one_hot(labels, len(self.class_names)).float().view(draws, len(views), -1).mean(0)
            seen = noisy(views, recipe.guard, generator) if recipe.guard else views
            return F.cross_entropy(network(seen), shares)

        return loss_of

    def with_difficulty(self, recipe: Recipe) -> Network:
        """The surrogate of a recipe with a difficulty head, or as it is where the settings want none."""
        surrogate, asked = self.surrogate(recipe), self.settings
        if not asked.difficulty or recipe.guard:
            return surrogate
        path = self.folder / "surrogates" / f"{_safe(recipe.name)}-difficulty.safetensors"
        if not path.exists():
            self.clock.check("difficulty")
            generator = torch.Generator(self.device).manual_seed(asked.seed + 5)
            index = torch.randperm(len(self._train_frames), generator=generator, device=self.device)
            views = augment(self._inputs(index[: asked.difficulty]), asked.shift, asked.flip, generator)
            views = blend(views, recipe.mix, generator)
            counts = self._view_counts(views, generator)
            module = learn_difficulty(surrogate.module, views, counts, asked.sigma, asked.seed)
            spec = {
                "kind": "difficulty",
                "network": dict(surrogate.spec),
                "num_features": module.first.in_features,
                "hidden": module.first.out_features,
            }
            save_network(path, module, spec, {"surrogate": surrogate.digest})
            self.record_cost(f"difficulty-{recipe.name}", passes=int(counts.sum()))
        found = load_network(path)
        if found.metadata["surrogate"] != surrogate.digest:
            raise TrainerError(f"{path}: made from another surrogate; remove it")
        found.module.to(self.device)
        return found

    def _view_counts(self, views: Tensor, generator: torch.Generator) -> np.ndarray:
        """Class counts int64 [n, K] of fresh draws at views float32 [n, C, h, w]."""
        labeller = make_labeller(self.base.module, len(self.class_names), self.settings.dtype, self.device)
        counts = torch.zeros(len(views), len(self.class_names), dtype=torch.int64, device=self.device)
        with torch.inference_mode():
            for _ in range(DRAWS):
                for start in range(0, len(views), VERIFIED_BATCH):
                    part = views[start : start + VERIFIED_BATCH]
                    noise = torch.randn(part.shape, generator=generator, device=self.device)
                    label = labeller(part + self.settings.sigma * noise)[:, None]
                    counts[start : start + len(part)].scatter_add_(1, label, torch.ones_like(label))
        return counts.cpu().numpy()

    def tables(self, name: str, network: Network, guard: float = 0.0) -> Tables:
        """Scores of a network on the three splits, read where they are there.

        guard: standard deviation of the fresh noise on each frame (guarded tier); its seeds differ between splits.
        """
        ran = execution(network.digest, self.device)
        found = {}
        for number, part in enumerate(SPLITS):
            path = self.folder / "scores" / _safe(name) / f"{part}.npz"
            if not path.exists():
                noise = NoiseSource(guard, seed=1000 * self.settings.seed + number) if guard else None
                references = self.references(part)
                prediction = predict(network.module, self.preprocess, references.frames, self.device, noise)
                score(prediction, references, ran).save(path)
            found[part] = Scores.load(path)
            if found[part].execution.artefact != network.digest:
                raise TrainerError(f"{path}: scores of another network; remove it")
        return Tables(**found)

    def verified(self, name: str, label: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Confirm proposals for the first test frames: confirmed radius float32 [m] and base passes int64 [m].

        label, radius: proposals for all test frames. The noise is drawn here and nowhere else.
        """
        count = min(self.settings.verified, len(label))
        path = self.folder / "verified" / f"{_safe(name)}.npz"
        asked = {"label": label[:count].tolist(), "radius": radius[:count].tolist(), "base": self.base.digest}
        if path.exists():
            arrays, meta = read_arrays(path, "verified tier", ("radius", "samples"))
            if meta["proposals"] == json_digest(asked):
                return arrays["radius"], arrays["samples"]
        queue = Verification(
            SequentialTest(self.settings.sigma, 0.001), label[:count], radius[:count], 100_000
        )
        self._confirm(queue, count)
        found = queue.result()
        write_arrays(
            path, {"radius": found.radius, "samples": found.samples}, {"proposals": json_digest(asked)}
        )
        return found.radius, found.samples

    def _confirm(self, queue: Verification, count: int) -> None:
        labeller = make_labeller(self.base.module, len(self.class_names), self.settings.dtype, self.device)
        generator = torch.Generator(self.device).manual_seed(self.settings.seed + 77)
        with torch.inference_mode():
            frames = torch.from_numpy(self.parts["test"].frames[:count]).to(self.device)
            x = self.preprocess(frames)
            while not queue.done:
                self.clock.check("verified tier")
                rows = queue.next_batch(VERIFIED_BATCH)
                chosen = x[torch.from_numpy(rows).to(self.device)]
                noise = torch.randn(chosen.shape, generator=generator, device=self.device)
                queue.record(rows, labeller(chosen + self.settings.sigma * noise).cpu().numpy())

    def timing(self, name: str, network: Network) -> dict[str, float]:
        """Milliseconds of one pass on this machine: alone, and per frame in a batch of 256."""
        path = self.folder / "timing" / f"{_safe(name)}.json"
        if not path.exists():
            x = self.preprocess(self._train_frames[:256])
            write_json(
                path,
                {
                    "single": milliseconds_per_frame(network.module, x[:1]),
                    "batch": milliseconds_per_frame(network.module, x),
                },
            )
        found: dict[str, float] = read_json(path, "timing")
        return found

    def machine(self) -> dict[str, Any]:
        """What it ran on."""
        cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if cuda else f"{platform.machine()} CPU",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        }


def split(source: Source, settings: Settings) -> dict[str, Images]:
    """train, and tuning, calibration and test from the held-out images, drawn by seed without a look at labels.

    A frame that occurs twice, or in the training images, is left out, so that splits are disjoint by content.
    """
    random = np.random.default_rng(settings.seed)
    held = source.held_out
    order = random.permutation(len(held.labels))
    _, first = np.unique(held.digests[order], return_index=True)
    fresh = np.zeros(len(order), bool)
    fresh[first] = True
    order = order[fresh & ~np.isin(held.digests[order], source.train.digests)]
    sizes = [settings.tuning, settings.calibration, settings.test]
    if sum(sizes) > len(order):
        raise TrainerError(
            f"splits: {sizes} frames asked for tuning, calibration and test, {len(order)} distinct ones are held out"
        )
    ends = np.cumsum([0, *sizes])
    parts = {
        name: held.take(np.sort(order[ends[number] : ends[number + 1]])) for number, name in enumerate(SPLITS)
    }
    _, unique = np.unique(source.train.digests, return_index=True)
    train = random.permutation(np.sort(unique))[: settings.train or None]
    return {"train": source.train.take(np.sort(train)), **parts}


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _plain(recipe: Recipe) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(recipe).items()}
