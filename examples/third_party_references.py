"""Calibration on Monte Carlo that others ran: what is a perfect surrogate worth, and how much does noise cost?

    python examples/third_party_references.py cohen_resnet110_counts_sigma0.25.npz --splits 100 --out study.json

The file holds class counts of Cohen et al.'s CIFAR-10 ResNet-110 at sigma 0.25 on the 10,000 test images, drawn by the
authors of github.com/FireShadow05/accelerated_smoothing (MIT). No network is run here. Each image has three independent
sets of draws: references (10,000), a perfect surrogate (50,000) and an audit (35,000) that judges the certificates.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from rrise.calibration import (
    IDENTITY,
    CalibrationError,
    CertificateHead,
    Execution,
    Guarantee,
    Scores,
    calibrate,
    clopper_pearson_map,
    frame_digest,
)
from rrise.calibration.promise.crossfit import signed_reference
from rrise.calibration.promise.maps import step_map
from rrise.calibration.promise.plan import choose_plan
from rrise.calibration.promise.quantile import quantile_map
from rrise.calibration.promise.selective import offset_grid
from rrise.calibration.statistics.bounds import reference_radius
from rrise.calibration.storage.files import write_json
from rrise.calibration.tables.evaluation import judge

SIGMA = 0.25
RADII = (0.25, 0.5, 0.75)
TUNING, CALIBRATION, EVALUATION = 1000, 4000, 5000
COHEN_ALPHA = 0.001
SETTINGS = ((0.0, False), (0.1, False), (0.3, False), (1.0, False), (0.1, True), (0.3, True), (1.0, True))
"""Probit noise, and whether it is uneven."""


@dataclass(frozen=True)
class Parts:
    """Class counts int64 [10000, 10] of independent draws."""

    references: np.ndarray
    surrogate: np.ndarray
    audit: np.ndarray


def load_parts(path: Path) -> Parts:
    """Take the published totals apart into independent draws.

    The budgets are not prefixes of one another: N = 5,000, 10,000, 25,000 and 50,000 are separate draws, and
    N = 100,000 is their sum plus a remainder of 10,000, which contains the 5,000 a second time. What is left of it are
    5,000 draws of their own. (Seen in the counts: prefix differences are negative for thousands of images, this
    remainder never is; and by the variances, which tests/examples/test_third_party_references.py checks.)
    """
    with np.load(path) as archive:
        total = {
            n: archive[f"test_sigma0.25_N{n}"].astype(np.int64)
            for n in (5000, 10_000, 25_000, 50_000, 100_000)
        }
    rest = total[100_000] - total[50_000] - total[25_000] - total[10_000] - 2 * total[5000]
    if (rest < 0).any() or (rest.sum(axis=1) != 5000).any():
        raise CalibrationError(f"{path}: the counts do not add up as those of the published file do")
    return Parts(total[10_000], total[50_000], total[5000] + total[25_000] + rest)


def make_scores(
    parts: Parts, noise: float, seed: int, *, uneven: bool = False, audited: bool = False
) -> Scores:
    """Scores of a surrogate that knows each probability from 50,000 draws, with Gaussian noise on its probit.

    `uneven`: the noise has another deviation for each image (log-normal, mean square 1), which the surrogate's
    difficulty head knows. `audited`: the counts are those of the audit, not the references.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(parts.surrogate))
    label = parts.surrogate.argmax(axis=1)
    share = (parts.surrogate[rows, label] + 0.5) / 50_001
    scale = rng.lognormal(0.0, 0.6, len(rows)) if uneven else np.ones(len(rows))
    scale /= np.sqrt(np.mean(scale**2))
    counts = parts.audit if audited else parts.references
    return Scores(
        digest=np.array([frame_digest(np.array(row)).encode() for row in rows], "S64"),
        clip=rows,
        target=np.full(len(rows), -1),
        label=label,
        probit=(ndtri(share) + noise * scale * rng.normal(size=len(rows))).astype(np.float32),
        counts=counts.astype(np.uint32),
        num_samples=counts.sum(axis=1).astype(np.uint32),
        split="test",
        sigma=SIGMA,
        class_names=tuple(str(index) for index in range(counts.shape[1])),
        base_digest="cohen2019-resnet110-sigma0.25",
        execution=Execution("none", "counts", "1", "cpu", "none"),
        difficulty=scale.astype(np.float32) if uneven else None,
    )


def heads(
    tuning: Scores, calibration: Scores, plans: bool, error: str = "0.05"
) -> "dict[str, CertificateHead]":
    """Calibrated heads of every method; maps are fitted on the tuning images only."""
    promise = Guarantee.of("pac", error, "0.95", "0.1")
    plugin = np.float32(SIGMA) * tuning.probit
    curves = {
        "plain offset": IDENTITY,
        "clopper-pearson": clopper_pearson_map(SIGMA, 10_000, float(promise.beta)),
        "quantile": quantile_map(plugin, signed_reference(tuning, promise), float(promise.alpha)),
    }
    found = {}
    for name, curve in curves.items():
        found[name] = calibrate(calibration, promise, curve, difficulty=False).head
        if calibration.difficulty is not None:
            found[f"{name} + difficulty"] = calibrate(calibration, promise, curve).head
    for radius in RADII if plans else ():
        plan = choose_plan(tuning, promise, radius=radius, num_calibration=len(calibration))
        head = calibrate(calibration, plan.guarantee, plan.map, difficulty=plan.difficulty).head
        found[f"chosen for {radius:g}"] = head
        among = Guarantee.of("selective", error, "0.95", "0.1")
        grid = offset_grid(tuning, among, step_map(radius))
        head = calibrate(calibration, among, step_map(radius), difficulty=False, offsets=grid).head
        found[f"step at {radius:g}, selective"] = head
    return found


def study(
    parts: Parts,
    noise: float,
    splits: int,
    *,
    uneven: bool = False,
    plan_splits: int = 0,
    error: str = "0.05",
) -> "dict[str, object]":
    """Means over random splits: share issued at each radius, the part of it that holds (net), and what is proved wrong.

    `plan_splits`: on how many of the splits maps are also chosen for each radius, which takes longer.
    """
    known = make_scores(parts, noise, 0, uneven=uneven)
    judged = make_scores(parts, noise, 0, uneven=uneven, audited=True)
    rows: "dict[str, list[list[float]]]" = {}
    for split in range(splits):
        order = np.random.default_rng([1, split]).permutation(len(known))
        tuning, rest = known.take(order[:TUNING]), order[TUNING : TUNING + CALIBRATION]
        calibration, test = known.take(rest), judged.take(order[-EVALUATION:])
        tables = heads(
            replace(tuning, split="tuning"),
            replace(calibration, split="calibration"),
            split < plan_splits,
            error,
        )
        for name, head in tables.items():
            radius = head.radius(test.probit, test.label, test.difficulty)
            found = judge(test, radius)
            verdict = found.verdict()
            shares = [float(np.mean(radius >= r)) for r in RADII]
            net = [float(np.mean((radius >= r) & found.holds)) for r in RADII]
            rows.setdefault(name, []).append(
                [*shares, *net, verdict.wrong / len(test), verdict.wrong_at_most]
            )
        evaluated = known.take(order[-EVALUATION:])
        for level in (COHEN_ALPHA, 0.1):
            direct = _direct(evaluated, level)
            rows.setdefault(f"Monte Carlo, alpha {level:g}", []).append(
                [*(2 * [float(np.mean(direct >= r)) for r in RADII]), 0, 0]
            )
        share = test.label_counts() / test.num_samples.astype(np.float64)
        true = SIGMA * ndtri(share)
        oracle = 2 * [float(np.mean(true >= r)) for r in RADII]
        rows.setdefault("images with such a radius", []).append([*oracle, 0, 0])
    means = {name: np.mean(values, axis=0) for name, values in rows.items()}
    spread = {name: np.std(values, axis=0) for name, values in rows.items()}
    return {
        "noise": noise,
        "uneven": uneven,
        "splits": {name: len(values) for name, values in rows.items()},
        "error": error,
        "issued": {name: [float(value) for value in row[: len(RADII)]] for name, row in means.items()},
        "net": {name: [float(value) for value in row[len(RADII) : -2]] for name, row in means.items()},
        "deviation": {name: [float(value) for value in row[: len(RADII)]] for name, row in spread.items()},
        "proved_wrong": {name: float(row[-2]) for name, row in means.items() if not _known(name)},
        "wrong_or_undecided": {name: float(row[-1]) for name, row in means.items() if not _known(name)},
        "largest_proved_wrong": {
            name: max(row[-2] for row in values) for name, values in rows.items() if not _known(name)
        },
    }


def _known(name: str) -> bool:
    """Rows of what is true, or promised for each image, which no audit judges here."""
    return name.startswith(("Monte", "images"))


def _direct(scores: Scores, level: float) -> np.ndarray:
    """Monte Carlo radius of each image from the reference draws, at the label of the other draws."""
    return reference_radius(scores.label_counts()[:, None], scores.num_samples, SIGMA, level)[:, 0]


def show(result: "dict[str, object]") -> None:
    """One table on the terminal."""
    issued, wrong, net = result["issued"], result["proved_wrong"], result["net"]
    assert isinstance(issued, dict) and isinstance(wrong, dict) and isinstance(net, dict)
    kind = "uneven probit noise" if result["uneven"] else "probit noise"
    print(
        f"\n{kind} {result['noise']:g}, eps {result['error']}, share issued -> net of wrong ones, labels ignored, in per cent"
    )
    print(f"  {'':32}" + "".join(f"  r={radius:<13g}" for radius in RADII) + "  proved wrong")
    for name, row in issued.items():
        share = f"{100 * wrong[name]:9.2f}" if name in wrong else ""
        print(
            f"  {name:32}"
            + "".join(f"  {100 * a:6.2f} -> {100 * b:5.2f}" for a, b in zip(row, net[name]))
            + share
        )


def main() -> None:
    """Make the study that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("counts", type=Path)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument(
        "--plan-splits", type=int, default=100, help="splits on which maps are chosen for a radius"
    )
    parser.add_argument("--errors", default="0.05", help="error levels, as in 0.1,0.05,0.01")
    parser.add_argument("--noises", default="", help="only these probit noises, even ones, as in 0,0.3")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    parts = load_parts(arguments.counts)
    results = []
    settings = [(float(text), False) for text in arguments.noises.split(",") if text] or SETTINGS
    for error in arguments.errors.split(","):
        for noise, uneven in settings:
            plans = 0 if uneven else arguments.plan_splits
            found = study(parts, noise, arguments.splits, uneven=uneven, plan_splits=plans, error=error)
            results.append(found)
            show(found)
    if arguments.out is not None:
        write_json(arguments.out, {"radii": list(RADII), "studies": results})


if __name__ == "__main__":
    main()
