"""From published counts to their table: train what is missing, calibrate, and judge by draws that nothing else saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.reproduce.ablations import calibration_ablations
from examples.reproduce.clock import Clock
from examples.reproduce.data import Source
from examples.reproduce.ensemble import load_surrogate
from examples.reproduce.report import write
from examples.reproduce.rows import (
    CERTIFY_ALPHA,
    PAPER,
    TUNED,
    Choice,
    Cost,
    Row,
    Tables,
    calibrated_row,
    certify_rows,
    gap_curve,
)
from examples.reproduce.table import GAP_ERRORS, curve, published_row
from examples.reproduce.third_party import ThirdParty, Work
from examples.reproduce.third_party_counts import Counts
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.plan import default_radii
from rrise.calibration.storage.files import read_json, write_json
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.evaluation import certified_accuracy, certified_right
from rrise.trainer.errors import TrainerError

REFERENCE_DRAWS = 10_000
BETAS = ("0.02", "0.05", "0.1", "0.2")


def run_third_party(
    folder: Path,
    asked: ThirdParty,
    source: Source,
    counts: Counts,
    device: torch.device,
    clock: Clock,
    teacher: Path | None = None,
) -> list[Row]:
    """Train what is missing, then write results.json, table.md and the figures.

    teacher: folder of a finished run, whose surrogate labels the views of this one.
    """
    if len(counts.train) != len(source.train.labels) or len(counts.audit) != len(source.held_out.labels):
        raise TrainerError(
            f"counts of {len(counts.train)} and {len(counts.audit)} frames, images {len(source.train.labels)} and "
            f"{len(source.held_out.labels)}; expected the whole data set in official order"
        )
    labels = None if teacher is None else load_surrogate(teacher, "ours", counts.digest)
    asked = replace(asked, teacher="" if labels is None else labels.digest)
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
    work = Work(folder, asked, source, counts, device, clock, labels)
    scores = {"ours": work.tables("ours", asked)}
    if asked.prior:
        plain = replace(asked, loss="js", mix=0.0, shift=0, flip=False, members=1, teacher="")
        scores["prior"] = work.tables("prior", plain)
    return _report(folder, asked, scores, work, made_from)


def _certify(work: Work, selection: np.ndarray, counts: np.ndarray) -> CertifyCounts:
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
    folder: Path, asked: ThirdParty, scores: dict[str, Tables], work: Work, made_from: dict[str, Any]
) -> list[Row]:
    titles = {"ours": f"surrogate ({asked.loss})", "prior": "Accelerated Smoothing's recipe"}
    counts, error, radius = work.counts, asked.errors[-1], asked.radii[1]
    early = _certify(work, counts.selection, counts.references)
    late = _certify(work, counts.references, counts.audit)
    best = early.at(REFERENCE_DRAWS, CERTIFY_ALPHA)
    right = certified_right(best.label, best.radius, early.target, asked.radii)
    largest = late.at(int(counts.audit[0].sum()), CERTIFY_ALPHA)
    others = {
        f"CERTIFY, N = {int(counts.audit[0].sum()):,}": certified_right(
            largest.label, largest.radius, late.target, asked.radii
        )
    }
    costs = _costs(asked, work, scores, right, others)
    rows = certify_rows(early, scores["ours"].test, asked.radii, None)
    # These draws are the audit itself, so they cannot judge this row.
    rows += certify_rows(late, scores["ours"].test, asked.radii, None, audited=False)
    rows += _surrogate_rows(asked, scores, costs, titles)
    monte_carlo = float(certified_accuracy(best.label, best.radius, early.target, [radius])[0])
    compared = {titles[name]: (table, TUNED) for name, table in scores.items()}
    compared[f"{titles['ours']}, for r = {radius:g}"] = (scores["ours"], Choice(radius=radius))
    grid = np.linspace(0, 4 * asked.sigma, 200)
    curves = {
        f"{titles[name]}, eps {error}": (grid, curve(table, TUNED, error, BETAS, grid))
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
        gap_curve(compared, monte_carlo, radius, GAP_ERRORS, BETAS),
        GAP_ERRORS,
        radius,
    )
    return rows


def _costs(
    asked: ThirdParty,
    work: Work,
    scores: dict[str, Tables],
    certified: np.ndarray,
    others: dict[str, np.ndarray],
) -> dict[str, Cost]:
    """Offline passes count what others drew; a pass of the surrogate counts as one of the base classifier."""
    train = work.counts.train[work.rows["train"]]
    drawn = int(train.sum(dtype=np.int64)) + REFERENCE_DRAWS * (asked.tuning + asked.calibration)
    costs = {}
    for name in scores:
        members = asked.members if name == "ours" else 1
        costs[name] = Cost(
            members, drawn + work.passes[name], REFERENCE_DRAWS, work.milliseconds[name], certified, others
        )
    return costs


def _surrogate_rows(
    asked: ThirdParty, scores: dict[str, Tables], costs: dict[str, Cost], titles: dict[str, str]
) -> list[Row]:
    choices = {"identity map": PAPER, "our calibration": TUNED}
    choices.update({f"for r = {radius:g}": Choice(radius=radius) for radius in default_radii(asked.sigma)})
    rows = []
    for error in asked.errors:
        promise = Guarantee.of("pac", error)
        for name, table in scores.items():
            for end, choice in choices.items():
                title = f"{titles[name]}, {end}"
                rows.append(calibrated_row(title, table, promise, choice, BETAS, asked.radii, costs[name]))
    if "prior" in scores:
        rows.append(published_row(scores["prior"].test, costs["prior"], asked.radii))
    return rows
