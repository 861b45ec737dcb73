"""A self-contained HTML page: headings, paragraphs, tables and inline SVG figures; no script, no network."""

from __future__ import annotations

import html
import re
from typing import List, Sequence

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #fff; --line: #d0d7de; --note: #fff8e5; --code: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --back: #0d1117; --line: #3d444d; --note: #2d2409; --code: #161b22; }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
body { color: var(--text); background: var(--back); overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; }
th, td { padding: .25rem .75rem; border: 1px solid var(--line); text-align: left; }
td.number { font-variant-numeric: tabular-nums; text-align: right; } .interval { white-space: nowrap; opacity: .75; }
.digest { word-break: break-all; font-family: ui-monospace, monospace; font-size: .85em; }
.note { background: var(--note); border-left: 4px solid #bf8700; padding: .5rem 1rem; }
figure { margin: 1rem 0; overflow-x: auto; } figcaption { position: sticky; left: 0; }
svg { min-width: 34rem; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
code { background: var(--code); padding: 0 .25rem; }
"""
# A number with what may stand beside it: a percentage, a ratio, an interval, a dash for none.
_NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?\s*(%|x|B|us|ms|s)?(\s*[\[(][-+\d.,\s%x]*[\])])?|-|yes|no|")
_INTERVAL = re.compile(r" (\[[^\[\]]*\d\])")
_LONG_WORD = re.compile(r"\w{24,}")


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
        """A table that scrolls by itself where it is wider than the screen. Numbers stand to the right, texts to the left."""
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
        table = f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
        self._parts.append(f'<div class="wide">{table}</div>')

    def figure(self, svg: str, caption: str) -> None:
        """An SVG drawing from `rrise.calibration.reports.plots`, which is markup already."""
        self._parts.append(f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def render(self) -> str:
        """The whole page as text."""
        phone = '<meta name="viewport" content="width=device-width, initial-scale=1">'
        head = (
            f'<meta charset="utf-8">{phone}<title>{html.escape(self._title)}</title><style>{_STYLE}</style>'
        )
        return (
            f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(self._parts)}</body></html>\n'
        )


def _cell(text: str) -> str:
    """An interval is not broken in two; a digest may be broken anywhere."""
    shown = _INTERVAL.sub(r' <span class="interval">\1</span>', html.escape(text))
    shown = _LONG_WORD.sub(r'<span class="digest">\g<0></span>', shown)
    kind = ' class="number"' if _NUMBER.fullmatch(text.strip()) else ""
    return f"<td{kind}>{shown}</td>"
