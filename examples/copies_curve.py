"""What copies of the frame are worth: net certified accuracy against passes and milliseconds, beside CERTIFY on the same axes.

    python examples/copies_curve.py WORKSPACE --out runs/copies

The workspace is finished up to `rrise-train certify`, with a PyTorch base classifier; nothing is written into it. Its
surrogate gets k copies for each k of `--copies`; pool and map are fitted on the tuning frames, the offset on the calibration
frames, and the audit's draws on the test frames judge. *Net* leaves out certificates that do not hold. CERTIFY's smaller
budgets are random parts of the largest that was drawn. The folder gets table.md, curve.json, the scores, and curve.svg
where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from rrise.calibration import Guarantee, Scores
from rrise.calibration.promise.plan import choose_plan
from rrise.calibration.requirements import install
from rrise.calibration.statistics.levels import parse_level
from rrise.calibration.statistics.shares import Difference, Share
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.evaluation import judge, label_agreement, probit_rmse
from rrise.calibration.tables.thinning import thin_counts
from rrise.trainer.networks import Network
from rrise.trainer.scores.surrogate_scores import score_surrogate
from rrise.trainer.surrogates.copies import core, fit_pool, milliseconds, with_copies
from rrise.trainer.workspace import Workspace

SPLITS = ("tuning", "calibration", "test")
BUDGETS = (100, 300, 1000, 3000, 10000)


@dataclass(frozen=True)
class Point:
    """One method at one error level and radius.

    passes: of a network of the base classifier's size per frame; milliseconds: processor time of one frame, as ONNX graphs,
        one thread, here.
    net, gross: shares of test frames. behind: net points that CERTIFY at the largest budget has more, on the same frames.
    """

    method: str
    passes: int
    milliseconds: float
    error: str
    radius: float
    net: Share
    gross: Share
    behind: Difference
    agreement: float = 1.0
    probit_rmse: float = 0.0


@dataclass(frozen=True)
class Certify:
    """CERTIFY at one budget: which test frames are right, issued and not refuted, by radius; bool [R, n]."""

    passes: int
    net: np.ndarray


def tables_of(
    workspace: Workspace, base: Network, trained: Network, copies: int, folder: Path
) -> tuple[dict[str, Scores], float]:
    """Scores of the surrogate with so many copies, and the milliseconds of a pass; the scores are kept in `folder`."""
    module, _ = core(trained)
    if copies:
        module = with_copies(workspace, base, module, copies)
        fitted = fit_pool(module, workspace.inputs("tuning"), workspace.references("tuning").counts)
        print(f"k = {copies}: {fitted.row()[1]}", flush=True)
    tables = {}
    for split in SPLITS:
        path = folder / f"{copies}" / f"{split}.npz"
        artefact = f"{trained.digest[:48]}{copies:016x}"  # names what was scored, which is no file
        if path.exists() and Scores.load(path).execution.artefact == artefact:
            tables[split] = Scores.load(path)
            continue
        tables[split] = score_surrogate(module, workspace.preprocess, workspace.references(split), artefact)
        path.parent.mkdir(parents=True, exist_ok=True)
        tables[split].save(path)
    return tables, milliseconds(module, workspace.preprocess.output_shape)


def certify_rows(workspace: Workspace, test: Scores, radii: list[float]) -> list[Certify]:
    """CERTIFY at BUDGETS and at every budget that was drawn, the largest last."""
    drawn = CertifyCounts.load(workspace.certify_path)
    if drawn.digest.tolist() != test.digest.tolist():
        raise SystemExit(
            f"{workspace.certify_path}: other frames than the test split; run `rrise-train certify` again"
        )
    alpha = float(parse_level(workspace.config.targets.certify_alpha, "certify_alpha"))
    largest, selection = max(drawn.budgets), int(drawn.selection[0].sum())
    rows = []
    for budget in sorted({*drawn.budgets, *(size for size in BUDGETS if size < largest)}):
        table, name = drawn, budget
        if budget not in drawn.budgets:
            counts = drawn.counts[drawn.budgets.index(largest)]
            fewer = thin_counts(counts, budget, np.random.default_rng(budget))
            table = replace(drawn, counts=fewer[None], budgets=(budget,))
        answer = table.at(name, alpha)
        judged = judge(test, answer.radius, label=answer.label, per_input=True)
        rows.append(Certify(budget + selection, judged.net(radii)))
    return rows


def points(
    tables: dict[str, Scores], copies: int, took: float, radii: list[float], errors: list[str], best: Certify
) -> Iterator[Point]:
    """One surrogate at every error level and radius, each with the map that serves the radius best on tuning frames."""
    tuning, calibration, test = (tables[name] for name in SPLITS)
    quality = {"agreement": label_agreement(test), "probit_rmse": probit_rmse(test)}
    for error in errors:
        for place, radius in enumerate(radii):
            guarantee = Guarantee.of("pac", error)
            plan = choose_plan(tuning, guarantee, radius=radius, num_calibration=len(calibration))
            record = plan.calibrate(calibration)
            judged = judge(test, record.head.radius(test.probit, test.label, test.difficulty))
            worth, net = judged.worth([radius])[0], judged.net([radius])[0]
            behind = Difference.of(best.net[place], net)
            yield Point(
                f"k = {copies}", copies + 1, took, error, radius, worth.net, worth.gross, behind, **quality
            )


def certify_points(rows: list[Certify], per_pass: float, radii: list[float], error: str) -> Iterator[Point]:
    """CERTIFY's own error level does not depend on eps; its points are repeated for each."""
    for row in rows:
        for place, radius in enumerate(radii):
            share = Share.of(int(row.net[place].sum()), row.net.shape[1])
            behind = Difference.of(rows[-1].net[place], row.net[place])
            name = f"CERTIFY, {row.passes:,} passes"
            yield Point(name, row.passes, row.passes * per_pass, error, radius, share, share, behind)


def base_milliseconds(workspace: Workspace, base: Network) -> float:
    """Of one noisy evaluation in a batch of 64, one thread of ONNX Runtime."""
    rows = 64
    module = with_copies(workspace, base, base.module, rows)
    return milliseconds(module, workspace.preprocess.output_shape) / (rows + 1)


def table(found: list[Point], radii: list[float], errors: list[str]) -> str:
    """A table in Markdown: net in per cent, and in brackets the points behind CERTIFY at its largest budget."""
    head = [f"eps {error}, r = {radius:g}" for error in errors for radius in radii]
    lines = ["| method | passes | ms | " + " | ".join(head) + " |", "|---" * (3 + len(head)) + "|"]
    by_key = {(one.method, one.error, one.radius): one for one in found}
    for method in dict.fromkeys(one.method for one in found):
        ones = [by_key[method, error, radius] for error in errors for radius in radii]
        cells = [f"{100 * one.net.value:.1f} ({100 * one.behind.value:+.1f})" for one in ones]
        lines.append(
            f"| {method} | {ones[0].passes:,} | {ones[0].milliseconds:.3g} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines) + "\n"


def figure(found: list[Point], path: Path, radii: list[float], errors: list[str]) -> bool:
    """Net certified accuracy against passes, a panel for each radius; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    canvas = Figure(figsize=(5 * len(radii), 4), layout="constrained")
    for axes, radius in zip(np.atleast_1d(canvas.subplots(1, len(radii))), radii, strict=True):
        lines = {f"copies, eps {error}": (error, "k = ") for error in errors} | {
            "CERTIFY": (errors[0], "CERTIFY")
        }
        for name, (error, start) in lines.items():
            ones = [
                one
                for one in found
                if one.method.startswith(start) and (one.error, one.radius) == (error, radius)
            ]
            value = np.array([[one.net.value, one.net.lower, one.net.upper] for one in ones]) * 100
            bars = [value[:, 0] - value[:, 1], value[:, 2] - value[:, 0]]
            axes.errorbar([one.passes for one in ones], value[:, 0], bars, marker="o", capsize=2, label=name)
        axes.set(
            xscale="log",
            xlabel="passes per frame",
            ylabel="net certified accuracy, %",
            title=f"r = {radius:g}",
        )
        axes.grid(True, alpha=0.3)
        axes.legend()
    canvas.savefig(path)
    return True


def main() -> None:
    """Draw the curve that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--copies", default="0,1,4,16,64")
    parser.add_argument("--radii", default="0.25,0.5")
    parser.add_argument("--errors", default="0.05,0.01")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--allow-code", action="store_true", help="let a network factory of yours run")
    arguments = parser.parse_args()
    radii, errors = [float(text) for text in arguments.radii.split(",")], arguments.errors.split(",")
    workspace = Workspace.open(arguments.workspace)
    base = workspace.base(allow_code=arguments.allow_code)
    trained = workspace.surrogate(allow_code=arguments.allow_code)
    rows: list[Certify] = []
    found: list[Point] = []
    for copies in map(int, arguments.copies.split(",")):
        tables, took = tables_of(workspace, base, trained, copies, arguments.out / "scores")
        rows = rows or certify_rows(workspace, tables["test"], radii)
        found += points(tables, copies, took, radii, errors, rows[-1])
    per_pass = base_milliseconds(workspace, base)
    for error in errors:
        found += certify_points(rows, per_pass, radii, error)
    text = table(found, radii, errors)
    print(text)
    (arguments.out / "table.md").write_text(text)
    (arguments.out / "curve.json").write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    if not figure(found, arguments.out / "curve.svg", radii, errors):
        print(f"no figure: matplotlib is not installed: {install('matplotlib')}")


if __name__ == "__main__":
    main()
