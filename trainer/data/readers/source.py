"""What every reader returns: pictures that are read one by one, with their labels, clips and official splits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from rrise.calibration.storage.digests import combined_digest, json_digest
from rrise.trainer.data.frames import check_labels
from rrise.trainer.errors import TrainerError

TRAIN_WORDS = ("train", "training")
HELD_OUT_WORDS = ("val", "valid", "validation", "dev", "test", "testing", "held_out", "held-out")
"""What data sets call the parts that nobody trains on. They become one pool, from which tuning, calibration,
verification and test are drawn at random, because calibration needs frames like those that are judged later."""


@dataclass(frozen=True)
class Header:
    """What can be said of a picture without decoding it: size in pixels as it will be seen, and whether it is grey."""

    height: int
    width: int
    grey: bool


class Pictures(Protocol):
    """Pictures of any size, by number. Used in several processes at once, which are forked."""

    def __len__(self) -> int: ...

    def header(self, number: int) -> Header:
        """Size and colour of a picture; TrainerError where it cannot be used."""

    def read(self, number: int) -> np.ndarray:
        """uint8 [h, w] or [h, w, 3] (RGB); TrainerError where it cannot be used."""

    def where(self, number: int) -> str:
        """How a message names the picture."""


@dataclass(frozen=True)
class DataSource:
    """A data set before any picture is decoded.

    labels int64 [n]; class_names K names; clips int64 [n]; held_out bool [n] or None: see `Dataset`.
    stamp: text that changes when the files do (names, sizes and times of change).
    file_order: pictures of files are RGB whatever the camera delivers, so that they are turned for a bgr8 camera;
        arrays are taken as they are.
    """

    pictures: Pictures
    labels: np.ndarray
    class_names: tuple[str, ...]
    clips: np.ndarray
    stamp: str
    held_out: np.ndarray | None = None
    file_order: bool = True

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.pictures), self.class_names)

    def __len__(self) -> int:
        return len(self.pictures)


class Joined:
    """The pictures of two sources, one after the other."""

    def __init__(self, first: Pictures, second: Pictures) -> None:
        self._parts, self._start = (first, second), len(first)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @property
    def pieces(self) -> list[range] | None:
        """Those of the parts, where both have any."""
        first, second = (getattr(part, "pieces", None) for part in self._parts)
        if first is None or second is None:
            return None
        return [*first, *(range(item.start + self._start, item.stop + self._start) for item in second)]

    def _at(self, number: int) -> tuple[Pictures, int]:
        return (self._parts[0], number) if number < self._start else (self._parts[1], number - self._start)

    def header(self, number: int) -> Header:
        part, inner = self._at(number)
        return part.header(inner)

    def read(self, number: int) -> np.ndarray:
        part, inner = self._at(number)
        return part.read(inner)

    def where(self, number: int) -> str:
        part, inner = self._at(number)
        return part.where(inner)


def join_held_out(train: DataSource, held_out: DataSource) -> DataSource:
    """One source whose train split is `train` and whose other splits are drawn from `held_out` alone."""
    for source, name in ((train, "[data] source"), (held_out, "[data] held_out")):
        if source.held_out is not None:
            raise TrainerError(
                f"{name} has a train part and held-out parts of its own, beside [data] held_out; give the folder of "
                "one part, such as DATA/train, or leave held_out empty"
            )
    strange = [name for name in held_out.class_names if name not in train.class_names]
    if strange or train.file_order != held_out.file_order:
        why = (
            f"classes {strange} of the held-out data"
            if strange
            else "pictures from files and arrays in one data set"
        )
        raise TrainerError(
            f"[data] held_out: got {why}; expected the kind of data and the classes {list(train.class_names)} of "
            "[data] source"
        )
    renumbered = np.array([train.class_names.index(name) for name in held_out.class_names], np.int64)
    after = int(train.clips.max()) + 1 - int(held_out.clips.min())
    return DataSource(
        Joined(train.pictures, held_out.pictures),
        np.concatenate([train.labels, renumbered[held_out.labels]]),
        train.class_names,
        np.concatenate([train.clips, held_out.clips + after]),
        combined_digest([train.stamp, held_out.stamp]),
        np.repeat([False, True], [len(train), len(held_out)]),
        train.file_order,
    )


def files_stamp(paths: Iterable[Path], root: Path) -> str:
    """Digest of names below `root`, sizes and times of change."""
    seen = []
    for path in dict.fromkeys(paths):
        found = path.stat()
        name = path.relative_to(root) if path.is_relative_to(root) else path
        seen.append([str(name), found.st_size, found.st_mtime_ns])
    return json_digest(seen)


def in_order(names: Iterable[str]) -> list[str]:
    """Names in alphabetical order; as numbers where all of them are whole numbers ("2" before "10").

    >>> in_order(["10", "9", "1"]), in_order(["b", "10", "9"])
    (['1', '9', '10'], ['10', '9', 'b'])
    """
    unique = sorted(set(names))
    numbers = all(re.fullmatch(r"\d+", name) for name in unique)
    return sorted(unique, key=int) if numbers else unique


def clip_numbers(names: Sequence[object]) -> np.ndarray:
    """int64 [n]: equal names, equal numbers, counted from 0 in order of first appearance."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], np.int64)


def is_held_out(word: str, where: str) -> bool:
    """Whether a part called `word` is held out; a word that says neither is refused."""
    if word.lower() in TRAIN_WORDS:
        return False
    if word.lower() in HELD_OUT_WORDS:
        return True
    raise TrainerError(f"{where}: split {word!r}, expected train, or one of {', '.join(HELD_OUT_WORDS)}")


def held_out_of(words: Sequence[str], where: str) -> np.ndarray | None:
    """bool [n] of the parts that a data set names; None where it names only one."""
    flags = {word: is_held_out(word, where) for word in dict.fromkeys(words)}
    if len(set(flags.values())) < 2:
        return None
    return np.array([flags[word] for word in words])
