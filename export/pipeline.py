"""From a workspace to a released bundle: lower, score, calibrate, embed, write, gate - or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, List, Mapping, Optional, Sequence, Tuple

from rrise.calibration.errors import CheckFailed
from rrise.calibration.storage.digests import PathLike
from rrise.calibration.tables.evaluation import RADII
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.formats.bundled_base import BASE_FILE
from rrise.edge_sdk.formats.manifest import MANIFEST_FILE, Manifest
from rrise.export.errors import ExportError
from rrise.export.gating.baseline import baseline_qualities
from rrise.export.gating.compare import Tolerance
from rrise.export.gating.gate import gate
from rrise.export.gating.gate_report import GateReport, save_reports
from rrise.export.gating.policy import Policy, check_policy
from rrise.export.gating.quality import Quality, measure
from rrise.export.lowering.precision import PRECISIONS
from rrise.export.products import LeftOut, make_products
from rrise.export.releasing.bundle import (
    Product,
    check_target,
    fill,
    versions,
    whole_or_not_at_all,
)
from rrise.export.releasing.bundle_report import bundle_page
from rrise.export.releasing.cache import NO_CACHE, Cache
from rrise.export.releasing.export_report import save_export_report
from rrise.export.releasing.recheck import against_workspace
from rrise.export.source import ExportSource, float32_tolerance, load_source, torch_reference

if TYPE_CHECKING:
    pass


class GateFailed(CheckFailed):
    """The gate stopped a release; `reports` say why, artefact by artefact."""

    def __init__(self, reports: Sequence[GateReport], what: str = "no bundle was written") -> None:
        self.reports = tuple(reports)
        failures = [failure for report in reports for failure in report.failures()]
        super().__init__(f"{what}, because the gate found:\n  " + "\n  ".join(failures))


@dataclass(frozen=True)
class ExportResult:
    """A released bundle.

    Attributes:
        path: its folder.
        manifest: what it says about itself.
        products: one for each precision, "fp32" first, with its calibration record.
        qualities: what each is worth on the verification frames.
        reports: what the gate found.
        left_out: with `keep_going`, the precisions that are not in it, and why.
    """

    path: Path
    manifest: Manifest
    products: Tuple[Product, ...]
    qualities: Tuple[Quality, ...]
    reports: Tuple[GateReport, ...]
    left_out: Tuple[LeftOut, ...] = ()


def export_onnx(
    workspace: PathLike,
    out: Optional[PathLike] = None,
    precisions: Sequence[str] = ("fp32",),
    *,
    batch_size: int = 1,
    replace_existing: bool = False,
    allow_code: bool = False,
    baseline: Optional[PathLike] = None,
    policy: Optional[Policy] = None,
    tolerances: Optional[Mapping[str, Tolerance]] = None,
    extra_files: Optional[Mapping[str, bytes]] = None,
    with_base: bool = False,
    keep_going: bool = False,
) -> ExportResult:
    """Export a workspace's surrogate to a bundle of calibrated ONNX graphs.

    Args:
        workspace: a folder in which `rrise-train` has made a surrogate and references.
        out: folder of the bundle; by default `bundle` in the workspace. It appears whole or not at all.
        precisions: of the backbone: "fp32", "fp16", "int8". The head always computes in float32. "fp32" is always
            made and comes first: it is what the gate holds against PyTorch to the last digits.
        batch_size: frames per forward pass, fixed in the graph.
        replace_existing: whether a bundle at `out` may be replaced.
        allow_code: whether a network factory of the user's may be imported.
        baseline: an older bundle that the policy's `max_drop` is measured against.
        policy: acceptance policy; by default [acceptance] of the workspace's rrise.toml.
        tolerances: precision -> allowed difference from PyTorch, where the defaults do not fit.
        extra_files: name -> content of further files; "report.html" replaces the page that export writes.
        with_base: whether the bundle carries base.onnx, with which a robot audits and confirms certificates.
        keep_going: leave out a precision that fails, other than fp32, instead of writing nothing; the result says which.

    Raises:
        GateFailed: an artefact is not what was trained and calibrated, or misses the policy; nothing was written.
        ExportError: the workspace is incomplete, the network cannot be exported, or the folder cannot be written.

    **Guarantee**: every artefact has its own offset, calibrated on its own ONNX Runtime outputs; it holds for the
    execution in its record.
    """
    source = load_source(Path(workspace), allow_code=allow_code, with_base=with_base)
    result = export_source(
        source,
        out,
        precisions,
        batch_size=batch_size,
        replace_existing=replace_existing,
        baseline=baseline,
        policy=policy,
        tolerances=tolerances,
        extra_files=extra_files,
        cache=NO_CACHE if source.foreign_code else Cache(source.path / ".cache" / "export"),
        keep_going=keep_going,
    )
    rules = policy if policy is not None else source.policy
    unchecked = ["max_drop was not checked, since no --baseline was given"]
    notes = unchecked if baseline is None and rules.max_drop is not None else []
    save_export_report(result, source, [*notes, *([source.plan_note] if source.plan_note else [])])
    for product in result.products:
        for scores in (product.scored, product.recorded):
            table = replace(scores, execution=product.record.execution)
            table.save(source.path / "scores" / table.execution.name / f"{table.split}.npz")
    return result


def export_source(
    source: ExportSource,
    out: Optional[PathLike] = None,
    precisions: Sequence[str] = ("fp32",),
    *,
    batch_size: int = 1,
    replace_existing: bool = False,
    baseline: Optional[PathLike] = None,
    policy: Optional[Policy] = None,
    tolerances: Optional[Mapping[str, Tolerance]] = None,
    extra_files: Optional[Mapping[str, bytes]] = None,
    cache: Cache = NO_CACHE,
    keep_going: bool = False,
) -> ExportResult:
    """As `export_onnx`, from a source that has been read already; the gate's findings go to `report` beside it."""
    wanted = _checked(precisions, batch_size)
    check_target(Path(out) if out is not None else source.path / "bundle", replace_existing)
    made, left_out = make_products(source, wanted, batch_size, cache, keep_going=keep_going)
    stopped: Tuple[GateReport, ...] = ()
    while True:
        try:
            result = _release(
                source, made, out, replace_existing, baseline, policy, tolerances or {}, extra_files or {}
            )
            break
        except GateFailed as error:
            # What failed is left out and everything else gated anew: a bundle is what the gate has seen, file by file.
            failed = {report.artefact: report for report in error.reports if not report}
            if not keep_going or "fp32" in failed or not failed:
                raise
            stopped += tuple(failed.values())
            left_out += tuple(
                LeftOut(name, "; ".join(report.failures()), True) for name, report in failed.items()
            )
            made = tuple(product for product in made if product.name not in failed)
    save_reports(source.path / "report", (*result.reports, *stopped), source.path.name)
    return replace(result, left_out=left_out)


def _release(
    source: ExportSource,
    products: Tuple[Product, ...],
    out: Optional[PathLike],
    replace_existing: bool,
    baseline: Optional[PathLike],
    policy: Optional[Policy],
    tolerances: Mapping[str, Tolerance],
    extra_files: Mapping[str, bytes],
) -> ExportResult:
    """Write the bundle of these products and gate it; nothing is left of one that does not pass."""
    rules = policy if policy is not None else source.policy
    target = Path(out) if out is not None else source.path / "bundle"
    with whole_or_not_at_all(target, replace=replace_existing) as folder:
        radii = sorted({*RADII, *rules.radii})
        qualities = tuple(
            measure(item.name, len(item.model), item.record, item.answers, source.verification, radii)
            for item in products
        )
        before = {} if baseline is None else baseline_qualities(Path(baseline), source.verification, radii)
        files = {"report.html": bundle_page(source, qualities, versions()), **extra_files}
        if source.base_model is not None:
            files[BASE_FILE] = source.base_model
        manifest = fill(folder, source, products, files)
        reports = gate_products(folder, source, products, tolerances)
        reports = check_policy(rules, qualities, reports, before)
        save_reports(source.path / "report", reports, source.path.name)
        if not all(reports):
            raise GateFailed(reports)
    return ExportResult(target, manifest, products, qualities, reports)


def _checked(precisions: Sequence[str], batch_size: int) -> List[str]:
    unknown = sorted(set(precisions) - set(PRECISIONS))
    if unknown:
        raise ExportError(f"precision: got {unknown[0]!r}, expected one of {', '.join(PRECISIONS)}")
    if batch_size < 1:
        raise ExportError(f"batch size: got {batch_size}, expected at least 1")
    return [name for name in PRECISIONS if name == "fp32" or name in precisions]


def gate_products(
    folder: Path, source: ExportSource, products: Sequence[Product], tolerances: Mapping[str, Tolerance]
) -> Tuple[GateReport, ...]:
    """Run the gate on every artefact of the bundle in `folder`."""
    reference = torch_reference(source.module, source.replay)
    exact = float32_tolerance(source.module, source.verification.frames, source.replay)
    allowed = {"fp32": exact, **tolerances}
    return tuple(
        gate(
            folder,
            product.name,
            source.calibration,
            source.verification,
            reference,
            scored=product.scored,
            tolerance=allowed.get(product.name),
        )
        for product in products
    )


def gate_bundle(bundle: PathLike, workspace: PathLike, *, allow_code: bool = False) -> Tuple[GateReport, ...]:
    """Run the gate again on an existing bundle, against the workspace it came from.

    Beyond the gate at export, manifest, records and recorded scores must state what the workspace would state: an edit
    whose digests all fit is found here.

    Raises:
        ExportError: the bundle was made from another surrogate.
    """
    manifest = Manifest.load(Path(bundle) / MANIFEST_FILE)
    source = load_source(Path(workspace), allow_code=allow_code, with_base=manifest.base is not None)
    if manifest.surrogate_digest != source.surrogate_digest:
        raise ExportError(
            f"{bundle}: made from surrogate {manifest.surrogate_digest[:16]}, the workspace has "
            f"{source.surrogate_digest[:16]}; name the workspace that it was exported from"
        )
    if manifest.replay_noise() != source.replay:
        raise ExportError(
            f"{bundle}: its guard is {manifest.guard}, the workspace's {source.guarantee.guard}, or its splits are others; "
            "name the workspace that it was exported from"
        )
    reference = torch_reference(source.module, source.replay)
    exact = float32_tolerance(source.module, source.verification.frames, source.replay)
    return tuple(
        _recheck(
            Path(bundle),
            source,
            gate(
                Path(bundle),
                name,
                source.calibration,
                source.verification,
                reference,
                tolerance=exact if name == "fp32" else None,
            ),
        )
        for name in manifest.artefacts
    )


def _recheck(path: Path, source: ExportSource, report: GateReport) -> GateReport:
    """The gate's report, and whether the bundle states what the workspace states, where it could be opened at all."""
    if not report.checks[0].passed:
        return report
    return report.with_checks(against_workspace(Bundle.open(path), report.artefact, source))
