"""`rrise-train report` and `rrise-train study`: the pages of a workspace, from what lies there."""

from __future__ import annotations

from pathlib import Path

import click

from rrise.calibration.commands.options import objective_from, parse_numbers, radius_options
from rrise.calibration.commands.study import study_rows
from rrise.calibration.console import json_option, run_command, summary
from rrise.calibration.reports.report import summary_rows
from rrise.calibration.reports.study import ERRORS, make_study
from rrise.calibration.reports.study_page import write_study
from rrise.calibration.statistics.levels import parse_level
from rrise.trainer.reports.full import full_report
from rrise.trainer.reports.workspace_page import update_page
from rrise.trainer.scores.choice import calibration_units, guarantee_for, tuning_scores
from rrise.trainer.workspace import Workspace

_workspace = click.argument("workspace", type=click.Path(path_type=Path))


@click.command("report")
@_workspace
@json_option
@run_command
def report(workspace: Path, json_flag: bool) -> None:
    """Write the full report of a calibrated WORKSPACE, with every figure, and its page. Nothing is trained, drawn or scored."""
    opened = Workspace.open(workspace)
    found = full_report(opened)
    rows = [
        *summary_rows(found),
        ("promise", found["sentence"]),
        ("report", str(opened.path / "report" / "report.html")),
        update_page(opened, "rrise-train report"),
    ]
    summary("report", rows, found, json_flag)


@click.command("study")
@_workspace
@click.option("--errors", help="Error levels to compare, as in 0.01,0.05.  [default: 0.001 to 0.2]")
@click.option("--radii", help="Radii to report at, as in 0,0.25,0.5.  [default: 0 and 1, 2, 3 sigma]")
@radius_options("those of rrise.toml")
@click.option("--allow-code", is_flag=True, help="Run the network factory that rrise.toml names.")
@json_option
@run_command
def study(
    workspace: Path,
    errors: str | None,
    radii: str | None,
    radius: str | None,
    weights: str | None,
    allow_code: bool,
    json_flag: bool,
) -> None:
    """Foretell from the tuning frames of WORKSPACE what each error level and map would issue, before anything is calibrated.

    The guarantee is that of rrise.toml, and so is the number of calibration frames. No calibration frame is looked at.
    """
    opened = Workspace.open(workspace)
    network = opened.surrogate(allow_code=allow_code)
    objective = objective_from(radius, weights) if radius else opened.config.guarantee.objective
    made = make_study(
        tuning_scores(opened, network),
        guarantee_for(opened, network.guard_noise),
        errors=ERRORS if errors is None else [parse_level(text, "--errors") for text in errors.split(",")],
        radii=() if radii is None else parse_numbers(radii, "--radii"),
        radius=objective.radii or None,
        weights=objective.weights,
        num_calibration=calibration_units(opened),
        frame_rate=opened.config.guarantee.frame_rate,
    )
    html, data = write_study(made, opened.path / "report")
    rows = [*study_rows(made, html, data), update_page(opened, "rrise-train study")]
    summary("study", rows, made.to_json(), json_flag)
