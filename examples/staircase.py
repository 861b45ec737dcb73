"""One bundle for several radii: what a staircase certifies beside one map for all radii and beside a bundle for each radius.

    python examples/staircase.py examples/reproduce/results/release-0.1/cifar10

The folder holds the scores of one surrogate: tuning.npz and calibration.npz with the counts of the references, test.npz with
the counts of an audit. *Gross* is certified accuracy; *net* leaves out the certificates whose radius is above the
audit's estimate of the true one, because a promise over frames permits some, and they flatter. With `--splits 20` the tuning and
calibration frames are divided anew 20 times, and every number is a mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rrise.calibration import Guarantee, Scores
from rrise.calibration.promise.plan import BETAS, Plan, choose_plan
from rrise.calibration.tables.evaluation import judge

WEIGHTS = ("1,1,1", "1,1,1.6")


@dataclass(frozen=True)
class Row:
    """One method: share of test frames with the right label at each radius, gross and net, and wrong certificates.

    wrong: share of all frames; wrong_issued: of the certificates.
    """

    gross: tuple[float, ...]
    net: tuple[float, ...]
    wrong: float
    wrong_issued: float


def row(plan: Plan, calibration: Scores, test: Scores, radii: list[float]) -> Row:
    """Calibrate as planned and judge what is issued on the test frames."""
    record = plan.calibrate(calibration)
    judged = judge(test, record.head.radius(test.probit, test.label, test.difficulty))
    wrong = judged.issued & ~judged.holds
    return Row(
        tuple(float(value) for value in judged.gross(radii).mean(axis=1)),
        tuple(float(value) for value in judged.net(radii).mean(axis=1)),
        float(wrong.mean()),
        float(wrong.sum() / max(judged.issued.sum(), 1)),
    )


def rows(
    tables: dict[str, Scores],
    guarantee: Guarantee,
    radii: list[float],
    weights: list[str],
    betas: tuple[Fraction, ...],
) -> Iterator[tuple[str, Row]]:
    """The methods in the order in which they are shown; every choice is made on the tuning frames."""
    tuning, calibration, test = (tables[name] for name in ("tuning", "calibration", "test"))
    options: dict[str, Any] = {"num_calibration": len(calibration), "betas": betas}
    yield (
        "one map, largest mean radius",
        row(choose_plan(tuning, guarantee, **options), calibration, test, radii),
    )
    for text in weights:
        plan = choose_plan(
            tuning,
            guarantee,
            radius=radii,
            weights=[float(weight) for weight in text.split(",")],
            **options,
        )
        yield f"one bundle for all radii, weights {text}", row(plan, calibration, test, radii)
    for radius in radii:
        plan = choose_plan(tuning, guarantee, radius=radius, **options)
        yield f"a bundle for {radius:g} only", row(plan, calibration, test, radii)


def divided(folder: Path, split: int) -> dict[str, Scores]:
    """The three tables; after the first split, tuning and calibration frames are exchanged at random."""
    tables = {name: Scores.load(folder / f"{name}.npz") for name in ("tuning", "calibration", "test")}
    if split == 0:
        return tables
    first, second = tables["tuning"], tables["calibration"]
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(first, field.name), getattr(second, field.name)])
        for field in fields(first)
        if isinstance(getattr(first, field.name), np.ndarray)
    }
    pool = replace(second, **columns)
    order = np.random.default_rng([2, split]).permutation(len(pool))
    return {
        "tuning": replace(pool.take(order[: len(first)]), split="tuning"),
        "calibration": pool.take(order[len(first) :]),
        "test": tables["test"],
    }


def show(name: str, found: list[Row]) -> None:
    """One line: means over the splits, in per cent."""
    gross, net = (np.mean([getattr(one, kind) for one in found], axis=0) for kind in ("gross", "net"))
    wrong, among = (
        100 * np.mean([getattr(one, kind) for one in found]) for kind in ("wrong", "wrong_issued")
    )
    numbers = " ".join(f"{100 * value:5.1f}" for value in (*gross, *net))
    print(f"  {name:44} {numbers}   {wrong:4.1f} {among:5.1f}")


def main() -> None:
    """Compare the maps that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scores", type=Path)
    parser.add_argument("--radii", default="0.25,0.5,0.75")
    parser.add_argument("--weights", action="append", help="of the radii; may be given several times")
    parser.add_argument("--errors", default="0.1,0.05,0.01")
    parser.add_argument("--kind", default="pac", choices=("pac", "marginal", "selective"))
    parser.add_argument("--betas", help="to choose among, as in 0.1  [default: 0.02, 0.05, 0.1, 0.2]")
    parser.add_argument("--splits", type=int, default=1)
    arguments = parser.parse_args()
    radii = [float(text) for text in arguments.radii.split(",")]
    betas = BETAS if arguments.betas is None else tuple(map(Fraction, arguments.betas.split(",")))
    tables = [divided(arguments.scores, split) for split in range(arguments.splits)]
    for error in arguments.errors.split(","):
        guarantee = Guarantee.of(arguments.kind, error)
        found: dict[str, list[Row]] = {}
        for split in tables:
            for name, one in rows(split, guarantee, radii, arguments.weights or list(WEIGHTS), betas):
                found.setdefault(name, []).append(one)
        heads = " ".join(f"{r:5g}" for r in (*radii, *radii))
        print(
            f"\n{arguments.kind}, error {error}: gross and net certified accuracy at r, wrong of all frames and of the issued, %"
        )
        print(f"  {'':44} {heads}  wrong among")
        for name, several in found.items():
            show(name, several)


if __name__ == "__main__":
    main()
