"""The stages of a run on one's own base classifier: base, counts, scores, verified tier; each continues."""

from __future__ import annotations

import platform
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.reproduce.clock import Clock
from examples.reproduce.data import Images, Source
from examples.reproduce.learn import LossOf, Schedule, fit
from examples.reproduce.rows import TABLE_BETA, Tables
from examples.reproduce.scoring import execution, milliseconds_per_frame, pack, predict, score
from examples.reproduce.settings import Settings
from rrise.calibration.promise.guarded import NoiseSource
from rrise.calibration.statistics.sequential import SequentialTest
from rrise.calibration.statistics.verification import Verification
from rrise.calibration.storage.digests import json_digest
from rrise.calibration.storage.files import read_arrays, read_json, write_arrays, write_json
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.cost import CostEntry, CostLedger
from rrise.calibration.tables.references import References
from rrise.calibration.tables.scores import Scores
from rrise.trainer.data.augment import augment
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import CountStore, sample_counts
from rrise.trainer.montecarlo.classifier import Labeller, make_labeller
from rrise.trainer.networks import Network, build_network, differences, load_network, save_network

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
    def train_frames(self) -> Tensor:
        """uint8 [n, H, W, C] on the device, where views are made."""
        return torch.from_numpy(self.parts["train"].frames).to(self.device)

    def inputs(self, index: Tensor) -> Tensor:
        """Training frames float32 [B, C, h, w] in [0, 1], of indices int64 [B]."""
        found: Tensor = self.preprocess(self.train_frames[index])
        return found

    def spec(self, widths: tuple[int, ...]) -> dict[str, Any]:
        """Of a network for these images."""
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
        schedule = Schedule(
            "base", asked.base_epochs, asked.batch_size, asked.learning_rate, asked.weight_decay
        )
        if not path.exists():
            torch.manual_seed(asked.seed)
            spec = self.spec(asked.widths)
            network, labels = (
                build_network(spec),
                torch.from_numpy(self.parts["train"].labels).to(self.device),
            )

            def loss_of(index: Tensor, generator: torch.Generator) -> Tensor:
                views = augment(self.inputs(index), asked.shift, asked.flip, generator)
                noise = torch.randn(views.shape, generator=generator, device=self.device)
                return F.cross_entropy(network(views + asked.sigma * noise), labels[index])

            self.fit(network, schedule, loss_of)
            save_network(path, network, spec, made_from)
            self.checkpoint(schedule).unlink(missing_ok=True)
        found = load_network(path)
        if any(differences(found.metadata, made_from)):
            raise TrainerError(f"{path}: trained with other settings or on other frames; remove it")
        self.record_cost("base", trained=schedule.examples(len(self.parts["train"].labels)))
        found.module.to(self.device)
        return found

    def fit(self, network: nn.Module, schedule: Schedule, loss_of: LossOf) -> None:
        """Train on the training frames, from a checkpoint where there is one."""
        count, place = len(self.parts["train"].labels), self.checkpoint(schedule)
        fit(network, schedule, count, loss_of, place, self.clock, self.device)

    def checkpoint(self, schedule: Schedule) -> Path:
        """Where an unfinished training continues from; whoever keeps its outcome removes it."""
        return self.folder / "checkpoints" / f"{safe(schedule.name)}.safetensors"

    def labeller(self) -> Labeller:
        """The classifier that is certified, in the precision in which it is sampled: float32 [B, C, h, w] -> int64 [B]."""
        return make_labeller(self.base.module, len(self.class_names), self.settings.dtype, self.device)

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

    def tables(self, name: str, network: Network, guard: float = 0.0) -> Tables:
        """Scores of a network on the three splits, read where they are there.

        guard: standard deviation of the fresh noise on each frame (guarded tier); its seeds differ between splits.
        """
        ran = execution(network.digest, self.device)
        found = {}
        for number, part in enumerate(SPLITS):
            path = self.folder / "scores" / safe(name) / f"{part}.npz"
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
        path = self.folder / "verified" / f"{safe(name)}.npz"
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
        labeller = self.labeller()
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
        path = self.folder / "timing" / f"{safe(name)}.json"
        if not path.exists():
            x = self.preprocess(self.train_frames[:256])
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


def safe(name: str) -> str:
    """`name` as a file name."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)
