"""The commands of `rrise-calibrate` that look ahead from tuning scores: `study` and `guard`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Optional, Tuple

import click

from rrise.calibration.commands.options import (
    guarantee_from,
    guarantee_options,
    objective_from,
    parse_numbers,
    radius_options,
)
from rrise.calibration.console import json_option, run_command, summary
from rrise.calibration.promise.guarantee import WARN_ABOVE, Guarantee
from rrise.calibration.reports.guard_study import study_guard
from rrise.calibration.reports.study import ERRORS, Study, make_study
from rrise.calibration.reports.study_page import columns, level_cells, worth_cells, write_study
from rrise.calibration.statistics.levels import parse_level
from rrise.calibration.storage.files import write_json
from rrise.calibration.tables.scores import Scores

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW = click.Path(path_type=Path)


@click.command()
@click.argument("scores", type=click.Path(exists=True, path_type=Path), metavar="TUNING")
@click.option("--out", type=_NEW, required=True, help="Folder for study.html and study.json.")
@guarantee_options
@click.option("--errors", help="Error levels to compare, as in 0.01,0.05.  [default: 0.001 to 0.2]")
@click.option("--radii", help="Radii to report at, as in 0,0.25,0.5.  [default: 0 and 1, 2, 3 sigma]")
@radius_options("the mean radius")
@click.option(
    "--frames", type=int, default=0, help="Units of the calibration split to come.  [default: as many]"
)
@click.option("--frame-rate", type=float, default=30.0, show_default=True, help="Frames a second.")
@json_option
@run_command
def study(
    scores: Path,
    out: Path,
    errors: Optional[str],
    radii: Optional[str],
    radius: Optional[str],
    weights: Optional[str],
    frames: int,
    frame_rate: float,
    json_flag: bool,
    **levels: Any,
) -> None:
    """Foretell from TUNING, tuning.npz or the folder that holds it, what each error level would issue, by class and by radius."""
    objective = objective_from(radius, weights)
    made = make_study(
        Scores.load(scores / "tuning.npz" if scores.is_dir() else scores),
        guarantee_from(**levels),
        errors=ERRORS if errors is None else [parse_level(text, "--errors") for text in errors.split(",")],
        radii=() if radii is None else parse_numbers(radii, "--radii"),
        radius=objective.radii or None,
        weights=objective.weights,
        num_calibration=frames,
        frame_rate=frame_rate,
    )
    html, data = write_study(made, out)
    summary("Study", study_rows(made, html, data), made.to_json(), json_flag)


def study_rows(made: Study, html: Path, data: Path) -> List[Tuple[str, str]]:
    """A study as lines of a summary: one table of levels, then one for each radius, none wider than 80 characters."""
    heads = (("wrong/h", 9), ("needs", 9), ("enough", 6), ("map", 16), ("wrong/issued <=", 15))
    rows = [("error", " ".join(f"{head:>{width}}" for head, width in heads))]
    for cells, level in zip(level_cells(made), made.levels):
        warned = f"{level.among_issued:.3f}" + (" !" if level.among_issued > WARN_ABOVE else "")
        values = zip([*cells[1:], warned], heads)
        rows.append((cells[0], " ".join(f"{cell[:width]:>{width}}" for cell, (_, width) in values)))
    names = columns(made)
    for place, value in enumerate(made.radii):
        oracle = f"  oracle {made.oracle[place]:.3f}" if made.known else ""
        rows.append((f"r = {value:g}", "  ".join(f"{head:>{_width(head)}}" for head in names) + oracle))
        for level in made.levels:
            cells = worth_cells(made, level, place)
            line = "  ".join(f"{cell:>{_width(head)}}" for cell, head in zip(cells, names))
            rows.append((f"  {level.error}", line))
    return [*rows, ("judged by", made.note), ("report", str(html)), ("data", str(data))]


def _width(head: str) -> int:
    return max(len(head), 6)


@click.command()
@click.argument("tables", nargs=-1, required=True, metavar="NOISE=SCORES...")
@click.option("--rho", required=True, help="Attack budgets to compare, as in 0.05,0.1,0.25.")
@click.option("--kind", type=click.Choice(["pac", "marginal"]), default="pac", show_default=True)
@click.option("--error", default="0.05", show_default=True, help="Error level eps.")
@click.option(
    "--confidence", default="0.95", show_default=True, help="Over the calibration set; not for marginal."
)
@click.option("--beta", default="0.1", show_default=True, help="Miss probability of each Monte Carlo bound.")
@radius_options("the mean radius")
@click.option(
    "--frames", type=int, default=0, help="Frames of the calibration split to come.  [default: as many]"
)
@click.option("--out", type=_NEW, help="JSON file to write.")
@json_option
@run_command
def guard(
    tables: Tuple[str, ...],
    rho: str,
    kind: str,
    error: str,
    confidence: str,
    beta: str,
    radius: Optional[str],
    weights: Optional[str],
    frames: int,
    out: Optional[Path],
    json_flag: bool,
) -> None:
    """Guarded tier: what each attack budget costs, from tuning scores made with several NOISE levels."""
    scores, objective = {}, objective_from(radius, weights)
    for text in tables:
        noise, _, path = text.partition("=")
        level = parse_numbers(noise, "NOISE=SCORES")[0]
        scores[level] = Scores.load(path)
    made = study_guard(
        scores,
        Guarantee.of(kind, error, confidence, beta),
        parse_numbers(rho, "--rho"),
        radius=objective.radii or None,
        weights=objective.weights,
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
    summary("Guarded tier", rows, made.to_json(), json_flag)
