"""The commands of `rrise-edge` that judge and adapt a bundle on this device: verify, recalibrate, drift, reset."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import click

from rrise.calibration.console import Progress, json_option, run_command, summary
from rrise.calibration.errors import CheckFailed
from rrise.edge_sdk.commands.options import (
    bundle_argument,
    open_trusted,
    runtime_options,
    trust_options,
)


@click.command()
@bundle_argument
@click.option(
    "--references", type=click.Path(path_type=Path), required=True, help="Reference pack, .npz or folder."
)
@click.option(
    "--tolerance",
    type=float,
    help="Largest increase that counts as rounding, radius units. [default: sigma / 100]",
)
@click.option("--junit", type=click.Path(path_type=Path), help="Also write the result as JUnit XML.")
@click.option("--dry-run", is_flag=True, help="Keep no record: the execution's state stays as it is.")
@json_option
@runtime_options
@trust_options
@run_command
def verify(
    bundle: Path,
    references: Path,
    tolerance: Optional[float],
    junit: Optional[Path],
    dry_run: bool,
    json_flag: bool,
    **options: Any,
) -> None:
    """Replay REFERENCES on this device; exit status 1 if BUNDLE does not keep its guarantee here."""
    from rrise.edge_sdk.device.loading import load_runtime
    from rrise.edge_sdk.device.verify import verify as run_verification
    from rrise.edge_sdk.device.verify_report import verification_rows, write_junit
    from rrise.edge_sdk.frames.png_pack import load_references

    opened = open_trusted(bundle, options)
    name = opened.artefact_name(options.pop("artefact"))
    pack = load_references(references)
    runtime = load_runtime(opened, name, **options)
    with Progress(len(pack), "frames", "replaying") as progress:
        result = run_verification(
            opened, name, runtime, pack, tolerance=tolerance, write=not dry_run, advance=progress.advance
        )
    if junit is not None:
        write_junit(junit, result)
    summary(f"verification of {bundle}", verification_rows(result), asdict(result), json_flag)
    if not result:
        raise CheckFailed(result.sentence)


@click.command()
@bundle_argument
@click.option(
    "--references", type=click.Path(path_type=Path), required=True, help="Calibration pack, .npz or folder."
)
@click.option(
    "--dry-run", is_flag=True, help="Say what the margin would be; the look is logged all the same."
)
@json_option
@runtime_options
@trust_options
@run_command
def recalibrate(bundle: Path, references: Path, dry_run: bool, json_flag: bool, **options: Any) -> None:
    """Calibrate BUNDLE for this device's execution on REFERENCES: what is subtracted on top of its own offset."""
    from rrise.edge_sdk.device.device_calibration import recalibrate as run_calibration
    from rrise.edge_sdk.device.loading import load_runtime
    from rrise.edge_sdk.frames.png_pack import load_references

    opened = open_trusted(bundle, options)
    name = opened.artefact_name(options.pop("artefact"))
    pack = load_references(references)
    runtime = load_runtime(opened, name, **options)
    with Progress(len(pack), "frames", "calibrating") as progress:
        result = run_calibration(opened, name, runtime, pack, write=not dry_run, advance=progress.advance)
    rows = [
        ("execution", result.execution.name),
        ("margin", f"{result.margin:.6g}, score {result.rank} of {result.frames}"),
        ("attempt", str(result.attempt)),
        ("guarantee", opened.calibrations[name].guarantee.sentence()),
    ]
    summary(f"calibration of {bundle} on this device", rows, result.to_json(), json_flag)


@click.command()
@bundle_argument
@click.option(
    "--references",
    type=click.Path(path_type=Path),
    required=True,
    help="Pack of sound frames, .npz or folder.",
)
@click.option(
    "--interval", default=30.0, show_default=True, help="Seconds between tested frames: a new scene each."
)
@click.option(
    "--alpha",
    default=0.005,
    show_default=True,
    help="Probability of ever alarming without cause, beside the 0.005 that the reference frames mislead.",
)
@json_option
@runtime_options
@trust_options
@run_command
def drift(
    bundle: Path, references: Path, interval: float, alpha: float, json_flag: bool, **options: Any
) -> None:
    """Fit the drift monitor of BUNDLE on REFERENCES; from then on every certifier of it on this device has one."""
    from rrise.edge_sdk.device.drift import DriftSettings, fit_reference
    from rrise.edge_sdk.device.loading import load_runtime
    from rrise.edge_sdk.frames.png_pack import load_references

    opened = open_trusted(bundle, options)
    name = opened.artefact_name(options.pop("artefact"))
    runtime = load_runtime(opened, name, **options)
    opened.check_graph(name, runtime.graph)
    value = fit_reference(opened, runtime, load_references(references), DriftSettings(interval, alpha))
    rows = [
        ("execution", runtime.execution.name),
        ("reference", f"{len(value['reference']['scores'])} frames to compare with"),
        ("interval", f"{interval:g} s"),
        (
            "false alarm",
            f"at most {alpha + value['reference']['delta']:.3g}, ever, on independent frames like these",
        ),
        *((f"shift of {shift:g} sd", text) for shift, text in _foreseen(value)),
    ]
    summary(f"drift monitor of {bundle}", rows, value, json_flag)


def _after(frames: float, interval: float) -> str:
    if not math.isfinite(frames):
        return "not within a day of frames every 30 s"
    return f"after {frames:.0f} frames" + (f" ({frames * interval / 60:.0f} min)" if interval else "")


def _foreseen(value: Dict[str, Any]) -> "List[Tuple[float, str]]":
    """When the monitor will speak after a feature shifted, at once and a day later, for the feature that it sees last."""
    from rrise.calibration.statistics.drift import DriftReference
    from rrise.calibration.statistics.drift_power import DAY, frames_until_alarm

    reference, rows = DriftReference.from_json(value["reference"]), []
    for shift in (0.5, 1.0, 2.0, 3.0):
        early, late = (
            frames_until_alarm(reference, shift, alpha=value["alpha"], after=after) for after in (0, DAY)
        )
        said = [_after(count, value["interval"]) for count in (early, late)]
        rows.append((shift, f"seen {said[0]}; {said[1]} where it comes after {DAY:,} sound frames"))
    return rows


@click.command()
@bundle_argument
@json_option
@trust_options
@run_command
def reset(bundle: Path, json_flag: bool, **options: Any) -> None:
    """Lift the suspension of BUNDLE on this device, after its cause was found and mended."""
    from rrise.edge_sdk.device.drift import forget_monitoring
    from rrise.edge_sdk.device.suspension import lift, suspended_because
    from rrise.edge_sdk.formats.manifest import DEVICE_FOLDER

    opened = open_trusted(bundle, options)
    reason = suspended_because(opened)
    lift(opened)
    for folder in sorted((opened.path / DEVICE_FOLDER).glob("*/")):
        forget_monitoring(folder)
    rows = [("suspension", "there was none" if reason is None else f"lifted: {reason}")]
    summary(f"reset of {bundle}", rows, {"lifted": reason}, json_flag)
