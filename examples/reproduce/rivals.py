"""A rival: certificates that hold for each input, of another classifier; label and radius of every test frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from examples.reproduce.methods import cut_digests
from rrise.calibration.storage.files import read_arrays, read_json, write_arrays, write_json
from rrise.calibration.tables.evaluation import Judged
from rrise.calibration.tables.scores import Scores
from rrise.trainer.errors import TrainerError

RIVALS = "rivals"
"""Folder of a published table that holds one folder for each of them."""
ARRAYS = ("digest", "target", "label", "radius")


@dataclass(frozen=True, eq=False)
class Rival:
    """n certificates that are proved for each input without Monte Carlo.

    name: in tables. digest: S64 [n] of the test frames, or S16, cut. target, label: int64 [n]. radius: float32 [n], L2, where
    a pixel is 0 to 1. facts: how it was made and what was measured of it, for the table's foot.
    """

    name: str
    digest: np.ndarray
    target: np.ndarray
    label: np.ndarray
    radius: np.ndarray
    facts: Mapping[str, float] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        arrays = {name: getattr(self, name) for name in ARRAYS}
        arrays["digest"] = cut_digests(self.digest)
        write_arrays(folder / "certificates.npz", arrays, {"table": "rival"})
        write_json(folder / "rival.json", {"name": self.name, "facts": dict(self.facts)})

    @classmethod
    def load(cls, folder: Path) -> Rival:
        """Raises: TrainerError: files are missing or malformed."""
        if not (folder / "rival.json").is_file():
            raise TrainerError(f"{folder}: no rival.json in it; make it with `python examples/lipschitz.py`")
        about = read_json(folder / "rival.json", "rival")
        arrays, _ = read_arrays(folder / "certificates.npz", "certificates", ARRAYS, "rival")
        try:
            return cls(about["name"], **{name: arrays[name] for name in ARRAYS},
                       facts={name: float(value) for name, value in about["facts"].items()})  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise TrainerError(f"{folder}: {error!r}; make it again") from error

    def judged(self, test: Scores) -> Judged:
        """Its certificates in the order of `test`'s frames. Each is proved, so none is wrong; the audit is of another classifier.

        Raises: TrainerError: other frames, or the same with other labels.
        """
        place = {name: row for row, name in enumerate(cut_digests(self.digest).tolist())}
        rows = [place.get(name, -1) for name in cut_digests(test.digest).tolist()]
        if -1 in rows or len(place) != len(test) or (self.target[rows] != test.target).any():
            raise TrainerError(
                f"{self.name}: got {len(place)} frames, expected the {len(test)} test frames of the other rows; certify those"
            )
        proved = np.ones(len(rows), bool)
        radius = np.asarray(self.radius[rows], np.float32)
        label = self.label[rows]
        reach = np.where(label == test.target, radius, -np.inf)
        return Judged(label, test.target, radius, proved, proved, ~proved, reach, np.inf)


def load_rivals(folders: Sequence[Path], published: Sequence[Path]) -> list[Rival]:
    """Those in `folders`, and those that published tables keep."""
    kept = [
        row for path in published if (path / RIVALS).is_dir() for row in sorted((path / RIVALS).iterdir())
    ]
    return [Rival.load(folder) for folder in [*folders, *kept]]


def crossing(mine: Sequence[float], theirs: Sequence[float], grid: Sequence[float]) -> float | None:
    """The largest radius of the grid up to which `theirs` is everywhere at least `mine`; None where it is behind at once."""
    ahead = np.asarray(theirs) >= np.asarray(mine)
    if not ahead[0]:
        return None
    return float(grid[len(grid) - 1 if ahead.all() else int(np.argmin(ahead)) - 1])
