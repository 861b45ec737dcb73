"""The report for people: a terminal summary and a self-contained page, both from `rrise.calibration.reports.summary`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.promise.offsets import reference_for
from rrise.calibration.reports import plots
from rrise.calibration.reports.page import Page
from rrise.calibration.reports.summary import CERTIFY_ALPHA, ReportTables, coverage_rows, summarise
from rrise.calibration.storage.files import atomic_file, write_json
from rrise.calibration.tables.evaluation import AuditVerdict, certified_accuracy


def summary_rows(numbers: Mapping[str, Any]) -> List[Tuple[str, str]]:
    """The report's numbers as the lines of a terminal summary."""
    return [*_quality_rows(numbers), *cost_rows(numbers)]


def _quality_rows(numbers: Mapping[str, Any]) -> List[Tuple[str, str]]:
    verdict, check = AuditVerdict(**numbers["audit"]), numbers["coverage"][1]
    interval = f"[{check['lower']:.3f}, {check['upper']:.3f}]"
    return [
        ("radius", _cells(f"{radius:.3g}" for radius in numbers["radii"])),
        *(
            (f"certified accuracy, {name}", _cells(f"{share:.3f}" for share in line))
            for name, line in numbers["certified_accuracy"].items()
        ),
        ("share issued, rrise", _cells(f"{share:.3f}" for share in numbers["issued"]["rrise"])),
        (
            "audit of certificates",
            f"{verdict.wrong} wrong, {verdict.right} right, {verdict.undecided} undecided; "
            f"{verdict.frames} frames, N = {numbers['audit_samples']:,}",
        ),
        (
            "above reference, verification",
            f"{check['exceeding']} of {check['frames']} {check['unit']} = {check['share']:.3f} {interval}",
        ),
        ("label agreement", f"{numbers['label_agreement']:.3f}"),
        ("probit RMSE", f"{numbers['probit_rmse']:.3f}"),
        ("calibration", numbers["message"]),
        *attempt_rows(numbers),
    ]


def attempt_rows(numbers: Mapping[str, Any]) -> List[Tuple[str, str]]:
    """Says so where the calibration split had been used before; nothing after the first use."""
    if numbers["attempt"] == 1:
        return []
    return [
        ("attempt", f"{numbers['attempt']} on these calibration frames: the promise is weaker than it says")
    ]


def cost_rows(numbers: Mapping[str, Any]) -> List[Tuple[str, str]]:
    """What the promise permits, what it cost and how fast it runs."""
    repaid = ", ".join(
        f"{queries:,} at N = {int(budget):,}" for budget, queries in numbers["break_even"].items()
    )
    rows = [
        (
            "permitted wrong certificates",
            f"{numbers['wrong_per_hour']:,.0f} per hour at {numbers['frame_rate']:g} frames/s; a tenth needs "
            f"{numbers['frames_for_ten_times_less']:,} calibration frames",
        ),
        ("offline cost", f"{numbers['offline_passes']:,} base passes"),
        ("break-even, queries", repaid),
    ]
    return rows + _latency_rows(numbers["latency"])


def _latency_rows(latency: Optional[Mapping[str, Any]]) -> List[Tuple[str, str]]:
    if latency is None:
        return []
    certify, ratio = latency["certify_us"], latency["ratio"]
    times = f"p50 {certify['p50']:.0f} us, p99 {certify['p99']:.0f} us"
    rows = [("latency of certify", f"{times}; {ratio['p50']:.3f}x and {ratio['p99']:.3f}x the bare runtime")]
    if latency["speed_up"] is not None:
        against = f"N = {latency['speed_up_against']:,} on the same machine"
        rows.append(
            ("time against Monte Carlo", f"{latency['speed_up']:,.0f}x less per frame than {against}")
        )
    return rows


def _cells(texts: Iterable[str]) -> str:
    return " ".join(f"{text:>6}" for text in texts)


def write_report(tables: ReportTables, folder: Path) -> Dict[str, Any]:
    """Write report.html and report.json into `folder`; returns the numbers."""
    numbers = summarise(tables)
    page = Page("rrise: what this bundle certifies")
    page.paragraph(numbers["sentence"])
    page.note(numbers["limits"])
    page.paragraph("It holds under these conditions:")
    page.bullets(numbers["conditions"])
    page.table(("made from", ""), _origin_rows(tables, numbers))
    _accuracy_part(page, tables, numbers)
    _calibration_part(page, tables, numbers)
    page.heading("Cost and speed")
    if tables.latency is not None:
        samples = {"certify": tables.latency.certify, "bare runtime": tables.latency.bare}
        longest = ", ".join(f"{name} {values.max():,.0f} us" for name, values in samples.items())
        page.figure(
            plots.latency_histogram(samples),
            f"Raw samples; the drawing ends at the 99.9th percentile, the longest calls took: {longest}. "
            f"{tables.latency.machine}",
        )
    page.table(("", "value"), cost_rows(numbers))
    page.table(("stage", "base passes"), [(entry.stage, f"{entry.total:,}") for entry in tables.cost.entries])
    write_json(folder / "report.json", numbers)
    with atomic_file(folder / "report.html", "w") as file:
        file.write(page.render())
    return numbers


def _origin_rows(tables: ReportTables, numbers: Mapping[str, Any]) -> List[Tuple[str, str]]:
    record = tables.calibration
    fewest, most = record.num_samples
    return [
        ("noise sigma", f"{numbers['sigma']:g}"),
        ("execution", record.execution.name),
        ("artefact", record.execution.artefact),
        ("base classifier", numbers["base_digest"]),
        ("calibration frames", f"{record.num_frames}, digest {record.calibration_digest}"),
        ("reference samples", f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"),
        *attempt_rows(numbers),
    ]


def _accuracy_part(page: Page, tables: ReportTables, numbers: Mapping[str, Any]) -> None:
    test, radius = tables.scores["test"], tables.radius("test")
    radii = np.linspace(0, 4 * test.sigma, 201)
    curves = {"rrise, one pass": (radii, certified_accuracy(test.label, radius, test.target, list(radii)))}
    for budget in tables.certify.budgets:
        row = tables.certify.at(budget, CERTIFY_ALPHA)
        curves[f"Monte Carlo, N = {budget:,}"] = (
            radii,
            certified_accuracy(row.label, row.radius, test.target, list(radii)),
        )
    page.heading("Certified accuracy")
    page.paragraph(
        "Abstentions count as wrong and stay in the denominator. Monte Carlo certifies each input separately at level "
        f"{CERTIFY_ALPHA}; the one-pass certificate holds over inputs, as stated above."
    )
    page.figure(plots.accuracy_curves(curves), f"{len(test)} test frames, sigma {test.sigma:g}.")
    header = ("at radius", *(f"{value:.3g}" for value in numbers["radii"]))
    page.table(header, [(name, *_shares(line)) for name, line in numbers["certified_accuracy"].items()])
    page.table(header, [(f"issued, {name}", *_shares(line)) for name, line in numbers["issued"].items()])


def _calibration_part(page: Page, tables: ReportTables, numbers: Mapping[str, Any]) -> None:
    table, guarantee = tables.scores["calibration"], tables.calibration.guarantee
    head = tables.calibration.head
    offset = None if head.issues_nothing or len(head.offset) > 1 or head.difficulty else head.offset[0]
    page.heading("Calibration")
    page.paragraph(numbers["message"])
    reference = reference_for(table, guarantee)
    caption = "Certificates of points above the red line exceed their reference."
    if head.map.step is not None:
        caption = "Points from the red line on receive a certificate; it exceeds its reference left of the green one."
    page.figure(
        plots.raw_against_reference(head.raw_radius(table.probit), reference, offset, head.map.step),
        caption if offset is not None else "The offset differs from frame to frame, or there is none.",
    )
    rows = coverage_rows(tables)
    drawn = [
        (f"{row.split}, {row.exceeding} of {row.frames}", row.share, row.lower, row.upper) for row in rows
    ]
    page.figure(
        plots.coverage(drawn, float(guarantee.alpha), rows[0].unit),
        "Intervals: Clopper-Pearson, 95 %. The calibration frames are within the allowed share by construction; the "
        "verification frames were not used to fit anything.",
    )
    verdict = AuditVerdict(**numbers["audit"])
    page.heading("Audit")
    page.paragraph(
        f"{numbers['audit_samples']:,} further draws judge every certificate on the test frames; a verdict errs with "
        "probability at most 0.001."
    )
    page.table(
        ("frames", "issued", "wrong", "right", "undecided"),
        [[str(value) for value in asdict(verdict).values()]],
    )


def _shares(line: Sequence[float]) -> Tuple[str, ...]:
    return tuple(f"{share:.3f}" for share in line)
