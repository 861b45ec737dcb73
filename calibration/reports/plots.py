"""The figures of reports and studies as SVG text. matplotlib is loaded here and nowhere else."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.requirements import install

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = Tuple[np.ndarray, np.ndarray]
UNIT = "(L2, pixel values in [0, 1])"


def _axes(title: str, x_label: str, y_label: str) -> "tuple[Any, Axes]":
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise CalibrationError(f"figures need matplotlib: {install('matplotlib')}") from None
    # Small, so that its letters can be read on a phone; a wide screen enlarges it.
    figure = Figure(figsize=(5.0, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(True, alpha=0.3)
    return figure, axes


def svg_text(figure: Any) -> str:
    """Text of a matplotlib figure as SVG, the same bytes for the same content."""
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({"svg.hashsalt": "rrise", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _svg(figure: Any) -> str:
    """Text of the drawing as it stands in a page."""
    return svg_text(figure).replace("<svg ", '<svg class="plot" ', 1)


def accuracy_curves(
    curves: Mapping[str, Curve], y_label: str = "certified accuracy", band: Optional[Curve] = None
) -> str:
    """Shares against radius, one line each; the first is drawn boldest, in the middle of `band`, float [2, n]."""
    figure, axes = _axes(f"{y_label.capitalize()} against radius", f"radius r {UNIT}", y_label)
    for place, (name, (radii, shares)) in enumerate(curves.items()):
        # Shares fall with the radius, so a step back from each radius never shows more than there is.
        first = place == 0
        axes.plot(
            radii,
            shares,
            label=name,
            linewidth=2.5 if first else 1.3,
            zorder=3 if first else 2,
            drawstyle="steps-pre",
        )
    if band is not None:
        radii, (low, high) = band
        axes.fill_between(
            radii, low, high, step="pre", color="C0", alpha=0.15, linewidth=0, label="its 95 % interval"
        )
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8)
    return _svg(figure)


def trade_off(
    errors: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    y_label: str,
    bands: Sequence[Sequence[Tuple[float, float]]] = (),
) -> str:
    """Shares against the error level, which is drawn on a log scale, each inside its band of (low, high) where given."""
    figure, axes = _axes(
        f"{y_label.capitalize()} against error level", "error level eps (share of frames)", y_label
    )
    for name, shares in curves.items():
        axes.plot(list(errors), list(shares), marker="o", markersize=4, label=name)
    for place, band in enumerate(bands):
        low, high = zip(*band)
        axes.fill_between(list(errors), low, high, color=f"C{place}", alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(list(errors), [f"{error:g}" for error in errors])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8)
    return _svg(figure)


def raw_against_reference(
    raw: np.ndarray,
    reference: np.ndarray,
    offset: Optional[float],
    radii: Sequence[float] = (),
    thresholds: Sequence[float] = (),
) -> str:
    """Calibration frames: raw against reference radius, with the line raw = reference + offset.

    Where only `radii` are issued, with the stairs above which a frame is issued more than its reference instead: their
    corners are (radius, threshold + offset).
    """
    figure, axes = _axes(
        "Calibration frames: raw against reference radius", f"reference radius {UNIT}", f"raw radius {UNIT}"
    )
    axes.scatter(reference, raw, s=9, alpha=0.5, label="calibration frame")
    ends = np.array([0.0, max(float(reference.max()), float(raw.max()), 1e-3)])
    axes.plot(ends, ends, color="0.5", linewidth=1, label="raw = reference")
    if radii:
        for radius in radii:
            axes.axvline(radius, color="C2", linewidth=0.8)
        if offset is not None:
            heights = [threshold + offset for threshold in thresholds]
            axes.plot(
                np.repeat([0.0, *radii], 2)[1:],
                np.append(np.repeat(heights, 2), max(float(raw.max()), heights[-1])),
                color="C3",
                linewidth=1.5,
                label="issued (" + ", ".join(f"{radius:.4g}" for radius in radii) + ") = reference",
            )
    elif offset is not None:
        axes.plot(
            ends, ends + offset, color="C3", linewidth=1.5, label=f"raw = reference + offset {offset:.4g}"
        )
    axes.legend(fontsize=8)
    return _svg(figure)


def coverage(rows: Sequence[Tuple[str, float, float, float]], allowed: float, unit: str = "frames") -> str:
    """Share of units above their reference with its interval: rows of (name, share, lower, upper)."""
    figure, axes = _axes(f"{unit.capitalize()} whose radius exceeds the reference", f"share of {unit}", "")
    places = np.arange(len(rows))
    share = np.array([row[1] for row in rows])
    spread = np.abs(np.array([[row[1] - row[2], row[3] - row[1]] for row in rows])).T
    axes.errorbar(share, places, xerr=spread, fmt="o", capsize=4)
    axes.axvline(allowed, color="C3", label=f"allowed: {allowed:.4g}")
    axes.set_yticks(places, [row[0] for row in rows])
    axes.set_ylim(-0.5, len(rows) - 0.5)
    # Room to the right of the line, so that it does not pass for the frame.
    axes.set_xlim(0, 1.15 * max(allowed, float(np.max([row[3] for row in rows]))))
    axes.legend(loc="center right", fontsize=8)
    return _svg(figure)


def latency_histogram(samples: Mapping[str, np.ndarray]) -> str:
    """Histogram of raw latencies in microseconds, up to the 99.9th percentile; counts on a log scale."""
    figure, axes = _axes("Latency per frame", "microseconds", "calls")
    top = max(float(np.quantile(values, 0.999)) for values in samples.values())
    for name, values in samples.items():
        axes.hist(values, bins=np.linspace(0, top, 80).tolist(), histtype="step", label=name, log=True)
    axes.legend(fontsize=8)
    return _svg(figure)
