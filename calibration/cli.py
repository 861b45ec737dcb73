"""The command `rrise-calibrate`: offsets and reports from tables, without running any model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, List, Optional, Tuple

import click
import numpy as np

from rrise.calibration.commands.options import (
    guarantee_from,
    guarantee_options,
    objective_from,
    radius_options,
)
from rrise.calibration.commands.study import guard, study
from rrise.calibration.console import SuggestingGroup, json_option, run_command, summary
from rrise.calibration.errors import CalibrationError, CheckFailed
from rrise.calibration.promise.crossfit import STAIRS
from rrise.calibration.promise.fit import calibrate
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.maps import IDENTITY, clopper_pearson_map
from rrise.calibration.promise.objective import Objective
from rrise.calibration.promise.plan import BETAS, Plan, choose_plan, planning_radii
from rrise.calibration.promise.record import Calibration
from rrise.calibration.promise.selective import offset_grid
from rrise.calibration.statistics.levels import level_text
from rrise.calibration.storage.attempts import AttemptLog, largest_attempt
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.cost import CostLedger
from rrise.calibration.tables.latency import LatencyTable
from rrise.calibration.tables.scores import Scores

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NEW = click.Path(path_type=Path)


@click.group(cls=SuggestingGroup)
def main() -> None:
    """From scores to offsets, trade-offs and reports."""


@main.command()
@click.argument("scores", type=_FILE)
@click.option("--out", type=_NEW, required=True, help="Calibration record to write (JSON).")
@guarantee_options
@click.option("--tuning", type=_FILE, help="Scores of the tuning split: choose map and difficulty on them.")
@radius_options("with --tuning the mean radius")
@click.option("--choose-beta", is_flag=True, help="With --tuning: choose beta as well.")
@click.option(
    "--map",
    "map_name",
    type=click.Choice(["chosen", "identity", "clopper-pearson", "staircase"]),
    help="[default: chosen with --tuning, else clopper-pearson]",
)
@click.option(
    "--threshold", type=float, help="Selective kind without --tuning: least raw radius that is issued."
)
@click.option(
    "--sequence",
    is_flag=True,
    help="Selective kind with --tuning: test a grid of offsets in turn, instead of a threshold.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws one frame of each clip.")
@click.option("--log", "log_path", type=_NEW, help="Log of attempts.  [default: attempts.jsonl beside --out]")
@json_option
@run_command
def fit(
    scores: Path,
    out: Path,
    tuning: Optional[Path],
    radius: Optional[str],
    weights: Optional[str],
    choose_beta: bool,
    map_name: Optional[str],
    threshold: Optional[float],
    sequence: bool,
    seed: int,
    log_path: Optional[Path],
    json_flag: bool,
    **levels: Any,
) -> None:
    """Calibrate the execution of SCORES (split "calibration") and write its record."""
    table, guarantee = Scores.load(scores), guarantee_from(**levels)
    seen = None if tuning is None else Scores.load(tuning)
    plan = _plan(table, guarantee, seen, objective_from(radius, weights), choose_beta, map_name, threshold)
    offsets = plan.offsets
    if sequence:
        if seen is None or not guarantee.rules.among_issued:
            raise CalibrationError("--sequence: expected it with --kind selective and --tuning")
        plan = replace(plan, threshold=None)
        offsets = offset_grid(seen, plan.guarantee, plan.map, difficulty=plan.difficulty)
    chosen = {
        **plan.to_json(),
        "offsets": list(offsets),
        "scores": table.content_digest,
        "execution": table.execution.to_json(),
        "seed": seed,
    }
    log = AttemptLog(log_path or out.parent / "attempts.jsonl")
    attempt = log.append(table.frames_digest, chosen, seen=largest_attempt([out]))
    record = calibrate(
        table,
        plan.guarantee,
        plan.map,
        training_digests=() if seen is None else seen.digest.tolist(),
        attempt=attempt,
        seed=seed,
        difficulty=plan.difficulty,
        threshold=plan.threshold,
        offsets=offsets,
    )
    record.save(out)
    summary("Calibration", _fit_rows(record, out), {**record.to_json(), "plan": plan.to_json()}, json_flag)
    if not record:
        raise CheckFailed(record.message())


def _plan(
    table: Scores,
    guarantee: Guarantee,
    tuning: Optional[Scores],
    objective: Objective,
    choose_beta: bool,
    map_name: Optional[str],
    threshold: Optional[float],
) -> Plan:
    """What is chosen before the calibration counts are looked at: on tuning scores, or without any."""
    if tuning is not None:
        _refuse_strangers(table, tuning)
    if tuning is not None and map_name in (None, "chosen", "staircase") and threshold is None:
        units = len(np.unique(table.clip))
        betas = BETAS if choose_beta else ()
        return choose_plan(
            tuning,
            guarantee,
            radius=objective.radii or None,
            weights=objective.weights,
            num_calibration=units,
            betas=betas,
            names=() if map_name in (None, "chosen") else STAIRS,
        )
    if objective.radii or choose_beta or map_name in ("chosen", "staircase"):
        raise CalibrationError(
            "--radius, --choose-beta, --map chosen and --map staircase choose on other frames: give --tuning with the scores of "
            "the tuning split, and neither --threshold nor another --map"
        )
    curve = IDENTITY
    if map_name != "identity":
        curve = clopper_pearson_map(table.sigma, int(table.num_samples.min()), float(guarantee.beta))
    difficulty = table.difficulty is not None and threshold is None
    return Plan(guarantee, curve, difficulty, threshold, objective, planning_radii(table.sigma), ())


def _refuse_strangers(table: Scores, tuning: Scores) -> None:
    """A choice is no help for another base classifier or noise, and no free one on frames of the calibration's clips."""
    for name in ("base_digest", "sigma", "class_names"):
        mine, other = getattr(table, name), getattr(tuning, name)
        if mine != other:
            raise CalibrationError(
                f"--tuning: got scores with {name} {other}, expected {mine} as in the calibration scores; score the tuning "
                "split with the same workspace"
            )
    clips = set(table.clip.tolist()) & set(tuning.clip.tolist())
    if clips and not set(table.digest.tolist()) & set(tuning.digest.tolist()):
        raise CalibrationError(
            f"--tuning: {len(clips)} clips are in the calibration split too, first {min(clips)}; expected every clip in one "
            "split only, under a number of its own, since frames of one clip are not independent"
        )


def _fit_rows(record: Calibration, out: Path) -> List[Tuple[str, str]]:
    guarantee, head = record.guarantee, record.head
    rows = [
        ("promise", guarantee.sentence()),
        ("limits", guarantee.limits()),
        *(("condition", text) for text in guarantee.conditions()),
        ("calibration", record.message()),
        ("map", head.map.describe() + (" with difficulty" if head.difficulty else "")),
        ("beta", level_text(guarantee.beta)),
        ("a tenth", guarantee.cost_of_ten_times_less()),
        ("among issued", record.among_issued_text()),
        ("wrong per hour", f"{guarantee.wrong_per_hour(30.0):,.0f} permitted at 30 frames a second"),
        ("record", str(out)),
    ]
    if record.attempt_text():
        rows.insert(2, ("attempt", record.attempt_text()))
    return rows


@main.command()
@click.argument("scores", type=_FOLDER, metavar="EXECUTION")
@click.option("--record", type=_FILE, required=True, help="Calibration record of the same execution.")
@click.option("--certify", type=_FILE, help="certify.npz of the workspace, where the comparison was drawn.")
@click.option("--cost", type=_FILE, required=True, help="cost.json of the workspace.")
@click.option("--latency", type=_FILE, help="Written by rrise-edge bench.")
@click.option("--frame-rate", type=float, default=30.0, show_default=True, help="Frames a second.")
@click.option("--out", type=_NEW, required=True, help="Folder for report.html and report.json.")
@json_option
@run_command
def report(
    scores: Path,
    record: Path,
    certify: Optional[Path],
    cost: Path,
    latency: Optional[Path],
    frame_rate: float,
    out: Path,
    json_flag: bool,
) -> None:
    """Write the report of one execution from the folder EXECUTION of its scores (calibration, verification and test tables)."""
    from rrise.calibration.reports.report import summary_rows, write_report
    from rrise.calibration.reports.summary import ReportTables

    tables = ReportTables(
        calibration=Calibration.load(record),
        scores={
            split: Scores.load(scores / f"{split}.npz")
            for split in ("calibration", "verification", *(("test",) if certify is not None else ()))
        },
        certify=None if certify is None else CertifyCounts.load(certify),
        cost=CostLedger.load(cost),
        frame_rate=frame_rate,
        latency=None if latency is None else LatencyTable.load(latency),
    )
    numbers = write_report(tables, out)
    rows = [*summary_rows(numbers), ("promise", numbers["sentence"]), ("report", str(out / "report.html"))]
    summary("Report", rows, numbers, json_flag)


main.add_command(study)
main.add_command(guard)

if __name__ == "__main__":
    main()
