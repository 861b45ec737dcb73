"""Another surrogate on a base classifier that was trained and counted already: a workspace that begins with all of that."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

from rrise.calibration.storage.files import atomic_file, read_json, write_json
from rrise.calibration.tables.cost import CostLedger
from rrise.trainer.errors import TrainerError
from rrise.trainer.settings.config import Config, load_config
from rrise.trainer.settings.text import commented

SHARED = ("splits", "preprocess", "smoothing", "base", "targets")
"""Sections of rrise.toml that base classifier, splits and counts were made from."""

COPIED = (
    "splits.npz",
    "rrise.resolved.json",
    "targets.zarr",
    "references",
    "certify.npz",
    "attempts.jsonl",
    "cost.json",
    "cache",
)
"""The log of attempts as well: whoever tries another surrogate on the same calibration counts has tried once more."""


def make_variant(source: Path, target: Path, settings: Path) -> None:
    """Make `target` with the base classifier, splits and counts of `source` and the surrogate and guarantee of `settings`.

    `rrise-train run TARGET` then trains the surrogate, and draws what `source` had not drawn.

    Raises TrainerError where the settings differ in anything that base classifier or counts depend on, where the source
    has no base classifier, or where the target is there already.
    """
    mine, asked = load_config(source / "rrise.toml"), load_config(settings)
    _check_shared(mine, asked, source, settings)
    if target.exists():
        raise TrainerError(f"{target}: exists; choose another folder")
    if not (source / "base.safetensors").is_file():
        raise TrainerError(f"{source}: no base classifier in it; run `rrise-train base {source}` first")
    data = replace(
        mine.data, source=_place(mine.data.source, source), held_out=_place(mine.data.held_out, source)
    )
    config = replace(asked, data=data)
    for path in (*sorted(source.glob("base.*")), *(source / name for name in COPIED)):
        _copy(path, target / path.name)
    if (target / "cost.json").exists():
        spent = CostLedger.load(target / "cost.json").entries
        kept = tuple(entry for entry in spent if not entry.stage.startswith("surrogate"))
        CostLedger(kept).save(target / "cost.json")
    resolved = target / "rrise.resolved.json"
    if resolved.exists():
        write_json(resolved, {**read_json(resolved, "settings"), "config": config.to_json()})
    with atomic_file(target / "rrise.toml", "w") as file:
        file.write(commented(config))


def _place(name: str, workspace: Path) -> str:
    """A data source, which may be relative to its workspace, from anywhere."""
    if name in ("", "digits") or "://" in name:
        return name
    return str((workspace / name).resolve())


def _check_shared(mine: Config, asked: Config, source: Path, settings: Path) -> None:
    differing = [
        f"[{section}] {key} = {value!r}, {source} has {getattr(getattr(mine, section), key)!r}"
        for section in SHARED
        for key, value in asdict(getattr(asked, section)).items()
        if value != getattr(getattr(mine, section), key)
    ]
    # References are bounds at beta; a recipe's strength was chosen for the radius.
    for key in ("beta", *(("radius", "weights") if mine.base.recipe != "gaussian" else ())):
        wanted, got = getattr(mine.guarantee, key), getattr(asked.guarantee, key)
        if got != wanted:
            differing.append(f"[guarantee] {key} = {got!r}, {source} has {wanted!r}")
    if differing:
        raise TrainerError(
            f"{settings}: {'; '.join(differing)}; expected the same, since base classifier and counts were made with them"
        )


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
