"""WebDataset shards: .tar files with an image and its class under one key; read in place, with nothing unpacked."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rrise.calibration.images.files import SUFFIXES
from rrise.calibration.storage.files import parse_json
from rrise.trainer.data.readers.pictures import ImageFiles, Place
from rrise.trainer.data.readers.source import DataSource, clip_numbers, files_stamp, held_out_of, in_order
from rrise.trainer.errors import TrainerError

EXPECTED = (
    "expected uncompressed shards in which each key has an image and KEY.cls (a class number or name) or KEY.json with "
    '"label" and, where there are clips, "clip"'
)


@dataclass
class _Sample:
    image: Place | None = None
    label: str = ""
    clip: str = ""
    part: str = ""
    others: list[str] = field(default_factory=list)


def open_shards(root: Path) -> DataSource:
    """The samples of all .tar files of a folder, or of one file, in order of names.

    Classes are numbers or names; a file classes.txt beside the shards, one name a line, names the numbers. Shards called
    train-... and val-... or test-... are those parts.
    """
    shards = [root] if root.is_file() else sorted(root.glob("*.tar"))
    samples = [sample for shard in shards for sample in _samples(shard)]
    if not samples:
        raise TrainerError(f"{root}: got no samples in {len(shards)} shards; {EXPECTED}")
    found = in_order(sample.label for sample in samples)
    names, words = _class_names(root, found), {sample.part for sample in samples}
    try:
        held_out = held_out_of([sample.part for sample in samples], str(root)) if len(words) > 1 else None
    except TrainerError:
        held_out = None  # names of shards that say nothing about parts
    clips = [sample.clip or number for number, sample in enumerate(samples)]
    return DataSource(
        ImageFiles([sample.image for sample in samples if sample.image]),
        np.array([found.index(sample.label) for sample in samples], np.int64),
        names,
        clip_numbers(clips),
        files_stamp(shards, shards[0].parent),
        held_out,
    )


def _samples(shard: Path) -> Iterator[_Sample]:
    part = shard.stem.split("-")[0]
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isfile():
                    _take(archive, shard, member, samples, part)
    except (tarfile.TarError, OSError, ValueError, TypeError) as error:
        raise TrainerError(f"{shard}: cannot be read as a shard ({error}); {EXPECTED}") from error
    for key, sample in samples.items():
        if sample.image is None or not sample.label:
            what = "image" if sample.image is None else "class"
            raise TrainerError(f"{shard}: key {key!r} has no {what}, got {sample.others}; {EXPECTED}")
        yield sample


def _take(
    archive: tarfile.TarFile, shard: Path, member: tarfile.TarInfo, samples: dict[str, _Sample], part: str
) -> None:
    folder, _, name = member.name.rpartition("/")
    stem, _, extension = name.partition(".")
    extension = extension.lower()
    sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, _Sample(part=part))
    sample.others.append(extension)
    if f".{extension}" in SUFFIXES:
        if sample.image is not None:
            raise ValueError(f"{member.name}: a second image of one key")
        sample.image = Place(shard, member.offset_data, member.size, member.name)
    elif extension in ("cls", "json"):
        file = archive.extractfile(member)
        text = file.read().decode("utf-8") if file else ""
        if extension == "cls":
            sample.label = text.strip()
        else:
            record = dict(parse_json(text))
            sample.label = str(record.get("label", record.get("cls", sample.label)))
            sample.clip = str(record.get("clip", ""))


def _class_names(root: Path, found: list[str]) -> tuple[str, ...]:
    listing = (root if root.is_dir() else root.parent) / "classes.txt"
    if not listing.is_file():
        return tuple(found)
    names = listing.read_text(encoding="utf-8-sig").split("\n")
    names = [name.strip() for name in names if name.strip()]
    try:
        return tuple(names[int(label)] for label in found)
    except (ValueError, IndexError) as error:
        raise TrainerError(
            f"{listing}: got {len(names)} names, expected one for each class number up to {found[-1]!r} of the shards"
        ) from error
