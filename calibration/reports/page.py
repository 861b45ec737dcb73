"""A self-contained HTML page: headings, paragraphs, tables and inline SVG figures; no script, no network."""

from __future__ import annotations

import html
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator, List, Sequence, Tuple

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #fff; --line: #d0d7de; --note: #fff8e5; --code: #f6f8fa; }
:root { --soft: #57606a; --good: #1a7f37; --none: #6e7781; --bad: #cf222e; --first: #0969da; --second: #bc4c00; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --back: #0d1117; --line: #3d444d; --note: #2d2409; --code: #161b22; }
  :root { --soft: #9198a1; --good: #3fb950; --none: #9198a1; --bad: #ff7b72; --first: #58a6ff; --second: #f0883e; }
  figure > svg.plot { filter: invert(.92) hue-rotate(180deg); }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
body { color: var(--text); background: var(--back); overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; } h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
a { color: var(--first); } .soft, figcaption, footer { color: var(--soft); font-size: .9em; }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; }
th, td { padding: .25rem .6rem; border: 1px solid var(--line); text-align: left; vertical-align: top; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--back); min-width: 3.5rem; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; } th.number, td.number { text-align: right; }
.interval { display: block; white-space: nowrap; font-size: .85em; color: var(--soft); }
@media (max-width: 40rem) { .beside { display: block; font-size: .85em; color: var(--soft); } }
.digest { word-break: break-all; font-family: ui-monospace, monospace; font-size: .85em; }
.note { background: var(--note); border-left: 4px solid #bf8700; padding: .5rem 1rem; }
details { margin: 1rem 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem 1rem; }
summary { cursor: pointer; } figure { margin: 1rem 0; }
figure > svg { width: 100%; max-width: 36rem; height: auto; border-radius: 4px; } figure > svg.plot { background: #fff; }
code { background: var(--code); padding: 0 .25rem; } pre { background: var(--code); padding: .75rem; overflow-x: auto; }
.tiles, .cards { display: grid; gap: .75rem; margin: 1rem 0; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
.tiles > div, .cards > figure { border: 1px solid var(--line); border-radius: 6px; padding: .6rem .75rem; margin: 0; }
.tiles b { display: block; font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.cards img { width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--code); }
.cards img.pixels { image-rendering: pixelated; } .cards figcaption { font-size: .85rem; color: var(--text); }
.cards figcaption b { display: block; } .good b { color: var(--good); } .none b { color: var(--none); }
.bad b { color: var(--bad); } .cards > .bad { border-color: var(--bad); }
"""
# A number, or two with a dash between, with what may stand beside it: a unit, a ratio, an interval; or a dash for none.
_NUMBER = re.compile(
    r"[-+]?[\d.,]+(e[-+]?\d+)?(-[\d.,]+)?\s*(%|x|B|us|ms|s)?(\s*[\[(][-+\d.,\s%x]*[\])])?|-|"
)
_RATIO = re.compile(r" (\([-+\d.,]+x?\))$")
_INTERVAL = re.compile(r" (\[[^\[\]]*\d\])")
_LONG_WORD = re.compile(r"\w{24,}")


@dataclass(frozen=True)
class FramePicture:
    """One frame on a page.

    Attributes:
        source: address of the image, such as "data:image/png;base64,...".
        kind: "good", "none" or "bad", which colours its title; the words say the same.
        title, lines: what is said below it. pixels: whether it is so small that its pixels are shown as squares.
    """

    source: str
    kind: str
    title: str
    lines: Tuple[str, ...] = ()
    pixels: bool = False


class Page:
    """Collects parts in order; every text is escaped."""

    def __init__(self, title: str, below: str = "") -> None:
        """below: what stands in small letters under the title, such as date and version."""
        self._title = title
        self._parts: List[str] = [f"<h1>{html.escape(title)}</h1>"]
        if below:
            self._parts.append(f'<p class="soft">{html.escape(below)}</p>')

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def subheading(self, text: str) -> None:
        self._parts.append(f"<h3>{html.escape(text)}</h3>")

    def paragraph(self, text: str) -> None:
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def note(self, text: str) -> None:
        """A paragraph that must not be overlooked."""
        self._parts.append(f'<p class="note">{html.escape(text)}</p>')

    def bullets(self, texts: Sequence[str]) -> None:
        items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
        self._parts.append(f"<ul>{items}</ul>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table that scrolls by itself where it is wider than the screen, with its first column in sight.

        A column of numbers stands to the right, one with any text to the left.
        """
        kinds = [
            ' class="number"' if all(_NUMBER.fullmatch(row[place].strip()) for row in rows) else ""
            for place in range(len(header))
        ]
        cells = "".join(f"<th{kind}>{html.escape(cell)}</th>" for cell, kind in zip(header, kinds))
        body = "".join(
            "<tr>" + "".join(f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(row, kinds)) + "</tr>"
            for row in rows
        )
        table = f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
        self._parts.append(f'<div class="wide">{table}</div>')

    @contextmanager
    def folded(self, title: str) -> Iterator[None]:
        """What is added inside is shown only when a reader opens it: digests, settings, long lists."""
        outer, self._parts = self._parts, []
        try:
            yield
        finally:
            inner, self._parts = "".join(self._parts), outer
            self._parts.append(f"<details><summary>{html.escape(title)}</summary>{inner}</details>")

    def tiles(self, values: Sequence[Tuple[str, str]]) -> None:
        """The few numbers to read first, each with what it is."""
        inner = "".join(
            f"<div><b>{html.escape(value)}</b>{html.escape(what)}</div>" for value, what in values
        )
        self._parts.append(f'<div class="tiles">{inner}</div>')

    def pictures(self, pictures: Sequence[FramePicture]) -> None:
        """Frames side by side, as many as the screen is wide."""
        self._parts.append(f'<div class="cards">{"".join(map(_card, pictures))}</div>')

    def links(self, links: Sequence[Tuple[str, str, str]]) -> None:
        """A list of (address, name, what is there)."""
        items = "".join(
            f'<li><a href="{html.escape(address)}">{html.escape(name)}</a>: {html.escape(what)}</li>'
            for address, name, what in links
        )
        self._parts.append(f"<ul>{items}</ul>")

    def code(self, text: str) -> None:
        """Text as it is in a file."""
        self._parts.append(f"<pre>{html.escape(text)}</pre>")

    def figure(self, svg: str, caption: str) -> None:
        """An SVG drawing from `rrise.calibration.reports.plots` or `drawing`, which is markup already."""
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
    shown = _RATIO.sub(r' <span class="beside">\1</span>', shown)
    return _LONG_WORD.sub(r'<span class="digest">\g<0></span>', shown)


def _card(picture: FramePicture) -> str:
    said = "".join(f"<span>{html.escape(line)}</span><br>" for line in picture.lines)
    pixels = ' class="pixels"' if picture.pixels else ""
    image = f'<img src="{html.escape(picture.source)}" alt="{html.escape(picture.title)}"{pixels}>'
    caption = f"<figcaption><b>{html.escape(picture.title)}</b>{said}</figcaption>"
    return f'<figure class="{html.escape(picture.kind)}">{image}{caption}</figure>'
