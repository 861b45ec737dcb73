"""`report/index.html` of a workspace: how far it is, what its certificates are worth, and frames to look at.

Every stage writes it anew from what lies there, so it must be cheap: no network is built, nothing is scored, and
matplotlib is not loaded. The full report with all figures is `rrise-train report`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from rrise.calibration.promise.record import Calibration
from rrise.calibration.reports.classes import class_part, class_results
from rrise.calibration.reports.drawing import falling_shares
from rrise.calibration.reports.page import Page
from rrise.calibration.requirements import installed_versions
from rrise.calibration.statistics.bounds import clopper_pearson_lower, clopper_pearson_upper
from rrise.calibration.storage.files import atomic_file
from rrise.calibration.tables.evaluation import Judged, judge
from rrise.calibration.tables.scores import Scores
from rrise.trainer.reports.frames import pictures
from rrise.trainer.reports.stages import Found, look
from rrise.trainer.settings.config import Config
from rrise.trainer.workspace import Workspace

INDEX = "index.html"
OTHERS = (
    (
        "report.html",
        "the full report",
        "every figure, the audit, the comparison with Monte Carlo, what it cost",
    ),
    ("study.html", "the study", "what other error levels, maps and radii would give"),
    ("export.html", "the export", "size, accuracy and latency of every precision"),
    ("gate.json", "the gate", "every check of the export, for machines"),
    ("../bundle/report.html", "the bundle's page", "what a robot's bundle promises and holds"),
)
NAMES = 30
"""Class names that are listed at once."""


def update_page(workspace: Workspace, after: str) -> tuple[str, str]:
    """Write the page after a stage, and return a row for that stage's summary.

    A page that cannot be written is no reason for a stage to fail: it is said on standard error, and in the row.
    """
    path = workspace.path / "report" / INDEX
    if os.environ.get("RANK", "0") != "0":  # of several processes of one job, the first writes
        return "page", str(path)
    try:
        text = page_of(workspace, after).render()
        with atomic_file(path, "w") as file:
            file.write(text)
    except Exception as error:  # noqa: BLE001 - of any file that the page reads; the stage itself is done
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        click.echo(f"warning: {path} was not updated: {first}", err=True)
        return "page", "not updated, see the warning"
    return "page", str(path)


def own_version() -> str:
    """The version of rrise that is installed, for people; of a checkout that is only on the path there is none."""
    return installed_versions(["rrise"]).get("rrise", "(a checkout)")


def page_of(workspace: Workspace, after: str) -> Page:
    """The page as it is now. Raises RriseError or OSError where a file of the workspace is damaged."""
    found = look(workspace)
    now = time.strftime("%Y-%m-%d %H:%M")
    page = Page(
        f"rrise: {workspace.path.resolve().name}",
        f"Updated {now} by rrise {own_version()}, after `{after}`.",
    )
    page.paragraph(data_sentence(workspace))
    if found.next:
        page.note(f"Next: {found.next} (or all that is left: {workspace.command('rrise-train run')})")
    if found.record is not None and found.folder is not None:
        _results(page, workspace, found.record, found.folder)
    _stages(page, workspace, found)
    _links(page, workspace)
    _classes(page, workspace)
    _folded(page, workspace, found)
    return page


def data_sentence(workspace: Workspace) -> str:
    """What the frames are, and the noise."""
    known = workspace.data.catalogue
    shape, seen = "x".join(map(str, known.geometry.frame_shape)), workspace.preprocess.size
    return (
        f"{len(known):,} frames of {shape} (height x width x channels) from {workspace.config.data.source}, "
        f"{len(known.class_names)} classes; the network sees {seen[0]}x{seen[1]} pixels; "
        f"noise sigma {workspace.config.smoothing.sigma:g}."
    )


def _results(page: Page, workspace: Workspace, record: Calibration, folder: Path) -> None:
    """The promise, and what the certificates are worth on frames that chose nothing."""
    promise, rate = record.guarantee, workspace.config.guarantee.frame_rate
    # A table of test frames whose references are gone was judged by draws that are no longer there.
    judged_on_test = (folder / "test.npz").exists() and workspace.references_path("test").exists()
    table = Scores.load(folder / ("test.npz" if judged_on_test else "verification.npz"))
    radius = record.head.radius(table.probit, table.label, table.difficulty)
    judged = judge(table, radius, extra=0.0 if promise.guard is None else promise.guard.rho)
    page.heading("The promise")
    page.paragraph(promise.sentence())
    page.note(promise.limits())
    page.paragraph(
        f"At {rate:g} frames a second this permits {promise.wrong_per_hour(rate):,.0f} wrong certificates an hour. A radius is "
        "an L2 norm at the network's input, where a pixel is 0 (black) to 1 (white). Radius 0: no certificate."
    )
    with page.folded("Conditions of the promise"):
        page.bullets(promise.conditions())
    page.heading("What the certificates are worth")
    _numbers(page, record, table, judged)
    _curve(page, table, judged)
    _frames(page, workspace, table, judged)
    class_part(page, class_results(judged, table.class_names), table.split)


def _numbers(page: Page, record: Calibration, table: Scores, judged: Judged) -> None:
    radius, middle = judged.radius, table.sigma
    any_net, far_net = judged.net([0.0, middle]).mean(axis=1)
    median = float(np.median(radius[judged.issued])) if judged.issued.any() else 0.0
    page.tiles(
        [
            (f"{100 * any_net:.1f} %", "right label, certified, and the certificate holds (net)"),
            (f"{100 * far_net:.1f} %", f"the same with a radius of at least {middle:g}"),
            (f"{100 * float(judged.issued.mean()):.1f} %", "of frames receive a certificate"),
            (f"{median:.3f}", "median radius of the certificates"),
            (
                f"{100 * float((judged.issued & ~judged.holds).mean()):.1f} %",
                "of frames receive too large a radius",
            ),
            (f"{100 * float(record.guarantee.error):g} %", "is what the promise permits"),
        ]
    )
    draws = int(table.num_samples.min())
    page.paragraph(
        f"On {len(table):,} {table.split} frames, judged by {draws:,} draws of Monte Carlo each"
        + (", which nothing else has seen. " if table.split == "test" else ", those of their references. ")
        + f"{record.among_issued_text()[:1].upper()}{record.among_issued_text()[1:]}."
    )


def _curve(page: Page, table: Scores, judged: Judged) -> None:
    grid = np.linspace(0, max(float(judged.radius.max()), table.sigma) * 1.05, 81)
    net = judged.net(grid.tolist())
    hits, frames = net.sum(axis=1), net.shape[1]
    reach = judged.reach
    page.figure(
        falling_shares(
            grid,
            {
                "net: right label, and the certificate holds": net.mean(axis=1),
                "issued, whatever the label": np.array(
                    [((judged.radius >= r) & judged.issued).mean() for r in grid]
                ),
                "oracle: the most that any method can have": np.array(
                    [((reach >= r) & (reach > 0)).mean() for r in grid]
                ),
            },
            band=(clopper_pearson_lower(hits, frames, 0.025), clopper_pearson_upper(hits, frames, 0.025)),
            x_label="radius (L2, pixel values in [0, 1])",
            y_label="share of frames",
        ),
        f"Share of {table.split} frames with a certificate of at least this radius. Shaded: where the net share of all such "
        "frames lies, at each radius with 95 % confidence (Clopper-Pearson).",
    )


def _frames(page: Page, workspace: Workspace, table: Scores, judged: Judged) -> None:
    page.heading("Frames to look at")
    try:
        shown = pictures(workspace, table, judged)
    except Exception as error:  # noqa: BLE001 - of data that moved away: the numbers are worth a page without them
        page.paragraph(f"The frames cannot be shown: {error}")
        return
    page.paragraph(
        f"Of the {table.split} frames up to three of each kind, not a random sample: certified with a wrong label, with a "
        "radius that is too large by the audit, without a certificate, and certified rightly with the largest, a middling and "
        "the smallest radius. A certificate says that the label does not change, not that it is right."
    )
    page.pictures(shown)


def _stages(page: Page, workspace: Workspace, found: Found) -> None:
    page.heading("Stages")
    page.table(
        ("stage", "state", "what came of it"),
        [[stage.name, f"{stage.state} {stage.when}".strip(), stage.what] for stage in found.stages],
    )
    with page.folded("Commands and cost of every stage, in forward passes of the base classifier"):
        page.table(("stage", "command"), [[stage.name, stage.command] for stage in found.stages])
        page.table(
            ("stage", "base passes"),
            [[entry.stage, f"{entry.total:,}"] for entry in workspace.cost().entries],
        )


def _links(page: Page, workspace: Workspace) -> None:
    folder = workspace.path / "report"
    there = [item for item in OTHERS if (folder / item[0]).exists()]
    page.heading("More")
    page.links(there)
    if not any(address == "report.html" for address, _, _ in there):
        page.paragraph(f"The full report with all figures: rrise-train report {workspace.path}")


def _classes(page: Page, workspace: Workspace) -> None:
    """Class names, and how many frames of each are in each split."""
    names = workspace.class_names
    splits = workspace.splits if (workspace.path / "splits.npz").exists() else workspace.foretold_splits()
    labels = workspace.dataset.labels
    kinds = ("train", *Config().splits.sizes())
    counts = {kind: np.bincount(labels[splits.indices(kind)], minlength=len(names)) for kind in kinds}
    rows = [[name, *(f"{counts[kind][number]:,}" for kind in kinds)] for number, name in enumerate(names)]
    total = ["all", *(f"{int(counts[kind].sum()):,}" for kind in kinds)]
    page.heading("Classes and splits")
    _long_table(page, ("class", *kinds), [total, *rows])


def _long_table(page: Page, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    page.table(header, rows[: NAMES + 1])
    if len(rows) > NAMES + 1:
        with page.folded(f"{len(rows) - NAMES - 1} further classes"):
            page.table(header, rows[NAMES + 1 :])


def _folded(page: Page, workspace: Workspace, found: Found) -> None:
    """What a person seldom reads: digests and settings."""
    digests = {
        "base classifier": found.base_digest,
        "surrogate": found.surrogate_digest,
        "calibration frames": "" if found.record is None else found.record.calibration_digest,
    }
    with page.folded("Digests (SHA-256)"):
        page.table(
            ("part", "SHA-256"),
            [[name, text] for name, text in digests.items() if text] or [["none yet", ""]],
        )
    with page.folded("Settings (rrise.toml)"):
        page.code((workspace.path / "rrise.toml").read_text(encoding="utf-8-sig"))
