"""The report for people: a terminal summary and a self-contained page, both from `rrise.calibration.reports.summary`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.promise.guarantee import AmongIssued
from rrise.calibration.promise.offsets import reference_for
from rrise.calibration.reports import plots
from rrise.calibration.reports.classes import class_part, class_results
from rrise.calibration.reports.page import Page
from rrise.calibration.reports.summary import (
    CERTIFY_ALPHA,
    OURS,
    ReportTables,
    coverage_rows,
    judged_rows,
    summarise,
)
from rrise.calibration.statistics.bounds import clopper_pearson_lower, clopper_pearson_upper
from rrise.calibration.storage.files import atomic_file, write_json
from rrise.calibration.tables.evaluation import AuditVerdict

NO_COMPARISON = (
    "Not compared with Monte Carlo: that needs draws of its own on the test frames, which `rrise-train certify WORKSPACE` makes. "
    "The certificates above are those of the verification frames, judged by the draws of their references."
)


def summary_rows(numbers: Mapping[str, Any]) -> List[Tuple[str, str]]:
    """The report's numbers as the lines of a terminal summary."""
    return [*_quality_rows(numbers), *cost_rows(numbers)]


def _quality_rows(numbers: Mapping[str, Any]) -> List[Tuple[str, str]]:
    verdict, check = AuditVerdict(**numbers["audit"]), numbers["coverage"][1]
    interval = f"[{check['lower']:.3f}, {check['upper']:.3f}]"
    return [
        ("at radius", _cells(f"{radius:.3g}" for radius in numbers["radii"])),
        *worth_rows(numbers),
        (
            "audit of certificates",
            f"{verdict.wrong} wrong, {verdict.right} right, {verdict.undecided} undecided; "
            f"{verdict.frames} {numbers['judged_on']} frames; {numbers['audit_note']}",
        ),
        ("wrong among issued", AmongIssued(**numbers["wrong_among_issued"]).sentence()),
        (
            "above reference",
            f"{check['exceeding']} of {check['frames']} verification {check['unit']} = {check['share']:.3f} {interval}",
        ),
        ("label agreement", f"{numbers['label_agreement']:.3f}"),
        ("probit RMSE", f"{numbers['probit_rmse']:.3f}"),
        ("calibration", numbers["message"]),
        *attempt_rows(numbers),
    ]


def worth_rows(numbers: Mapping[str, Any]) -> List[Tuple[str, str]]:
    """Gross and net certified accuracy of every method, and what the surrogate's certificates lose against Monte Carlo."""
    rows: List[Tuple[str, str]] = []
    for name, line in numbers["worth"].items():
        title = "certified accuracy" if name == OURS else monte_carlo_name(name)
        rows.append((title, _cells(f"{cell['gross']['value']:.3f}" for cell in line)))
        if name == OURS:
            rows += _net_rows(line)
    for name, line in numbers["behind"].items():
        rows.append((f"net behind N = {_budget(name):,}", _cells(f"{cell['value']:+.3f}" for cell in line)))
        for end, title in (("lower", "  95 %, from"), ("upper", "  95 %, to")):
            rows.append((title, _cells(f"{cell[end]:+.3f}" for cell in line)))
    return rows


def monte_carlo_name(name: str) -> str:
    """What people read for "monte-carlo 10000": Monte Carlo, N = 10,000."""
    return f"Monte Carlo, N = {_budget(name):,}"


def _budget(name: str) -> int:
    return int(name.rpartition(" ")[2])


def _net_rows(line: Sequence[Mapping[str, Any]]) -> List[Tuple[str, str]]:
    shown = {
        "  net of wrong ones": "net",
        "    proved": "proved",
        "    not refuted": "not_refuted",
        "  wrong among issued": "wrong",
        "  issued": "issued",
        "  oracle (at most)": "oracle",
    }
    return [(title, _cells(_share(cell[key]) for cell in line)) for title, key in shown.items()]


def _share(cell: Mapping[str, Any]) -> str:
    """A share of nothing is none."""
    return f"{cell['value']:.3f}" if cell["frames"] else " none"


def attempt_rows(numbers: Mapping[str, Any]) -> List[Tuple[str, str]]:
    """Says so where the product was calibrated before; nothing after the first use."""
    return [("attempt", numbers["attempt_text"])] if numbers["attempt_text"] else []


def cost_rows(numbers: Mapping[str, Any]) -> List[Tuple[str, str]]:
    """What the promise permits, what it cost and how fast it runs."""
    repaid = ", ".join(
        f"{queries:,} at N = {int(budget):,}" for budget, queries in numbers["break_even"].items()
    )
    rows = [
        (
            "permitted",
            f"{numbers['wrong_per_hour']:,.0f} wrong certificates an hour at {numbers['frame_rate']:g} frames/s; a tenth needs "
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


def write_report(
    tables: ReportTables, folder: Path, about: Sequence[Tuple[str, str]] = (), below: str = ""
) -> Dict[str, Any]:
    """Write report.html and report.json into `folder`; returns the numbers.

    about: rows that a caller knows, such as the name of the workspace. below: what stands under the title, such as date and
    version. Without the two equal tables give equal bytes.
    """
    numbers = summarise(tables)
    page = Page("rrise: what these certificates are worth", below)
    page.heading("The promise")
    page.paragraph(numbers["sentence"])
    page.note(numbers["limits"])
    page.paragraph(
        f"At {numbers['frame_rate']:g} frames a second this permits {numbers['wrong_per_hour']:,.0f} wrong certificates an "
        "hour. Radii are L2 norms at the network's input, where a pixel is 0 (black) to 1 (white)."
    )
    page.paragraph("It holds under these conditions:")
    page.bullets(numbers["conditions"])
    page.table(("what", ""), [*about, *_origin_rows(tables, numbers)])
    with page.folded("Digests (SHA-256): what it was made from"):
        page.table(("part", "SHA-256"), _digest_rows(tables, numbers))
    _accuracy_part(page, tables, numbers)
    class_part(
        page,
        class_results(judged_rows(tables)[OURS], tables.judged.class_names),
        tables.judged.split,
    )
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
    with page.folded("Cost of every stage, in forward passes of the base classifier"):
        page.table(
            ("stage", "base passes"), [(entry.stage, f"{entry.total:,}") for entry in tables.cost.entries]
        )
    write_json(folder / "report.json", numbers)
    with atomic_file(folder / "report.html", "w") as file:
        file.write(page.render())
    return numbers


def _origin_rows(tables: ReportTables, numbers: Mapping[str, Any]) -> List[Tuple[str, str]]:
    record, names = tables.calibration, tables.judged.class_names
    fewest, most = record.num_samples
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return [
        ("classes", f"{len(names)}: {shown}"),
        ("noise sigma", f"{numbers['sigma']:g}"),
        ("execution", f"{record.execution.name}, version {record.execution.version}"),
        ("calibration frames", f"{record.num_frames:,}"),
        (
            "draws a frame",
            f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}",
        ),
        *attempt_rows(numbers),
    ]


def _digest_rows(tables: ReportTables, numbers: Mapping[str, Any]) -> List[Tuple[str, str]]:
    record = tables.calibration
    return [
        ("artefact", record.execution.artefact),
        ("base classifier", numbers["base_digest"]),
        ("calibration frames", record.calibration_digest),
    ]


def _accuracy_part(page: Page, tables: ReportTables, numbers: Mapping[str, Any]) -> None:
    test, judged = tables.judged, judged_rows(tables)
    radii = [float(r) for r in np.linspace(0, 4 * test.sigma, 201)]
    grid = np.array(radii)
    net = judged[OURS].net(radii)
    curves = {
        "rrise, one pass, net": (grid, net.mean(axis=1)),
        "rrise, one pass, gross": (grid, judged[OURS].gross(radii).mean(axis=1)),
        "oracle": (
            grid,
            np.array([np.mean((judged[OURS].reach >= r) & (judged[OURS].reach > 0)) for r in radii]),
        ),
    }
    for budget in tables.budgets:
        name = f"monte-carlo {budget}"
        curves[f"Monte Carlo, N = {budget:,}"] = (grid, judged[name].gross(radii).mean(axis=1))
    page.heading("Certified accuracy")
    page.paragraph(
        "Abstentions count as wrong and stay in the denominator. Monte Carlo certifies each input separately at level "
        f"{CERTIFY_ALPHA}; the one-pass certificate holds over inputs, as stated above, so part of its certificates is wrong. "
        "Gross counts those too; net leaves them out, and is the column to read. Oracle: frames whose true class has so large "
        "a true radius, the most that any method can have."
    )
    hits, frames = net.sum(axis=1), net.shape[1]
    ends = [clopper_pearson_lower(hits, frames, 0.025), clopper_pearson_upper(hits, frames, 0.025)]
    page.figure(
        plots.accuracy_curves(curves, band=(grid, np.array(ends))),
        f"{len(test):,} {test.split} frames, sigma {test.sigma:g}. Shaded: where the net share of all such frames lies, at "
        "each radius with 95 % confidence (Clopper-Pearson).",
    )
    _worth_tables(page, numbers)


def _worth_tables(page: Page, numbers: Mapping[str, Any]) -> None:
    names = {
        "gross": "gross",
        "net": "net",
        "issued": "issued",
        "wrong": "wrong among issued",
        "oracle": "oracle",
    }
    bounds = {
        "proved": "net, proved by the audit",
        "not_refuted": "net, not refuted by it",
        "refuted": "refuted among issued",
    }
    line = numbers["worth"][OURS]
    page.table(*_by_radius(numbers, {title: [cell[key] for cell in line] for key, title in names.items()}))
    page.note(AmongIssued(**numbers["wrong_among_issued"]).sentence())
    page.paragraph(
        f"In per cent of the frames. Intervals: Clopper-Pearson, 95 %, over frames. Of the audit: {numbers['audit_note']}. Net "
        "takes the audit's share of hits at its word; what is proved and what is not refuted, each verdict at level 0.001, "
        "enclose it."
    )
    with page.folded("What the audit proves and refutes"):
        page.table(
            *_by_radius(numbers, {title: [cell[key] for cell in line] for key, title in bounds.items()})
        )
    page.subheading("Beside Monte Carlo")
    if not numbers["behind"]:
        page.paragraph(NO_COMPARISON)
        return
    others = {name: row for name, row in numbers["worth"].items() if name != OURS}
    page.paragraph("Gross certified accuracy of Monte Carlo on the same frames, by its number of draws N:")
    page.table(
        *_by_radius(
            numbers,
            {f"N = {_budget(name):,}": [cell["gross"] for cell in row] for name, row in others.items()},
        )
    )
    page.paragraph(
        "Points by which net is behind Monte Carlo on the same frames (negative: ahead), with 95 % intervals of the paired "
        "difference:"
    )
    page.table(
        *_by_radius(
            numbers, {f"behind N = {_budget(name):,}": row for name, row in numbers["behind"].items()}
        )
    )


def _by_radius(
    numbers: Mapping[str, Any], columns: Mapping[str, Sequence[Mapping[str, float]]]
) -> Tuple[List[str], List[List[str]]]:
    """Header and rows of a table with a row for each radius: radii are many, and a phone is narrow."""
    rows = [
        [f"{radius:.3g}", *(_interval(cells[place]) for cells in columns.values())]
        for place, radius in enumerate(numbers["radii"])
    ]
    return ["radius", *columns], rows


def _calibration_part(page: Page, tables: ReportTables, numbers: Mapping[str, Any]) -> None:
    table, guarantee = tables.scores["calibration"], tables.calibration.guarantee
    head = tables.calibration.head
    offset = None if head.issues_nothing or len(head.offset) > 1 or head.difficulty else head.offset[0]
    page.heading("Calibration")
    page.paragraph(numbers["message"])
    reference = reference_for(table, guarantee)
    caption = "Certificates of points above the red line exceed their reference."
    if head.map.radii:
        caption = "Certificates of points above the red stairs exceed their reference; green: the radii that are issued."
    page.figure(
        plots.raw_against_reference(
            head.raw_radius(table.probit), reference, offset, head.map.radii, head.map.thresholds
        ),
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
        f"{numbers['audit_samples']:,} further draws of each frame judge its certificate, on the {numbers['judged_on']} "
        "frames; a verdict errs with probability at most 0.001."
    )
    page.table(
        ("frames", "issued", "wrong", "right", "undecided"),
        [[str(value) for value in asdict(verdict).values()]],
    )


def _interval(cell: Mapping[str, float]) -> str:
    """In percent; three digits, as a share of some hundred frames has."""
    return f"{100 * cell['value']:.1f} [{100 * cell['lower']:.1f}, {100 * cell['upper']:.1f}]"
