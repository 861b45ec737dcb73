"""The study as a page and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import Any

import numpy as np

from examples.signs.promises import Kept
from examples.signs.shift import Under
from rrise.calibration.reports.plots import svg_text
from rrise.calibration.statistics.shares import Share

LEGEND = """\
Issued, gross and net are per cent of all test frames; gross: a certificate of at least r for the right class, net: those of them
that hold. Wrong: the radius exceeds the true one, as the audit's share of hits has it, in brackets what its upper bound refutes.
Wrong units are what the promise counts: one drawn frame of each test clip, those of them with a certificate, or whole clips;
intervals are 95 %. Wrong class: the label is not the true class, whether the certificate holds or not. Each promise is
calibrated by itself, and holds for that row alone."""


def page(
    facts: dict[str, Any],
    rows: Sequence[Kept],
    divided: Sequence[tuple[str, str, np.ndarray]],
    pairs: Sequence[tuple[str, str, int, int]],
    shifted: Sequence[Under],
    radii: Sequence[float],
) -> str:
    """Markdown."""
    lines = ["# Real tracks", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += ["## Promises on the test clips", ""]
    at = [f"net (gross) at {r:g}" for r in radii]
    head = [
        "promise",
        "eps",
        "issued",
        *at,
        "wrong units",
        "of",
        "wrong of the issued",
        "wrong class of the issued",
    ]
    lines += table([*head, "of which hold"], [_promise(row) for row in rows if row.judged])
    lines += [
        "",
        *(f"- {row.kind}, eps {row.error}: {shorten(row.message, 160)}" for row in rows if not row.issued),
        "",
    ]
    lines += ["Certificates that hold, and name the wrong class:", ""]
    names = ["true class", "class of the certificate", "certificates", "clips"]
    lines += table(names, [[true, got, f"{count}", f"{clips}"] for true, got, count, clips in pairs])
    lines += ["", "## Calibration and test clips exchanged at random", ""]
    names = ["promise", "eps", "wrong: mean", "5 %, 95 % of the divisions", "divisions above eps"]
    lines += table(names, [_divided(*one) for one in divided])
    lines += ["", "## Corrupted frames, one of each test clip", ""]
    names = [
        "corruption",
        "moved (L2)",
        "right label",
        "issued",
        "wrong of the issued",
        "wrong class of the issued",
    ]
    names += ["alarm after monitored frames", "days with an alarm"]
    lines += table(names, [_under(one) for one in shifted])
    return "\n".join([*lines, "", LEGEND, ""])


def _promise(row: Kept) -> list[str]:
    both = [f"**{100 * net:.1f}** ({100 * gross:.1f})" for net, gross in zip(row.net, row.gross, strict=True)]
    wrong = f"{row.wrong.hits} of {row.wrong.frames} [{row.refuted.hits} refuted]"
    of_issued = [
        f"{100 * share:.1f} %" for share in (row.wrong_issued, row.wrong_class, row.wrong_class_holds)
    ]
    name = {"pac": "pac, one frame a clip", "selective": "selective, one frame a clip"}.get(
        row.kind, row.kind
    )
    interval = f"{100 * row.wrong.value:.1f} % [{100 * row.wrong.lower:.1f}, {100 * row.wrong.upper:.1f}]"
    return [name, row.error, f"{100 * row.issued:.1f}", *both, f"{wrong}: {interval}", row.judged, *of_issued]


def _divided(name: str, error: str, shares: np.ndarray) -> list[str]:
    low, high = np.quantile(shares, [0.05, 0.95])
    above = int((shares > float(error)).sum())
    spread = f"{100 * low:.1f}, {100 * high:.1f} %"
    return [name, error, f"{100 * shares.mean():.1f} %", spread, f"{above} of {len(shares)}"]


def _under(one: Under) -> list[str]:
    alarm = "none" if one.alarm is None else f"{one.alarm:g}"
    cells = [interval(share) for share in (one.issued, one.wrong, one.wrong_class)]
    name = one.name if one.name == "none" else f"{one.name} {one.severity}"
    return [
        name,
        f"{one.moved:.2f}",
        f"{100 * one.accuracy:.1f} %",
        *cells,
        alarm,
        f"{100 * one.alarmed:.0f} %",
    ]


def interval(share: Share) -> str:
    """Per cent with its interval; of nothing nothing is said."""
    if not share.frames:
        return "none issued"
    return f"{100 * share.value:.1f} % [{100 * share.lower:.1f}, {100 * share.upper:.1f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def figure(shifted: Sequence[Under]) -> str:
    """Issued, wrong of the issued and wrong class of the issued against severity, a line for each corruption, as SVG."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10, 3.6), layout="constrained")
    columns = {
        "issued": "issued, %",
        "wrong": "of the issued, wrong, %",
        "wrong_class": "of the issued, wrong class, %",
    }
    clean = [one for one in shifted if one.name == "none"]
    for axes, (column, text) in zip(drawing.subplots(1, 3), columns.items(), strict=True):
        for name in dict.fromkeys(one.name for one in shifted if one.name != "none"):
            ones = [*clean, *(one for one in shifted if one.name == name)]
            shares = [getattr(one, column) for one in ones]
            values = [100 * share.value if share.frames else float("nan") for share in shares]
            axes.plot([one.severity for one in ones], values, marker="o", markersize=3, label=name)
        axes.set(xlabel="severity", ylabel=text, ylim=(0, None))
        axes.grid(True, alpha=0.3)
    axes.legend(fontsize="small")
    return svg_text(drawing)
