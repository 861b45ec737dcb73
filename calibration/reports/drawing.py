"""A small figure without matplotlib: shares that fall with the radius, as SVG in the colours of the page."""

from __future__ import annotations

import html
from typing import List, Mapping, Optional, Sequence, Tuple

import numpy as np

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 46
COLOURS = ("--first", "--second", "--none")
DASHES = ("", "5 3", "2 3")


def falling_shares(
    radii: np.ndarray,
    curves: Mapping[str, np.ndarray],
    *,
    band: Optional[Tuple[np.ndarray, np.ndarray]] = None,
    x_label: str,
    y_label: str,
) -> str:
    """Up to three shares in [0, 1] against radius, float [n] each; the first inside its band of (low, high).

    Lines differ in colour and in their dashes, and the legend stands below, where it hides nothing.
    """
    most = float(radii[-1]) if len(radii) and radii[-1] > 0 else 1.0
    parts = [*_frame(most, x_label, y_label)]
    if band is not None:
        low, high = band
        ends = [*zip(radii, high), *reversed(list(zip(radii, low)))]
        points = " ".join(f"{_x(r, most):.1f},{_y(share):.1f}" for r, share in ends)
        parts.append(f'<polygon points="{points}" style="fill: var(--first); opacity: .18"/>')
    for place, shares in enumerate(curves.values()):
        points = " ".join(f"{_x(r, most):.1f},{_y(share):.1f}" for r, share in zip(radii, shares))
        parts.append(f'<polyline points="{points}" style="{_stroke(place)}"/>')
    height = HEIGHT + 18 * len(curves)
    parts += _legend(list(curves))
    title = f"<title>{html.escape(y_label)} against {html.escape(x_label)}</title>"
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" font-size="12">{title}{"".join(parts)}</svg>'


def _x(radius: float, most: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * radius / most


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)


def _stroke(place: int) -> str:
    dashes = f"; stroke-dasharray: {DASHES[place]}" if DASHES[place] else ""
    return f"fill: none; stroke-width: {2.5 if place == 0 else 1.5}; stroke: var({COLOURS[place]}){dashes}"


def _frame(most: float, x_label: str, y_label: str) -> List[str]:
    """Axes with ticks, the unit beside each."""
    line, text = 'style="stroke: var(--line)"', 'style="fill: var(--text)"'
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" {line}/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" {text}>{100 * share:.0f} %</text>'
        )
    for radius in _ticks(most):
        x = _x(radius, most)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" {line}/>')
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" {text}>{radius:g}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    label = html.escape(x_label)
    parts.append(f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle" {text}>{label}</text>')
    return [f'<g aria-label="{html.escape(y_label)}">{"".join(parts)}</g>']


def _ticks(most: float) -> Sequence[float]:
    """Round radii from 0 up to `most`, at most seven."""
    raw = most / 5
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * 0.999)
    return [round(float(number * step), 6) for number in range(int(most / step + 1e-9) + 1)]


def _legend(names: Sequence[str]) -> List[str]:
    parts = []
    for place, name in enumerate(names):
        y = HEIGHT + 18 * place + 4
        shown = html.escape(name)
        parts.append(
            f'<line x1="{LEFT}" x2="{LEFT + 28}" y1="{y - 4}" y2="{y - 4}" style="{_stroke(place)}"/>'
        )
        parts.append(f'<text x="{LEFT + 36}" y="{y}" style="fill: var(--text)">{shown}</text>')
    return parts
