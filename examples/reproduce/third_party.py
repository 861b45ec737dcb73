"""A surrogate for a base classifier that nobody here has: only the class counts that others drew with it.

The counts are those of github.com/FireShadow05/accelerated_smoothing (Cohen et al.'s CIFAR-10 ResNet-110, sigma 0.25) as
one .npz: `train_sigma0.25_N100000` for the training images in official order, `test_sigma0.25_N<n>` for the test images.
Nothing is evaluated with the base classifier, so there is no row for its clean softmax, none for the verified tier, and
no fresh targets for augmented views: a view keeps the counts of its frame, which is an approximation that calibration
pays for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibration.certify import CertifyCounts
from calibration.digests import combined_digest, file_digest, json_digest
from calibration.evaluation import certified_accuracy
from calibration.files import read_json, write_json
from calibration.guarantee import Guarantee
from calibration.maps import IDENTITY
from examples.reproduce.clock import Clock
from examples.reproduce.data import Images, Source
from examples.reproduce.learn import Schedule, fit
from examples.reproduce.report import write
from examples.reproduce.rows import (
    CERTIFY_ALPHA,
    TABLE_BETA,
    Cost,
    Row,
    Tables,
    calibrated_row,
    calibration_ablations,
    certify_rows,
    gap_curve,
)
from examples.reproduce.scoring import execution, milliseconds_per_frame, pack, predict, score
from examples.reproduce.table import GAP_ERRORS, curve, published_row
from examples.reproduce.views import augment, jensen_shannon, mixing_weights, probit_regression
from trainer.errors import TrainerError
from trainer.networks import build_network, load_network, save_network
from trainer.preprocess import Preprocess

SPLITS = ("tuning", "calibration", "test")
LOSSES = ("ce", "probit", "both", "js")
REFERENCE_DRAWS = 10_000
BETAS = ("0.05", "0.1", "0.2")


@dataclass(frozen=True)
class ThirdParty:
    """What is trained. loss: soft-label cross-entropy, probit regression, both, or Jensen-Shannon divergence.

    mix: share of frames blended with another, counts blended alike. members: networks whose log-probabilities are
    averaged. prior: train Accelerated Smoothing's recipe as well (js, no augmentation, Adam), for as many epochs.
    train: frames (0 = all).
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

    def to_json(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


@dataclass(frozen=True)
class Counts:
    """Independent draws. train: uint32 [n, K]; the others, on the test frames, uint32 [m, K] each.

    references: N = 10,000. selection: 5,000, with which CERTIFY chooses its label. audit: 80,000.
    """

    train: np.ndarray
    selection: np.ndarray
    references: np.ndarray
    audit: np.ndarray
    digest: str


def load_counts(path: Path, sigma: float) -> Counts:
    """Read the published counts and take them apart into independent draws.

    The budgets are not prefixes of one another: 5,000, 10,000, 25,000 and 50,000 are draws of their own, and 100,000 is
    their sum, the 5,000 once more, and 5,000 others. So N = 100,000 less N = 10,000 would be independent of the
    references but would count 5,000 draws twice; the audit takes them out both times.

    Raises TrainerError where an array is missing or the counts do not add up like that.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name].astype(np.int64) for name in archive.files}
    budgets = (5000, 10_000, 25_000, 50_000, 100_000)
    names = [f"train_sigma{sigma}_N100000", *(f"test_sigma{sigma}_N{n}" for n in budgets)]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise TrainerError(f"{path}: got {sorted(arrays)}, missing {missing}")
    train, *tests = (arrays[name] for name in names)
    selection, references, third, fourth, largest = tests
    rest = largest - fourth - third - references - 2 * selection
    if (rest < 0).any() or (rest.sum(axis=1) != 5000).any():
        raise TrainerError(
            f"{path}: the counts do not add up as the published ones do, so no part of them is a known independent audit"
        )
    audit = fourth + third + rest
    parts = [part.astype(np.uint32) for part in (train, selection, references, audit)]
    return Counts(parts[0], parts[1], parts[2], parts[3], file_digest(path))


class Ensemble(nn.Module):
    """The mean of its members' log-probabilities: float32 [B, C, H, W] -> [B, K]."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x).log_softmax(1) for member in self.members]).mean(0)


def run_third_party(
    folder: Path, asked: ThirdParty, source: Source, counts: Counts, device: torch.device, clock: Clock
) -> list[Row]:
    """Train what is missing, then write results.json, table.md and the figures."""
    if len(counts.train) != len(source.train.labels) or len(counts.audit) != len(source.held_out.labels):
        raise TrainerError(
            f"counts of {len(counts.train)} and {len(counts.audit)} frames, images {len(source.train.labels)} and "
            f"{len(source.held_out.labels)}; expected the whole data set in official order"
        )
    made_from = {
        "settings": asked.to_json(),
        "counts": counts.digest,
        "train": source.train.describe(),
        "held out": source.held_out.describe(),
    }
    path = folder / "run.json"
    if path.exists() and read_json(path, "run") != made_from:
        raise TrainerError(
            f"{path}: begun with other settings or data; use the same, or another --out folder"
        )
    write_json(path, made_from)
    work = _Work(folder, asked, source, counts, device, clock)
    scores = {"ours": work.tables("ours", asked)}
    if asked.prior:
        plain = replace(asked, loss="js", mix=0.0, shift=0, flip=False, members=1)
        scores["prior"] = work.tables("prior", plain)
    return _report(folder, asked, scores, work, made_from)


class _Work:
    """Splits, training and scores of one folder."""

    def __init__(
        self,
        folder: Path,
        asked: ThirdParty,
        source: Source,
        counts: Counts,
        device: torch.device,
        clock: Clock,
    ) -> None:
        self.folder, self.asked, self.counts, self.device, self.clock = folder, asked, counts, device, clock
        self.rows = split_rows(source, asked)
        self.train, self.held_out = source.train.take(self.rows["train"]), source.held_out
        height, width, channels = source.train.frames.shape[1:]
        self.preprocess = Preprocess((height, width, channels), "rgb8" if channels == 3 else "mono8").to(
            device
        )
        self.milliseconds: dict[str, float] = {}

    def counts_of(self, part: str) -> np.ndarray:
        """References, or for the test split the draws that audit certificates."""
        found = self.counts.audit if part == "test" else self.counts.references
        return found[self.rows[part]]

    def tables(self, name: str, asked: ThirdParty) -> Tables:
        """Train the members, score the ensemble on the three splits."""
        paths = [
            self.folder / "surrogates" / f"{name}-{member}.safetensors" for member in range(asked.members)
        ]
        for member, path in enumerate(paths):
            if not path.exists():
                self._train(name, asked, member, path)
        networks = [load_network(path) for path in paths]
        network = Ensemble([found.module for found in networks]).to(self.device).eval()
        ran = execution(combined_digest([found.digest for found in networks]), self.device)
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
        save_network(path, network, spec, {"settings": asked.to_json(), "counts": self.counts.digest})
        checkpoint.unlink(missing_ok=True)

    def _loss(self, asked: ThirdParty, network: nn.Module) -> Any:
        counts = self.counts.train[self.rows["train"]].astype(np.float64)
        draws = int(counts[0].sum())
        shares = torch.from_numpy((counts / counts.sum(1, keepdims=True)).astype(np.float32)).to(self.device)
        frames = torch.from_numpy(self.train.frames).to(self.device)

        def loss_of(index: Tensor, generator: torch.Generator) -> Tensor:
            x, target = self.preprocess(frames[index]), shares[index]
            x = augment(x, asked.shift, asked.flip, generator)
            if asked.mix:
                partner = torch.randperm(len(x), generator=generator, device=x.device)
                weight = mixing_weights(len(x), asked.mix, generator, x.device)
                x = torch.lerp(x, x[partner], weight[:, None, None, None])
                target = torch.lerp(target, target[partner], weight[:, None])
            logits = network(x).float()
            if asked.loss == "js":
                return jensen_shannon(logits, target)
            total = logits.new_zeros(())
            if asked.loss in ("ce", "both"):
                total = total + F.cross_entropy(logits, target)
            if asked.loss in ("probit", "both"):
                total = total + probit_regression(logits, target, draws)
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


def _certify(work: _Work, selection: np.ndarray, counts: np.ndarray) -> CertifyCounts:
    rows = work.rows["test"]
    return CertifyCounts(
        digest=work.held_out.digests[rows],
        target=work.held_out.labels[rows],
        selection=selection[rows],
        counts=counts[rows][None],
        budgets=(int(counts[0].sum()),),
        sigma=work.asked.sigma,
        class_names=work.held_out.class_names,
        base_digest=work.counts.digest,
    )


def _report(
    folder: Path, asked: ThirdParty, scores: dict[str, Tables], work: _Work, made_from: dict[str, Any]
) -> list[Row]:
    titles = {"ours": f"surrogate ({asked.loss})", "prior": "Accelerated Smoothing's recipe"}
    counts, error, radius = work.counts, asked.errors[-1], asked.radii[1]
    early = _certify(work, counts.selection, counts.references)
    late = _certify(work, counts.references, counts.audit)
    costs = _costs(asked, work, scores)
    rows = certify_rows(early, scores["ours"].test, asked.radii, None)
    # These draws are the audit itself, so they cannot judge this row.
    rows += certify_rows(late, scores["ours"].test, asked.radii, None, audited=False)
    rows += _surrogate_rows(asked, scores, costs, titles)
    best = early.at(REFERENCE_DRAWS, CERTIFY_ALPHA)
    monte_carlo = float(certified_accuracy(best.label, best.radius, early.target, [radius])[0])
    compared = {titles[name]: (table, None) for name, table in scores.items()}
    grid = np.linspace(0, 4 * asked.sigma, 200)
    curves = {
        f"{titles[name]}, eps {error}": (grid, curve(table, None, error, BETAS, grid))
        for name, table in scores.items()
    }
    curves[f"CERTIFY, N = {REFERENCE_DRAWS:,}"] = (
        grid,
        certified_accuracy(best.label, best.radius, early.target, grid.tolist()),
    )
    changes = calibration_ablations(scores["ours"], error, BETAS, asked.radii, costs["ours"], asked.seed)
    write(
        folder,
        f"third-party counts, sigma {asked.sigma:g}",
        {**made_from, "torch": torch.__version__, "device": str(work.device)},
        {"Methods": rows, "Calibration, one change at a time": changes},
        curves,
        gap_curve(compared, monte_carlo, radius, GAP_ERRORS),
        GAP_ERRORS,
        radius,
    )
    return rows


def _costs(asked: ThirdParty, work: _Work, scores: dict[str, Tables]) -> dict[str, Cost]:
    """Offline passes count what others drew; a pass of the surrogate counts as one of the base classifier."""
    train = work.counts.train[work.rows["train"]]
    drawn = int(train.sum(dtype=np.int64)) + REFERENCE_DRAWS * (asked.tuning + asked.calibration)
    costs = {}
    for name in scores:
        members = asked.members if name == "ours" else 1
        offline = drawn + members * 3 * asked.epochs * len(train)
        costs[name] = Cost(members, offline, REFERENCE_DRAWS, work.milliseconds[name])
    return costs


def _surrogate_rows(
    asked: ThirdParty, scores: dict[str, Tables], costs: dict[str, Cost], titles: dict[str, str]
) -> list[Row]:
    rows = []
    for error in asked.errors:
        promise = Guarantee.of("pac", error)
        for name, table in scores.items():
            for end, radius_map in ((", identity map", IDENTITY), (", our calibration", None)):
                title = titles[name] + end
                rows.append(
                    calibrated_row(title, table, promise, radius_map, BETAS, asked.radii, costs[name])
                )
    if "prior" in scores:
        rows.append(published_row(scores["prior"].test, costs["prior"], asked.radii))
    return rows
