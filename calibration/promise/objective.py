"""What a choice on the tuning split aims at: certificates of given radii with given weights, or the mean radius."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from rrise.calibration.errors import CalibrationError

Radius = Union[None, float, Sequence[float]]
"""No radius, one, or several."""


@dataclass(frozen=True)
class Objective:
    """Radii that certificates are wanted of, with what each is worth; without radii, the mean radius.

    Attributes:
        radii: increasing, > 0, [0, 1] pixel units.
        weights: one for each radius, > 0.
    """

    radii: Tuple[float, ...] = ()
    weights: Tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if any(not (math.isfinite(radius) and radius > 0) for radius in self.radii):
            raise CalibrationError(
                f"radius: got {', '.join(f'{radius:g}' for radius in self.radii)}, expected a positive radius in [0, 1] "
                "pixel units"
            )
        if any(after <= before for before, after in zip(self.radii, self.radii[1:])):
            raise CalibrationError(f"radius: got {list(self.radii)}, expected radii that increase")
        if len(self.weights) != len(self.radii) or any(
            not (math.isfinite(weight) and weight > 0) for weight in self.weights
        ):
            raise CalibrationError(
                f"weights: got {list(self.weights)} for radii {list(self.radii)}, expected a positive number for each radius"
            )

    @classmethod
    def of(cls, radius: Radius = None, weights: Sequence[float] = ()) -> "Objective":
        """From nothing, one radius or several; weights are 1 where none are given.

        Raises:
            CalibrationError: radii that are not positive and increasing, or not one positive weight for each.
        """
        if radius is None:
            radii: Tuple[float, ...] = ()
        elif isinstance(radius, (int, float)):
            radii = (float(radius),)
        else:
            radii = tuple(float(value) for value in radius)
        return cls(radii, tuple(float(weight) for weight in weights) or (1.0,) * len(radii))

    @property
    def radius(self) -> Optional[float]:
        """The smallest radius; None without any."""
        return self.radii[0] if self.radii else None

    def worth(self, issued: np.ndarray) -> float:
        """Weighted sum over the radii of the share of `issued` (float32, any shape) that is at least as large, or the mean."""
        if not self.radii:
            return float(np.mean(issued))
        return float(sum(w * np.mean(issued >= r) for r, w in zip(self.radii, self.weights)))

    def describe(self) -> str:
        """As in "radius 0.25" or "radii 0.25, 0.5 (weights 2, 1)"; "mean radius" without any."""
        if not self.radii:
            return "mean radius"
        text = ("radius " if len(self.radii) == 1 else "radii ") + ", ".join(f"{r:g}" for r in self.radii)
        if len(set(self.weights)) > 1:
            text += f" (weights {', '.join(f'{weight:g}' for weight in self.weights)})"
        return text

    def to_json(self) -> Dict[str, Any]:
        """No radius or a single one as before there were several: under "radius"."""
        if len(self.radii) <= 1 and self.weights in ((), (1.0,)):
            return {"radius": self.radius}
        return {"radius": list(self.radii), "weights": list(self.weights)}

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> "Objective":
        return cls.of(value["radius"], value.get("weights", ()))


MEAN_RADIUS = Objective()
"""No radius in particular: the mean."""
