"""rrise-train: from frames to a calibrated surrogate, one command per stage."""

from __future__ import annotations

from pathlib import Path

import click

from rrise.calibration.console import SuggestingGroup, duration, errors_as_status, summary

# Where PyTorch is not installed, every command says so, and ends with status 2.
with errors_as_status():
    from rrise.trainer.base_classifier.stage import train_base
    from rrise.trainer.commands.attack import attack_command
    from rrise.trainer.commands.demo import demo
    from rrise.trainer.commands.engines import agree_command, show_speed
    from rrise.trainer.commands.report import report, study
    from rrise.trainer.commands.rows import accuracy_rows, guarantee_rows, percent_cells, radii_cells
    from rrise.trainer.commands.stages import device_option, stage, training
    from rrise.trainer.commands.start import init, run, say
    from rrise.trainer.counts.certify import certify_test_split
    from rrise.trainer.counts.targets import build_targets
    from rrise.trainer.reports.workspace_page import update_page
    from rrise.trainer.scores.calibrate import calibrate_surrogate
    from rrise.trainer.surrogates.stage import train_surrogate
    from rrise.trainer.workspace import Workspace


@click.group(cls=SuggestingGroup)
def main() -> None:
    """Train, sample, calibrate and certify in a WORKSPACE folder. Each stage can be run again."""


main.add_command(init)
main.add_command(run)
main.add_command(demo)
main.add_command(report)
main.add_command(study)
main.add_command(attack_command)
main.add_command(agree_command)


@main.command("base")
@stage
@training
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
    rows.append(update_page(opened, "rrise-train base"))
    summary("base classifier", rows, result.to_json(), json_flag)


@main.command("targets")
@stage
@device_option
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
        show_speed(Workspace.open(workspace), device, engine, minutes, allow_code, json_flag)
        return
    opened = Workspace.open(workspace)
    result = build_targets(opened, device=device, engine=engine, allow_code=allow_code, announce=say)
    rows = [
        ("evaluations drawn", f"{result.drawn:,}"),
        ("found in the store", f"{result.found:,}"),
        *(
            [("went on", f"{result.refined:,} frames, to {opened.config.targets.refine:,} draws")]
            if result.refined
            else []
        ),
        ("time", f"{duration(result.seconds)}, {result.rate:,.0f} evaluations/s"),
        ("engine", result.engine),
        update_page(opened, "rrise-train targets"),
    ]
    summary("class counts", rows, result.to_json(), json_flag)


@main.command("surrogate")
@stage
@training
def surrogate(
    workspace: Path, again: bool, device: str, minutes: float | None, allow_code: bool, json_flag: bool
) -> None:
    """Train the surrogate; by default in two ways, of which the better on the tuning split is kept.

    An interrupted training continues. Exit status 1 where training only made the base classifier worse.
    """
    opened = Workspace.open(workspace)
    result = train_surrogate(opened, again=again, allow_code=allow_code, device=device, minutes=minutes)
    rows = [item.row() for item in result.candidates]
    rows += [
        (
            "kept",
            f"{result.method}, worth most on the tuning split" + (" (done before)" if result.kept else ""),
        ),
        *([result.copies.row()] if result.copies else []),
        ("digest", result.digest[:16]),
        ("time", duration(result.seconds)),
        update_page(opened, "rrise-train surrogate"),
    ]
    summary("surrogate", rows, result.to_json(), json_flag)


@main.command("calibrate")
@stage
def calibrate_command(workspace: Path, allow_code: bool, json_flag: bool) -> None:
    """Calibrate the surrogate as PyTorch runs it, and show what its certificates are worth."""
    opened = Workspace.open(workspace)
    result = calibrate_surrogate(opened, allow_code=allow_code)
    rows = [
        *guarantee_rows(result, opened.config.guarantee.frame_rate),
        *accuracy_rows(opened, result),
        update_page(opened, "rrise-train calibrate"),
    ]
    summary("calibration (PyTorch)", rows, result.to_json(), json_flag)


@main.command("certify")
@stage
@device_option
def certify(workspace: Path, device: str, allow_code: bool, json_flag: bool) -> None:
    """The comparison, which no bundle needs: CERTIFY and PREDICT on the test split at every configured budget, and the audit.

    Most of a workspace's Monte Carlo; how much is said before. `rrise-train calibrate` then judges certificates by the audit.
    """
    opened = Workspace.open(workspace)
    result = certify_test_split(opened, device=device, allow_code=allow_code, announce=say)
    rows = [("certified accuracy at", radii_cells(result.radii) + "  abstained")]
    rows += [
        (f"N = {row.num_samples:,}", percent_cells(row.accuracy) + f"  {100 * row.abstained:7.1f} %")
        for row in result.budgets
    ]
    rows.append(
        (
            "PREDICT",
            f"{100 * result.predict_accuracy:.1f}% right, {100 * result.predict_abstained:.1f}% without an answer",
        )
    )
    rows.append(("drawn now", f"{result.sampling.drawn:,} evaluations, {duration(result.sampling.seconds)}"))
    rows.append(("next", f"{opened.command('rrise-train calibrate')} (judged by the audit)"))
    rows.append(update_page(opened, "rrise-train certify"))
    summary("CERTIFY (Monte Carlo)", rows, result.to_json(), json_flag)


if __name__ == "__main__":
    main()
