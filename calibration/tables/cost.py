"""The one cost formula: everything in base forward passes, a training step of the same network being three."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, Tuple

from rrise.calibration.storage.digests import PathLike
from rrise.calibration.storage.files import read_json, reading, write_json
from rrise.calibration.storage.formats import check_format

FORMATS = ("rrise-cost/1", "rrise-cost/2")
"""The first had no name, and the stages at the top."""
TRAINING_PASSES = 3
"""Forward, and backward at twice its cost, per training example."""


@dataclass(frozen=True)
class CostEntry:
    """What one stage cost. passes: evaluations of the base classifier; trained: examples seen in training steps."""

    stage: str
    passes: int = 0
    trained: int = 0

    @property
    def total(self) -> int:
        return self.passes + TRAINING_PASSES * self.trained


@dataclass(frozen=True)
class CostLedger:
    """Cost of every stage; a stage that is run again replaces its entry."""

    entries: Tuple[CostEntry, ...] = ()

    def with_entry(self, entry: CostEntry) -> "CostLedger":
        return CostLedger((*(old for old in self.entries if old.stage != entry.stage), entry))

    def total(self, *, without: Tuple[str, ...] = ()) -> int:
        """Passes of all stages but `without`.

        Stages that only evaluate (certify, audit) or that plain Monte Carlo needs as well (base training) are left out
        of the break-even by the caller.
        """
        return sum(entry.total for entry in self.entries if entry.stage not in without)

    def to_json(self) -> Dict[str, Any]:
        stages = {
            entry.stage: {"passes": entry.passes, "trained": entry.trained, "total": entry.total}
            for entry in self.entries
        }
        return {"format": FORMATS[-1], "stages": stages}

    def save(self, path: PathLike) -> None:
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: PathLike) -> "CostLedger":
        value = read_json(path, "cost ledger")
        with reading(path, "cost ledger"):
            if "format" in value:
                check_format(
                    "cost ledger", value["format"], FORMATS, "remove it; it only counts what was spent"
                )
                value = value["stages"]
            return cls(
                tuple(
                    CostEntry(stage, int(row["passes"]), int(row["trained"])) for stage, row in value.items()
                )
            )


def break_even(offline_passes: int, num_samples: int) -> int:
    """Queries after which the offline cost is repaid, when each query would cost `num_samples` passes instead of one."""
    return math.ceil(offline_passes / max(num_samples - 1, 1))
