"""A self-contained HTML page: headings, paragraphs, tables and inline SVG figures; no script, no network."""

from __future__ import annotations

import html
from typing import List, Sequence

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid #d0d7de; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .75rem; border: 1px solid #d0d7de; }
td { font-variant-numeric: tabular-nums; text-align: right; } td:first-child, th:first-child { text-align: left; }
.note { background: #fff8e5; border-left: 4px solid #bf8700; padding: .5rem 1rem; }
svg { max-width: 100%; height: auto; } code { background: #f6f8fa; padding: 0 .25rem; }
"""


class Page:
    """Collects parts in order; every text is escaped."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: List[str] = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def note(self, text: str) -> None:
        """A paragraph that must not be overlooked."""
        self._parts.append(f'<p class="note">{html.escape(text)}</p>')

    def bullets(self, texts: Sequence[str]) -> None:
        items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
        self._parts.append(f"<ul>{items}</ul>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        self._parts.append(f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>")

    def figure(self, svg: str, caption: str) -> None:
        """An SVG drawing from `rrise.calibration.reports.plots`, which is markup already."""
        self._parts.append(f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def render(self) -> str:
        """The whole page as text."""
        head = f'<meta charset="utf-8"><title>{html.escape(self._title)}</title><style>{_STYLE}</style>'
        return (
            f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(self._parts)}</body></html>\n'
        )
