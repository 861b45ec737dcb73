"""rrise-train: from frames to a calibrated surrogate, one command per stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from rrise.calibration.console import SuggestingGroup, duration, json_option, run_command, summary
from rrise.calibration.errors import CheckFailed
from rrise.calibration.statistics.levels import parse_level
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.evaluation import certified_accuracy
from rrise.trainer.attacks.attack import FalseCertificateRate, attack
from rrise.trainer.attacks.search import Search
from rrise.trainer.base_classifier.stage import train_base
from rrise.trainer.commands.demo import demo
from rrise.trainer.commands.start import init, run, say
from rrise.trainer.counts.agree import CONFIDENCE, agree
from rrise.trainer.counts.certify import certify_test_split
from rrise.trainer.counts.counting import classifier_forms
from rrise.trainer.counts.targets import build_targets
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.benchmark import run_benchmark
from rrise.trainer.montecarlo.engines import NAMES, installed
from rrise.trainer.scores.calibrate import CalibrateResult, calibrate_surrogate
from rrise.trainer.surrogates.stage import train_surrogate
from rrise.trainer.workspace import SCORED_SPLITS, Workspace

_Command = Callable[..., Any]

WEAK = "; hardly anything is issued at the last, so few false certificates there prove little"


@click.group(cls=SuggestingGroup)
def main() -> None:
    """Train, sample, calibrate and certify in a WORKSPACE folder. Each stage can be run again."""


def _stage(function: _Command) -> _Command:
    """What all stages take: the workspace, --allow-code and --json."""
    function = json_option(function)
    function = click.option(
        "--allow-code",
        is_flag=True,
        help="Run the network factory that rrise.toml names (code from outside rrise).",
    )(function)
    return click.argument("workspace", type=click.Path(path_type=Path))(run_command(function))


def _training(function: _Command) -> _Command:
    """What stages that train take: --again, --device and --minutes."""
    for option in (
        click.option(
            "--minutes", type=float, help="Stop in time with everything saved; the same command continues."
        ),
        click.option(
            "--device",
            default="",
            help="auto, cpu, cuda or cuda:1; by default [training] device of rrise.toml.",
        ),
        click.option("--again", is_flag=True, help="Train anew although there is a result."),
    ):
        function = option(function)
    return function


main.add_command(init)
main.add_command(run)
main.add_command(demo)


@main.command("base")
@_stage
@_training
def base(
    workspace: Path, again: bool, device: str, minutes: float | None, allow_code: bool, json_flag: bool
) -> None:
    """Train the base classifier under Gaussian noise, or check and take your own; an interrupted training continues."""
    opened = Workspace.open(workspace)
    result = train_base(opened, again=again, allow_code=allow_code, device=device, minutes=minutes)
    rows = [
        (f"recipe {item.recipe}", f"{item.certified:.4f} certified on tuning frames (estimate)")
        for item in result.candidates
    ]
    rows += [("recipe", result.recipe)] if result.recipe else []
    rows += [
        ("accuracy of one noisy pass", f"{result.noisy_accuracy:.3f} (tuning split)"),
        ("digest", result.digest[:16]),
        ("time", "kept, it was done before" if result.kept else duration(result.seconds)),
    ]
    asked = opened.config.base
    if asked.factory or asked.onnx or asked.black_box:
        rows.append(
            ("condition", "your own: it must not have seen any frame of this workspace but the train split's")
        )
    rows += [("attention", text) for text in result.attention]
    summary("base classifier", rows, result.to_json(), json_flag)


@main.command("targets")
@_stage
@click.option(
    "--device", default="cpu", show_default=True, help="Where the base classifier runs: cpu, cuda, cuda:1."
)
@click.option(
    "--benchmark",
    is_flag=True,
    help="Draw nothing; measure how fast every engine counts, against the usual loop and plain forward passes.",
)
@click.option("--engine", default="", help="Instead of [targets] engine; with --benchmark, this one only.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="About how long --benchmark may take.",
)
def targets(
    workspace: Path,
    device: str,
    benchmark: bool,
    engine: str,
    minutes: float,
    allow_code: bool,
    json_flag: bool,
) -> None:
    """Draw the class counts that a bundle needs and write the reference packs; continues where it was stopped.

    What a comparison with Monte Carlo needs is drawn by `rrise-train certify`.
    """
    if benchmark:
        _benchmark(Workspace.open(workspace), device, engine, minutes, allow_code, json_flag)
        return
    opened = Workspace.open(workspace)
    result = build_targets(opened, device=device, engine=engine, allow_code=allow_code, announce=say)
    rows = [
        ("evaluations drawn", f"{result.drawn:,}"),
        ("found in the store", f"{result.found:,}"),
        ("time", f"{duration(result.seconds)}, {result.rate:,.0f} evaluations/s"),
        ("engine", result.engine),
    ]
    summary("class counts", rows, result.to_json(), json_flag)


def _benchmark(
    workspace: Workspace, device: str, engine: str, minutes: float, allow_code: bool, json_flag: bool
) -> None:
    names = [engine] if engine else [name for name in NAMES if installed(name)]
    dtypes = tuple(dict.fromkeys((workspace.config.targets.dtype, "bfloat16")))
    result = run_benchmark(
        classifier_forms(workspace, workspace.base(allow_code=allow_code)),
        workspace.preprocess,
        np.asarray(workspace.dataset.take(workspace.splits.train[:64])),
        len(workspace.dataset.class_names),
        engines=tuple((name, dtype) for dtype in dtypes for name in names),
        device=device,
        batch_size=workspace.config.targets.batch_size or None,
        minutes=minutes,
        progress=lambda text: click.echo(text, err=True),
    )
    summary("class counting speed", result.lines(), result.to_json(), json_flag)


@main.command("surrogate")
@_stage
@_training
def surrogate(
    workspace: Path, again: bool, device: str, minutes: float | None, allow_code: bool, json_flag: bool
) -> None:
    """Train the surrogate; by default in two ways, of which the better on the tuning split is kept.

    An interrupted training continues. Exit status 1 where training only made the base classifier worse.
    """
    result = train_surrogate(
        Workspace.open(workspace), again=again, allow_code=allow_code, device=device, minutes=minutes
    )
    rows = [item.row() for item in result.candidates]
    rows += [
        (
            "kept",
            f"{result.method}, worth most on the tuning split" + (" (done before)" if result.kept else ""),
        ),
        *([result.copies.row()] if result.copies else []),
        ("digest", result.digest[:16]),
        ("time", duration(result.seconds)),
    ]
    summary("surrogate", rows, result.to_json(), json_flag)


@main.command("calibrate")
@_stage
def calibrate_command(workspace: Path, allow_code: bool, json_flag: bool) -> None:
    """Calibrate the surrogate as PyTorch runs it, and show what its certificates are worth."""
    opened = Workspace.open(workspace)
    result = calibrate_surrogate(opened, allow_code=allow_code)
    rows = [*_guarantee_rows(result, opened.config.guarantee.frame_rate), *_accuracy_rows(opened, result)]
    summary("calibration (PyTorch)", rows, result.to_json(), json_flag)


@main.command("certify")
@_stage
@click.option(
    "--device", default="cpu", show_default=True, help="Where the base classifier runs: cpu, cuda, cuda:1."
)
def certify(workspace: Path, device: str, allow_code: bool, json_flag: bool) -> None:
    """The comparison, which no bundle needs: CERTIFY and PREDICT on the test split at every configured budget, and the audit.

    Most of a workspace's Monte Carlo; how much is said before. `rrise-train calibrate` then judges certificates by the audit.
    """
    opened = Workspace.open(workspace)
    result = certify_test_split(opened, device=device, allow_code=allow_code, announce=say)
    rows = [
        ("certified accuracy at", "  ".join(f"r={radius:<5g}" for radius in result.radii) + "  abstained")
    ]
    rows += [
        (
            f"N = {row.num_samples:,}",
            "  ".join(f"{100 * value:6.1f}%" for value in row.accuracy) + f"  {100 * row.abstained:8.1f}%",
        )
        for row in result.budgets
    ]
    rows.append(
        (
            "PREDICT",
            f"{100 * result.predict_accuracy:.1f}% right, {100 * result.predict_abstained:.1f}% without an answer",
        )
    )
    rows.append(("drawn now", f"{result.sampling.drawn:,} evaluations, {duration(result.sampling.seconds)}"))
    rows.append(("next", f"rrise-train calibrate {opened.path} (judged by the audit)"))
    summary("CERTIFY (Monte Carlo)", rows, result.to_json(), json_flag)


@main.command("attack")
@_stage
@click.option("--rho", type=float, help="L2 budget in [0, 1] pixel units; by default the guard's, else 0.1.")
@click.option("--steps", default=40, show_default=True, help="Steps of gradient ascent.")
@click.option("--draws", default=8, show_default=True, help="Noise draws of each step.")
@click.option(
    "--restarts", default=2, show_default=True, help="Ascents per label; from the third on, random starts."
)
@click.option(
    "--samples", default=10000, show_default=True, help="Monte Carlo samples that judge each frame."
)
@click.option("--seed", default=0, show_default=True)
def attack_command(
    workspace: Path,
    rho: float | None,
    steps: int,
    draws: int,
    restarts: int,
    samples: int,
    seed: int,
    allow_code: bool,
    json_flag: bool,
) -> None:
    """Attack the certificates of the test frames; exit status 1 where a promise is broken."""
    opened = Workspace.open(workspace)
    budget = rho if rho is not None else opened.config.guard.rho or 0.1
    result = attack(
        opened,
        Search(budget, steps, draws, seed, restarts),
        num_samples=samples,
        allow_code=allow_code,
    )
    rows = [
        ("budget", f"L2 {result.rho:g}, moved by {result.moved:.3g} on average"),
        ("false certificates", f"before {_rate(result.clean)}"),
        ("", f"after  {_rate(result.attacked)}"),
        (
            "issued",
            ", ".join(
                f"r = {r:.3g}: {before:.3f}, attacked {after:.3f}"
                for r, before, after in zip(result.radii, result.issued, result.issued_attacked, strict=True)
            )
            + (WEAK if result.issued and result.issued[-1] < 0.05 else ""),
        ),
        ("promised", "nothing under attack" if result.promised is None else f"at most {result.promised:g}"),
    ]
    summary("attack", rows, result.to_json(), json_flag)
    if result.broken:
        raise CheckFailed(
            f"false-certificate rate at least {result.attacked.low:.4f}, promised {result.promised:g}"
        )


@main.command("agree")
@_stage
@click.option(
    "--engine", required=True, help="To be compared with the engine that counts: torch, onnxruntime, ..."
)
@click.option("--draws", default=100_000, show_default=True, help="Paired noisy evaluations.")
@click.option("--split", default="tuning", show_default=True, help="Whose frames.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--seed", type=int, help="Of frames and noise; by default drawn anew.")
def agree_command(
    workspace: Path,
    engine: str,
    draws: int,
    split: str,
    device: str,
    seed: int | None,
    allow_code: bool,
    json_flag: bool,
) -> None:
    """How often another engine answers differently on the same noisy frames, and what a judge that asks it must allow."""
    if split not in SCORED_SPLITS:
        raise TrainerError(f"--split: got {split!r}, expected one of {', '.join(SCORED_SPLITS)}")
    found = agree(
        Workspace.open(workspace),
        engine,
        draws=draws,
        split=split,
        device=device,
        seed=seed,
        allow_code=allow_code,
    )
    rows = [
        ("counted by", found.first),
        ("compared with", found.second),
        (
            "different answers",
            f"{found.differing:,} of {found.draws:,} on {found.frames} frames ({found.share:.2g})",
        ),
        (
            "bound",
            f"at most {found.bound:.2g} on average over these frames ({100 * CONFIDENCE:g} % confidence)",
        ),
        (
            "for a judge",
            f"a tolerance of {found.tolerance:.2g} on class probabilities, exceeded on at most {found.slip:g} of frames",
        ),
    ]
    summary("agreement of engines", rows, found.to_json(), json_flag)


def _rate(rate: FalseCertificateRate) -> str:
    verdict = rate.verdict
    return (
        f"{rate.share:.3f} of frames [{rate.low:.3f}, {rate.high:.3f}] ({verdict.wrong} wrong, {verdict.undecided} "
        f"undecided of {verdict.issued} issued)"
    )


def _guarantee_rows(result: CalibrateResult, frame_rate: float) -> list[tuple[str, str]]:
    record, verdict = result.record, result.verdict
    promise = record.guarantee
    rows = [
        ("guarantee", promise.sentence()),
        ("limits", promise.limits()),
        (
            "wrong certificates",
            f"at most {promise.wrong_per_hour(frame_rate):,.0f} an hour expected at {frame_rate:g} frames/s; a ten "
            f"times smaller error needs {promise.ten_times_smaller().spent(1).frames_needed():,} calibration frames",
        ),
        ("offset", record.message()),
        (
            "audit",
            f"{verdict.wrong} wrong, {verdict.right} right, {verdict.undecided} undecided of {verdict.issued} issued on "
            f"{verdict.frames} {result.judged_on} frames; "
            f"{result.note}",
        ),
        ("among issued", record.among_issued_text()),
        ("label agreement", f"{result.agreement:.3f}"),
        ("probit RMSE", f"{result.probit_rmse:.3f}"),
    ]
    if record.attempt_text():
        rows.append(("attempt", record.attempt_text()))
    return rows


def _accuracy_rows(workspace: Workspace, result: CalibrateResult) -> list[tuple[str, str]]:
    rows = [
        ("certified accuracy at", "  ".join(f"r={radius:<5g}" for radius in result.radii)),
        ("one pass, gross", "  ".join(f"{100 * value:6.1f}%" for value in result.accuracy)),
        ("  net of wrong ones", "  ".join(f"{100 * row.net.value:6.1f}%" for row in result.worth)),
        ("  oracle", "  ".join(f"{100 * row.oracle.value:6.1f}%" for row in result.worth)),
    ]
    if result.judged_on == "test" and workspace.certify_path.exists():
        table = CertifyCounts.load(workspace.certify_path)
        alpha = float(parse_level(workspace.config.targets.certify_alpha, "certify_alpha"))
        for budget in table.budgets:
            certified = table.at(budget, alpha)
            values = certified_accuracy(certified.label, certified.radius, table.target, result.radii)
            rows.append(
                (f"Monte Carlo N = {budget:,}", "  ".join(f"{100 * value:6.1f}%" for value in values))
            )
    return [
        *rows,
        ("share issued", "  ".join(f"{100 * value:6.1f}%" for value in result.issued)),
        ("wrong among issued", "  ".join(f"{100 * row.wrong.value:6.1f}%" for row in result.worth)),
    ]


if __name__ == "__main__":
    main()
