"""The picture at the top of the README, made from a bundle: frames go in, label and certified radius come out.

    python docs/picture.py demo/bundle demo/references/test.npz docs/pages/frame-to-radius.svg

It shows the first test frame of large radius, the first of small radius, and the first that is not certified.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from rrise.calibration.console import run_command
from rrise.calibration.tables.references import References
from rrise.edge_sdk import Certificate, Certifier
from rrise.edge_sdk.errors import EdgeError

SIDE, ROW, WIDTH, LEFT = 96, 128, 760, 24
TEXT = 'font-family="system-ui, sans-serif" fill="#1f2933"'


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("references", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@run_command
def main(bundle: Path, references: Path, out: Path) -> None:
    """Certify the frames of REFERENCES with BUNDLE and write the picture OUT."""
    frames = References.load(references).frames
    with Certifier.load(bundle) as certifier:
        answers = [certifier.certify(frame) for frame in frames]
        sigma, promise = certifier.bundle.manifest.sigma, certifier.guarantee
    if promise is None:
        raise EdgeError(f"{bundle}: got an artefact without a promise, expected a calibrated one")
    foot = f"At most {100 * float(promise.error):g} % of new frames receive a radius that is too large; you choose that number."
    out.write_text(picture(choose(frames, answers), sigma, foot), encoding="utf-8")
    click.echo(f"{out}: {out.stat().st_size:,} bytes")


def choose(frames: np.ndarray, answers: list[Certificate]) -> list[tuple[np.ndarray, Certificate]]:
    """A frame of large radius, one of small radius, and one without a certificate, where there are such."""
    radii = sorted(answer.radius for answer in answers if answer)
    large, small = np.quantile(radii, [0.9, 0.2])
    wanted = (
        lambda answer: answer.radius >= large,
        lambda answer: 0 < answer.radius <= small,
        lambda answer: not answer,
    )
    rows = []
    for fits in wanted:
        rows += [pair for pair in zip(frames, answers, strict=True) if fits(pair[1])][:1]
    return rows


def picture(rows: list[tuple[np.ndarray, Certificate]], sigma: float, foot: str) -> str:
    """The SVG text: one row for each frame, the network in the middle, the promise below."""
    height = ROW * len(rows) + 72
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>Frames go through one network in one forward pass; out come a label and a certified radius</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="12" fill="#ffffff"/>',
        *heads(sigma, height - 16),
        f'<text {TEXT} x="{LEFT}" y="{height - 14}" font-size="12.5">{foot}</text>',
    ]
    for number, (frame, answer) in enumerate(rows):
        parts += row(frame, answer, 48 + ROW * number)
    return "\n".join([*parts, "</svg>\n"])


def heads(sigma: float, height: int) -> list[str]:
    """Titles of the columns, and the network."""
    middle = f'<g {TEXT} text-anchor="middle">'
    return [
        f'<g {TEXT} font-size="15" font-weight="600"><text x="{LEFT}" y="30">frame</text>'
        '<text x="420" y="30">label, certified radius</text></g>',
        f'<rect x="210" y="48" width="140" height="{height - 80}" rx="10" fill="#e6f0fa" stroke="#2b6cb0"/>',
        f'{middle}<text x="280" y="{height / 2 - 14}" font-size="15" font-weight="600">surrogate.onnx</text>'
        f'<text x="280" y="{height / 2 + 8}" font-size="13">one forward pass</text>'
        f'<text x="280" y="{height / 2 + 28}" font-size="13">(noise level {sigma:g})</text></g>',
    ]


def row(frame: np.ndarray, answer: Certificate, top: int) -> list[str]:
    """One frame, its arrows and what is said about it."""
    line = top + SIDE / 2
    arrow = '<path d="M{0} {1}h{2}l-8 -5m8 5l-8 5" fill="none" stroke="#52606d" stroke-width="2"/>'
    if answer:
        text = f"{answer.name}, radius {answer.radius:.2f}"
        note = f"no change below {answer.radius:.2f} in L2 gives another answer"
        colour = "#1c7c54"
    else:
        text, colour = "no certificate", "#b54708"
        note = "radius 0: the robot must know what to do then"
    return [
        *pixels(frame, top),
        arrow.format(LEFT + SIDE + 16, line, 60),
        arrow.format(356, line, 48),
        f'<g {TEXT}><text x="420" y="{line}" font-size="20" font-weight="600" style="fill:{colour}">{text}</text>'
        f'<text x="420" y="{line + 22}" font-size="12.5">{note}</text></g>',
    ]


def pixels(frame: np.ndarray, top: int) -> list[str]:
    """A small frame as squares, those of one colour in one path."""
    height, width = frame.shape[:2]
    colours: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for y in range(height):
        for x in range(width):
            colours.setdefault(tuple(int(value) for value in frame[y, x]), []).append((x, y))
    scale = SIDE / max(height, width)
    parts = [f'<g transform="translate({LEFT} {top}) scale({scale:g})" shape-rendering="crispEdges">']
    for colour, places in colours.items():
        shown = "#" + "".join(f"{value:02x}" for value in (colour if len(colour) == 3 else colour * 3))
        parts.append(f'<path fill="{shown}" d="{"".join(f"M{x} {y}h1v1h-1z" for x, y in places)}"/>')
    return [*parts, "</g>"]


if __name__ == "__main__":
    main()
