"""The command `rrise-export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import click

from rrise.calibration.console import SuggestingGroup, json_option, run_command, summary
from rrise.calibration.errors import CheckFailed, RriseError
from rrise.calibration.storage.files import read_json
from rrise.export.releasing.summaries import SummaryRows, comparison_rows, result_json, result_rows

if TYPE_CHECKING:
    from rrise.export.products import LeftOut

_FOLDER = click.Path(path_type=Path)


@click.group(cls=SuggestingGroup)
def main() -> None:
    """Turn a trained workspace into a bundle that a robot can use."""


@main.command()
@click.argument("workspaces", nargs=-1, required=True, type=_FOLDER)
@click.option(
    "--out", type=_FOLDER, help="Folder of the bundle [default: WORKSPACE/bundle]; for one workspace only."
)
@click.option("--precision", "precisions", multiple=True, help="fp16 or int8, beside fp32; may be repeated.")
@click.option(
    "--batch-size", default=1, show_default=True, help="Frames per forward pass, fixed in the graph."
)
@click.option("--baseline", type=_FOLDER, help="Older bundle that the new one is held against.")
@click.option(
    "--max-drop", type=float, help="Largest loss of certified accuracy against the baseline, as in 0.01."
)
@click.option(
    "--tolerance",
    "tolerances",
    multiple=True,
    metavar="PRECISION.FIELD=VALUE",
    help="Allowed difference from PyTorch, as in int8.abstain_flips=0.2; may be repeated.",
)
@click.option(
    "--with-base",
    is_flag=True,
    help="Also bundle base.onnx, with which a robot audits and confirms certificates.",
)
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option(
    "--keep-going", is_flag=True, help="Leave out a precision that fails, other than fp32; exit status 1."
)
@click.option("--allow-code", is_flag=True, help="Allow the import of your own network factory.")
@json_option
@run_command
def onnx(
    workspaces: Tuple[Path, ...],
    out: Optional[Path],
    precisions: Tuple[str, ...],
    batch_size: int,
    baseline: Optional[Path],
    max_drop: Optional[float],
    tolerances: Tuple[str, ...],
    with_base: bool,
    force: bool,
    keep_going: bool,
    allow_code: bool,
    json_flag: bool,
) -> None:
    """Lower, calibrate, gate and bundle the surrogate of every WORKSPACE.

    Exit status 1 and no bundle where the gate finds that an artefact is not what was trained, or misses the
    acceptance policy; the other workspaces are exported all the same. With --keep-going the bundle has the precisions that
    passed, and the exit status is 1 all the same. The findings are in WORKSPACE/report as gate.json and gate.xml (JUnit).
    --json has one entry in "exports" for each WORKSPACE, whatever became of it.
    """
    from rrise.export.errors import ExportError
    from rrise.export.gating.compare import parse_tolerances
    from rrise.export.pipeline import export_onnx

    if out is not None and len(workspaces) > 1:
        raise ExportError(
            f"--out: got {len(workspaces)} workspaces, expected one; without --out each gets its own bundle"
        )
    if max_drop is not None and baseline is None:
        raise ExportError("--max-drop: got no --baseline to measure it against; name an older bundle")
    allowed = parse_tolerances(tolerances)
    rows: SummaryRows = []
    results: List[Dict[str, Any]] = []
    problems: List[RriseError] = []
    for workspace in workspaces:
        try:
            result = export_onnx(
                workspace,
                out,
                precisions,
                batch_size=batch_size,
                replace_existing=force,
                allow_code=allow_code,
                baseline=baseline,
                policy=_policy(workspace, max_drop),
                tolerances=allowed,
                with_base=with_base,
                keep_going=keep_going,
            )
            report = read_json(workspace / "report" / "export.json", "export report")
            rows += result_rows(result, report["latency"], report["notes"])
            rows.append(_page(workspace))
            results.append({**result_json(result), **{key: report[key] for key in ("latency", "notes")}})
            problems += [_left_out(workspace, item) for item in result.left_out]
        except (RriseError, OSError) as found:
            error = found if isinstance(found, RriseError) else ExportError(f"{workspace}: {found}")
            problems.append(error)
            rows.append((str(workspace), "no bundle"))
            results.append({"workspace": str(workspace), "bundle": None, "error": str(error)})
    if json_flag or len(workspaces) > 1 or any(result["bundle"] for result in results):
        summary("exported", rows, {"exports": results}, json_flag)
    _raise(problems)


def _page(workspace: Path) -> Tuple[str, str]:
    """The workspace's own page, which tells of the bundle as well."""
    from rrise.trainer.reports.workspace_page import update_page
    from rrise.trainer.workspace import Workspace

    return update_page(Workspace.open(workspace), "rrise-export onnx")


def _left_out(workspace: Path, item: "LeftOut") -> RriseError:
    from rrise.export.errors import ExportError

    text = f"{workspace}: the bundle has no {item.precision}: {item.why}"
    return CheckFailed(text) if item.failed else ExportError(text)


def _policy(workspace: Path, max_drop: Optional[float]) -> Any:
    """The workspace's policy with --max-drop in it; None leaves it to the workspace."""
    from dataclasses import replace

    from rrise.export.gating.policy import Policy
    from rrise.trainer.workspace import Workspace

    if max_drop is None:
        return None
    return replace(Policy(**vars(Workspace.open(workspace).config.acceptance)), max_drop=max_drop)


def _raise(problems: Sequence[RriseError]) -> None:
    """One exit status for several workspaces: 1 where a gate said no, 2 where something could not run at all."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        text = "\n".join(str(problem) for problem in problems)
        could_run = all(isinstance(problem, CheckFailed) for problem in problems)
        raise CheckFailed(text) if could_run else RriseError(text)


@main.command()
@click.argument("bundle", type=_FOLDER)
@click.argument("workspace", type=_FOLDER)
@click.option("--allow-code", is_flag=True, help="Allow the import of your own network factory.")
@json_option
@run_command
def check(bundle: Path, workspace: Path, allow_code: bool, json_flag: bool) -> None:
    """Run the gate again on an existing BUNDLE, against the WORKSPACE it came from."""
    from rrise.export.pipeline import GateFailed, gate_bundle

    reports = gate_bundle(bundle, workspace, allow_code=allow_code)
    if not all(reports):
        raise GateFailed(reports, "the bundle is not what the workspace exports")
    rows: SummaryRows = []
    for report in reports:
        rows.append((report.artefact, f"{len(report.checks)} checks passed"))
        rows += comparison_rows(report)
    summary("checked", rows, {"gate": [report.to_json() for report in reports]}, json_flag)


@main.command()
@click.argument("old", type=_FOLDER)
@click.argument("new", type=_FOLDER)
@click.option(
    "--max-drop", type=float, help="Exit status 1 when certified accuracy drops by more, as in 0.01."
)
@json_option
@run_command
def diff(old: Path, new: Path, max_drop: Optional[float], json_flag: bool) -> None:
    """Say what differs between two bundles: settings, offsets, certified accuracy, answers on common frames."""
    from rrise.export.gating.baseline import diff as compare_bundles
    from rrise.export.gating.quality import quality_table

    found = compare_bundles(old, new)
    rows: SummaryRows = [(name, f"{before} -> {after}") for name, before, after in found.settings]
    for item in found.artefacts:
        header, (_, after) = quality_table([item.old, item.new])
        rows += [(f"{item.artefact}: {name}", cell) for name, cell in zip(header[1:], after[1:])]
        if item.comparison is not None:
            flips = f"{item.comparison.label_flips} label and {item.comparison.abstain_flips} abstain flips"
            rows.append((f"{item.artefact}: answers", f"{flips} on {item.common} common frames"))
    rows.append(("largest drop of certified accuracy", f"{found.largest_drop():.4f}"))
    summary("difference", rows, found.to_json(), json_flag)
    if max_drop is not None and not found.largest_drop() <= max_drop:
        raise CheckFailed(
            f"certified accuracy drops by {found.largest_drop():.4f}, expected at most {max_drop:g}"
        )


def _say(line: str, as_json: Dict[str, Any], json_flag: bool) -> None:
    """What a command did in one line, or as JSON."""
    click.echo(json.dumps(as_json, indent=2, sort_keys=True) if json_flag else line)


@main.command()
@click.argument("bundle", type=_FOLDER)
@click.argument("file", type=_FOLDER)
@json_option
@run_command
def pack(bundle: Path, file: Path, json_flag: bool) -> None:
    """Put a released BUNDLE into a single FILE; equal bundles give equal bytes."""
    from rrise.export.releasing.pack import pack_bundle

    digest = pack_bundle(bundle, file)
    size = file.stat().st_size
    _say(
        f"{file}: {size:,} bytes, SHA-256 {digest}",
        {"file": str(file), "bytes": size, "sha256": digest},
        json_flag,
    )


@main.command()
@click.argument("file", type=_FOLDER)
@click.argument("bundle", type=_FOLDER)
@click.option("--public-key", type=_FOLDER, help="Unpack only what this key signed.")
@json_option
@run_command
def unpack(file: Path, bundle: Path, public_key: Optional[Path], json_flag: bool) -> None:
    """Unpack FILE into the folder BUNDLE and check it; the folder appears whole or not at all."""
    from rrise.edge_sdk.formats.signing import Trust
    from rrise.export.releasing.pack import unpack_bundle

    trust = None if public_key is None else Trust.of(public_key)
    digest = unpack_bundle(file, bundle, trust=trust)
    _say(f"{bundle}: manifest {digest[:16]}", {"bundle": str(bundle), "manifest": digest}, json_flag)


@main.command()
@click.argument("file", type=_FOLDER)
@json_option
@run_command
def keygen(file: Path, json_flag: bool) -> None:
    """Make an Ed25519 key pair: the private key FILE, readable by you alone, and FILE.pub for the robots."""
    from rrise.export.releasing.keys import write_key_pair

    public = write_key_pair(file)
    said = {"private": str(file), "public": f"{file}.pub", "key_id": public.key_id}
    _say(f"{file}: private key; {file}.pub: public key {public.key_id}", said, json_flag)


@main.command()
@click.argument("bundle", type=_FOLDER)
@click.option(
    "--key", type=_FOLDER, help="Private key file [default: the environment variable RRISE_SIGNING_KEY]."
)
@click.option("--release", type=int, help="Number of this release; it grows with every release.")
@click.option(
    "--device-records", is_flag=True, help="Sign what this device added, with the device's key, instead."
)
@json_option
@run_command
def sign(
    bundle: Path, key: Optional[Path], release: Optional[int], device_records: bool, json_flag: bool
) -> None:
    """Sign BUNDLE, or the records that this device made in it."""
    from rrise.edge_sdk.formats.keys import PrivateKey
    from rrise.export.errors import ExportError
    from rrise.export.releasing.keys import sign_bundle, sign_device_records

    private = PrivateKey.load(key)
    if device_records:
        records = list(map(str, sign_device_records(bundle, private)))
        lines = [f"{record}: signed by device key {private.public.key_id}" for record in records]
        _say("\n".join(lines), {"records": records, "key_id": private.public.key_id}, json_flag)
        return
    if release is None:
        raise ExportError("--release: got none, expected the number of this release, one more than the last")
    signature = sign_bundle(bundle, private, release)
    said = {"bundle": str(bundle), "release": signature.release, "key_id": signature.key_id}
    _say(f"{bundle}: release {signature.release}, signed by key {signature.key_id}", said, json_flag)


@main.command()
@click.argument("bundle", type=_FOLDER)
@click.option("--artefact", default="fp32", show_default=True, help="Which graph of the bundle.")
@click.option(
    "--references", "calibration", type=_FOLDER, help="Calibration pack: the engine gets its own margin."
)
@click.option("--verification", type=_FOLDER, help="Verification pack: replayed on the engine.")
@click.option(
    "--refuse-stale", is_flag=True, help="Do not build anew where an engine for something else is there."
)
@json_option
@run_command
def tensorrt(
    bundle: Path,
    artefact: str,
    calibration: Optional[Path],
    verification: Optional[Path],
    refuse_stale: bool,
    json_flag: bool,
) -> None:
    """On the device: build the TensorRT engine of BUNDLE, calibrate it and check it."""
    from rrise.calibration.tables.references import References
    from rrise.export.on_device import export_tensorrt

    packs = [None if path is None else References.load(path) for path in (calibration, verification)]
    result = export_tensorrt(
        bundle, artefact, calibration=packs[0], verification=packs[1], rebuild_stale=not refuse_stale
    )
    rows: SummaryRows = [("engine", f"{result.key.name}, {'built now' if result.built else 'found'}")]
    if result.calibration is not None:
        found = result.calibration
        rows.append(("margin on top", f"{found.margin:.6g}, score {found.rank} of {found.frames} frames"))
    if result.verification is not None:
        rows.append(("verification", f"{result.verification.verdict}: {result.verification.sentence}"))
    if result.calibration is None and result.verification is None:
        rows.append(("state", "unverified: issues no certificate; give --references or --verification"))
    as_json = {
        "engine": result.key.to_json(),
        "built": result.built,
        "calibration": None if result.calibration is None else result.calibration.to_json(),
        "verdict": None if result.verification is None else str(result.verification.verdict),
    }
    summary("engine", rows, as_json, json_flag)
    if result.verification is not None and not result.verification:
        raise CheckFailed(result.verification.sentence)


if __name__ == "__main__":
    main()
