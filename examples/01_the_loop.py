"""The whole loop from Python: frames, base classifier, Monte Carlo, surrogate, calibration, bundle, certificate, report.

    python examples/01_the_loop.py                                   # scikit-learn's digits, a few minutes
    python examples/01_the_loop.py --data my_images/                 # your own, in runs/my_images

Every stage that is finished already is kept, so the script may be stopped and started again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from rrise import trainer
from rrise.calibration import Calibration, CertifyCounts
from rrise.calibration.console import duration, run_command, summary
from rrise.calibration.reports.report import summary_rows, write_report
from rrise.calibration.reports.summary import ReportTables
from rrise.edge_sdk import Certifier
from rrise.edge_sdk.bundles.runtime_scores import score_runtime
from rrise.edge_sdk.operate.bench import bench
from rrise.export import export_onnx

SPLITS = ("calibration", "verification", "test")
Result = TypeVar("Result")


@click.command()
@click.option(
    "--data", default="digits", help='"digits", an .npz file, or a folder with one sub-folder per class.'
)
@click.option(
    "--workspace",
    "folder",
    type=click.Path(path_type=Path),
    help="By default demo for the digits, runs/NAME for data called NAME.",
)
@click.option("--config", type=click.Path(path_type=Path), help="An rrise.toml with other settings.")
@run_command
def main(data: str, folder: Path | None, config: Path | None) -> None:
    """Run every stage and show what came out."""
    start = time.monotonic()
    folder = folder or (Path("demo") if data == "digits" else Path("runs") / Path(data).stem)
    if config:
        settings = trainer.load_config(config)
    else:
        settings = trainer.config_for(data, trainer.load_dataset(data).frames.shape)
    workspace = trainer.Workspace.create(folder, settings)
    if too_few := trainer.too_few_frames(workspace):
        raise trainer.TrainerError(too_few)
    stage("base classifier under noise", lambda: trainer.train_base(workspace))
    drawn = stage("Monte Carlo: targets and references", lambda: trainer.build_targets(workspace))
    trained = stage("surrogate", lambda: trainer.train_surrogate(workspace))
    stage("comparison: CERTIFY and audit on the test frames", lambda: trainer.certify_test_split(workspace))
    stage("calibration of the PyTorch execution", lambda: trainer.calibrate_surrogate(workspace))
    released = stage("export: lower, calibrate, gate", lambda: export_onnx(folder, replace_existing=True))

    with Certifier.load(released.path) as certifier:
        certificates = [certifier.certify(frame) for frame in workspace.frames("test")]
        scores = {split: score_runtime(certifier.runtime, workspace.references(split)) for split in SPLITS}
        latency = stage("latency of certify", lambda: bench(certifier, frames=workspace.frames("test")))
    for split, table in scores.items():
        table.save(workspace.scores_path(table.execution.name, split))

    seconds_per_pass = drawn.seconds / drawn.drawn if drawn.drawn else None
    tables = ReportTables(
        calibration=Calibration.load(released.path / "calibration" / "fp32.json"),
        scores=scores,
        certify=CertifyCounts.load(workspace.certify_path),
        cost=workspace.cost(),
        frame_rate=settings.guarantee.frame_rate,
        latency=latency.table(seconds_per_pass),
    )
    numbers = write_report(tables, folder / "report")
    rows = [
        ("promise", numbers["sentence"]),
        ("limits", numbers["limits"]),
        *(item.row() for item in trained.candidates),
        ("surrogate", f"{trained.method}, worth most on the tuning split"),
        *summary_rows(numbers),
        ("first test frames", "; ".join(certificate.to_line() for certificate in certificates[:3])),
        ("bundle", str(released.path)),
        ("report", str(folder / "report" / "report.html")),
        ("time", duration(time.monotonic() - start)),
    ]
    summary("The loop is closed", rows, {}, False)


def stage(name: str, work: Callable[[], Result]) -> Result:
    """Say what begins, do it, say how long it took."""
    click.echo(f"{name} ...", nl=False, err=True)
    start = time.monotonic()
    result = work()
    # On a terminal the progress of the work has taken the place of the line.
    again = f"\r{name} ..." if sys.stderr.isatty() else ""
    click.echo(f"{again} {duration(time.monotonic() - start)}", err=True)
    return result


if __name__ == "__main__":
    main()
