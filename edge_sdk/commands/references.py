"""`rrise-edge references`: a reference pack as a folder of pictures, and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Optional

import click

from rrise.calibration.console import Progress, SuggestingGroup, json_option, run_command, summary

_path = click.Path(path_type=Path)


@click.group(cls=SuggestingGroup)
def references() -> None:
    """Turn reference packs into folders of lossless PNG, and back."""


@references.command("export")
@click.argument("pack", type=_path)
@click.argument("folder", type=_path)
@click.option("--encoding", help="Of the frames: mono8, rgb8 or bgr8. [default: by the number of channels]")
@json_option
@run_command
def export_pack(pack: Path, folder: Path, encoding: Optional[str], json_flag: bool) -> None:
    """Write the frames of PACK (.npz) to FOLDER as PNG, and their counts beside them."""
    from rrise.calibration.tables.references import References
    from rrise.edge_sdk.frames.png_pack import export_png

    loaded = References.load(pack)
    with Progress(len(loaded), "frames", "writing") as progress:
        size = export_png(loaded, folder, encoding=encoding, advance=progress.advance)
    rows = [("split", loaded.split), ("size", size.text()), ("frames digest", loaded.frames_digest)]
    as_json = {**asdict(size), "split": loaded.split, "frames_digest": loaded.frames_digest}
    summary(f"references in {folder}", rows, as_json, json_flag)


@references.command("import")
@click.argument("folder", type=_path)
@click.argument("pack", type=_path)
@json_option
@run_command
def import_pack(folder: Path, pack: Path, json_flag: bool) -> None:
    """Check the pictures of FOLDER against their digests and write them as PACK (.npz)."""
    from rrise.edge_sdk.errors import EdgeError
    from rrise.edge_sdk.frames.png_pack import import_png

    if pack.exists():
        raise EdgeError(f"{pack}: got a file there already, expected a new name")
    loaded = import_png(folder)
    loaded.save(pack)
    size = pack.stat().st_size
    rows = [
        ("split", loaded.split),
        ("size", f"{len(loaded)} raw camera images, {size / 1e6:.3g} MB"),
        ("frames digest", loaded.frames_digest),
    ]
    as_json = {
        "frames": len(loaded),
        "bytes": size,
        "split": loaded.split,
        "frames_digest": loaded.frames_digest,
    }
    summary(f"references {pack}", rows, as_json, json_flag)
