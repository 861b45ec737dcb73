"""`rrise-edge confirm`: what `confirm` proves within which deadline, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import click

from rrise.calibration.console import Progress, json_option, run_command, summary
from rrise.edge_sdk.commands.options import bundle_argument, runtime_options, trust_of, trust_options
from rrise.edge_sdk.errors import EdgeError


@click.command()
@bundle_argument
@click.option(
    "--references",
    type=click.Path(path_type=Path),
    required=True,
    help="Pack whose frames are certified and confirmed, .npz or folder; no calibration frames.",
)
@click.option(
    "--deadlines", default="0.005,0.02,0.05,0.1", show_default=True, help="Seconds, separated by commas."
)
@click.option("--level", default=0.001, show_default=True, help="Error level per input.")
@click.option("--batch-size", type=int, help="Evaluations at once. [default: what takes a few milliseconds]")
@click.option(
    "--processor-time",
    is_flag=True,
    help="Deadlines in processor time: on a busy machine, about what an idle one would do.",
)
@click.option("--count", type=int, help="At most so many frames. [default: all]")
@json_option
@runtime_options
@trust_options
@run_command
def confirm(
    bundle: Path,
    references: Path,
    deadlines: str,
    level: float,
    batch_size: Optional[int],
    processor_time: bool,
    count: Optional[int],
    json_flag: bool,
    **options: Any,
) -> None:
    """Measure which share of certificates of BUNDLE its base classifier confirms within each deadline."""
    from rrise.edge_sdk.certifier import Certifier
    from rrise.edge_sdk.frames.png_pack import load_references
    from rrise.edge_sdk.operate.confirm_study import confirm_study

    try:
        wanted = [float(part) for part in deadlines.split(",")]
    except ValueError as error:
        raise EdgeError(
            f"--deadlines: got {deadlines!r}, expected seconds separated by commas, such as 0.005,0.02"
        ) from error
    frames = load_references(references).frames[:count]
    # A clone, since frames from a disk are no evidence of what the camera sees.
    with (
        Certifier.load(bundle, trust=trust_of(options), **options) as loaded,
        loaded.clone() as certifier,
        Progress(len(frames), "frames", "confirming") as progress,
    ):
        found = confirm_study(
            certifier,
            frames,
            wanted,
            alpha=level,
            batch_size=batch_size,
            processor_time=processor_time,
            advance=progress.advance,
        )
    summary(f"confirmed with {bundle}", found.text_rows(), found.to_json(), json_flag)
