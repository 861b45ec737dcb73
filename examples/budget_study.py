"""How few base forward passes suffice? Trains surrogates on several budgets and calibrates them on thinned references.

    rrise-train base runs/demo && rrise-train targets runs/demo
    python examples/budget_study.py runs/demo --seeds 5

For every way of training (counts stored for each frame, or fresh noisy evaluations of augmented views, by epochs and by
evaluations of each frame or view) and every N of the references, it prints the cost in base forward passes, the certified
accuracy on the test split over the seeds, and after how many queries direct Monte Carlo with 10,000 samples would have
cost as much. Smaller N come from thinning the stored counts: a random subset of the draws has exactly the distribution of
fewer draws.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click
import numpy as np

from rrise.calibration import break_even, calibrate, clopper_pearson_map
from rrise.calibration.console import run_command, summary
from rrise.calibration.tables.cost import CostEntry
from rrise.calibration.tables.evaluation import certified_accuracy
from rrise.calibration.tables.thinning import thin
from rrise.trainer import Workspace, train_surrogate
from rrise.trainer.scores.calibrate import score_all, seen_digests
from rrise.trainer.scores.choice import guarantee_for

QUERY_SAMPLES = 10_000


@dataclass(frozen=True)
class Way:
    """One way of training; samples: evaluations of every augmented view, or (stored) of every frame, once."""

    method: str
    epochs: int
    samples: int

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.method}, {self.epochs} epochs, {self.samples} per {'view' if self.method == 'fresh' else 'frame'}"


@dataclass(frozen=True)
class Point:
    """One budget: passes of everything offline, and certified accuracy of every seed."""

    way: Way
    references: int
    passes: int
    accuracy: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.accuracy))


@click.command()
@click.argument("workspace", type=click.Path(path_type=Path))
@click.option("--seeds", default=5, show_default=True)
@click.option("--epochs", multiple=True, type=int, default=(5, 10, 20, 40), show_default=True)
@click.option(
    "--samples", multiple=True, type=int, default=(1, 2, 4), show_default=True, help="Evaluations per view."
)
@click.option(
    "--stored",
    multiple=True,
    type=int,
    default=(20, 100, 500),
    show_default=True,
    help="Stored counts per frame.",
)
@click.option("--references", multiple=True, type=int, default=(200, 500, 1000, 2000), show_default=True)
@click.option("--radius", default=0.1, show_default=True, help="Certified accuracy is taken at this radius.")
@click.option("--json", "as_json", is_flag=True)
@run_command
def main(
    workspace: Path, seeds: int, epochs: tuple[int, ...], samples: tuple[int, ...], stored: tuple[int, ...],
    references: tuple[int, ...], radius: float, as_json: bool,
) -> None:  # fmt: skip
    """Print cost against certified accuracy for many budgets of one workspace."""
    ways = [Way("fresh", epoch, sample) for epoch, sample in product(epochs, samples)]
    ways += [Way("stored", epoch, count) for epoch, count in product(epochs, stored)]
    points: list[Point] = []
    for way in ways:
        runs = [study(workspace, way, seed, references, radius) for seed in range(seeds)]
        for number, count in enumerate(references):
            passes = runs[0][number][0]
            points.append(Point(way, count, passes, tuple(run[number][1] for run in runs)))
        click.echo(f"{way.name}: done", err=True)
    report(points, radius, as_json)


def study(
    source: Path, way: Way, seed: int, references: tuple[int, ...], radius: float
) -> list[tuple[int, float]]:
    """Passes and certified accuracy of one surrogate at every N of the references."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = scratch(source, Path(folder) / "workspace", way, seed)
        train_surrogate(workspace)
        tables = score_all(workspace, workspace.surrogate())
        training = CostEntry("surrogate", *surrogate_cost(workspace, way)).total
        results = []
        for count in references:
            thinned = thin(tables["calibration"], count, np.random.default_rng(seed))
            guarantee = guarantee_for(workspace, 0.0)
            curve = clopper_pearson_map(thinned.sigma, count, float(guarantee.beta))
            record = calibrate(thinned, guarantee, curve, training_digests=seen_digests(workspace))
            test = tables["test"]
            issued = record.head.radius(test.probit, test.label)
            value = float(certified_accuracy(test.label, issued, test.target, [radius])[0])
            evaluated = len(tables["tuning"]) + len(thinned) + len(tables["verification"])
            results.append((training + count * evaluated, value))
        return results


def scratch(source: Path, target: Path, way: Way, seed: int) -> Workspace:
    """A copy of a workspace in which the surrogate is trained in another way."""
    original = Workspace.open(source)
    shutil.copytree(
        source, target, ignore=shutil.ignore_patterns("surrogate.safetensors", "scores", "bundle", "report")
    )
    surrogate = dataclasses.replace(
        original.config.surrogate, method=way.method, epochs=way.epochs, stored_epochs=way.epochs,
        samples_per_view=way.samples, stored_samples=way.samples if way.method == "stored" else 0,
        difficulty=False, seed=seed,
    )  # fmt: skip
    data = original.config.data
    if (source / data.source).exists():
        data = dataclasses.replace(data, source=str((source / data.source).resolve()))
    config = dataclasses.replace(original.config, surrogate=surrogate, data=data)
    (target / "rrise.toml").write_text(config.to_toml())
    return Workspace(target, config)


def surrogate_cost(workspace: Workspace, way: Way) -> tuple[int, int]:
    """Base evaluations and training examples of the surrogate, those of the stored counts included."""
    entry = next(
        item for item in workspace.cost().entries if item.stage.startswith(f"surrogate-{way.method}")
    )
    stored = len(workspace.splits.train) * way.samples if way.method == "stored" else 0
    return entry.passes + stored, entry.trained


def report(points: list[Point], radius: float, as_json: bool) -> None:
    """The table, cheapest first, and the cheapest budget within one point of the best."""
    best = max(point.mean for point in points)
    rows = []
    for point in sorted(points, key=lambda item: item.passes):
        spread = float(np.std(point.accuracy))
        queries = break_even(point.passes, QUERY_SAMPLES)
        text = f"{point.passes:>12,} passes  {100 * point.mean:5.1f} +- {100 * spread:.1f} %  repaid at {queries:,} queries"
        rows.append((f"{point.way.name}, N {point.references}", text))
    cheapest = min((point for point in points if point.mean >= best - 0.01), key=lambda item: item.passes)
    rows.append(("enough", f"{cheapest.way.name}, N {cheapest.references}: {cheapest.passes:,} passes"))
    as_dict = [{**dataclasses.asdict(point), "mean": point.mean} for point in points]
    summary(
        f"budget against certified accuracy at {radius:g}", rows, {"points": as_dict, "best": best}, as_json
    )


if __name__ == "__main__":
    main()
