"""A study as one self-contained HTML page with plots, and as JSON beside it."""

from __future__ import annotations

from pathlib import Path
from typing import List, Sequence, Tuple

import numpy as np

from rrise.calibration.promise.guarantee import WARN_ABOVE
from rrise.calibration.reports import plots
from rrise.calibration.reports.page import Page
from rrise.calibration.reports.study import ClassRow, LevelRow, MapRow, Study
from rrise.calibration.storage.files import atomic_file, write_json

SHOWN = ("0.1", "0.05", "0.01")
"""Levels that stand side by side; all of them where none of these was asked for."""


def write_study(study: Study, folder: Path) -> Tuple[Path, Path]:
    """Write study.html and study.json into `folder`; returns their paths."""
    page = Page("rrise: error level against certificates")
    _introduction(page, study)
    _levels(page, study)
    _curve(page, study)
    _maps(page, study)
    _classes(page, study)
    html, data = folder / "study.html", folder / "study.json"
    write_json(data, study.to_json())
    with atomic_file(html, "w") as file:
        file.write(page.render())
    return html, data


def _introduction(page: Page, study: Study) -> None:
    page.paragraph(study.guarantee.sentence())
    page.note(study.guarantee.limits())
    page.paragraph(
        f"Foretold from {study.frames} tuning frames by cross-fitting, for {study.num_calibration} "
        f"{study.guarantee.unit}. No calibration frame was looked at, so a level or map chosen here costs no promise; and "
        "nothing here is a promise."
    )
    page.paragraph("The promise at any level holds under these conditions:")
    page.bullets(study.guarantee.conditions())


def _levels(page: Page, study: Study) -> None:
    page.heading("Error level")
    curves = {
        f"issued at r = {radius:g}": [row.issued[place] for row in study.levels]
        for place, radius in enumerate(study.radii)
    }
    errors = [_number(row) for row in study.levels]
    bands = [[row.interval[place] for row in study.levels] for place in range(len(study.radii))]
    page.figure(
        plots.trade_off(errors, curves, "share of frames issued", bands),
        "The best map at each level. Shaded: the 90 % range of what a calibration to come will give.",
    )
    if study.known:
        right = {
            f"r = {radius:g}": [row.net[place] for row in study.levels]
            for place, radius in enumerate(study.radii)
        }
        page.figure(
            plots.trade_off(errors, right, "net certified accuracy"),
            "Abstentions and certificates that exceed the true radius count as wrong.",
        )
    page.table(
        ("error", "wrong per hour", "frames needed", "enough", "map", "wrong among issued, at most"),
        [[*cells, f"{row.among_issued:.3f}"] for cells, row in zip(level_cells(study), study.levels)],
    )
    for row in study.levels:
        if row.among_issued > WARN_ABOVE:
            page.note(
                f"Error {row.error} permits up to {100 * row.among_issued:.3g} % wrong among the issued certificates, more "
                "than a fifth."
            )
    _side_by_side(page, study)


def _side_by_side(page: Page, study: Study) -> None:
    """Gross and net at the levels that people ask for, one table for each radius."""
    page.paragraph(
        "Gross certified accuracy counts certificates that are wrong, which every level permits; net leaves them out. Oracle: "
        "frames whose true class has so large a true radius. The frames' own draws judge: "
        + study.note
        + ". Beside the share "
        f"issued stands a 90 % range: {study.frames} tuning frames foretell no better what a calibration will give."
    )
    levels = [row for row in study.levels if row.error in SHOWN] or list(study.levels)
    for place, radius in enumerate(study.radii):
        page.subheading(f"Radius {radius:g}" + (f", oracle {study.oracle[place]:.3f}" if study.known else ""))
        page.table(
            ("error", *columns(study)), [[row.error, *worth_cells(study, row, place)] for row in levels]
        )


def columns(study: Study) -> Tuple[str, ...]:
    """What `worth_cells` gives; without true classes there is no accuracy."""
    return (*(("gross", "net") if study.known else ()), "issued", "90 % range", "wrong/issued")


def worth_cells(study: Study, row: LevelRow, place: int) -> List[str]:
    """One level at one radius as text."""
    accuracy = [row.accuracy[place], row.net[place]] if study.known else []
    low, high = row.interval[place]
    return [
        *_shares([*accuracy, row.issued[place]]),
        f"{low:.2f}-{high:.2f}",
        *_shares([row.wrong[place]]),
    ]


def level_cells(study: Study) -> List[List[str]]:
    """Error, wrong per hour, frames needed, whether there are enough, and the map of every level as text."""
    return [
        [
            row.error,
            f"{row.wrong_per_hour:,.0f}",
            f"{row.frames_needed:,}",
            "yes" if row.enough else "no",
            row.map + (" + difficulty" if row.difficulty else ""),
        ]
        for row in study.levels
    ]


def _curve(page: Page, study: Study) -> None:
    radii, issued, net = (np.array(column) for column in zip(*study.curve))
    curves = {"issued": (radii, issued)}
    if study.known:
        curves["net certified accuracy"] = (radii, net)
    page.heading(f"Radius, at error {float(study.guarantee.error):g}")
    page.figure(plots.accuracy_curves(curves, "share of frames"), "The best map at this level.")


def _maps(page: Page, study: Study) -> None:
    page.heading(f"Maps, at error {float(study.guarantee.error):g}")
    page.paragraph(
        "Gain over the plain offset on the plug-in radius (identity), in points of the share issued. A step spends all its "
        "errors at one radius and issues no other; a staircase shares them over several."
    )
    names = [row.name + (" + difficulty" if row.difficulty else "") for row in study.maps]
    gains = [
        [f"{share:.3f} ({100 * gain:+.1f})" for share, gain in zip(row.issued, row.gain)]
        for row in study.maps
    ]
    _by_radius(page, study, "Share issued, and the gain in points", "map", names, gains)
    _worth_by_radius(page, study, "map", names, study.maps)


def _classes(page: Page, study: Study) -> None:
    page.heading(f"Predicted classes, at error {float(study.guarantee.error):g}")
    names = [f"{row.name} ({row.frames})" for row in study.classes]
    _by_radius(
        page, study, "Share issued", "class (frames)", names, [_shares(row.issued) for row in study.classes]
    )
    _worth_by_radius(page, study, "class (frames)", names, study.classes)


def _worth_by_radius(
    page: Page, study: Study, what: str, names: Sequence[str], found: "Sequence[MapRow] | Sequence[ClassRow]"
) -> None:
    if study.known:
        net = [_shares(row.net) for row in found]
        _by_radius(page, study, "Net certified accuracy", what, names, net)
    _by_radius(page, study, "Wrong among issued", what, names, [_shares(row.wrong) for row in found])


def _by_radius(
    page: Page, study: Study, title: str, what: str, names: Sequence[str], cells: Sequence[Sequence[str]]
) -> None:
    """One quantity of all maps or classes, a column for each radius: several quantities in one table are too wide to read."""
    page.subheading(title)
    header = (what, *(f"r = {radius:g}" for radius in study.radii))
    page.table(header, [[name, *row] for name, row in zip(names, cells)])


def _number(row: LevelRow) -> float:
    numerator, _, denominator = row.error.partition("/")
    return float(numerator) / float(denominator or 1)


def _shares(values: Sequence[float]) -> List[str]:
    return [f"{value:.3f}" for value in values]
