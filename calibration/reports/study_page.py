"""A study as one self-contained HTML page with plots, and as JSON beside it."""

from __future__ import annotations

from pathlib import Path
from typing import List, Sequence, Tuple

import numpy as np

from rrise.calibration.reports import plots
from rrise.calibration.reports.page import Page
from rrise.calibration.reports.study import LevelRow, Study
from rrise.calibration.storage.files import atomic_file, write_json


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
    page.heading("Conditions")
    page.table(
        ("", "condition"), [(str(place), text) for place, text in enumerate(study.guarantee.conditions(), 1)]
    )


def _levels(page: Page, study: Study) -> None:
    page.heading("Error level")
    curves = {
        f"issued at r = {radius:g}": [row.issued[place] for row in study.levels]
        for place, radius in enumerate(study.radii)
    }
    errors = [_number(row) for row in study.levels]
    page.figure(plots.trade_off(errors, curves, "share of frames issued"), "The best map at each level.")
    if study.known:
        right = {
            f"r = {radius:g}": [row.accuracy[place] for row in study.levels]
            for place, radius in enumerate(study.radii)
        }
        page.figure(plots.trade_off(errors, right, "certified accuracy"), "Abstentions count as wrong.")
    header = ("error", "wrong per hour", "frames needed", "enough", "map", *_at("issued", study.radii))
    page.table(header + (tuple(_at("accuracy", study.radii)) if study.known else ()), level_cells(study))


def level_cells(study: Study) -> List[List[str]]:
    """The rows of the level table as text."""
    return [
        [
            row.error,
            f"{row.wrong_per_hour:,.0f}",
            f"{row.frames_needed:,}",
            "yes" if row.enough else "no",
            row.map + (" + difficulty" if row.difficulty else ""),
            *_shares(row.issued),
            *(_shares(row.accuracy) if study.known else []),
        ]
        for row in study.levels
    ]


def _curve(page: Page, study: Study) -> None:
    radii, issued, accuracy = (np.array(column) for column in zip(*study.curve))
    curves = {"issued": (radii, issued)}
    if study.known:
        curves["certified accuracy"] = (radii, accuracy)
    page.heading(f"Radius, at error {float(study.guarantee.error):g}")
    page.figure(plots.accuracy_curves(curves, "share of frames"), "The best map at this level.")


def _maps(page: Page, study: Study) -> None:
    page.heading(f"Maps, at error {float(study.guarantee.error):g}")
    page.paragraph(
        "Gain over the plain offset on the plug-in radius (identity), in points of the share issued. A step spends all its "
        "errors at one radius and issues no other."
    )
    header = ("map", *_at("issued", study.radii), *_at("gain", study.radii))
    rows = [
        [
            row.name + (" + difficulty" if row.difficulty else ""),
            *_shares(row.issued),
            *(f"{100 * value:+.1f}" for value in row.gain),
        ]
        for row in study.maps
    ]
    page.table(header, rows)


def _classes(page: Page, study: Study) -> None:
    page.heading(f"Predicted classes, at error {float(study.guarantee.error):g}")
    header = ("class", "tuning frames", *_at("issued", study.radii))
    rows = [
        [row.name, str(row.frames), *_shares(row.issued), *(_shares(row.accuracy) if study.known else [])]
        for row in study.classes
    ]
    page.table(header + (tuple(_at("accuracy", study.radii)) if study.known else ()), rows)


def _number(row: LevelRow) -> float:
    numerator, _, denominator = row.error.partition("/")
    return float(numerator) / float(denominator or 1)


def _at(what: str, radii: Sequence[float]) -> List[str]:
    return [f"{what} at {radius:g}" for radius in radii]


def _shares(values: Sequence[float]) -> List[str]:
    return [f"{value:.3f}" for value in values]
