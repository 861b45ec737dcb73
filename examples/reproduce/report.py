"""The table as JSON and Markdown, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.reproduce.rows import Row
from rrise.calibration.reports.plots import accuracy_curves
from rrise.calibration.statistics.shares import Difference, Share
from rrise.calibration.storage.files import atomic_file, write_json


def write(
    folder: Path,
    title: str,
    about: Mapping[str, Any],
    tables: Mapping[str, Sequence[Row]],
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    gaps: Mapping[str, Sequence[float]],
    errors: Sequence[str],
    gap_radius: float,
) -> None:
    """Write results.json, table.md, accuracy.svg and gap.svg into `folder`.

    tables: rows by heading. curves: radii and certified accuracies by method. gaps: by method, one for each of `errors`.
    """
    value = {
        "about": dict(about),
        "tables": {name: [row.to_json() for row in rows] for name, rows in tables.items()},
        "gap": {
            "radius": gap_radius,
            "errors": list(errors),
            "methods": {k: list(v) for k, v in gaps.items()},
        },
    }
    write_json(folder / "results.json", value)
    with atomic_file(folder / "table.md", "w") as file:
        file.write(markdown(title, about, tables))
    with atomic_file(folder / "accuracy.svg", "w") as file:
        file.write(accuracy_curves(curves))
    with atomic_file(folder / "gap.svg", "w") as file:
        file.write(gap_figure(gaps, errors, gap_radius))


def markdown(title: str, about: Mapping[str, Any], tables: Mapping[str, Sequence[Row]]) -> str:
    """A page with tables under each heading: net, gross, wrong among issued, what it rests on and costs, gaps to CERTIFY."""
    lines = [f"# {title}", ""]
    lines += [f"- {name}: {_text(value)}" for name, value in about.items()]
    for name, rows in tables.items():
        radii = rows[0].radii
        lines += ["", f"## {name}", ""]
        head = ["method", "guarantee", *(f"r = {radius:g}" for radius in radii)]
        oracle = ["oracle", "the most that any method can have", *map(_interval, rows[0].oracle)]
        lines += ["Net certified accuracy:", "", *_table(head, [*map(_net, rows), oracle])]
        lines += ["", "Gross certified accuracy, wrong certificates included:", ""]
        lines += _table([*head, "ACR", "issued"], [_certified(row) for row in rows])
        lines += ["", "Wrong among the certificates of at least r, by the audit's share of hits:", ""]
        lines += _table(head, [[row.method, row.guarantee, *map(_interval, row.wrong_at)] for row in rows])
        head = ["method", "guarantee", "wrong", "wrong among issued", "worst class", "undecided"]
        head += ["agreement", "probit RMSE", "passes", "ms", "offline passes", "break-even", "chosen"]
        lines += ["", *_table(head, [_grounds(row) for row in rows])]
        compared = [row for row in rows if row.gap]
        if compared:
            head = ["net points behind CERTIFY at its largest N", "guarantee", *(f"r = {r:g}" for r in radii)]
            lines += ["", *_table(head, [_behind(row, row.net_gap) for row in compared])]
            for other in compared[0].net_gaps:
                head[0] = f"net points behind {other}"
                lines += ["", *_table(head, [_behind(row, row.net_gaps[other]) for row in compared])]
            head[0] = "gross points behind CERTIFY at its largest N"
            lines += ["", *_table(head, [_behind(row, row.gap) for row in compared])]
    lines += ["", _LEGEND, ""]
    return "\n".join(lines)


_LEGEND = (
    "Certified accuracy in percent of all test frames (abstentions count as wrong) with 95 % Clopper-Pearson intervals; net "
    "leaves out certificates whose radius exceeds the true one by the audit's share of hits, the bracket behind it is what the "
    "audit proves and what it does not refute, and oracle is the most that any method can have; CERTIFY's certificates and the "
    "verified tier's, which have a promise each, count until the audit refutes them; "
    "ACR is the average certified radius, wrong labels counting 0; issued is the share with a certificate. Wrong: "
    "certificates that the independent audit draws refute at level 0.001. A guarantee per input holds for each input "
    "over its own draws; one over inputs bounds the share of wrong certificates among new inputs. Every row's promise "
    "holds by itself: whoever picks the best row must pick it on other frames. Offline passes: base evaluations before "
    "the first query (training step = 3), without base training, audit and CERTIFY; break-even is against the largest N. "
    "Points behind CERTIFY are differences on the same frames; negative is ahead. Gross, a method may be ahead because part "
    "of its certificates, at most eps of the frames, is wrong; net it cannot."
)


def _net(row: Row) -> list[str]:
    cells = [
        f"{_interval(net)} {{{100 * low.value:.1f}, {100 * high.value:.1f}}}"
        for net, low, high in zip(row.net, row.proved, row.not_refuted)
    ]
    return [row.method, row.guarantee, *cells]


def _certified(row: Row) -> list[str]:
    cells = [_interval(share) for share in row.accuracy]
    return [row.method, row.guarantee, *cells, f"{row.average_radius:.3f}", f"{100 * row.issued.value:.1f}"]


def _grounds(row: Row) -> list[str]:
    worst = "" if row.worst_share is None else f"{row.worst_class}: {_interval(row.worst_share)}"
    return [
        row.method,
        row.guarantee,
        "" if row.wrong is None else _interval(row.wrong),
        "" if row.wrong_issued is None else _interval(row.wrong_issued),
        worst,
        "" if row.undecided is None else f"{100 * row.undecided / row.issued.frames:.1f}",
        "" if row.agreement is None else f"{row.agreement:.3f}",
        "" if row.rmse is None else f"{row.rmse:.3f}",
        f"{row.passes:,.0f}" if row.passes >= 10 else f"{row.passes:g}",
        "" if row.milliseconds is None else f"{row.milliseconds:.3g}",
        f"{row.offline_passes:,}" if row.offline_passes else "0",
        "" if row.break_even is None else f"{row.break_even:,}",
        row.choice,
    ]


def _behind(row: Row, gaps: Sequence[Difference]) -> list[str]:
    return [row.method, row.guarantee, *(_interval(gap) for gap in gaps)]


def _interval(share: Share | Difference) -> str:
    return f"{100 * share.value:.1f} [{100 * share.lower:.1f}, {100 * share.upper:.1f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    return str(value)


def gap_figure(gaps: Mapping[str, Sequence[float]], errors: Sequence[str], radius: float) -> str:
    """Percentage points of certified accuracy lost against CERTIFY, for each error level, one line per method."""
    import io

    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    levels = [float(error) for error in errors]
    for name, values in gaps.items():
        axes.plot(levels, [100 * value for value in values], marker="o", label=name)
    axes.set(
        title=f"Gap to CERTIFY at r = {radius:g}",
        xlabel="error level eps (PAC, delta 0.05)",
        ylabel="percentage points",
        xscale="log",
    )
    axes.axhline(0.84, color="0.5", linewidth=1, linestyle="--", label="0.84 points (the paper's claim)")
    axes.grid(True, alpha=0.3)
    axes.legend()
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": "rrise", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
