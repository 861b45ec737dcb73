"""The table as a page, as JSON and as a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples.reproduce.methods import Method, keep
from examples.reproduce.rivals import RIVALS, Rival, crossing
from examples.reproduce.table import RIVAL_PROMISE, Row, figure_grid
from rrise.calibration.reports.plots import svg_text
from rrise.calibration.statistics.shares import Difference, Share
from rrise.calibration.storage.files import atomic_file, write_json
from rrise.calibration.tables.evaluation import audit_reach_note

LEGEND = """\
Per cent of all test frames with the right label and a certificate of at least r, as gross -> **net** {proved by the audit, not
refuted by it}. Gross counts certificates whose radius exceeds the true one, which a promise over frames permits; net leaves them
out, by the audit's share of hits. CERTIFY's certificates have a promise each and count until the audit refutes one. The oracle is
the share of frames whose true class has so large a true radius: no method can have more, net. Points behind CERTIFY are
differences of net on the same frames. Brackets are 95 % intervals; verdicts of the audit err with probability at most 0.001 each.
Every row's promise holds by itself: whoever picks the best row must pick it on other frames. "Each radius alone" is a
calibration of its own in each column. Offline passes: base evaluations before the first query (a training step is three), without
base training, audit and CERTIFY; they are repaid against CERTIFY at its largest N."""

Cell = Callable[[Row, int], str]


def write(
    folder: Path,
    methods: Sequence[Method],
    rows: Sequence[Row],
    radii: Sequence[float],
    rivals: Sequence[Rival] = (),
) -> None:
    """Write table.md, net.json, net.svg and, in rows/, rivals/ and certify.npz, what they can be made from again."""
    about = facts(methods[0], radii)
    numbers = [{key: value for key, value in asdict(row).items() if key != "curve"} for row in rows]
    write_json(folder / "net.json", {"about": about, "radii": list(radii), "rows": numbers})
    texts = {"table.md": page(methods, rows, radii, about, rivals), "net.svg": figure(rows, radii)}
    for name, text in texts.items():
        with atomic_file(folder / name, "w") as file:
            file.write(text)
    keep(folder, methods)
    for rival in rivals:
        rival.save(folder / RIVALS / rival.name.replace(" ", "-"))


def facts(method: Method, radii: Sequence[float]) -> dict[str, Any]:
    """What all rows share."""
    base, test = method.config.base, method.test
    return {
        "sigma": test.sigma,
        "base classifier": f"{test.base_digest[:16]}, recipe {base.recipe}, {base.epochs} epochs",
        "frames": f"{len(method.tuning):,} tuning, {len(method.calibration):,} calibration, {len(test):,} test",
        "draws per reference": _draws(method),
        "audit": audit_reach_note(radii, int(test.num_samples.min()), test.sigma),
    }


def _draws(method: Method) -> str:
    samples = method.calibration.num_samples
    least, most = int(samples.min()), int(samples.max())
    if least == most:
        return f"{least:,}"
    return f"{least:,}, and {most:,} of {int((samples > least).sum()):,} calibration frames that those left undecided"


def page(
    methods: Sequence[Method],
    rows: Sequence[Row],
    radii: Sequence[float],
    about: Mapping[str, Any],
    rivals: Sequence[Rival] = (),
) -> str:
    """Markdown."""
    lines = ["# Net of wrong certificates", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += [f"- {method.name}: {method.recipe}" for method in methods]
    head = ["method", "promise", *(f"r = {r:g}" for r in radii)]
    oracle = ["oracle", "", *(_interval(worth.oracle) for worth in rows[0].worth)]
    ours = [row for row in rows if not row.per_input]
    direct = [row for row in rows if row.per_input]
    best = [row for row in rows if not row.behind][-1]
    certified = [[*key, *cells] for key, cells in _grouped(direct, radii, _share)]
    lines += ["", *_table(head, [*certified, oracle, *_flat(ours, radii, _net)])]
    lines += ["", "Wrong among the issued:", "", *_table(head, _flat(ours, radii, _wrong))]
    lines += ["", f"Net points behind {best.method} (negative: ahead):", ""]
    lines += _table(head, _flat([row for row in rows if row.behind], radii, _behind))
    names = ["method", "promise", "refuted of the issued", "undecided", "chosen on the tuning split"]
    lines += [
        "",
        "What the audit says of all certificates:",
        "",
        *_table(names, [_verdict(row) for row in rows if row.promise != RIVAL_PROMISE]),
    ]
    names = ["method", "label agreement", "probit RMSE", "passes a query", "offline passes", "repaid after"]
    lines += ["", *_table(names, _costs(rows)), "", *_rivals(rivals, rows, radii), LEGEND, ""]
    return "\n".join(lines)


def _rivals(rivals: Sequence[Rival], rows: Sequence[Row], radii: Sequence[float]) -> list[str]:
    """What was measured of each rival, and the radius up to which it has no less than each other row that the figure shows."""
    lines, grid = [], figure_grid(radii)
    for rival in rivals:
        mine = next(row for row in rows if row.method == rival.name)
        measured = ", ".join(f"{name} {value:.5g}" for name, value in rival.facts.items())
        lines += [
            f"{rival.name}: of another classifier, proved without sampling, also where an attacker made the frame. {measured}.",
            "",
        ]
        for row in rows:
            if row is not mine and row.promise != "none" and ", each" not in row.method:
                found = crossing(row.curve, mine.curve, grid)
                level = f", eps {row.error}" if row.error else ""
                said = "nowhere" if found is None else f"up to r = {found:.3g}"
                lines.append(f"- no fewer than {row.method}{level} {said}")
        lines.append("")
    return lines


def _grouped(
    rows: Sequence[Row], radii: Sequence[float], cell: Cell
) -> list[tuple[tuple[str, str], list[str]]]:
    """Cells by method and promise; several calibrations for one radius each share a line."""
    found: dict[tuple[str, str], dict[float, str]] = {}
    for row in rows:
        cells = found.setdefault((row.method, row.promise), {})
        cells |= {worth.radius: cell(row, place) for place, worth in enumerate(row.worth)}
    return [(key, [cells.get(r, "") for r in radii]) for key, cells in found.items()]


def _flat(rows: Sequence[Row], radii: Sequence[float], cell: Cell) -> list[list[str]]:
    return [[*key, *cells] for key, cells in _grouped(rows, radii, cell)]


def _share(row: Row, place: int) -> str:
    return _interval(row.worth[place].net)


def _net(row: Row, place: int) -> str:
    worth = row.worth[place]
    gross, net, low, high = (
        f"{100 * share.value:.1f}" for share in (worth.gross, worth.net, worth.proved, worth.not_refuted)
    )
    return f"{gross} -> **{net}** {{{low}, {high}}}"


def _wrong(row: Row, place: int) -> str:
    share = row.worth[place].wrong
    return _interval(share) if share.frames else "none issued"


def _behind(row: Row, place: int) -> str:
    return _interval(row.behind[place])


def _verdict(row: Row) -> list[str]:
    verdict = row.verdict
    one = f" r = {row.worth[0].radius:g}" if row.method.endswith("alone") else ""
    return [
        row.method + one,
        row.promise,
        f"{verdict.wrong} of {verdict.issued}",
        str(verdict.undecided),
        row.choice,
    ]


def _costs(rows: Sequence[Row]) -> list[list[str]]:
    found = {}
    for row in rows:
        if ", each" in row.method or ", as published" in row.method or row.promise == RIVAL_PROMISE:
            continue
        agreement = "" if row.agreement is None else f"{row.agreement:.3f}"
        rmse = "" if row.probit_rmse is None else f"{row.probit_rmse:.3f}"
        repaid = "" if row.repaid is None else f"{row.repaid:,} queries"
        found[row.method] = [row.method, agreement, rmse, f"{row.passes:,}", f"{row.offline:,}", repaid]
    return list(found.values())


def _interval(share: Share | Difference) -> str:
    return f"{100 * share.value:.1f} [{100 * share.lower:.1f}, {100 * share.upper:.1f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def figure(rows: Sequence[Row], radii: Sequence[float]) -> str:
    """Net certified accuracy against the radius as SVG: CERTIFY, and every method at the middle one of its levels."""
    from matplotlib.figure import Figure

    errors = list(dict.fromkeys(row.error for row in rows if row.error))
    middle, grid = errors[len(errors) // 2], figure_grid(radii)
    drawing = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = drawing.subplots()
    for row in rows:
        if row.per_input:
            axes.plot(grid, [100 * value for value in row.curve], linestyle="--", label=row.method)
        elif row.error == middle and ", each" not in row.method:
            axes.plot(grid, [100 * value for value in row.curve], label=f"{row.method}, eps {row.error}")
    oracle = [100 * worth.oracle.value for worth in rows[0].worth]
    axes.plot(list(radii), oracle, "k_", markersize=12, label="oracle")
    axes.set(xlabel="radius, where a pixel is 0 to 1", ylabel="net certified accuracy, %", ylim=(0, 100))
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize="small")
    return svg_text(drawing)
