"""From a finished run to its table: every method on the same frames, base classifier and references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from examples.reproduce.ablations import calibration_ablations
from examples.reproduce.report import write
from examples.reproduce.rows import (
    CERTIFY_ALPHA,
    PAPER,
    TUNED,
    Choice,
    Cost,
    Row,
    Tables,
    calibrated,
    calibrated_row,
    certify_rows,
    evaluate,
    gap_curve,
    published_prior,
)
from examples.reproduce.run import Run
from examples.reproduce.surrogates import Surrogates
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.guarded import Guard
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.evaluation import certified_accuracy, certified_right
from rrise.calibration.tables.scores import Scores
from rrise.trainer.networks import Network

GAP_ERRORS = ("0.005", "0.01", "0.02", "0.05", "0.1", "0.2")
PRIOR_SAMPLES = 100_000
"""N of Accelerated Smoothing's published evaluation."""

TITLES = {
    "ours": "RRISE, ours",
    "paper": "RRISE, as in the paper",
    "prior": "Accelerated Smoothing, calibrated by us",
    "guarded": "RRISE, guarded tier",
    "clean": "clean softmax of the base classifier",
}


def make_table(run: Run) -> Mapping[str, list[Row]]:
    """Do whatever stage is missing, then write results.json, table.md and the figures into the run's folder."""
    asked = run.settings
    certify = run.certify()
    certify.save(run.folder / "scores" / "certify.npz")
    best = certify.at(max(asked.certify), CERTIFY_ALPHA)
    right = certified_right(best.label, best.radius, certify.target, asked.columns)
    against = asked.selection + max(asked.certify)
    scores, costs = {}, {}
    for name, network, guard in _networks(run):
        scores[name] = run.tables(name, network, guard)
        costs[name] = Cost(1, _offline(run, name), against, run.timing(name, network)["single"], right)
    rows = certify_rows(certify, scores["clean"].test, asked.columns, run.timing("clean", run.base)["batch"])
    for error in asked.errors:
        rows += _calibrated_rows(scores, costs, error, run)
    rows.append(published_row(scores["prior"].test, costs["prior"], asked.columns))
    rows.append(_verified_row(run, scores["ours"], costs["ours"]))
    tables = {"Methods": rows}
    error = asked.errors[-1]
    if asked.ablations:
        others = [recipe.name for recipe in run.settings.recipes() if recipe.name not in TITLES]
        promise = Guarantee.of("pac", error)
        tables["Surrogates, one change at a time"] = [
            calibrated_row(name, scores[name], promise, TUNED, asked.betas, asked.columns, costs[name])
            for name in ("ours", "paper", *others)
        ]
    tables["Calibration of our surrogate, one change at a time"] = calibration_ablations(
        scores["ours"], error, asked.betas, asked.columns, costs["ours"], asked.seed
    )
    _write(run, tables, scores, certify)
    return tables


def _networks(run: Run) -> Iterator[tuple[str, Network, float]]:
    """Name, network and noise on its own input: the base classifier itself, then every surrogate."""
    surrogates = Surrogates(run)
    yield "clean", run.base, 0.0
    for recipe in run.settings.recipes():
        network = surrogates.with_difficulty(recipe) if recipe.name == "ours" else surrogates.plain(recipe)
        yield recipe.name, network, recipe.guard


def _offline(run: Run, name: str) -> int:
    """Base passes spent before the first query: references, and what the surrogate was trained from and with."""
    spent, asked = run.cost(), run.settings
    total = (
        spent["counts-tuning"]
        + spent["counts-calibration"]
        + sum(spent.get(f"{stage}-{name}", 0) for stage in ("surrogate", "difficulty"))
    )
    for recipe in asked.recipes():
        if recipe.name == name and recipe.targets == "stored":
            total += (
                spent["counts-train"] * (recipe.stored_samples or asked.train_samples) // asked.train_samples
            )
    return total


def _calibrated_rows(
    scores: Mapping[str, Tables], costs: Mapping[str, Cost], error: str, run: Run
) -> list[Row]:
    asked, rows = run.settings, []

    def add(name: str, title: str, choice: Choice, guard: Guard | None = None) -> None:
        promise = Guarantee.of("pac", error, guard=guard)
        rows.append(
            calibrated_row(title, scores[name], promise, choice, asked.betas, asked.columns, costs[name])
        )

    for name in ("ours", "prior", "clean"):
        add(name, TITLES[name], TUNED)
        for radius in asked.chosen_radii:
            add(name, f"{TITLES[name]}, for r = {radius:g}", Choice(radius=radius))
    add("paper", TITLES["paper"], PAPER)
    if "guarded" in scores:
        add("guarded", TITLES["guarded"], TUNED, Guard(*asked.guard))
    return rows


def published_row(test: Scores, cost: Cost, radii: tuple[float, ...]) -> Row:
    """Accelerated Smoothing as published, which promises nothing: no sample was drawn."""
    return evaluate(
        "Accelerated Smoothing, as published",
        "none (no sample was drawn)",
        test.label,
        published_prior(test, PRIOR_SAMPLES),
        test,
        radii,
        cost,
        choice=f"Clopper-Pearson {CERTIFY_ALPHA:g} on floor({PRIOR_SAMPLES:,} softmax)",
    )


def _verified_row(run: Run, tables: Tables, cost: Cost) -> Row:
    """Our surrogate proposes its calibrated radius at the largest error level, a sequential test confirms it."""
    asked = run.settings
    record, _ = calibrated(tables, Guarantee.of("pac", asked.errors[0]), TUNED, asked.betas)
    proposal = record.head.radius(tables.test.probit, tables.test.label, tables.test.difficulty)
    radius, samples = run.verified("ours", tables.test.label, proposal)
    first = tables.test.take(np.arange(len(radius)))
    passes = 1 + float(samples.mean())
    milliseconds = run.timing("clean", run.base)["batch"] * passes
    spent = replace(cost, passes=passes, milliseconds=milliseconds)
    return evaluate(
        f"RRISE, verified tier (first {len(radius)} test frames)",
        f"per input, alpha {CERTIFY_ALPHA:g}",
        first.label,
        radius,
        first,
        asked.columns,
        spent,
        per_input=True,
        choice=f"proposals of ours at eps {asked.errors[0]}; median {np.median(samples):,.0f} draws",
    )


def _write(
    run: Run, tables: Mapping[str, list[Row]], scores: Mapping[str, Tables], certify: CertifyCounts
) -> None:
    asked = run.settings
    gap_radius = asked.chosen_radii[0]
    best = certify.at(max(certify.budgets), CERTIFY_ALPHA)
    monte_carlo = float(certified_accuracy(best.label, best.radius, certify.target, [gap_radius])[0])
    compared = {
        TITLES[name]: (scores[name], PAPER if name == "paper" else TUNED)
        for name in ("ours", "paper", "prior", "clean")
    }
    compared[f"{TITLES['ours']}, for r = {gap_radius:g}"] = (scores["ours"], Choice(radius=gap_radius))
    gaps = gap_curve(compared, monte_carlo, gap_radius, GAP_ERRORS, asked.betas)
    grid = np.linspace(0, 4 * asked.sigma, 200)
    curves = {
        f"{name}, eps {asked.errors[-1]}": (
            grid,
            curve(table, choice, asked.errors[-1], asked.betas, grid),
        )
        for name, (table, choice) in compared.items()
    }
    label = f"CERTIFY, N = {max(certify.budgets):,}"
    curves[label] = (grid, certified_accuracy(best.label, best.radius, certify.target, grid.tolist()))
    write(
        run.folder, f"{asked.dataset}, sigma {asked.sigma:g}, {asked.preset}", about(run, scores["clean"].test),
        tables, curves, gaps, GAP_ERRORS, gap_radius,
    )  # fmt: skip


def curve(tables: Tables, choice: Choice, error: str, betas: tuple[str, ...], grid: np.ndarray) -> np.ndarray:
    """Certified accuracy of a calibrated surrogate at every radius of `grid`."""
    record, _ = calibrated(tables, Guarantee.of("pac", error), choice, betas)
    test = tables.test
    radius = record.head.radius(test.probit, test.label, test.difficulty)
    return certified_accuracy(test.label, radius, test.target, grid.tolist())


def about(run: Run, test: Scores) -> dict[str, Any]:
    """What was run on what, for the head of the page and for results.json."""
    asked = run.settings
    return {
        "data": run.data,
        "settings": asked.to_json(),
        "base classifier": run.base.digest,
        "accuracy of the smoothed classifier on test frames": round(
            float(np.mean(np.argmax(test.counts, axis=1) == test.target)), 4
        ),
        "cost in base passes": run.cost(),
        "machine": run.machine(),
    }
