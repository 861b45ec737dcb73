"""A folder with one sub-folder per class, or with train/ and val/ or test/ above those."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rrise.calibration.images.files import SUFFIXES
from rrise.calibration.recordings.videos import VIDEO_SUFFIXES
from rrise.trainer.data.readers.pictures import ImageFiles, Place, clip_pattern, is_image
from rrise.trainer.data.readers.recorded import Part, Taking, recorded_source
from rrise.trainer.data.readers.recordings import Recording, find_recordings
from rrise.trainer.data.readers.source import (
    HELD_OUT_WORDS,
    TRAIN_WORDS,
    DataSource,
    clip_numbers,
    files_stamp,
    held_out_of,
    in_order,
)
from rrise.trainer.errors import TrainerError


@dataclass(frozen=True)
class _Item:
    path: Path
    part: str
    label: str
    clip: tuple[str, ...]
    recorded: bool


def open_folder(root: Path, clips: str = "", *, topic: str = "", taking: Taking | None = None) -> DataSource:
    """The images, or the recordings, below `root`, one sub-folder for each class, whose name is the name of the class.

    Classes are in alphabetical order, or in that of numbers where all names are numbers. Images in a folder inside a
    class folder are one clip, and so is every recording; `clips` says which file names belong together (see
    `clip_pattern`), within their folder. topic, taking: of recordings.
    """
    parts = _parts(root)
    items = [item for name, folder in parts.items() for item in _items(folder, name, clips)]
    names = in_order(item.label for item in items)
    _check_classes(items, list(parts))
    recorded = [item for item in items if item.recorded]
    if recorded:
        _check_one_kind(items, recorded)
        cut = [Part(Recording(item.path, topic), item.label, item.clip, item.part) for item in items]
        return recorded_source(cut, root, str(root), taking or Taking())
    return DataSource(
        ImageFiles([Place(item.path) for item in items]),
        np.array([names.index(item.label) for item in items], np.int64),
        tuple(names),
        clip_numbers([item.clip for item in items]),
        files_stamp([item.path for item in items], root),
        held_out_of([item.part for item in items], str(root)) if len(parts) > 1 else None,
    )


def _parts(root: Path) -> dict[str, Path]:
    """The parts of an official layout by name, or the whole folder under the name ""."""
    folders = {folder.name: folder for folder in _folders(root)}
    words = {name.lower() for name in folders}
    official = words <= {*TRAIN_WORDS, *HELD_OUT_WORDS} and words & set(TRAIN_WORDS) and len(words) > 1
    return folders if official else {"": root}


def _items(folder: Path, part: str, clips: str) -> Iterator[_Item]:
    classes = _folders(folder)
    if not classes:
        raise TrainerError(
            f"{folder}: got no sub-folders, expected one sub-folder of images or recordings per class"
        )
    clip_of = clip_pattern(clips)
    for label in classes:
        recordings = set(find_recordings(label))
        images = {
            path
            for path in label.rglob("*")
            if is_image(path) and path.is_file() and not recordings.intersection(path.parents)
        }
        if not images and not recordings:
            raise TrainerError(
                f"{label}: got no images and no recordings, expected at least one of {', '.join(sorted(SUFFIXES))}, or videos "
                f"({', '.join(VIDEO_SUFFIXES)}), ROS bags or MCAP files; add some or remove the empty class folder"
            )
        for path in sorted(images | recordings):
            inner, recorded = path.relative_to(label).parts[:-1], path in recordings
            alone = recorded or not inner
            own = (clip_of(path.stem),) if clips else ("", path.name) if alone else ()
            yield _Item(path, part, label.name, (part, label.name, *inner, *own), recorded)


def _check_one_kind(items: list[_Item], recorded: list[_Item]) -> None:
    images = [item.path for item in items if not item.recorded]
    if images:
        raise TrainerError(
            f"got {len(images)} images (the first {images[0]}) and {len(recorded)} recordings (the first {recorded[0].path}) in "
            "one data set, expected one kind; move the others away"
        )


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _check_classes(items: list[_Item], parts: list[str]) -> None:
    classes = {part: {item.label for item in items if item.part == part} for part in parts}
    everything = set().union(*classes.values())
    for part, names in classes.items():
        if names != everything:
            raise TrainerError(
                f"part {part!r} has no class {sorted(everything - names)}: expected the same class folders in "
                f"{', '.join(parts)}"
            )
