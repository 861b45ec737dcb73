"""The entry point: `python -m examples.reproduce run|third-party|pack`, from the root of the checkout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from examples.reproduce.clock import Clock, OutOfTime
from examples.reproduce.data import DATASETS, load_source
from examples.reproduce.net import ERRORS, recompute, write_net
from examples.reproduce.rows import Row
from examples.reproduce.run import Run
from examples.reproduce.settings import Settings, preset
from examples.reproduce.table import make_table
from examples.reproduce.third_party import LOSSES, ThirdParty
from examples.reproduce.third_party_counts import load_counts
from examples.reproduce.third_party_table import run_third_party
from rrise.calibration.console import SuggestingGroup, run_command, summary
from rrise.trainer.errors import TrainerError

FOLDER = click.Path(path_type=Path)


@click.group(cls=SuggestingGroup, help=__doc__)
def main() -> None:
    """Reproduce RRISE's headline results; users bring their own copies of the data."""


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of both experiments."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON."),
        click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ..."),
        click.option(
            "--minutes", type=float, help="Stop cleanly after so many minutes; run again to continue."
        ),
        click.option("--out", type=FOLDER, required=True, help="Folder of this run."),
        click.option("--data", type=FOLDER, help="Folder of your own copy of the data set."),
    ):
        command = option(command)
    return command


@main.command()
@_shared
@click.option("--dataset", type=click.Choice(DATASETS), default="cifar10", show_default=True)
@click.option("--preset", "name", default="small", show_default=True, help="small, medium or full.")
@click.option("--sigma", default=0.25, show_default=True, help="Noise level, in [0, 1] pixel units.")
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=VALUE", help="Replace one setting of the preset."
)
@run_command
def run(
    data: Path | None,
    out: Path,
    minutes: float | None,
    device: str,
    as_json: bool,
    dataset: str,
    name: str,
    sigma: float,
    changes: tuple[str, ...],
) -> None:
    """Base classifier, counts, every surrogate and the whole table."""
    clock = Clock(minutes)
    settings = preset(dataset, name, sigma)
    settings = replace(settings, **parse_changes(settings, changes))
    source = load_source(dataset, data, settings.seed)

    def work() -> Sequence[Row]:
        return make_table(Run(out, settings, source, _device(device), clock))["Methods"]

    _finish(work, out, as_json)


@main.command("third-party")
@_shared
@click.option("--counts", type=FOLDER, required=True, help="The .npz of class counts that others drew.")
@click.option("--loss", type=click.Choice(LOSSES), default="ce", show_default=True)
@click.option("--members", default=1, show_default=True, help="Networks in the ensemble.")
@click.option(
    "--teacher", type=FOLDER, help="Folder of a finished run, whose surrogate labels this one's views."
)
@click.option("--epochs", default=20, show_default=True)
@click.option("--width", default=16, show_default=True, help="Channels of the first of three stages.")
@click.option("--depth", default=1, show_default=True, help="Residual blocks per stage.")
@click.option("--mix", default=0.5, show_default=True, help="Share of frames blended with another.")
@click.option("--augment/--no-augment", default=True, show_default=True, help="Shifts and mirror images.")
@click.option(
    "--prior/--no-prior", default=True, show_default=True, help="Accelerated Smoothing's recipe too."
)
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Replace any other setting.")
@run_command
def third_party(
    data: Path | None,
    out: Path,
    minutes: float | None,
    device: str,
    as_json: bool,
    counts: Path,
    loss: str,
    members: int,
    teacher: Path | None,
    epochs: int,
    width: int,
    depth: int,
    mix: float,
    augment: bool,
    prior: bool,
    changes: tuple[str, ...],
) -> None:
    """A surrogate of a base classifier that is known by its class counts alone (CIFAR-10)."""
    clock = Clock(minutes)
    asked = ThirdParty(
        widths=(width, 2 * width, 4 * width),
        blocks=(depth,) * 3,
        loss=loss,
        members=members,
        epochs=epochs,
        mix=mix,
        shift=4 if augment else 0,
        flip=augment,
        prior=prior,
    )
    asked = replace(asked, **parse_changes(asked, changes))
    source, drawn = load_source("cifar10", data), load_counts(counts, asked.sigma)

    def work() -> Sequence[Row]:
        return run_third_party(out, asked, source, drawn, _device(device), clock, teacher)

    _finish(work, out, as_json)


@main.command()
@click.option("--dataset", type=click.Choice(DATASETS), default="cifar10", show_default=True)
@click.option("--data", type=FOLDER, required=True, help="Folder of your own copy.")
@click.option("--out", type=FOLDER, required=True, help="Folder of the parts.")
@click.option("--parts", default=3, show_default=True, help="Files of the training images.")
@run_command
def pack(dataset: str, data: Path, out: Path, parts: int) -> None:
    """Write a data set as a few .npz files, for machines that take only so many bytes at a time."""
    source = load_source(dataset, data)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for split, images, count in (("train", source.train, parts), ("test", source.held_out, 1)):
        for number, rows in enumerate(np.array_split(np.arange(len(images.labels)), count)):
            path = out / f"{dataset}_{split}_{number}.npz"
            np.savez_compressed(
                path,
                images=images.frames[rows],
                labels=images.labels[rows],
                class_names=np.array(images.class_names),
            )
            written.append((path.name, f"{len(rows):,} images, {path.stat().st_size / 2**20:.1f} MiB"))
    summary("Packed", written, {}, False)


@main.command("net")
@click.argument(
    "folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--errors", default=",".join(ERRORS), show_default=True, help="Error levels, side by side.")
@click.option("--json", "as_json", is_flag=True)
@run_command
def net(folders: tuple[Path, ...], errors: str, as_json: bool) -> None:
    """Finished runs again, net of wrong certificates: net.json and net.md in each folder, from the scores kept there."""
    shown, found = [], {}
    for folder in folders:
        rows = recompute(folder, tuple(errors.split(",")))
        page = write_net(folder, rows)
        found[str(folder)] = [asdict(row) for row in rows]
        for row in rows:
            if row.net is not None:
                text = f"gross {100 * row.gross.value:.1f}, net {100 * row.net.value:.1f}"
                shown.append((f"{folder.name}: {row.method}, eps {row.error}, r = {row.radius:g}", text))
        shown.append(("table", str(page)))
    summary("Certified accuracy in percent", shown, found, as_json)


def parse_changes(settings: Settings | ThirdParty, changes: Sequence[str]) -> Mapping[str, Any]:
    """NAME=VALUE pairs as fields of `settings`, converted to the type that each has; lists are separated by commas."""
    known = {field.name: getattr(settings, field.name) for field in fields(settings)}
    found: dict[str, Any] = {}
    for change in changes:
        name, separator, text = change.partition("=")
        if name not in known or not separator:
            raise TrainerError(f"--set: got {change!r}, expected NAME=VALUE with one of {', '.join(known)}")
        try:
            found[name] = _converted(text, known[name])
        except ValueError as error:
            raise TrainerError(
                f"--set {name}: got {text!r}, expected a value like {known[name]!r}"
            ) from error
    return found


def _converted(text: str, like: Any) -> Any:
    if isinstance(like, tuple):
        item = like[0] if like else 0.0
        return tuple(_converted(part, item) for part in text.split(",") if part)
    if isinstance(like, bool):
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    return type(like)(text)


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainerError(f"--device {name}: PyTorch sees no GPU here; use --device cpu")
    return device


def _finish(work: Callable[[], Sequence[Row]], out: Path, as_json: bool) -> None:
    """Run, and print the table's first columns or where the work stopped."""
    try:
        rows = work()
    except OutOfTime as stopped:
        summary(
            "To be continued", [("stopped", str(stopped)), ("folder", str(out))], {"finished": False}, as_json
        )
        return
    shown = [
        (
            f"{row.method} ({row.guarantee})",
            "  ".join(
                f"{radius:g}: {100 * share.value:.1f}" for radius, share in zip(row.radii, row.accuracy)
            ),
        )
        for row in rows
    ]
    shown.append(("table", str(out / "table.md")))
    summary(
        "Certified accuracy in percent at each radius",
        shown,
        {"finished": True, "rows": [row.to_json() for row in rows]},
        as_json,
    )


if __name__ == "__main__":
    main()
