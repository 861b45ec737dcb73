"""A surrogate for a base classifier that nobody here has: only the class counts that others drew with it.

The counts are those of github.com/FireShadow05/accelerated_smoothing (Cohen et al.'s CIFAR-10 ResNet-110, sigma 0.25) as
one .npz: `train_sigma0.25_N100000` for the training images in official order, `test_sigma0.25_N<n>` for the test images.
Nothing is evaluated with the base classifier, so there is no row for its clean softmax, none for the verified tier, and
no fresh targets for augmented views: a view keeps the counts of its frame, which is an approximation that calibration
pays for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.reproduce.clock import Clock
from examples.reproduce.data import Images, Source
from examples.reproduce.ensemble import Surrogate, load_surrogate, member_path
from examples.reproduce.learn import Schedule, fit
from examples.reproduce.rows import TABLE_BETA, Tables
from examples.reproduce.scoring import execution, milliseconds_per_frame, pack, predict, score
from examples.reproduce.settings import plain
from examples.reproduce.third_party_counts import Counts
from examples.reproduce.views import mixing_weights
from rrise.calibration.storage.digests import json_digest
from rrise.trainer.data.augment import augment
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.losses import jensen_shannon, probit_regression
from rrise.trainer.networks import build_network, save_network

SPLITS = ("tuning", "calibration", "test")
LOSSES = ("ce", "probit", "both", "js")


@dataclass(frozen=True)
class ThirdParty:
    """What is trained. loss: soft-label cross-entropy, probit regression, both, or Jensen-Shannon divergence.

    mix: share of frames blended with another, counts blended alike. members: networks whose log-probabilities are
    averaged. teacher: digest of the surrogate that labels every view, blended or not (empty = none). teacher_share: weight
    of its label, the rest is that of the frame's counts. prior: train Accelerated Smoothing's recipe as well (js, no
    augmentation, Adam), for as many epochs. train: frames (0 = all).
    """

    sigma: float = 0.25
    widths: tuple[int, ...] = (16, 32, 64)
    blocks: tuple[int, ...] = (1, 1, 1)
    stem_stride: int = 1
    epochs: int = 20
    batch_size: int = 128
    rate: float = 0.1
    weight_decay: float = 5e-4
    loss: str = "ce"
    mix: float = 0.5
    shift: int = 4
    flip: bool = True
    members: int = 1
    teacher: str = ""
    teacher_share: float = 0.5
    prior: bool = True
    train: int = 0
    tuning: int = 2000
    calibration: int = 4000
    test: int = 4000
    seed: int = 0
    errors: tuple[str, ...] = ("0.1", "0.05")
    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES or self.members < 1:
            raise TrainerError(
                f"third party: got loss {self.loss!r} and {self.members} members, expected one of {', '.join(LOSSES)} "
                "and at least one member"
            )
        if not 0 < self.teacher_share <= 1:
            raise TrainerError(
                f"teacher_share: got {self.teacher_share}, expected a number above 0 and at most 1"
            )

    def to_json(self) -> dict[str, Any]:
        return plain(self)


class Work:
    """Splits, training and scores of one folder; `teacher` where `asked` names one."""

    def __init__(
        self,
        folder: Path,
        asked: ThirdParty,
        source: Source,
        counts: Counts,
        device: torch.device,
        clock: Clock,
        teacher: Surrogate | None = None,
    ) -> None:
        self.folder, self.asked, self.counts, self.device, self.clock = folder, asked, counts, device, clock
        self.teacher = teacher
        self.rows = split_rows(source, asked)
        self.train, self.held_out = source.train.take(self.rows["train"]), source.held_out
        height, width, channels = source.train.frames.shape[1:]
        self.preprocess = Preprocess((height, width, channels), "rgb8" if channels == 3 else "mono8").to(
            device
        )
        self.milliseconds: dict[str, float] = {}
        self.passes: dict[str, int] = {}

    def counts_of(self, part: str) -> np.ndarray:
        """References, or for the test split the draws that audit certificates."""
        found = self.counts.audit if part == "test" else self.counts.references
        return found[self.rows[part]]

    def tables(self, name: str, asked: ThirdParty) -> Tables:
        """Train the members, score the ensemble on the three splits."""
        for member in range(asked.members):
            path = member_path(self.folder, name, member)
            if not path.exists():
                self._train(name, asked, member, path)
        surrogate = load_surrogate(self.folder, name, self.counts.digest, asked.members)
        network = surrogate.network.to(self.device)
        ran = execution(surrogate.digest, self.device)
        tables = {}
        for part in SPLITS:
            images = self.held_out.take(self.rows[part])
            references = pack(
                images.frames,
                images.labels,
                self.counts_of(part),
                part,
                sigma=asked.sigma,
                class_names=images.class_names,
                base_digest=self.counts.digest,
                beta=float(TABLE_BETA),
            )
            tables[part] = score(
                predict(network, self.preprocess, images.frames, self.device), references, ran
            )
        x = self.preprocess(torch.from_numpy(self.train.frames[:1]).to(self.device))
        self.milliseconds[name] = milliseconds_per_frame(network, x)
        self.passes[name] = surrogate.passes
        return Tables(**tables)

    def _train(self, name: str, asked: ThirdParty, member: int, path: Path) -> None:
        seed = asked.seed + 100 * member
        torch.manual_seed(seed)
        spec = _spec(asked, self.train)
        network = build_network(spec)
        prior = asked.loss == "js"
        schedule = Schedule(
            f"{name}, member {member + 1}",
            asked.epochs,
            asked.batch_size,
            1e-3 if prior else asked.rate,
            0.0 if prior else asked.weight_decay,
            "adam" if prior else "sgd",
            seed,
            json_digest({**asked.to_json(), "counts": self.counts.digest}),
        )
        checkpoint = self.folder / "checkpoints" / path.name
        loss_of = self._loss(asked, network)
        fit(network, schedule, len(self.train.labels), loss_of, checkpoint, self.clock, self.device)
        made_from = {
            "settings": asked.to_json(),
            "counts": self.counts.digest,
            "passes": self._passes(asked, schedule, member),
        }
        save_network(path, network, spec, made_from)
        checkpoint.unlink(missing_ok=True)

    def _passes(self, asked: ThirdParty, schedule: Schedule, member: int) -> int:
        """Of networks over frames: a step is three, a label one per member of the teacher, for which member 0 pays."""
        views = schedule.examples(len(self.train.labels))
        if not asked.teacher or self.teacher is None:
            return 3 * views
        return (3 + self.teacher.members) * views + (self.teacher.passes if member == 0 else 0)

    def _loss(self, asked: ThirdParty, network: nn.Module) -> Any:
        counts = self.counts.train[self.rows["train"]].astype(np.float64)
        draws = int(counts[0].sum())
        shares = torch.from_numpy((counts / counts.sum(1, keepdims=True)).astype(np.float32)).to(self.device)
        frames = torch.from_numpy(self.train.frames).to(self.device)
        teacher = self.teacher.network.to(self.device) if asked.teacher and self.teacher else None

        def loss_of(index: Tensor, generator: torch.Generator) -> Tensor:
            x, target = self.preprocess(frames[index]), shares[index]
            x = augment(x, asked.shift, asked.flip, generator)
            if asked.mix:
                partner = torch.randperm(len(x), generator=generator, device=x.device)
                weight = mixing_weights(len(x), asked.mix, generator, x.device)
                x = torch.lerp(x, x[partner], weight[:, None, None, None])
                target = torch.lerp(target, target[partner], weight[:, None])
            if teacher is not None:
                with torch.no_grad():
                    target = torch.lerp(target, teacher(x).float().softmax(1), asked.teacher_share)
            logits = network(x).float()
            if asked.loss == "js":
                return jensen_shannon(logits, target)
            total = logits.new_zeros(())
            if asked.loss in ("ce", "both"):
                total = total + F.cross_entropy(logits, target)
            if asked.loss in ("probit", "both"):
                total = total + probit_regression(logits.float(), target, draws)
            return total

        return loss_of


def split_rows(source: Source, asked: ThirdParty) -> dict[str, np.ndarray]:
    """Rows of the training images, and of the test images for tuning, calibration and test; disjoint by content."""
    random = np.random.default_rng(asked.seed)
    order = random.permutation(len(source.held_out.labels))
    digests = source.held_out.digests[order]
    _, first = np.unique(digests, return_index=True)
    fresh = np.zeros(len(order), bool)
    fresh[first] = True
    order = order[fresh & ~np.isin(digests, source.train.digests)]
    ends = np.cumsum([0, asked.tuning, asked.calibration, asked.test])
    if ends[-1] > len(order):
        raise TrainerError(
            f"splits: {ends[-1]} frames asked for, {len(order)} distinct test images are there"
        )
    rows = {name: np.sort(order[ends[number] : ends[number + 1]]) for number, name in enumerate(SPLITS)}
    train = random.permutation(len(source.train.labels))[: asked.train or None]
    return {"train": np.sort(train), **rows}


def _spec(asked: ThirdParty, train: Images) -> dict[str, Any]:
    pixels = train.frames.reshape(-1, train.frames.shape[3]).astype(np.float32) / 255
    return {
        "kind": "resnet",
        "in_channels": train.frames.shape[3],
        "num_classes": len(train.class_names),
        "widths": list(asked.widths),
        "blocks": list(asked.blocks),
        "stem_stride": asked.stem_stride,
        "mean": [round(float(value), 6) for value in pixels.mean(0)],
        "std": [round(float(value), 6) for value in pixels.std(0)],
    }
