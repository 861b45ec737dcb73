"""The command `rrise-export`."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional, Tuple

import click

from calibration.cli_tools import SuggestingGroup, run_command, summary


@click.group(cls=SuggestingGroup)
def main() -> None:
    """Turn a trained workspace into a bundle that a robot can use."""


@main.command()
@click.argument("workspace", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the bundle [default: WORKSPACE/bundle]."
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    default=("fp32",),
    show_default=True,
    help="fp32; may be repeated.",
)
@click.option(
    "--batch-size", default=1, show_default=True, help="Frames per forward pass, fixed in the graph."
)
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--allow-code", is_flag=True, help="Allow the import of your own network factory.")
@click.option("--json", "json_flag", is_flag=True, help="Print the result as JSON.")
@run_command
def onnx(
    workspace: Path,
    out: Optional[Path],
    precisions: Tuple[str, ...],
    batch_size: int,
    force: bool,
    allow_code: bool,
    json_flag: bool,
) -> None:
    """Lower, calibrate, gate and bundle the surrogate of WORKSPACE.

    Exit status 1 and no bundle when the gate finds that an artefact is not what was trained.
    """
    from export.pipeline import export_onnx

    result = export_onnx(
        workspace, out, precisions, batch_size=batch_size, replace_existing=force, allow_code=allow_code
    )
    rows: List[Tuple[str, str]] = [("bundle", str(result.path)), ("release", result.manifest.digest[:16])]
    for product, report in zip(result.products, result.reports):
        rows.append((product.name, product.record.message()))
        rows += [(f"  {check.name}", f"{check.got} ({check.limit})") for check in report.checks]
    rows.append(("guarantee", result.products[0].record.guarantee.sentence()))
    as_json = {
        "bundle": str(result.path),
        "release": result.manifest.digest,
        "artefacts": {product.name: product.record.to_json() for product in result.products},
        "gate": [report.to_json() for report in result.reports],
    }
    summary("exported", rows, as_json, json_flag)
