"""Published rows again, net of wrong certificates, from what a finished run kept: `python -m examples.reproduce net FOLDER`.

Rows of ours are calibrated anew from `scores/ours`. Of the other methods a run keeps no scores; what its results.json says of
their certificates encloses their net. Where CERTIFY's counts were not kept either, its certified frames are among those whose
true class the audit does not refute, and so are ours, which bounds the frames on which the two differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.reproduce.rows import CERTIFY_ALPHA, Choice, Tables, calibrated
from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.statistics.bounds import certified_radius, clopper_pearson_upper
from rrise.calibration.statistics.shares import Difference, Share
from rrise.calibration.storage.files import atomic_file, read_json, write_json
from rrise.calibration.tables.certify import CertifyCounts
from rrise.calibration.tables.evaluation import VERDICT_LEVEL, audit_reach_note, judge
from rrise.calibration.tables.scores import Scores

ERRORS = ("0.1", "0.05", "0.01")
BETAS = ("0.02", "0.05", "0.1", "0.2")
"""Of runs on third-party counts, whose settings do not name them."""


@dataclass(frozen=True)
class NetRow:
    """One method at one level and radius.

    gross, net, proved, not_refuted, issued, wrong, oracle: as in `evaluation.Worth`; None where no scores were kept, and then
    net lies between `least` and `most`. certify: certified accuracy of CERTIFY, by name. behind: net points behind it on the
    same frames; paired: from its own counts, else conservative.
    """

    method: str
    error: str
    radius: float
    gross: Share
    net: Share | None
    proved: Share | None
    not_refuted: Share | None
    issued: Share | None
    wrong: Share | None
    oracle: Share | None
    least: float
    most: float
    certify: dict[str, Share]
    behind: dict[str, Difference]
    paired: bool
    choice: str


@dataclass(frozen=True, eq=False)
class Rival:
    """CERTIFY at one budget. accuracy: certified, at each radius; right: bool [radii, n], None where no counts were kept."""

    name: str
    accuracy: dict[float, Share]
    right: dict[float, np.ndarray] | None


def recompute(folder: Path, errors: Sequence[str] = ERRORS) -> list[NetRow]:
    """The rows of ours in a run's folder at every level, then what its results.json encloses of the others."""
    results = read_json(folder / "results.json", "results")
    parts = {
        name: Scores.load(folder / "scores" / "ours" / f"{name}.npz")
        for name in ("tuning", "calibration", "test")
    }
    tables, published = Tables(**parts), results["tables"]["Methods"]
    title, steps = _ours_in(published)
    rivals = _kept_rivals(folder, steps) or _published_rivals(published, steps)
    betas = tuple(results["about"]["settings"].get("betas", BETAS))
    rows = []
    for error in errors:
        for radius in (*steps, None):
            name = f"{title}, one map" if radius is None else f"{title}, a step"
            record, choice = calibrated(tables, Guarantee.of("pac", error), Choice(radius=radius), betas)
            issued = record.head.radius(tables.test.probit, tables.test.label, tables.test.difficulty)
            radii = steps if radius is None else (radius,)
            rows += _ours(name, error, tables.test, issued, radii, rivals, choice)
    return rows + _others(published, title, steps, rivals)


def _ours_in(published: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[float, ...]]:
    """The title of our rows, which come first of those for one radius, and these radii."""
    found = [row["method"].split(", for r = ") for row in published if ", for r = " in row["method"]]
    if not found:
        raise CalibrationError("results: no row of ours for one radius; make the table again")
    title = found[0][0]
    return title, tuple(sorted({float(radius) for name, radius in found if name == title}))


def _ours(
    name: str,
    error: str,
    test: Scores,
    issued: np.ndarray,
    radii: Sequence[float],
    rivals: Sequence[Rival],
    choice: str,
) -> list[NetRow]:
    judged, rows = judge(test, issued), []
    for place, worth in enumerate(judged.worth(radii)):
        net = judged.net(radii)[place]
        rows.append(
            NetRow(
                method=name,
                error=error,
                radius=worth.radius,
                gross=worth.gross,
                net=worth.net,
                proved=worth.proved,
                not_refuted=worth.not_refuted,
                issued=worth.issued,
                wrong=worth.wrong,
                oracle=worth.oracle,
                least=worth.net.value,
                most=worth.net.value,
                certify={rival.name: rival.accuracy[worth.radius] for rival in rivals},
                behind={rival.name: _behind(rival, net, test, worth.radius) for rival in rivals},
                paired=all(rival.right is not None for rival in rivals),
                choice=choice,
            )
        )
    return rows


def _behind(rival: Rival, net: np.ndarray, test: Scores, radius: float) -> Difference:
    """The paired difference; without CERTIFY's counts the widest that the audit allows, around the same value."""
    if rival.right is not None:
        return Difference.of(rival.right[radius], net)
    reachable = int(_not_beyond(test, radius).sum())
    lost, won = reachable - int(net.sum()), reachable - rival.accuracy[radius].hits
    return Difference.from_counts(max(lost, 0), max(won, 0), len(test))


def _kept_rivals(folder: Path, radii: Sequence[float]) -> list[Rival]:
    """CERTIFY at the largest budget of each table of counts that the run kept."""
    found = []
    for path in sorted((folder / "scores").glob("certify*.npz")):
        table = CertifyCounts.load(path)
        certified = table.at(max(table.budgets), CERTIFY_ALPHA)
        hit = (certified.label == table.target) & (certified.radius > 0)
        right = {r: hit & (certified.radius >= r) for r in radii}
        accuracy = {r: Share.of(int(row.sum()), len(row)) for r, row in right.items()}
        found.append(Rival(f"CERTIFY, N = {max(table.budgets):,}", accuracy, right))
    return found


def _published_rivals(published: Sequence[Mapping[str, Any]], radii: Sequence[float]) -> list[Rival]:
    row = [row for row in published if row["method"].startswith("CERTIFY")][-1]
    return [Rival(row["method"], {r: _share(row, r) for r in radii}, None)]


def _not_beyond(test: Scores, radius: float) -> np.ndarray:
    """Frames whose true class may have a true radius of `radius`: the audit does not refute it."""
    hits = test.counts[np.arange(len(test)), test.target]
    upper = clopper_pearson_upper(hits, test.num_samples, VERDICT_LEVEL)
    return np.asarray(certified_radius(upper, test.sigma) >= radius)


def _others(
    published: Sequence[Mapping[str, Any]], title: str, steps: Sequence[float], rivals: Sequence[Rival]
) -> list[NetRow]:
    """Rows whose scores were not kept: of right certificates at least w - (issued - right) are refuted, at most w + u."""
    rows = []
    for row in published:
        method, one = row["method"], ", for r = " in row["method"]
        ours = method.startswith(title) and not method.endswith("identity map")
        promised_each = row["guarantee"].startswith("per input")  # which needs no net: see `judge`
        if ours or promised_each or row["wrong"] is None:
            continue
        frames, refuted = row["issued"]["frames"], row["wrong"]["hits"]
        for radius in steps:
            if one and float(method.split("r = ")[1]) != radius:
                continue
            gross = _share(row, radius)
            spared = max(refuted - (row["issued"]["hits"] - gross.hits), 0) if one else 0
            least = max(gross.hits - refuted - int(row["undecided"] or 0), 0) / frames
            rows.append(
                NetRow(
                    method=method.split(", for r")[0] + (", a step" if one else ""),
                    error=row["guarantee"].partition("eps ")[2].split(",")[0],
                    radius=radius,
                    gross=gross,
                    net=None,
                    proved=None,
                    not_refuted=None,
                    issued=None,
                    wrong=None,
                    oracle=None,
                    least=least,
                    most=(gross.hits - spared) / frames,
                    certify={rival.name: rival.accuracy[radius] for rival in rivals},
                    behind={},
                    paired=False,
                    choice=row["choice"],
                )
            )
    return rows


def _share(row: Mapping[str, Any], radius: float) -> Share:
    return Share(**row["accuracy"][row["radii"].index(radius)])


def write_net(folder: Path, rows: Sequence[NetRow]) -> Path:
    """Write net.json and net.md into the folder; returns the page's path."""
    test = Scores.load(folder / "scores" / "ours" / "test.npz")
    radii = sorted({row.radius for row in rows})
    note = audit_reach_note(radii, int(test.num_samples.min()), test.sigma)
    write_json(folder / "net.json", {"audit": note, "rows": [asdict(row) for row in rows]})
    with atomic_file(folder / "net.md", "w") as file:
        file.write(_page(rows, radii, note))
    return folder / "net.md"


def _page(rows: Sequence[NetRow], radii: Sequence[float], note: str) -> str:
    first = {r: next(row for row in rows if row.radius == r and row.oracle is not None) for r in radii}
    names = list(rows[0].certify)
    lines = ["# Net of wrong certificates", "", f"Audit: {note}.", ""]
    head = ["method", "PAC, eps", *(f"r = {r:g}" for r in radii)]
    lines += _table(
        head,
        [
            *([name, "per input", *(_interval(first[r].certify[name]) for r in radii)] for name in names),
            ["oracle", "", *(_interval(row.oracle) for row in first.values() if row.oracle is not None)],
            *_grouped(rows, radii, _cell),
        ],
    )
    ours = [row for row in rows if row.behind]
    lines += ["", "Wrong among the issued:", "", *_table(head, _grouped(ours, radii, _wrong))]
    for name in names:
        lines += ["", f"Net points behind {name} (negative: ahead):", ""]
        lines += _table(head, _grouped(ours, radii, lambda row, name=name: _interval(row.behind[name])))
    return "\n".join([*lines, "", _LEGEND, ""])


_LEGEND = (
    "Percent of all test frames: gross -> net {proved by the audit, not refuted by it}. Gross counts certificates whose radius "
    "exceeds the true one; net does not. A range instead of a number: the scores were not kept, and results.json allows no "
    "more. Intervals 95 %; where CERTIFY's counts were not kept, the interval of the paired difference is the widest that the "
    "audit allows."
)


def _grouped(
    rows: Sequence[NetRow], radii: Sequence[float], cell: Callable[[NetRow], str]
) -> list[list[str]]:
    found: dict[tuple[str, str], dict[float, str]] = {}
    for row in rows:
        found.setdefault((row.method, row.error), {})[row.radius] = cell(row)
    return [[*names, *(cells.get(r, "") for r in radii)] for names, cells in found.items()]


def _cell(row: NetRow) -> str:
    gross = f"{100 * row.gross.value:.1f}"
    if row.net is None or row.proved is None or row.not_refuted is None:
        return f"{gross} -> {100 * row.least:.1f} to {100 * row.most:.1f}"
    enclosed = f"{{{100 * row.proved.value:.1f}, {100 * row.not_refuted.value:.1f}}}"
    return f"{gross} -> **{100 * row.net.value:.1f}** {enclosed}"


def _wrong(row: NetRow) -> str:
    return "" if row.wrong is None else _interval(row.wrong)


def _interval(share: Share | Difference) -> str:
    return f"{100 * share.value:.1f} [{100 * share.lower:.1f}, {100 * share.upper:.1f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
