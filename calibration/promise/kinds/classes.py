"""The promise over the frames of each predicted class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Tuple

import numpy as np

from rrise.calibration.promise.kinds.kind import Kind, short


@dataclass(frozen=True)
class PerClass(Kind):
    """Every class has a rank and an offset of its own."""

    def groups(self, label: np.ndarray, classes: int) -> List[np.ndarray]:
        return [np.asarray(label == one) for one in range(classes)]

    def trials(
        self,
        wrong: np.ndarray,
        *,
        clip: np.ndarray,
        independent: np.ndarray,
        issued: np.ndarray,
        label: np.ndarray,
        classes: int,
    ) -> List[Tuple[int, int]]:
        mine = wrong[independent]
        return [
            (int(mine[group].sum()), int(group.sum())) for group in self.groups(label[independent], classes)
        ]

    def promise(self, error: str) -> str:
        return (
            f"for each class separately, at most {error} of the new frames that the surrogate gives this "
            "class receive a wrong certificate"
        )

    def elsewhere(self, error: float, share: float) -> str:
        return (
            f"For each class at most {short(error)} of its new frames receive a wrong certificate, and {short(share)} divided"
            " by the class's share of frames"
        )


PER_CLASS = PerClass("per-class", units="calibration frames of each predicted class", by_class=True)
