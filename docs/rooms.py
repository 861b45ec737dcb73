"""The picture of the house: packages with their rooms, what flows between them, and where things are added.

    python docs/rooms.py docs/pages/concepts/rooms.svg

It is narrow on purpose: on a phone its letters are as large as those of the text. A test compares its rooms with the folders.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

import click

WIDTH, PAD, LINE, LETTER = 400, 12, 19, 6.5
FLOW, SIDE = 236, 118
"""Widths of the flow to the left and of `calibration` beside it."""
STYLE = """
text { font: 12.5px system-ui, sans-serif; fill: #1b1f24; } .head { font-weight: 600; font-size: 14px; }
.soft { fill: #57606a; } .card { fill: #ffffff; } .add { fill: #0550ae; font-weight: 600; }
.trainer { fill: #ddf4ff; } .export { fill: #fff8c5; } .edge_sdk { fill: #dafbe1; } .calibration { fill: #f3e8ff; }
.line { stroke: #57606a; fill: none; stroke-width: 1.5; } .box { stroke: #8c959f; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .soft { fill: #9198a1; } .card { fill: #161b22; } .add { fill: #79c0ff; }
  .trainer { fill: #0c2d4a; } .export { fill: #3b2f04; } .edge_sdk { fill: #0f3a1d; } .calibration { fill: #2f1f4a; }
  .line { stroke: #9198a1; } .box { stroke: #57606a; }
}
"""


@dataclass(frozen=True)
class Package:
    """One box: what it does in a few words, and its rooms from the ground upwards, a number beside those where one adds."""

    name: str
    does: tuple[str, ...]
    rooms: tuple[str, ...]


ADDED = {
    "calibration/promise": (1, "a kind of promise, a map", "promise/kinds/, maps.py"),
    "trainer/data": (2, "a source of images", "data/readers/"),
    "trainer/montecarlo": (3, "an engine that counts", "montecarlo/engines.py"),
    "trainer/learning": (4, "a recipe of training", "learning/recipes.py"),
    "trainer/commands": (5, "a stage, a command", "a room, and cli.py"),
    "export/lowering": (6, "a precision, graph nodes", "precision.py, head.py"),
    "edge_sdk/runtime": (7, "a runtime of the robot", "runtime/, select.py"),
    "calibration/images": (8, "a camera encoding", "images/encodings.py"),
}
"""Room -> number in the picture, what is added there, and in which file or folder of it."""

TRAINER = Package(
    "trainer",
    ("trains, counts by Monte Carlo,", "calibrates on the server"),
    (
        "brought",
        "data",
        "montecarlo",
        "classifiers",
        "networks",
        "learning",
        "settings",
        "counts",
        "base_classifier",
        "scores",
        "surrogates",
        "attacks",
        "reports",
        "commands",
    ),
)
EXPORT = Package("export", ("ONNX, gate, bundle, signature",), ("lowering", "gating", "releasing"))
EDGE = Package(
    "edge_sdk",
    ("on the robot: opens a bundle,", "answers, watches itself"),
    (
        "formats",
        "runtime",
        "frames",
        "bundles",
        "device",
        "confirming",
        "certifying",
        "stream",
        "auditing",
        "operate",
        "commands",
    ),
)
CALIBRATION = Package(
    "calibration",
    ("mathematics on", "arrays; all the", "rest imports it"),
    ("images", "recordings", "storage", "statistics", "tables", "promise", "reports", "commands"),
)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    """Write the picture OUT."""
    out.write_text(picture(), encoding="utf-8")


def picture() -> str:
    """The SVG text."""
    parts: list[str] = []
    y = PAD + 6
    top = y + 34
    for label, package in (
        ("frames, and rrise.toml", TRAINER),
        ("workspace", EXPORT),
        ("bundle", EDGE),
    ):
        parts += [label_of(label, y), arrow(y + 20)]
        drawn, y = box(package, PAD, y + 34, FLOW)
        parts += [drawn, arrow(y + 4)]
        y += 22
    parts.append(label_of("certificate: label, radius", y))
    side, _ = box(CALIBRATION, WIDTH - PAD - SIDE, top, SIDE, height=y - 26 - top)
    parts += [side, *imports(top, y)]
    legend, y = added(y + 34)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH + 60}" role="img">'
    )
    title = "<title>The packages of rrise with their rooms, what flows between them, and where things are added</title>"
    back = f'<rect class="card" width="{WIDTH}" height="{y}" rx="12"/>'
    return "\n".join([head, title, f"<style>{STYLE}</style>", back, *parts, legend, "</svg>\n"])


def label_of(text: str, y: int) -> str:
    """What flows, above an arrow."""
    return f'<text class="soft" x="{PAD + FLOW / 2}" y="{y + 12}" text-anchor="middle">{html.escape(text)}</text>'


def arrow(y: int) -> str:
    """Downwards, in the middle of the flow."""
    return f'<path class="line" d="M{PAD + FLOW / 2} {y}v11m-4 -5l4 5l4 -5"/>'


def imports(top: int, bottom: int) -> list[str]:
    """From each box of the flow to `calibration`: who imports whom."""
    x, end = PAD + FLOW, WIDTH - PAD - SIDE
    return [
        f'<path class="line" stroke-dasharray="4 3" d="M{x + 2} {y}H{end - 3}m-5 -4l5 4l-5 4"/>'
        for y in (top + 40, (top + bottom) // 2 + 8, bottom - 60)
    ]


def box(package: Package, x: int, y: int, width: int, height: int = 0) -> tuple[str, int]:
    """A package at (x, y) and where it ends."""
    left, line = x + 10, y + 21
    parts = [f'<text class="head" x="{left}" y="{line}">{package.name}/</text>']
    for text in package.does:
        line += LINE - 3
        parts.append(f'<text class="soft" x="{left}" y="{line}">{html.escape(text)}</text>')
    line += 5
    for row in broken(package, width - 20):
        line += LINE
        spans = "  ".join(room(package.name, name) for name in row)
        parts.append(f'<text x="{left}" y="{line}" xml:space="preserve">{spans}</text>')
    end = max(line + 12, y + height)
    frame = f'<rect class="box {package.name}" x="{x}" y="{y}" width="{width}" height="{end - y}" rx="8"/>'
    return "\n".join([frame, *parts]), end


def broken(package: Package, width: int) -> list[list[str]]:
    """Rooms in lines that fit."""
    rows: list[list[str]] = [[]]
    room_left = float(width)
    for name in package.rooms:
        needed = LETTER * (len(name) + 2 + 3 * (f"{package.name}/{name}" in ADDED))
        if rows[-1] and needed > room_left:
            rows.append([])
            room_left = float(width)
        rows[-1].append(name)
        room_left -= needed
    return rows


def room(package: str, name: str) -> str:
    """One room, with its number where things are added."""
    place = f"{package}/{name}"
    number = f'<tspan class="add"> ({ADDED[place][0]})</tspan>' if place in ADDED else ""
    return f'<tspan data-room="{place}">{name}</tspan>{number}'


def added(y: int) -> tuple[str, int]:
    """The numbers explained."""
    parts = [f'<text class="head" x="{PAD}" y="{y}">To add</text>']
    for number, what, where in ADDED.values():
        y += LINE + 1
        parts.append(
            f'<text x="{PAD}" y="{y}"><tspan class="add">({number})</tspan> {html.escape(what)}</text>'
            f'<text class="soft" x="{PAD + 194}" y="{y}">{html.escape(where)}</text>'
        )
    y += LINE + 4
    parts.append(
        f'<text class="soft" x="{PAD}" y="{y}">Full arrows: what flows. Dashed: who imports whom;</text>'
        f'<text class="soft" x="{PAD}" y="{y + LINE - 3}">export imports trainer and edge_sdk as well.</text>'
    )
    return "\n".join(parts), y + LINE + PAD - 3


if __name__ == "__main__":
    main()
