"""Five disjoint splits (train, tuning, calibration, verification, test) that no frame or clip straddles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from rrise.calibration.storage.digests import combined_digest
from rrise.calibration.storage.files import read_arrays, write_arrays
from rrise.trainer.data import Dataset
from rrise.trainer.errors import TrainerError

SPLIT_NAMES = ("train", "tuning", "calibration", "verification", "test")


@dataclass(frozen=True)
class Splits:
    """Frame indices (int64, ascending) of each split; clips int64 [n] and digests S64 [n] of all frames."""

    train: np.ndarray
    tuning: np.ndarray
    calibration: np.ndarray
    verification: np.ndarray
    test: np.ndarray
    clips: np.ndarray
    digests: np.ndarray

    def indices(self, name: str) -> np.ndarray:
        """The frame indices of the split called `name`."""
        if name not in SPLIT_NAMES:
            raise TrainerError(f"split {name!r}: expected one of {', '.join(SPLIT_NAMES)}")
        return np.asarray(getattr(self, name))

    def digest(self, name: str) -> str:
        """One digest over the ordered frame digests of a split."""
        return combined_digest(self.digests[self.indices(name)])

    def save(self, path: Path, made_from: Mapping[str, Any]) -> None:
        """Write all arrays to an .npz file, with what they were made from."""
        write_arrays(path, {field.name: getattr(self, field.name) for field in fields(self)}, dict(made_from))

    @staticmethod
    def load(path: Path, made_from: Mapping[str, Any]) -> Splits:
        """Read what `save` wrote; refused where it was made from other data or other sizes."""
        names = [field.name for field in fields(Splits)]
        arrays, meta = read_arrays(path, "splits", names)
        if meta != dict(made_from):
            changed = [key for key in made_from if meta.get(key) != made_from[key]]
            raise TrainerError(
                f"{path}: made from other {' and '.join(changed)}: got {[meta.get(key) for key in changed]}, expected "
                f"{[made_from[key] for key in changed]}; restore the data and [splits], or start a new workspace"
            )
        return Splits(**{name: arrays[name] for name in names})


def make_splits(dataset: Dataset, sizes: Mapping[str, int | float], seed: int) -> Splits:
    """Draw the splits: `sizes` gives frames (int) or shares of all frames (float in (0, 1)); train gets the rest.

    Frames with equal bytes and frames of one clip are joined into groups (the clips of the result), and a
    group goes to one split as a whole, so a split may exceed its size by the rest of its last group. A frame that
    occurs several times is kept once. Groups are drawn without looking at labels, which keeps frames of all splits
    exchangeable.
    """
    digests = dataset.digests
    clips = join_groups(dataset.clips, digests)
    wanted = _wanted_sizes(sizes, len(dataset))
    owner = _assign(clips, wanted, np.random.default_rng(seed))
    _, first = np.unique(digests, return_index=True)
    kept = np.zeros(len(digests), bool)
    kept[first] = True
    indices = {name: np.flatnonzero(kept & (owner == number)) for number, name in enumerate(SPLIT_NAMES)}
    for name, index in indices.items():
        if not len(index):
            raise TrainerError(
                f"split {name!r} is empty: {len(dataset)} frames in {len(np.unique(clips))} groups (clips and "
                f"repeated frames stay together) for {wanted}; lower the sizes in [splits] or add frames"
            )
    return Splits(**indices, clips=clips, digests=digests)


def join_groups(clips: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Group numbers int64 [n]: the finest grouping in which equal clips and equal digests share a group."""
    _, clip = np.unique(clips, return_inverse=True)
    _, content = np.unique(digests, return_inverse=True)
    group = clip.astype(np.int64)
    while True:
        before = group
        for key in (content, clip):
            lowest = np.full(key.max() + 1, len(group), np.int64)
            np.minimum.at(lowest, key, group)
            group = lowest[key]
        if np.array_equal(group, before):
            return group


def _wanted_sizes(sizes: Mapping[str, int | float], count: int) -> dict[str, int]:
    wanted = {}
    for name in SPLIT_NAMES[1:]:
        size = sizes[name]
        wanted[name] = round(size * count) if isinstance(size, float) else int(size)
    if sum(wanted.values()) >= count:
        raise TrainerError(
            f"splits: {wanted} need {sum(wanted.values())} frames and leave none of {count} for training; "
            "lower the sizes in [splits] (shares such as 0.1 work for every data set) or add frames"
        )
    return wanted


def _assign(clips: np.ndarray, wanted: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    groups, sizes = np.unique(clips, return_counts=True)
    order = rng.permutation(len(groups))
    ends = np.cumsum(sizes[order])
    owner_of_group = np.zeros(len(groups), np.int64)
    start = 0
    for number, name in enumerate(SPLIT_NAMES[1:], start=1):
        filled = ends[start - 1] if start else 0
        stop = min(int(np.searchsorted(ends, filled + wanted[name])) + 1, len(groups))
        owner_of_group[order[start:stop]] = number
        start = stop
    return owner_of_group[np.searchsorted(groups, clips)]
