"""The promise over the frames that receive a certificate."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.kinds.kind import Kind, short


@dataclass(frozen=True)
class Selective(Kind):
    """Ranked among issued frames; who is issued is settled beforehand, by a threshold or a sequence of offsets."""

    def among(self, error: Fraction, issued: int, frames: int) -> float:
        return float(error)

    def refuse_choice(
        self, threshold: Optional[float], offsets: Sequence[float], radii: Sequence[float], difficulty: bool
    ) -> None:
        if (threshold is None) == (not len(offsets)):
            raise CalibrationError(
                "calibrate: the selective kind needs a threshold or a list of offsets, not both; choose one on the tuning "
                "split (rrise.calibration.promise.plan.choose_plan)"
            )
        if radii and threshold is not None:
            raise CalibrationError(
                "calibrate: a threshold on the raw radius does not say who is issued when only radius "
                f"{' or '.join(f'{radius:g}' for radius in radii)} is; give offsets instead, or a map that issues every radius"
            )
        if difficulty and threshold is not None:
            raise CalibrationError(
                "calibrate: a threshold on the raw radius does not say who is issued when a difficulty scales the offset; "
                "give offsets instead, or difficulty=False"
            )

    def counted(
        self, wrong: np.ndarray, *, clip: np.ndarray, independent: np.ndarray, issued: np.ndarray
    ) -> np.ndarray:
        return np.asarray(wrong[independent][issued[independent]])

    def promise(self, error: str) -> str:
        return f"at most {error} of the new frames that receive a certificate receive a wrong one"

    def conditions(self) -> Tuple[str, ...]:
        return (*super().conditions(), "The threshold, or the grid of offsets, was chosen on other frames.")

    def elsewhere(self, error: float, share: float) -> str:
        return (
            f"Of the new frames that receive a certificate at most ({short(error)} s + {short(share)}) / (s - {short(share)})"
            " receive a wrong one, s being the share that receives one"
        )


SELECTIVE = Selective(
    "selective",
    units="calibration frames that receive a certificate",
    judged="certificates",
    among_issued=True,
)
