"""The command `rrise-calibrate`: offsets and reports from tables, without running any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

import click
import numpy as np

from calibration.attempts import AttemptLog
from calibration.certify import CertifyCounts
from calibration.cli_tools import SuggestingGroup, run_command, summary
from calibration.cost import CostLedger
from calibration.errors import CalibrationError, CheckFailed
from calibration.files import write_json
from calibration.fit import calibrate
from calibration.guarantee import KINDS, Guarantee
from calibration.guard_study import study_guard
from calibration.guarded import Guard
from calibration.latency import Latency
from calibration.levels import level_text, parse_level
from calibration.maps import IDENTITY, clopper_pearson_map
from calibration.plan import BETAS, Plan, choose_plan, default_radii
from calibration.record import Calibration
from calibration.scores import Scores
from calibration.study import ERRORS, make_study

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NEW = click.Path(path_type=Path)


@click.group(cls=SuggestingGroup)
def main() -> None:
    """From scores to offsets, trade-offs and reports."""


def _guarantee_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that make up a guarantee, shared by `fit` and `study`."""
    for option in reversed(
        (
            click.option("--kind", type=click.Choice(KINDS), default="pac", show_default=True),
            click.option("--error", default="0.05", show_default=True, help="Error level eps."),
            click.option(
                "--confidence",
                help="Over the calibration set; not for marginal.  [default: 0.95]",
                default=None,
            ),
            click.option(
                "--beta", default="0.1", show_default=True, help="Miss probability of each Monte Carlo bound."
            ),
            click.option(
                "--rho", type=float, help="Guarded tier: L2 distance that an attacker may move a frame."
            ),
            click.option("--noise", type=float, help="Guarded tier: standard deviation of the fresh noise."),
        )
    ):
        function = option(function)
    return function


def _guarantee(
    kind: str, error: str, confidence: Optional[str], beta: str, rho: Optional[float], noise: Optional[float]
) -> Guarantee:
    if kind == "marginal" and confidence is not None:
        raise CalibrationError(
            "--confidence: got it with --kind marginal, which has none; leave it out or use pac"
        )
    if (rho is None) != (noise is None):
        raise CalibrationError(
            "--rho and --noise belong together; give both for the guarded tier, or neither"
        )
    guard = None if rho is None or noise is None else Guard(rho, noise)
    return Guarantee.of(kind, error, confidence or "0.95", beta, guard)


@main.command()
@click.argument("scores", type=_FILE)
@click.option("--out", type=_NEW, required=True, help="Calibration record to write (JSON).")
@_guarantee_options
@click.option("--tuning", type=_FILE, help="Scores of the tuning split: choose map and difficulty on them.")
@click.option(
    "--radius", type=float, help="With --tuning: issue as many certificates as possible at this radius."
)
@click.option("--choose-beta", is_flag=True, help="With --tuning: choose beta as well.")
@click.option(
    "--map",
    "map_name",
    type=click.Choice(["chosen", "identity", "clopper-pearson"]),
    help="[default: chosen with --tuning, else clopper-pearson]",
)
@click.option(
    "--threshold", type=float, help="Selective kind without --tuning: least raw radius that is issued."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws one frame of each clip.")
@click.option("--log", "log_path", type=_NEW, help="Log of attempts.  [default: attempts.jsonl beside --out]")
@click.option("--json", "as_json", is_flag=True)
@run_command
def fit(
    scores: Path,
    out: Path,
    tuning: Optional[Path],
    radius: Optional[float],
    choose_beta: bool,
    map_name: Optional[str],
    threshold: Optional[float],
    seed: int,
    log_path: Optional[Path],
    as_json: bool,
    **levels: Any,
) -> None:
    """Calibrate the execution of SCORES (split "calibration") and write its record."""
    table, guarantee = Scores.load(scores), _guarantee(**levels)
    seen = None if tuning is None else Scores.load(tuning)
    plan = _plan(table, guarantee, seen, radius, choose_beta, map_name, threshold)
    chosen = {**plan.to_json(), "execution": table.execution.to_json(), "seed": seed}
    attempt = AttemptLog(log_path or out.parent / "attempts.jsonl").append(table.frames_digest, chosen)
    record = calibrate(
        table,
        plan.guarantee,
        plan.map,
        training_digests=() if seen is None else seen.digest.tolist(),
        attempt=attempt,
        seed=seed,
        difficulty=plan.difficulty,
        threshold=plan.threshold,
    )
    record.save(out)
    summary("Calibration", _fit_rows(record, out), {**record.to_json(), "plan": plan.to_json()}, as_json)
    if not record:
        raise CheckFailed(record.message())


def _plan(
    table: Scores,
    guarantee: Guarantee,
    tuning: Optional[Scores],
    radius: Optional[float],
    choose_beta: bool,
    map_name: Optional[str],
    threshold: Optional[float],
) -> Plan:
    """What is chosen before the calibration counts are looked at: on tuning scores, or without any."""
    if tuning is not None and map_name in (None, "chosen") and threshold is None:
        units = len(np.unique(table.clip))
        betas = BETAS if choose_beta else ()
        return choose_plan(tuning, guarantee, radius=radius, num_calibration=units, betas=betas)
    if radius is not None or choose_beta or map_name == "chosen":
        raise CalibrationError(
            "--radius, --choose-beta and --map chosen choose on other frames: give --tuning with the scores of the tuning "
            "split, and neither --threshold nor another --map"
        )
    curve = IDENTITY
    if map_name != "identity":
        curve = clopper_pearson_map(table.sigma, int(table.num_samples.min()), float(guarantee.beta))
    difficulty = table.difficulty is not None and threshold is None
    return Plan(guarantee, curve, difficulty, threshold, None, default_radii(table.sigma), ())


def _fit_rows(record: Calibration, out: Path) -> List[Tuple[str, str]]:
    guarantee, head = record.guarantee, record.head
    rows = [
        ("promise", guarantee.sentence()),
        ("limits", guarantee.limits()),
        *(("condition", text) for text in guarantee.conditions()),
        ("calibration", record.message()),
        ("map", head.map.name + (" with difficulty" if head.difficulty else "")),
        ("beta", level_text(guarantee.beta)),
        ("a tenth", guarantee.cost_of_ten_times_less()),
        ("wrong per hour", f"{guarantee.wrong_per_hour(30.0):,.0f} permitted at 30 frames a second"),
        ("record", str(out)),
    ]
    if record.attempt > 1:
        rows.insert(2, ("attempt", f"{record.attempt} on these frames: the promise is weaker than it says"))
    return rows


@main.command()
@click.argument("scores", type=_FILE)
@click.option("--out", type=_NEW, required=True, help="Folder for study.html and study.json.")
@_guarantee_options
@click.option("--errors", help="Error levels to compare, as in 0.01,0.05.  [default: 0.001 to 0.2]")
@click.option("--radii", help="Radii to report at, as in 0,0.25,0.5.  [default: 0 and 1, 2, 3 sigma]")
@click.option("--radius", type=float, help="Choose the maps for this radius.  [default: the mean radius]")
@click.option(
    "--frames", type=int, default=0, help="Units of the calibration split to come.  [default: as many]"
)
@click.option("--frame-rate", type=float, default=30.0, show_default=True, help="Frames a second.")
@click.option("--json", "as_json", is_flag=True)
@run_command
def study(
    scores: Path,
    out: Path,
    errors: Optional[str],
    radii: Optional[str],
    radius: Optional[float],
    frames: int,
    frame_rate: float,
    as_json: bool,
    **levels: Any,
) -> None:
    """Foretell from SCORES (split "tuning") what each error level would issue, by class and by radius."""
    from calibration.study_page import level_cells, write_study

    made = make_study(
        Scores.load(scores),
        _guarantee(**levels),
        errors=ERRORS if errors is None else [parse_level(text, "--errors") for text in errors.split(",")],
        radii=() if radii is None else _numbers(radii, "--radii"),
        radius=radius,
        num_calibration=frames,
        frame_rate=frame_rate,
    )
    html, data = write_study(made, out)
    heads = ["wrong/h", "needs", "enough", "map", *(f"issued {value:g}" for value in made.radii)]
    heads += [f"right {value:g}" for value in made.radii] if made.known else []
    rows = [("error", "  ".join(f"{head:>13}" for head in heads))]
    rows += [(row[0], "  ".join(f"{cell[:13]:>13}" for cell in row[1:])) for row in level_cells(made)]
    summary("Study", [*rows, ("report", str(html)), ("data", str(data))], made.to_json(), as_json)


@main.command()
@click.argument("tables", nargs=-1, required=True, metavar="NOISE=SCORES...")
@click.option("--rho", required=True, help="Attack budgets to compare, as in 0.05,0.1,0.25.")
@click.option("--kind", type=click.Choice(["pac", "marginal"]), default="pac", show_default=True)
@click.option("--error", default="0.05", show_default=True, help="Error level eps.")
@click.option(
    "--confidence", default="0.95", show_default=True, help="Over the calibration set; not for marginal."
)
@click.option("--beta", default="0.1", show_default=True, help="Miss probability of each Monte Carlo bound.")
@click.option(
    "--radius", type=float, help="Choose noise and maps for this radius.  [default: the mean radius]"
)
@click.option(
    "--frames", type=int, default=0, help="Frames of the calibration split to come.  [default: as many]"
)
@click.option("--out", type=_NEW, help="JSON file to write.")
@click.option("--json", "as_json", is_flag=True)
@run_command
def guard(
    tables: Tuple[str, ...],
    rho: str,
    kind: str,
    error: str,
    confidence: str,
    beta: str,
    radius: Optional[float],
    frames: int,
    out: Optional[Path],
    as_json: bool,
) -> None:
    """Guarded tier: what each attack budget costs, from tuning scores made with several NOISE levels."""
    scores = {}
    for text in tables:
        noise, _, path = text.partition("=")
        level = _numbers(noise, "NOISE=SCORES")[0]
        scores[level] = Scores.load(path)
    made = study_guard(
        scores,
        Guarantee.of(kind, error, confidence, beta),
        _numbers(rho, "--rho"),
        radius=radius,
        num_calibration=frames,
    )
    if out is not None:
        write_json(out, made.to_json())
    rows = [("rho, noise", "  level      needs  " + "  ".join(f"right {value:<5g}" for value in made.radii))]
    for row in made.rows:
        shares = "  ".join(f"{value:11.3f}" for value in row.accuracy)
        rows.append(
            (f"{row.rho:g}, {row.noise:g}", f"{row.level:7.2g} {row.frames_needed:10,}  {shares}  {row.map}")
        )
    rows += [
        (f"rho {value:g}", "noise " + ("none" if best is None else f"{best:g}"))
        for value, best in made.chosen
    ]
    summary("Guarded tier", rows, made.to_json(), as_json)


def _numbers(text: str, name: str) -> List[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise CalibrationError(f"{name}: got {text!r}, expected numbers such as 0,0.25,0.5") from None


@main.command()
@click.argument("scores", type=_FOLDER)
@click.option("--record", type=_FILE, required=True, help="Calibration record of the same execution.")
@click.option("--certify", type=_FILE, required=True, help="certify.npz of the workspace.")
@click.option("--cost", type=_FILE, required=True, help="cost.json of the workspace.")
@click.option("--latency", type=_FILE, help="Written by rrise-edge bench.")
@click.option("--frame-rate", type=float, default=30.0, show_default=True, help="Frames a second.")
@click.option("--out", type=_NEW, required=True, help="Folder for report.html and report.json.")
@click.option("--json", "as_json", is_flag=True)
@run_command
def report(
    scores: Path,
    record: Path,
    certify: Path,
    cost: Path,
    latency: Optional[Path],
    frame_rate: float,
    out: Path,
    as_json: bool,
) -> None:
    """Write the report of one execution from the folder SCORES (calibration, verification and test tables)."""
    from calibration.report import summary_rows, write_report
    from calibration.summary import ReportTables

    tables = ReportTables(
        calibration=Calibration.load(record),
        scores={
            split: Scores.load(scores / f"{split}.npz") for split in ("calibration", "verification", "test")
        },
        certify=CertifyCounts.load(certify),
        cost=CostLedger.load(cost),
        frame_rate=frame_rate,
        latency=None if latency is None else Latency.load(latency),
    )
    numbers = write_report(tables, out)
    rows = [*summary_rows(numbers), ("promise", numbers["sentence"]), ("report", str(out / "report.html"))]
    summary("Report", rows, numbers, as_json)


if __name__ == "__main__":
    main()
