"""One surrogate's scores calibrated in other ways, one change at a time; rows to learn from, not to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from calibration.guarantee import Guarantee
from calibration.maps import RadiusMap, clopper_pearson_map
from calibration.scores import Scores
from examples.reproduce.rows import PAPER, TABLE_BETA, TUNED, Choice, Cost, Row, Tables, calibrated_row


def calibration_ablations(
    tables: Tables, error: str, betas: tuple[str, ...], radii: Sequence[float], cost: Cost, seed: int
) -> list[Row]:
    """One surrogate's scores under other maps, betas, numbers of calibration frames and of reference draws, one at a time.

    Rows to learn from, not to choose from: a choice belongs on the tuning split.
    """
    draws = int(np.median(tables.calibration.num_samples))

    def row(
        name: str, changed: Tables, guarantee: Guarantee | None = None, radius_map: RadiusMap | None = None
    ) -> Row:
        asked = guarantee or Guarantee.of("pac", error)
        choice = Choice(radius_map or _curve(changed, asked))
        return calibrated_row(name, changed, asked, choice, betas, radii, cost)

    rows = [
        row("Clopper-Pearson map, beta 0.1", tables),
        row("identity map", tables, radius_map=PAPER.map),
        calibrated_row(
            "map and beta chosen on tuning", tables, Guarantee.of("pac", error), TUNED, betas, radii, cost
        ),
        row("marginal instead of PAC", tables, Guarantee.of("marginal", error)),
    ]
    for beta in betas:
        if Fraction(beta) != TABLE_BETA:
            rows.append(row(f"beta {beta}", tables, Guarantee.of("pac", error, beta=beta)))
    count = len(tables.calibration)
    for frames in (count // 8, count // 4, count // 2):
        fewer = replace(tables, calibration=tables.calibration.take(np.arange(frames)))
        rows.append(row(f"{frames:,} calibration frames", fewer))
    for fewer_draws in (draws // 16, draws // 4):
        thin = replace(tables, calibration=thinned(tables.calibration, fewer_draws, seed))
        rows.append(row(f"{fewer_draws:,} draws per reference", thin))
    return rows


def _curve(tables: Tables, guarantee: Guarantee) -> RadiusMap:
    draws = int(np.median(tables.calibration.num_samples))
    return clopper_pearson_map(tables.calibration.sigma, draws, float(guarantee.beta))


def thinned(scores: Scores, num_samples: int, seed: int) -> Scores:
    """The table with `num_samples` of each frame's draws, chosen at random without replacement.

    Such a subset has the law of fewer draws made in the first place.
    """
    random = np.random.default_rng(seed)
    counts = random.multivariate_hypergeometric
    kept = np.stack([counts(row, num_samples) for row in scores.counts.astype(np.int64)])
    return replace(
        scores,
        counts=kept.astype(np.uint32),
        num_samples=np.full(len(scores), num_samples, np.uint32),
        reference=None,
        beta=None,
    )
