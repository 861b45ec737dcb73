"""What certificates are worth class by class, for the pages that people read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence, Tuple

import numpy as np

from rrise.calibration.reports.page import Page
from rrise.calibration.statistics.shares import Share
from rrise.calibration.tables.evaluation import Judged

SHOWN = 20
"""Classes that a page shows at once; of more the worst, and the others folded away."""


@dataclass(frozen=True)
class ClassResult:
    """The frames of one true class.

    Attributes:
        name: of the class. frames: how many there are.
        right: with the right label, certified or not. issued: with a certificate. net: right label and a certificate that
            holds. wrong: issued certificates that do not hold.
        radius: median of the issued radii, [0, 1] pixel units; 0 where none is issued.
        mistaken: the wrong label that is given most often, and how often; empty where there is none.
    """

    name: str
    frames: int
    right: Share
    issued: Share
    net: Share
    wrong: int
    radius: float
    mistaken: str


def class_results(judged: Judged, class_names: Sequence[str]) -> Tuple[ClassResult, ...]:
    """One row for each class that has frames, in the order of the labels."""
    found = []
    net = judged.net([0.0])[0]
    for number, name in enumerate(class_names):
        mine = judged.target == number
        if not mine.any():
            continue
        issued = mine & judged.issued
        wrong_label = judged.label[mine & (judged.label != number)]
        mistaken = ""
        if len(wrong_label):
            most = int(np.argmax(np.bincount(wrong_label, minlength=len(class_names))))
            mistaken = f"{class_names[most]} ({int((wrong_label == most).sum())})"
        found.append(
            ClassResult(
                name=name,
                frames=int(mine.sum()),
                right=Share.among(judged.label == number, mine),
                issued=Share.among(judged.issued, mine),
                net=Share.among(net, mine),
                wrong=int((issued & ~judged.holds).sum()),
                radius=float(np.median(judged.radius[issued])) if issued.any() else 0.0,
                mistaken=mistaken,
            )
        )
    return tuple(found)


def class_part(page: Page, results: Sequence[ClassResult], split: str) -> None:
    """Heading, explanation and table; of many classes those with the least net first, the others folded away."""
    page.heading("Class by class")
    page.paragraph(
        f"{split.capitalize()} frames by their true class, in per cent with 95 % intervals (Clopper-Pearson). Net: right "
        "label and a certificate that holds. Too large: certificates whose radius exceeds the true one. The promise is over "
        "all frames together, not for each class, unless its kind is per-class."
    )
    worst = sorted(results, key=lambda row: row.net.value) if len(results) > SHOWN else list(results)
    header = ("class", "frames", "right label", "certified", "net", "too large", "median radius", "taken for")
    rows: List[List[str]] = [
        [
            row.name,
            f"{row.frames:,}",
            share_cell(row.right),
            share_cell(row.issued),
            share_cell(row.net),
            str(row.wrong),
            f"{row.radius:.3f}" if row.radius else "-",
            row.mistaken,
        ]
        for row in worst
    ]
    page.table(header, rows[:SHOWN])
    if len(rows) > SHOWN:
        with page.folded(f"{len(rows) - SHOWN} further classes"):
            page.table(header, rows[SHOWN:])


def share_cell(share: Share) -> str:
    """A share with its interval, as a cell of a table."""
    return f"{100 * share.value:.1f} [{100 * share.lower:.1f}, {100 * share.upper:.1f}]"
