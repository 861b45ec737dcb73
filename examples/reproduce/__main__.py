"""The entry point: `python -m examples.reproduce prepare|variant|table`, from the root of the checkout."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from examples.reproduce.methods import load_methods
from examples.reproduce.page import facts, page, write
from examples.reproduce.prepare import LAYOUTS, TRAIN_TRACKS, Signs
from examples.reproduce.prepare import prepare as prepare_layout
from examples.reproduce.rivals import load_rivals
from examples.reproduce.table import ERRORS, make_rows, table_radii, with_radii
from examples.reproduce.variant import make_variant
from rrise.calibration.console import SuggestingGroup, run_command, summary
from rrise.trainer.errors import TrainerError

FOLDER = click.Path(path_type=Path)


@click.group(cls=SuggestingGroup, help=__doc__)
def main() -> None:
    """Prepare official data sets, begin rows that share a base classifier, and put workspaces into one table."""


@main.command()
@click.argument("layout", type=click.Choice(sorted(LAYOUTS)))
@click.argument("folder", type=FOLDER)
@click.argument("target", type=FOLDER)
@click.option(
    "--size", default=32, show_default=True, help="gtsrb: pixels of a side to which images are resized."
)
@click.option(
    "--train-tracks",
    default=TRAIN_TRACKS,
    show_default=True,
    help="gtsrb: share of the tracks to train on, beside the official test images; all other tracks are held out.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@run_command
def prepare(layout: str, folder: Path, target: Path, size: int, train_tracks: float, as_json: bool) -> None:
    """Read a data set's official LAYOUT below FOLDER and write the .npz file TARGET."""
    if size < 8:
        raise TrainerError(f"--size: got {size}, expected at least 8 pixels")
    if not 0 <= train_tracks < 1:
        raise TrainerError(f"--train-tracks: got {train_tracks}, expected a share from 0 up to 1, 1 left out")
    parts = prepare_layout(layout, folder, target, Signs(size, train_tracks))
    rows, numbers = [], {}
    for name, part in parts.items():
        clips = len(np.unique(part.clips))
        text = f"{len(part.labels):,} images, {clips:,} independent groups ({part.copy})"
        rows.append(("to train" if name == "train" else "held out", text))
        numbers[name] = {"frames": len(part.labels), "clips": clips, "copy": part.copy}
    rows.append(("next", f"rrise-train init WORKSPACE --data {target}"))
    summary(f"{layout}, {len(parts['train'].class_names)} classes", rows, numbers, as_json)


@main.command()
@click.argument("source", type=FOLDER)
@click.argument("target", type=FOLDER)
@click.option("--settings", type=FOLDER, required=True, help="rrise.toml of the other row.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@run_command
def variant(source: Path, target: Path, settings: Path, as_json: bool) -> None:
    """Make the workspace TARGET with base classifier, splits and counts of SOURCE, and the surrogate of other settings."""
    make_variant(source, target, settings)
    summary("workspace", [("next", f"rrise-train run {target}")], {"workspace": str(target)}, as_json)


@main.command()
@click.argument("paths", type=FOLDER, nargs=-1, required=True)
@click.option("--out", type=FOLDER, help="Folder for table.md, net.json, net.svg and the scores.")
@click.option("--errors", default=",".join(ERRORS), show_default=True, help="Error levels.")
@click.option("--radii", default="", help="Wanted radii, as in 0.25,0.5, instead of those of the settings.")
@click.option(
    "--rival", "rivals", type=FOLDER, multiple=True, help="Folder that examples/lipschitz.py wrote."
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@run_command
def table(
    paths: tuple[Path, ...],
    out: Path | None,
    errors: str,
    radii: str,
    rivals: tuple[Path, ...],
    as_json: bool,
) -> None:
    """One table over finished workspaces that share base classifier and test frames, or over a published table's folder."""
    methods = load_methods(paths)
    if wanted := _numbers(radii):
        methods = [with_radii(method, wanted) for method in methods]
    columns = wanted or table_radii(methods)
    others = load_rivals(rivals, paths)
    rows = make_rows(methods, tuple(errors.split(",")), columns, others)
    if out is not None:
        write(out, methods, rows, columns, others)
    if as_json:
        click.echo(json.dumps({"radii": columns, "rows": [asdict(row) for row in rows]}))
    else:
        click.echo(page(methods, rows, columns, facts(methods[0], columns), others))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        found = tuple(sorted(float(part) for part in text.split(",") if part))
    except ValueError:
        found = (-1.0,)
    if any(not radius > 0 for radius in found):
        raise TrainerError(f"--radii: got {text!r}, expected positive numbers such as 0.25,0.5")
    return found


if __name__ == "__main__":
    main()
