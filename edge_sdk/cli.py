"""`rrise-edge`: look at a bundle, certify images, verify it on this device, time it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, TypeVar

import click

from calibration.cli_tools import Progress, SuggestingGroup, run_command, summary
from calibration.errors import CheckFailed

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(cls=SuggestingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rrise")
def main() -> None:
    """Certify camera frames with a bundle, and check that this device still does what was calibrated."""


def _runtime_options(command: Command) -> Command:
    for option in (
        click.option(
            "--artefact", help="Graph of the bundle, as in fp32. [default: the first calibrated one]"
        ),
        click.option("--runtime", default="auto", show_default=True, help="onnxruntime, or auto."),
        click.option("--provider", help="Of ONNX Runtime: cpu, cuda or tensorrt; strict. [default: cpu]"),
        click.option(
            "--threads", default=1, show_default=True, help="Of ONNX Runtime; more is another execution."
        ),
    ):
        command = option(command)
    return command


_bundle = click.argument("bundle", type=click.Path(path_type=Path))
_json = click.option("--json", "json_flag", is_flag=True, help="Print JSON instead of text.")


@main.command()
@_bundle
@_json
@_runtime_options
@run_command
def info(bundle: Path, json_flag: bool, **options: Any) -> None:
    """Check BUNDLE in full and say what it promises on this device."""
    from edge_sdk.certifier import Certifier

    with Certifier.load(bundle, **options) as certifier:
        manifest, state = certifier.bundle.manifest, certifier.state
        record = certifier.bundle.calibrations.get(certifier.artefact)
        promise = record.guarantee if record else None
        rows = [
            ("release", manifest.digest),
            ("classes", ", ".join(manifest.class_names)),
            ("input", f"{manifest.input.dtype} {list(manifest.input.shape)} {manifest.input.encoding}"),
            ("sigma", f"{manifest.sigma:g} in [0, 1] pixel units"),
            ("artefacts", ", ".join(sorted(manifest.artefacts))),
            ("execution", f"{certifier.execution.name}, version {certifier.execution.version}"),
            ("runtime", certifier.why),
            ("state", f"{state.state}: {state.reason}"),
        ]
        if record and promise:
            rows += [
                ("calibration", f"{record.message()}, attempt {record.attempt}"),
                ("guarantee", promise.sentence()),
                ("limits", promise.limits()),
                (
                    "permits",
                    f"{promise.wrong_per_hour(manifest.frame_rate):,.0f} wrong certificates an hour at"
                    f" {manifest.frame_rate:g} frames a second",
                ),
            ]
        as_json: Dict[str, Any] = {
            "release": manifest.digest,
            "manifest": manifest.to_json(),
            "execution": certifier.execution.to_json(),
            "state": state.state.value,
            "reason": state.reason,
            "runtime": certifier.why,
            "margin": state.margin,
            "calibration": record.to_json() if record else None,
        }
    summary(f"bundle {bundle}", rows, as_json, json_flag)


@main.command()
@_bundle
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--allow-unverified", is_flag=True, help="Issue certificates that the guarantee does not cover."
)
@_json
@_runtime_options
@run_command
def certify(
    bundle: Path, images: Tuple[Path, ...], allow_unverified: bool, json_flag: bool, **options: Any
) -> None:
    """Certify IMAGES, files or folders; exit status 1 if one cannot be read or does not fit."""
    from edge_sdk.certificate import Certificate, Status
    from edge_sdk.certifier import Certifier
    from edge_sdk.images import find_images, read_certified

    files = find_images(list(images))
    certificates: List[Certificate] = []
    with Certifier.load(bundle, allow_unverified=allow_unverified, **options) as certifier:
        for file in files:
            certificates.append(read_certified(certifier, file))
            line = (
                json.dumps(certificates[-1].to_json())
                if json_flag
                else f"{file}  {certificates[-1].to_line()}"
            )
            click.echo(line)
    invalid = sum(certificate.status is Status.INVALID_INPUT for certificate in certificates)
    if not json_flag:
        rows = [
            ("images", str(len(files))),
            ("certified", str(sum(map(bool, certificates)))),
            ("unusable", str(invalid)),
        ]
        summary(f"certified with {bundle}", rows, {}, False)
    if invalid:
        raise CheckFailed(
            f"{invalid} of {len(files)} images could not be read or do not have the bundle's frame size"
        )


@main.command()
@_bundle
@click.option(
    "--references", type=click.Path(path_type=Path), required=True, help="Reference pack (.npz) to replay."
)
@click.option(
    "--tolerance",
    type=float,
    help="Largest increase that counts as rounding, radius units. [default: sigma / 100]",
)
@click.option("--junit", type=click.Path(path_type=Path), help="Also write the result as JUnit XML.")
@click.option("--dry-run", is_flag=True, help="Keep no record: the execution's state stays as it is.")
@_json
@_runtime_options
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
    from calibration.references import References
    from edge_sdk.bundle import Bundle
    from edge_sdk.runtime.select import load_runtime
    from edge_sdk.verify import verify as run_verification
    from edge_sdk.verify_report import text_rows, write_junit

    opened = Bundle.open(bundle)
    name = opened.artefact_name(options.pop("artefact"))
    pack = References.load(references)
    runtime = load_runtime(opened, name, **options)
    with Progress(len(pack), "frames", "replaying") as progress:
        result = run_verification(
            opened, name, runtime, pack, tolerance=tolerance, write=not dry_run, advance=progress.advance
        )
    if junit is not None:
        write_junit(junit, result)
    summary(f"verification of {bundle}", text_rows(result), asdict(result), json_flag)
    if not result:
        raise CheckFailed(result.sentence)


@main.command()
@_bundle
@click.option("--references", type=click.Path(path_type=Path), required=True, help="Calibration pack (.npz).")
@click.option("--dry-run", is_flag=True, help="Say what the margin would be and keep nothing.")
@_json
@_runtime_options
@run_command
def recalibrate(bundle: Path, references: Path, dry_run: bool, json_flag: bool, **options: Any) -> None:
    """Calibrate BUNDLE for this device's execution on REFERENCES: what is subtracted on top of its own offset."""
    from calibration.references import References
    from edge_sdk.bundle import Bundle
    from edge_sdk.device_calibration import recalibrate as run_calibration
    from edge_sdk.runtime.select import load_runtime

    opened = Bundle.open(bundle)
    name = opened.artefact_name(options.pop("artefact"))
    pack = References.load(references)
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


@main.command()
@_bundle
@click.option(
    "--references", type=click.Path(path_type=Path), required=True, help="Pack (.npz) of sound frames."
)
@click.option(
    "--interval", default=30.0, show_default=True, help="Seconds between tested frames: a new scene each."
)
@click.option("--alpha", default=0.005, show_default=True, help="Probability of ever alarming without cause.")
@_json
@_runtime_options
@run_command
def drift(
    bundle: Path, references: Path, interval: float, alpha: float, json_flag: bool, **options: Any
) -> None:
    """Fit the drift monitor of BUNDLE on REFERENCES; from then on every certifier of it on this device has one."""
    from calibration.references import References
    from edge_sdk.bundle import Bundle
    from edge_sdk.drift import DriftSettings, fit_reference
    from edge_sdk.runtime.select import load_runtime

    opened = Bundle.open(bundle)
    name = opened.artefact_name(options.pop("artefact"))
    runtime = load_runtime(opened, name, **options)
    opened.check_graph(name, runtime.graph)
    value = fit_reference(opened, runtime, References.load(references), DriftSettings(interval, alpha))
    rows = [
        ("execution", runtime.execution.name),
        ("reference", f"{len(value['reference']['scores'])} frames to compare with"),
        ("interval", f"{interval:g} s"),
        (
            "false alarm",
            f"at most {alpha + value['reference']['delta']:.3g}, ever, on independent frames like these",
        ),
    ]
    summary(f"drift monitor of {bundle}", rows, value, json_flag)


@main.command()
@_bundle
@_json
@run_command
def reset(bundle: Path, json_flag: bool) -> None:
    """Lift the suspension of BUNDLE on this device, after its cause was found and mended."""
    from edge_sdk.bundle import DEVICE_FOLDER, Bundle
    from edge_sdk.drift import forget
    from edge_sdk.suspension import lift, suspended_because

    opened = Bundle.open(bundle)
    reason = suspended_because(opened)
    lift(opened)
    for folder in sorted((opened.path / DEVICE_FOLDER).glob("*/")):
        forget(folder)
    rows = [("suspension", "there was none" if reason is None else f"lifted: {reason}")]
    summary(f"reset of {bundle}", rows, {"lifted": reason}, json_flag)


@main.command()
@_bundle
@click.option(
    "--count",
    default=2000,
    show_default=True,
    help="Rounds; each calls certify once and the bare runtime twice.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the raw samples here (.npz), for the report."
)
@click.option("--rate", type=float, help="Calls a second. [default: back to back]")
@click.option("--random", is_flag=True, help="Randomly spaced arrivals at this mean rate.")
@click.option("--deadline", type=float, help="Seconds; count the calls that take longer.")
@click.option(
    "--base", type=click.Path(path_type=Path), help="Base classifier as ONNX: also time its Monte Carlo."
)
@_json
@_runtime_options
@run_command
def bench(
    bundle: Path,
    count: int,
    rate: Optional[float],
    random: bool,
    deadline: Optional[float],
    base: Optional[Path],
    out: Optional[Path],
    json_flag: bool,
    **options: Any,
) -> None:
    """Time certify on BUNDLE against the bare runtime, interleaved in one run."""
    from edge_sdk.bench import Pacing, text_rows, time_base
    from edge_sdk.bench import bench as run_bench
    from edge_sdk.certifier import Certifier

    with Certifier.load(bundle, **options) as certifier:
        result = run_bench(certifier, count=count, pacing=Pacing(rate, random, deadline))
    base_pass = None if base is None else time_base(str(base), threads=options["threads"])
    if out is not None:
        result.table(base_pass).save(out)
    rows, as_json = text_rows(result, base_pass), {**result.to_json(), "base_seconds_per_pass": base_pass}
    summary(f"latency of {bundle}", rows, as_json, json_flag)
