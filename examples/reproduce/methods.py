"""A row's method: settings, scores and costs, read from a workspace or from what a published table keeps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rrise.calibration.storage.digests import combined_digest, file_digest
from rrise.calibration.storage.files import atomic_file
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.cost import CostLedger
from rrise.calibration.tables.scores import Scores
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import read_header
from rrise.trainer.networks.copies import copies_in
from rrise.trainer.settings.config import Config, load_config
from rrise.trainer.settings.text import commented

SPLITS = ("tuning", "calibration", "test")
ROWS = "rows"
"""Folder of a published table that holds one folder for each method."""

DIGITS = 16
"""Hexadecimal digits of a frame's digest that published tables keep."""

EVALUATED = ("base", "selection", "certify", "audit", "verification")
"""Stages that plain Monte Carlo needs as well, or that only evaluate."""


@dataclass(frozen=True, eq=False)
class Method:
    """One way of certifying in one pass. name: of its folder.

    tuning, calibration, test: scores of its surrogate; the test split's counts are the audit's own draws. certify: Monte
    Carlo on the same test frames. cost: what was spent. copies: of the frame that a query asks the base classifier about.
    """

    name: str
    config: Config
    tuning: Scores
    calibration: Scores
    test: Scores
    certify: CertifyCounts
    cost: CostLedger
    copies: int = 0

    @property
    def guard_noise(self) -> float:
        """Standard deviation of the noise that the surrogate takes with every frame, 0 for a plain pass."""
        return float(dict(self.test.execution.options).get("guard_noise", 0.0))

    @property
    def offline_passes(self) -> int:
        """Base evaluations before the first query, without base training, audit, CERTIFY and the check of deployed files.

        Stored counts of the training frames are among them only where the surrogate learnt from them.
        """
        free = [*EVALUATED, *(() if self.config.surrogate.method in ("stored", "auto") else ("train",))]
        stages = [entry.stage for entry in self.cost.entries]
        left_out = [s for s in stages if s.removeprefix("targets-").split("-")[0] in free]
        return self.cost.total(without=tuple(left_out))

    @property
    def passes(self) -> int:
        """Forward passes of a query: of the surrogate, and of the base classifier on copies of the frame."""
        return self.config.surrogate.members + self.copies * self.config.base.members

    @property
    def recipe(self) -> str:
        """How the surrogate was made, in a table's cell."""
        asked = self.config.surrogate
        if asked.method == "unchanged":
            return "the base classifier's weights as they are"
        start = "base weights" if asked.start == "base" and not asked.widths else "from scratch"
        counts = {"fresh": f"{asked.samples_per_view} fresh draws a view", "stored": "stored counts"}
        how = counts.get(asked.method, "fresh or stored")
        optimiser = "" if asked.optimiser == "auto" else f", {asked.optimiser}"
        members = f", {asked.members} networks" if asked.members > 1 else ""
        copies = f", {self.copies} copies" if self.copies else ""
        return f"{start}, {how}, loss {asked.loss}{optimiser}{members}{copies}"


def load_methods(paths: Sequence[Path]) -> list[Method]:
    """Read workspaces, and folders of published tables with all their rows.

    Raises TrainerError where something is missing or stale, or where two of them do not share base classifier, test
    frames, audit and CERTIFY.
    """
    folders = [row for path in paths for row in _folders(path)]
    methods = [_kept(row) if (row / "test.npz").is_file() else _of_workspace(row) for row in folders]
    names = [method.name for method in methods]
    if not methods or len(set(names)) < len(names):
        raise TrainerError(f"rows: got {names}, expected folders with a name each; rename them")
    for other in methods[1:]:
        check_comparable(methods[0], other)
    return methods


def _folders(path: Path) -> list[Path]:
    if (path / ROWS).is_dir():
        return sorted(row for row in (path / ROWS).iterdir() if row.is_dir())
    return [path]


def _of_workspace(path: Path) -> Method:
    config = load_config(path / "rrise.toml")
    surrogate = path / "surrogate.safetensors"
    if not surrogate.is_file() or not (path / "certify.npz").is_file():
        raise TrainerError(
            f"{path}: no surrogate.safetensors or certify.npz; run `rrise-train run {path} --compare`, which also draws CERTIFY "
            "and the audit"
        )
    digest = file_digest(surrogate)
    found = [file.parent for file in path.glob("scores/pytorch-*/test.npz")]
    folder = next((f for f in found if Scores.load(f / "test.npz").execution.artefact == digest), None)
    if folder is None:
        raise TrainerError(
            f"{path}: no scores of the surrogate that lies there; run `rrise-train calibrate {path}`"
        )
    cost = path / "cost.json"
    return Method(
        path.absolute().name,
        config,
        **{split: Scores.load(folder / f"{split}.npz") for split in SPLITS},
        certify=CertifyCounts.load(path / "certify.npz"),
        cost=CostLedger.load(cost) if cost.exists() else CostLedger(),
        copies=copies_in(read_header(surrogate)[0]),
    )


def _kept(path: Path) -> Method:
    config = load_config(path / "rrise.toml")
    return Method(
        path.name,
        config,
        **{split: Scores.load(path / f"{split}.npz") for split in SPLITS},
        certify=CertifyCounts.load(path.parents[1] / "certify.npz"),
        cost=CostLedger.load(path / "cost.json"),
        copies=config.surrogate.copies,
    )


def check_comparable(first: Method, other: Method) -> None:
    """Refuse to put two methods side by side that were not measured on the same things."""

    def facts(method: Method) -> dict[str, object]:
        test, certify = method.test, method.certify
        return {
            "sigma": test.sigma,
            "base classifier": test.base_digest,
            "base classifier of CERTIFY": certify.base_digest,
            "test frames": combined_digest(cut_digests(test.digest).tolist()),
            "test frames of CERTIFY": combined_digest(cut_digests(certify.digest).tolist()),
            "counts of the audit": combined_digest(_text(test.counts)),
            "counts of CERTIFY": combined_digest(_text(certify.counts)),
        }

    mine = facts(first)
    for name, got in facts(other).items():
        if got != mine[name]:
            raise TrainerError(
                f"{other.name}: {name}: got {_short(got)}, expected {_short(mine[name])} of {first.name}; make the second "
                "workspace from the first with `python -m examples.reproduce variant`"
            )


def cut_digests(digests: np.ndarray) -> np.ndarray:
    """As published tables keep them: S64 [n] -> S16 [n]; shorter ones stay."""
    return digests.astype(f"S{DIGITS}")


def _text(counts: np.ndarray) -> list[bytes]:
    return [np.ascontiguousarray(counts, np.uint32).tobytes()]


def _short(value: object) -> object:
    return value[:12] if isinstance(value, str) else value


def keep(folder: Path, methods: Sequence[Method]) -> None:
    """Write what the table can be made from again: settings, scores and costs of each method, and CERTIFY's counts.

    Digests of frames are cut to their first DIGITS digits: they tell frames apart, and are most of what is written.
    Rows of an earlier table in this folder go.
    """
    if (folder / ROWS).exists():
        shutil.rmtree(folder / ROWS)
    certify = methods[0].certify
    replace(certify, digest=cut_digests(certify.digest)).save(folder / "certify.npz")
    for method in methods:
        row = folder / ROWS / method.name
        for split in SPLITS:
            scores: Scores = getattr(method, split)
            replace(scores, digest=cut_digests(scores.digest)).save(row / f"{split}.npz")
        method.cost.save(row / "cost.json")
        # Where the data lay is nobody's business but that machine's.
        source = Path(method.config.data.source).name
        data = replace(method.config.data, source=source)
        # A number of copies that a budget of time chose is a fact of this row.
        surrogate = replace(method.config.surrogate, copies=method.copies, budget_ms=0.0)
        with atomic_file(row / "rrise.toml", "w") as file:
            file.write(commented(replace(method.config, data=data, surrogate=surrogate)))
