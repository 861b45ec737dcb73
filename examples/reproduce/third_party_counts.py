"""Class counts that others drew, taken apart into independent draws."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rrise.calibration.storage.digests import file_digest
from rrise.trainer.errors import TrainerError


@dataclass(frozen=True)
class Counts:
    """Independent draws. train: uint32 [n, K]; the others, on the test frames, uint32 [m, K] each.

    references: N = 10,000. selection: 5,000, with which CERTIFY chooses its label. audit: 80,000.
    """

    train: np.ndarray
    selection: np.ndarray
    references: np.ndarray
    audit: np.ndarray
    digest: str


def load_counts(path: Path, sigma: float) -> Counts:
    """Read the published counts and take them apart into independent draws.

    The budgets are not prefixes of one another: 5,000, 10,000, 25,000 and 50,000 are draws of their own, and 100,000 is
    their sum, the 5,000 once more, and 5,000 others. So N = 100,000 less N = 10,000 would be independent of the
    references but would count 5,000 draws twice; the audit takes them out both times.

    Raises TrainerError where an array is missing or the counts do not add up like that.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name].astype(np.int64) for name in archive.files}
    budgets = (5000, 10_000, 25_000, 50_000, 100_000)
    names = [f"train_sigma{sigma}_N100000", *(f"test_sigma{sigma}_N{n}" for n in budgets)]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise TrainerError(f"{path}: got {sorted(arrays)}, missing {missing}")
    train, *tests = (arrays[name] for name in names)
    selection, references, third, fourth, largest = tests
    rest = largest - fourth - third - references - 2 * selection
    if (rest < 0).any() or (rest.sum(axis=1) != 5000).any():
        raise TrainerError(
            f"{path}: the counts do not add up as the published ones do, so no part of them is a known independent audit"
        )
    audit = fourth + third + rest
    parts = [part.astype(np.uint32) for part in (train, selection, references, audit)]
    return Counts(parts[0], parts[1], parts[2], parts[3], file_digest(path))
