"""How many draws per reference suffice? Calibrates on published counts, thinned to fewer draws, over several seeds.

    python examples/budget_references.py cohen_resnet110_counts_sigma0.25.npz

The file is that of third_party_references.py. The surrogate is simulated: it knows each probability from other draws, with
Gaussian noise on its probit (0.35 is the error of a surrogate trained on fresh draws). No network is run here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from third_party_references import RADII, SIGMA, TUNING, Parts, load_parts, make_scores

from rrise.calibration import Guarantee, calibrate, clopper_pearson_map
from rrise.calibration.console import run_command, summary
from rrise.calibration.tables.thinning import thin

GUARANTEE = Guarantee.of("pac", "0.05", "0.95", "0.1")
FRAMES = 4000
DRAWS = (100, 200, 500, 1000, 2500, 10_000)


@click.command()
@click.argument("counts", type=click.Path(exists=True, path_type=Path))
@click.option("--seeds", default=5, show_default=True)
@click.option(
    "--noise", default=0.35, show_default=True, help="Standard deviation of the surrogate's probit error."
)
@click.option("--json", "as_json", is_flag=True)
@run_command
def main(counts: Path, seeds: int, noise: float, as_json: bool) -> None:
    """Print the share issued against the draws per reference."""
    parts = load_parts(counts)
    table = np.array([study(parts, noise, seed) for seed in range(seeds)])
    rows = [
        (
            f"N = {size:,}",
            "  ".join(
                f"r={radius:g}: {100 * mean:4.1f} +- {100 * spread:.1f} %"
                for radius, mean, spread in zip(RADII, means, spreads, strict=True)
            ),
        )
        for size, means, spreads in zip(DRAWS, table.mean(axis=0), table.std(axis=0), strict=True)
    ]
    plain = {str(size): values.tolist() for size, values in zip(DRAWS, table.mean(axis=0), strict=True)}
    summary(f"share issued, probit noise {noise:g}", rows, {"radii": list(RADII), "issued": plain}, as_json)


def study(parts: Parts, noise: float, seed: int) -> list[list[float]]:
    """Share issued at each radius, for each number of draws; another split, noise and thinning for each seed."""
    known, rng = make_scores(parts, noise, seed), np.random.default_rng(seed)
    order = np.random.default_rng([1, seed]).permutation(len(known))[TUNING:]
    references, test = known.take(order[:FRAMES]), known.take(order[FRAMES:])
    shares = []
    for size in DRAWS:
        curve = clopper_pearson_map(SIGMA, size, float(GUARANTEE.beta))
        thinned = replace(thin(references, size, rng), split="calibration")
        head = calibrate(thinned, GUARANTEE, curve).head
        issued = head.radius(test.probit, test.label)
        shares.append([float(np.mean(issued >= radius)) for radius in RADII])
    return shares


if __name__ == "__main__":
    main()
