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
LEFT_OUT = len(SPLIT_NAMES)
"""The number of what belongs to no split."""


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
    """Draw the splits: `sizes` gives frames (int) or shares (float in (0, 1)) of the frames that are drawn from.

    These are all frames, and train gets the rest; or, where the data name held-out frames, those alone, and train gets all
    others. Frames with equal bytes and frames of one clip are joined into groups (the clips of the result), and a
    group goes to one split as a whole, so a split may exceed its size by the rest of its last group. A frame that
    occurs several times is kept once. A held-out frame whose group has a frame of the train part is in no split.

    Calibration, verification and test are drawn without looking at labels: the promise rests on calibration frames being
    independent draws like new ones, and a stratified draw is none. Labels decide only between train and tuning, where a
    class that one of them would lack is given to it.
    """
    digests = dataset.digests
    clips = join_groups(dataset.clips, digests)
    pool = _pool(dataset, clips)
    wanted = _wanted_sizes(sizes, int(pool.sum()), dataset.held_out is not None)
    owner = np.where(_trained(dataset), 0, LEFT_OUT)
    rest = 0 if dataset.held_out is None else LEFT_OUT
    owner[pool] = _assign(clips[pool], wanted, np.random.default_rng(seed), rest)
    if dataset.held_out is None:
        _share_rare_classes(owner, dataset.labels, clips)
    # Of equal frames the first is kept; of one in both parts it is the copy of the train part, wherever it stands.
    order = np.argsort(~_trained(dataset), kind="stable")
    kept = np.zeros(len(digests), bool)
    kept[order[np.unique(digests[order], return_index=True)[1]]] = True
    indices = {name: np.flatnonzero(kept & (owner == number)) for number, name in enumerate(SPLIT_NAMES)}
    for name, index in indices.items():
        if not len(index):
            raise TrainerError(
                f"split {name!r} is empty: {len(dataset)} frames in {len(np.unique(clips))} groups (clips and "
                f"repeated frames stay together) for {wanted}; lower the sizes in [splits] or add frames"
            )
    return Splits(**indices, clips=clips, digests=digests)


def _trained(dataset: Dataset) -> np.ndarray:
    """bool [n]: the frames that belong to the train part in any case."""
    return np.zeros(len(dataset), bool) if dataset.held_out is None else ~dataset.held_out


def _pool(dataset: Dataset, clips: np.ndarray) -> np.ndarray:
    """bool [n]: the frames that are drawn from."""
    trained = _trained(dataset)
    return ~np.isin(clips, clips[trained]) if trained.any() else ~trained


def _share_rare_classes(owner: np.ndarray, labels: np.ndarray, clips: np.ndarray) -> None:
    """Give train, then tuning, one group of each class that it lacks, from the other of the two, in place."""
    train, tuning = SPLIT_NAMES.index("train"), SPLIT_NAMES.index("tuning")
    for lacking, other, keep in ((train, tuning, 0), (tuning, train, 1)):
        for label in np.setdiff1d(labels, labels[owner == lacking]):
            groups = np.unique(clips[(owner == other) & (labels == label)])
            if len(groups) > keep:
                owner[clips == groups[0]] = lacking
                # In exchange for a group of the commonest class there, so that sizes stay as they were asked.
                common = np.bincount(labels[owner == lacking]).argmax()
                given = np.unique(clips[(owner == lacking) & (labels == common) & (clips != groups[0])])
                if common != label and len(given) > 1:
                    owner[clips == given[0]] = other


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


def _wanted_sizes(sizes: Mapping[str, int | float], count: int, held_out: bool) -> dict[str, int]:
    wanted = {}
    for name in SPLIT_NAMES[1:]:
        size = sizes[name]
        wanted[name] = round(size * count) if isinstance(size, float) else int(size)
    needed = sum(wanted.values())
    if held_out and needed > count:
        raise TrainerError(
            f"splits: {wanted} need {needed} frames, and {count} are held out; lower the sizes in [splits] (shares such as "
            "0.25 work for every data set) or add held-out frames"
        )
    if not held_out and needed >= count:
        raise TrainerError(
            f"splits: {wanted} need {needed} frames and leave none of {count} for training; "
            "lower the sizes in [splits] (shares such as 0.1 work for every data set) or add frames"
        )
    return wanted


def _assign(
    clips: np.ndarray, wanted: dict[str, int], rng: np.random.Generator, unused: int = 0
) -> np.ndarray:
    """The split number of each frame; what is left after all sizes are met gets the number `unused`."""
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
    owner_of_group[order[start:]] = unused
    return owner_of_group[np.searchsorted(groups, clips)]
