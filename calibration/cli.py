"""The command `rrise-calibrate`: offsets and reports from tables, without running any model."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import click

from calibration.certify import CertifyCounts
from calibration.cli_tools import SuggestingGroup, run_command, summary
from calibration.cost import CostLedger
from calibration.errors import CheckFailed
from calibration.fit import calibrate
from calibration.guarantee import KINDS, Guarantee
from calibration.latency import Latency
from calibration.maps import IDENTITY, clopper_pearson_map
from calibration.record import Calibration
from calibration.scores import Scores

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NEW = click.Path(path_type=Path)


@click.group(cls=SuggestingGroup)
def main() -> None:
    """From scores to offsets, trade-offs and reports."""


@main.command()
@click.argument("scores", type=_FILE)
@click.option("--out", type=_NEW, required=True, help="Calibration record to write (JSON).")
@click.option("--kind", type=click.Choice(KINDS), default="pac", show_default=True)
@click.option("--error", default="0.05", show_default=True, help="Error level eps.")
@click.option("--confidence", default="0.95", show_default=True, help="Over the calibration set; pac only.")
@click.option("--beta", default="0.1", show_default=True, help="Miss probability of each Monte Carlo bound.")
@click.option(
    "--map", "map_name", type=click.Choice(["identity", "clopper-pearson"]), default="clopper-pearson"
)
@click.option("--json", "as_json", is_flag=True)
@run_command
def fit(
    scores: Path, out: Path, kind: str, error: str, confidence: str, beta: str, map_name: str, as_json: bool
) -> None:
    """Calibrate the execution of SCORES (split "calibration") and write its record."""
    table = Scores.load(scores)
    guarantee = Guarantee.of(kind, error, confidence, beta)
    radius_map = IDENTITY
    if map_name == "clopper-pearson":
        radius_map = clopper_pearson_map(table.sigma, int(table.num_samples.min()), float(guarantee.beta))
    record = calibrate(table, guarantee, radius_map)
    record.save(out)
    rows = [
        ("promise", guarantee.sentence()),
        ("limits", guarantee.limits()),
        ("calibration", record.message()),
        ("map", radius_map.name),
        ("record", str(out)),
    ]
    summary("Calibration", rows, record.to_json(), as_json)
    if not record:
        raise CheckFailed(record.message())


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
