"""One surrogate's scores calibrated in other ways, one change at a time; rows to learn from, not to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from examples.reproduce.rows import PAPER, TABLE_BETA, TUNED, Choice, Cost, Row, Tables, calibrated_row
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.maps import RadiusMap, clopper_pearson_map
from rrise.calibration.tables.thinning import thin

CALIBRATION_FRAMES = (500, 1000, 2000, 5000, 10_000)


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
    steps = [frames for frames in CALIBRATION_FRAMES if frames < count]
    for frames in steps or (count // 4, count // 2):
        fewer = replace(tables, calibration=tables.calibration.take(np.arange(frames)))
        rows.append(row(f"{frames:,} calibration frames", fewer))
    for fewer_draws in (draws // 16, draws // 4):
        fewer = replace(
            tables, calibration=thin(tables.calibration, fewer_draws, np.random.default_rng(seed))
        )
        rows.append(row(f"{fewer_draws:,} draws per reference", fewer))
    return rows


def _curve(tables: Tables, guarantee: Guarantee) -> RadiusMap:
    draws = int(np.median(tables.calibration.num_samples))
    return clopper_pearson_map(tables.calibration.sigma, draws, float(guarantee.beta))
