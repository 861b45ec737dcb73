"""From logits to the probit of the top class, in exactly the float32 steps that the exported graph takes.

The surrogate says class y with softmax probability h_y, and the plug-in radius is sigma Phi^-1(h_y). Going
through h_y itself loses the tail (1 - p is 0 in float32 from p = 1 - 6e-8 on), so the probit is computed from
the *logit margin* t = z_y - logsumexp(z_others), for which h_y = 1 / (1 + exp(-t)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rrise.calibration.errors import CalibrationError

LOGIT_LIMIT = 60.0
"""Margins are clipped to [-60, 60]: probits to [-10.71, 10.71], so that every raw radius is finite."""

NUMERATOR = (0.626656665, 0.376125009, 0.101892477, 0.0213860729, 0.00091912041, 5.62161248e-06)
DENOMINATOR = (1.0, 0.600185117, 0.180617075, 0.0445681486, 0.00402942024, 6.77661993e-05, 1.01434847e-07)
"""Phi^-1(sigmoid(t)) = t N(|t|) / D(|t|), ascending powers; a minimax fit of ours with relative error below
7e-7 on [-60, 60]. All coefficients are positive, so nothing cancels."""

MASKED_LOGIT = -1.0e30
"""Stands in for the top class's own logit when the others are summed; exp of it is exactly 0."""


@dataclass(frozen=True)
class Prediction:
    """What the surrogate says about n frames: label int64 [n] and probit float32 [n]."""

    label: np.ndarray
    probit: np.ndarray


def probit_from_margin(margin: np.ndarray) -> np.ndarray:
    """Phi^-1(sigmoid(margin)) in float32, margin clipped to +-LOGIT_LIMIT; NaN stays NaN."""
    t = np.clip(np.asarray(margin, np.float32), np.float32(-LOGIT_LIMIT), np.float32(LOGIT_LIMIT))
    size = np.abs(t)
    return np.asarray(t * _horner(NUMERATOR, size) / _horner(DENOMINATOR, size), np.float32)


def _horner(coefficients: "tuple[float, ...]", x: np.ndarray) -> np.ndarray:
    value = np.full_like(x, np.float32(coefficients[-1]))
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + np.float32(coefficient)
    return value


def probit_from_logits(logits: np.ndarray) -> Prediction:
    """Label and probit of the top class.

    Args:
        logits: float32 [n, K], K >= 2. A row with NaN or a logit of 1e30 or more in size, infinity included,
            gives probit NaN, which the head turns into radius 0.

    Raises:
        CalibrationError: another shape.
    """
    values = np.asarray(logits, np.float32)
    if values.ndim != 2 or values.shape[1] < 2:
        raise CalibrationError(f"logits: got shape {values.shape}, expected [n, K] with at least 2 classes")
    label = np.argmax(values, axis=1).astype(np.int64)
    top = np.max(values, axis=1)
    others = np.where(np.arange(values.shape[1]) == label[:, None], np.float32(MASKED_LOGIT), values)
    second = np.max(others, axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        rest = np.log(np.sum(np.exp(others - second[:, None]), axis=1, dtype=np.float32))
        probit = probit_from_margin((top - second) - rest)
        # A comparison that NaN fails: an infinite logit would otherwise be clipped to a full-size certificate.
        usable = np.all(np.abs(values) < np.float32(-MASKED_LOGIT), axis=1)
    return Prediction(label, np.where(usable, probit, np.float32(np.nan)))
