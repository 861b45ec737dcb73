"""`rrise-edge`: look at a bundle, certify images, time it; and the commands of `cli_device` and `cli_operate`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple, Union

import click

from rrise.calibration.console import SuggestingGroup, json_option, run_command, summary
from rrise.calibration.errors import CheckFailed
from rrise.edge_sdk.commands.confirm import confirm as confirm_command
from rrise.edge_sdk.commands.demo import demo
from rrise.edge_sdk.commands.device import drift, recalibrate, reset, verify
from rrise.edge_sdk.commands.operate import doctor, watch
from rrise.edge_sdk.commands.options import (
    bundle_argument,
    confirm_of,
    confirm_options,
    runtime_options,
    trust_of,
    trust_options,
)
from rrise.edge_sdk.commands.references import references

if TYPE_CHECKING:
    from rrise.calibration.promise.record import Calibration
    from rrise.edge_sdk.certificate import Certificate


@click.group(cls=SuggestingGroup)
def main() -> None:
    """Certify camera frames with a bundle, and check that this device still does what was calibrated."""


@main.command()
@bundle_argument
@json_option
@runtime_options
@trust_options
@run_command
def info(bundle: Path, json_flag: bool, **options: Any) -> None:
    """Check BUNDLE in full and say what it promises on this device."""
    from rrise.edge_sdk.bundles.described import base_rows, copies_rows
    from rrise.edge_sdk.certifier import Certifier
    from rrise.edge_sdk.confirming.classifier import base_difference

    with Certifier.load(bundle, trust=trust_of(options), **options) as certifier:
        manifest, state = certifier.bundle.manifest, certifier.state
        record = certifier.bundle.calibrations.get(certifier.artefact)
        promise = record.guarantee if record else None
        here = base_difference(manifest)
        rows = [
            ("release", f"{manifest.digest[:16]} (in full with --json)"),
            ("classes", ", ".join(manifest.class_names)),
            ("input", f"{manifest.input.dtype} {list(manifest.input.shape)} {manifest.input.encoding}"),
            ("sigma", f"{manifest.sigma:g} in [0, 1] pixel units"),
            ("artefacts", ", ".join(sorted(manifest.artefacts))),
            ("execution", f"{certifier.execution.name}, version {certifier.execution.version}"),
            ("runtime", certifier.why),
            ("state", f"{state.state}: {state.reason}"),
            *copies_rows(manifest.copies),
            *base_rows(manifest, here),
        ]
        if record and promise:
            rows += [
                ("calibration", f"{record.message()}, attempt {record.attempt}"),
                ("guarantee", promise.sentence()),
                ("limits", promise.limits()),
                ("among issued", record.among_issued_text()),
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
            "base_engine_here": None if manifest.base is None else asdict(here),
            "calibration": record.to_json() if record else None,
            "wrong_among_issued": _among_issued(record),
        }
    summary(f"bundle {bundle}", rows, as_json, json_flag)


def _among_issued(record: "Optional[Calibration]") -> Optional[Dict[str, Any]]:
    found = record.among_issued() if record else None
    return None if found is None else {**vars(found), "warns": found.warns}


@main.command()
@bundle_argument
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--allow-unverified", is_flag=True, help="Issue certificates that the guarantee does not cover."
)
@confirm_options
@json_option
@runtime_options
@trust_options
@run_command
def certify(
    bundle: Path,
    images: Tuple[Path, ...],
    allow_unverified: bool,
    confirm: Optional[float],
    confirm_level: float,
    json_flag: bool,
    **options: Any,
) -> None:
    """Certify IMAGES, files or folders; exit status 1 if one cannot be read or does not fit."""
    from rrise.edge_sdk.certificate import Status
    from rrise.edge_sdk.certifier import Certifier
    from rrise.edge_sdk.frames.images import find_images, read_certified

    files, trust = find_images(list(images)), trust_of(options)
    certificates: List[Certificate] = []
    # A clone, for pictures from a disk are no evidence of what the camera sees: the drift monitor leaves them alone.
    with (
        Certifier.load(bundle, allow_unverified=allow_unverified, trust=trust, **options) as loaded,
        loaded.clone() as certifier,
    ):
        asked = confirm_of(confirm, confirm_level)
        if asked is not None:
            certifier.load_base()
        for file in files:
            certificates.append(read_certified(certifier, file, asked))
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
            *_promised(certificates),
            ("unusable", str(invalid)),
        ]
        summary(f"certified with {bundle}", rows, {}, False)
    if invalid:
        raise CheckFailed(
            f"{invalid} of {len(files)} images could not be read or do not have the bundle's frame size"
        )


def _promised(certificates: "List[Certificate]") -> List[Tuple[str, str]]:
    """How many have a radius, under which promise."""
    count = {name: sum(one.promise == name for one in certificates) for name in ("bundle", "input")}
    rows = [("certified", str(count["bundle"]))]
    if any(one.confirmation is not None for one in certificates):
        refuted = sum(one.status.value == "refuted" for one in certificates)
        rows += [("confirmed", f"{count['input']}, each for its own input"), ("refuted", str(refuted))]
    return rows


@main.command()
@bundle_argument
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
    "--base",
    type=click.Path(path_type=Path),
    help="Base classifier as ONNX: also time its Monte Carlo. [default: the bundle's, where it carries one]",
)
@json_option
@runtime_options
@trust_options
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
    from rrise.edge_sdk.certifier import Certifier
    from rrise.edge_sdk.operate.bench import Pacing, bench_rows, time_base
    from rrise.edge_sdk.operate.bench import bench as run_bench

    # A clone, as above: random frames would be a sign of drift.
    with Certifier.load(bundle, trust=trust_of(options), **options) as loaded, loaded.clone() as certifier:
        result = run_bench(certifier, count=count, pacing=Pacing(rate, random, deadline))
        model: Union[str, bytes, None] = None if base is None else str(base)
        if base is None and certifier.can_confirm:
            model = certifier.bundle.base_model()
    base_pass = None if model is None else time_base(model, threads=options["threads"])
    if out is not None:
        result.table(base_pass).save(out)
    rows, as_json = bench_rows(result, base_pass), {**result.to_json(), "base_seconds_per_pass": base_pass}
    summary(f"latency of {bundle}", rows, as_json, json_flag)


for _command in (confirm_command, verify, recalibrate, drift, reset, references, watch, doctor, demo):
    main.add_command(_command)

if __name__ == "__main__":
    main()
