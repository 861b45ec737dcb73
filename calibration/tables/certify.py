"""Cohen's CERTIFY as arithmetic on counts: the per-input Monte Carlo certificate that a surrogate replaces.

Source: Cohen, Rosenfeld and Kolter 2019, "Certified Adversarial Robustness via Randomized Smoothing", section 3.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.bounds import certified_radius, clopper_pearson_lower, round_down
from rrise.calibration.storage.digests import PathLike
from rrise.calibration.storage.files import names_field, read_arrays, reading, text_field, write_arrays

_ARRAYS = ("digest", "target", "selection", "counts")


@dataclass(frozen=True)
class CertifyResult:
    """CERTIFY's answer for n frames: label int64 [n] and radius float32 [n]; radius 0 means abstain."""

    label: np.ndarray
    radius: np.ndarray


def certify(selection: np.ndarray, counts: np.ndarray, sigma: float, alpha: float) -> CertifyResult:
    """Certify n frames from two independent draws.

    Args:
        selection: uint32 [n, K], N0 draws that choose the label.
        counts: uint32 [n, K], N further draws that bound its probability.
        sigma: noise standard deviation, [0, 1] pixel units.
        alpha: error level of each certificate.

    **Guarantee**: for each input separately, the radius exceeds the true one with probability at most alpha, over
    the Monte Carlo draw.
    """
    if selection.shape != counts.shape or counts.ndim != 2:
        raise CalibrationError(
            f"certify: got counts {selection.shape} and {counts.shape}, expected [n, K] twice"
        )
    label = np.argmax(selection, axis=1).astype(np.int64)
    hits = counts[np.arange(len(counts)), label].astype(np.int64)
    lower = clopper_pearson_lower(hits, counts.sum(axis=1, dtype=np.int64), alpha)
    return CertifyResult(label, round_down(np.maximum(certified_radius(lower, sigma), 0.0)))


@dataclass(frozen=True)
class PredictResult:
    """PREDICT's answer for n frames: label int64 [n], and where it abstained, bool [n] (the label is then a guess)."""

    label: np.ndarray
    abstained: np.ndarray


def predict(counts: np.ndarray, alpha: float) -> PredictResult:
    """The smoothed classifier's own answer, without a radius: the top class, if the second is clearly behind.

    Args:
        counts: uint32 [n, K]. alpha: error level of each answer.

    **Guarantee**: for each input separately, an answer that is given differs from g(x) with probability at most
    alpha, over the Monte Carlo draw. Source: Cohen et al. 2019, section 3.2.1 (two-sided exact binomial test of the
    two highest counts, Hung and Fithian 2019).
    """
    if counts.ndim != 2 or counts.shape[1] < 2:
        raise CalibrationError(
            f"predict: got counts {counts.shape}, expected [n, K] with at least two classes"
        )
    if not 0 < alpha < 1:
        raise CalibrationError(f"predict: got alpha {alpha}, expected a level in (0, 1)")
    from scipy.special import betainc

    label = np.argmax(counts, axis=1).astype(np.int64)
    ordered = np.sort(counts.astype(np.int64), axis=1)
    first, second = ordered[:, -1].astype(np.float64), ordered[:, -2].astype(np.float64)
    # P(Bin(first + second, 1/2) >= first), doubled; a tie has the p-value 1.
    tail = betainc(np.maximum(first, 1.0), second + 1.0, 0.5)
    p_value = np.where(first > second, np.minimum(2.0 * tail, 1.0), 1.0)
    return PredictResult(label, np.asarray(p_value > alpha))


def smallest_certifying(alpha: float) -> int:
    """The smallest N with which CERTIFY can certify anything: N hits of N must bound p above one half."""
    if not 0 < alpha < 1:
        raise CalibrationError(f"certify: got alpha {alpha}, expected a level in (0, 1)")
    smallest = max(1, int(np.floor(-np.log2(alpha))))
    while alpha ** (1.0 / smallest) <= 0.5:
        smallest += 1
    return smallest


def check_budget(selection: int, num_samples: int, alpha: float) -> None:
    """Refuse N0, N or alpha with which every frame would abstain, naming the smallest that does not.

    Raises:
        CalibrationError: N0 < 1, alpha outside (0, 1), or N <= log2(1 / alpha).
    """
    smallest = smallest_certifying(alpha)
    if selection < 1:
        raise CalibrationError(
            f"certify: got N0 = {selection} selection samples, expected at least 1 (usually 100)"
        )
    if num_samples < smallest:
        raise CalibrationError(
            f"certify: N = {num_samples} at alpha {alpha:g} abstains on every frame, whatever the counts; expected at "
            f"least {smallest} samples"
        )


@dataclass(frozen=True)
class CertifyCounts:
    """Monte Carlo on the test split at several budgets, each an independent stream of draws.

    Attributes:
        digest: S64 [n]; target: int64 [n], -1 where unknown.
        selection: uint32 [n, K], the N0 draws that choose the label.
        counts: uint32 [B, n, K], the draws of each budget.
        budgets: N of each of the B rows, increasing.
        sigma, class_names, base_digest: as in `Scores`.
    """

    digest: np.ndarray
    target: np.ndarray
    selection: np.ndarray
    counts: np.ndarray
    budgets: Tuple[int, ...]
    sigma: float
    class_names: Tuple[str, ...]
    base_digest: str

    def __post_init__(self) -> None:
        if self.counts.dtype.kind not in "iu" or self.selection.dtype.kind not in "iu":
            raise CalibrationError(
                f"certify counts: got dtypes {self.counts.dtype} and {self.selection.dtype}, expected integers"
            )
        expected = (len(self.budgets), len(self.digest), len(self.class_names))
        if self.counts.shape != expected or self.selection.shape != expected[1:]:
            raise CalibrationError(
                f"certify counts: got shapes {self.counts.shape} and {self.selection.shape}, expected {expected}"
            )
        if (self.counts.sum(axis=2, dtype=np.int64) != np.array(self.budgets)[:, None]).any():
            raise CalibrationError("certify counts: each row must sum to its budget; sample again")

    def at(self, budget: int, alpha: float) -> CertifyResult:
        """CERTIFY with N = budget; N0 is the selection's."""
        if budget not in self.budgets:
            raise CalibrationError(f"certify: got budget {budget}, expected one of {self.budgets}")
        return certify(self.selection, self.counts[self.budgets.index(budget)], self.sigma, alpha)

    def save(self, path: PathLike) -> None:
        meta = {
            "table": "certify",
            "budgets": list(self.budgets),
            "sigma": self.sigma,
            "class_names": list(self.class_names),
            "base_digest": self.base_digest,
        }
        write_arrays(path, {name: getattr(self, name) for name in _ARRAYS}, meta)

    @classmethod
    def load(cls, path: PathLike) -> "CertifyCounts":
        arrays, meta = read_arrays(path, "certify table", _ARRAYS, table="certify")
        with reading(path, "certify table"):
            return cls(
                **{name: arrays[name] for name in _ARRAYS},
                budgets=tuple(int(budget) for budget in meta["budgets"]),
                sigma=float(meta["sigma"]),
                class_names=names_field(meta, "class_names"),
                base_digest=text_field(meta, "base_digest"),
            )
