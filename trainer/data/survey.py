"""What a person should know of a data set before hours are spent on it: classes and splits, repeats, contradictions."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rrise.trainer.data.catalogue import Catalogue
from rrise.trainer.data.splits import SPLIT_NAMES, Splits

SHOWN_CLASSES, FEW_TRAINED = 12, 10


@dataclass(frozen=True)
class Survey:
    """classes: name and frames in each of the five splits, smallest classes first. clips: independent groups of frames.

    repeated: frames whose bytes occur before. contradictions: frames that occur with different labels. left_out: held-out
    frames that belong to a group of the train part. skipped: pictures that cannot be read. attention: what may be wrong,
    in sentences.
    """

    frames: int
    clips: int
    classes: tuple[tuple[str, tuple[int, ...]], ...]
    repeated: int
    contradictions: int
    left_out: int
    skipped: int
    attention: tuple[str, ...]

    def rows(self) -> list[tuple[str, str]]:
        """The table for people, smallest classes first, and what needs attention."""
        shown = self.classes[:SHOWN_CLASSES]
        width = max(len(name) for name, _ in shown)
        rows = [("classes", f"{'':<{width}} " + " ".join(f"{name:>12}" for name in SPLIT_NAMES))]
        rows += [
            ("", f"{name:<{width}} " + " ".join(f"{size:>12,}" for size in sizes)) for name, sizes in shown
        ]
        if len(self.classes) > len(shown):
            rows.append(("", f"... and {len(self.classes) - len(shown)} larger classes"))
        rows.append(
            (
                "repeats",
                f"{self.repeated:,} frames that occur before, {self.contradictions:,} with two labels",
            )
        )
        return [*rows, *(("attention", text) for text in self.attention)]


def survey(known: Catalogue, splits: Splits, names: Sequence[str] = ()) -> Survey:
    """Look at a catalogue and at the splits that will be drawn from it.

    names: of the files, to see whether they are those of clips.
    """
    sizes = np.array(
        [
            np.bincount(known.labels[splits.indices(name)], minlength=len(known.class_names))
            for name in SPLIT_NAMES
        ]
    ).T
    order = np.argsort(sizes.sum(axis=1), kind="stable")
    classes = tuple((known.class_names[k], tuple(int(size) for size in sizes[k])) for k in order)
    unique, inverse = np.unique(known.digests, return_inverse=True)
    pairs = np.unique(np.stack([inverse, known.labels]), axis=1)
    contradictory = np.flatnonzero(np.bincount(pairs[0]) > 1)
    used = sum(len(splits.indices(name)) for name in SPLIT_NAMES)
    attention = [
        *_contradictions(known, inverse, contradictory),
        *_small_classes(classes),
        *_clips(known, names),
    ]
    if known.skipped:
        attention.append(
            f"{len(known.skipped)} pictures cannot be read and are left out, the first {known.skipped[0]}"
        )
    return Survey(
        frames=len(known),
        clips=len(np.unique(splits.clips)),
        classes=classes,
        repeated=len(known) - len(unique),
        contradictions=int(np.isin(inverse, contradictory).sum()),
        left_out=len(unique) - used if known.held_out is not None else 0,
        skipped=len(known.skipped),
        attention=tuple(attention),
    )


def _contradictions(known: Catalogue, inverse: np.ndarray, contradictory: np.ndarray) -> list[str]:
    if not len(contradictory):
        return []
    members = np.flatnonzero(inverse == contradictory[0])
    labels = sorted({known.class_names[label] for label in known.labels[members]})
    return [
        f"{len(contradictory)} pictures occur with different labels, the first as {' and '.join(map(repr, labels))} (frames "
        f"{', '.join(map(str, known.rows[members][:4]))}); the first label is taken, which is wrong for some: mend them"
    ]


def _small_classes(classes: Sequence[tuple[str, tuple[int, ...]]]) -> list[str]:
    found = []
    for split, name in enumerate(SPLIT_NAMES):
        missing = [label for label, sizes in classes if not sizes[split]]
        if missing:
            what = (
                "the classifier cannot learn them" if name == "train" else f"{name} says nothing about them"
            )
            found.append(f"no {name} frame of {_some(missing)}: {what}; add frames, or leave the classes out")
    few = [label for label, sizes in classes if 0 < sizes[0] < FEW_TRAINED]
    if few:
        found.append(
            f"fewer than {FEW_TRAINED} training frames of {_some(few)}: add frames, or leave the classes out"
        )
    largest, smallest = max(sum(sizes) for _, sizes in classes), min(sum(sizes) for _, sizes in classes)
    if smallest and largest >= 20 * smallest:
        found.append(
            f"the largest class has {largest // smallest} times as many frames as the smallest; a promise over frames says "
            'little about rare classes (kind = "per-class" in [guarantee] promises for each; balance = true in [base] trains on '
            "equally many of each)"
        )
    return found


def _clips(known: Catalogue, names: Sequence[str]) -> list[str]:
    """Files called track_frame.png whose frames are not joined are nearly equal frames in several splits."""
    if len(np.unique(known.clips)) < len(known) or len(names) < 20:
        return []
    groups: dict[tuple[str, str], int] = {}
    for name in names:
        folder, file = os.path.split(name)
        found = re.fullmatch(r"(.*\d)[_-]\d+", os.path.splitext(file)[0])
        if found:
            groups[folder, found[1]] = groups.get((folder, found[1]), 0) + 1
    if len(groups) < 5 or sum(groups.values()) < 0.8 * len(names) or len(groups) > 0.5 * len(names):
        return []
    return [
        f"file names look like those of {len(groups)} clips; if frames of one clip are alike, say "
        "`--clips '{clip}_{frame}'`, else calibration sees what was trained on and the promise is void"
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
