"""The scores table: what one execution said about one split, beside the Monte Carlo counts of those frames.

It is the only thing that calibration, reports and studies read; whoever runs a model writes it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Dict, Optional, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.bounds import reference_radius
from rrise.calibration.storage.digests import PathLike, combined_digest
from rrise.calibration.storage.execution import Execution
from rrise.calibration.storage.files import names_field, read_arrays, reading, text_field, write_arrays

_REQUIRED = ("digest", "clip", "target", "label", "probit", "counts", "num_samples")
_OPTIONAL = ("difficulty", "reference")
_KINDS = {
    "digest": "S",
    "clip": "iu",
    "target": "iu",
    "label": "iu",
    "probit": "f",
    "difficulty": "f",
    "reference": "f",
}
_KIND_NAMES = {"S": "bytes", "iu": "integers", "f": "floating point"}


@dataclass(frozen=True)
class Scores:
    """One execution on one split of n frames with K classes.

    Attributes:
        digest: S64 [n], of each frame.
        clip: int64 [n], which recording a frame belongs to; frames of one clip are not independent.
        target: int64 [n], true class, -1 where unknown. Never used by calibration.
        label: int64 [n], argmax of the surrogate.
        probit: float32 [n], Phi^-1 of its softmax probability, before map and offset.
        counts: uint32 [n, K], Monte Carlo class counts of the smoothed classifier, drawn independently of `label`.
        num_samples: uint32 [n], draws per frame; each row of counts sums to it.
        split: "tuning", "calibration", "verification" or "test".
        sigma: noise standard deviation, [0, 1] pixel units.
        class_names: K names.
        base_digest: of the base classifier that was sampled.
        execution: what computed label and probit.
        difficulty: float32 [n] > 0 where the surrogate has that head, else None.
        reference: float32 [n] or None, reference radius of `label` at miss probability `beta`, rounded down, as a
            reference pack stores it; with it a robot recalibrates without scipy.
        beta: of `reference`; None without one.

    Raises:
        CalibrationError: shapes, types, counts or values that no execution can have given.
    """

    digest: np.ndarray
    clip: np.ndarray
    target: np.ndarray
    label: np.ndarray
    probit: np.ndarray
    counts: np.ndarray
    num_samples: np.ndarray
    split: str
    sigma: float
    class_names: Tuple[str, ...]
    base_digest: str
    execution: Execution
    difficulty: Optional[np.ndarray] = None
    reference: Optional[np.ndarray] = None
    beta: Optional[float] = None

    def __post_init__(self) -> None:
        check_counts(self.counts, self.num_samples, len(self.class_names))
        if not (np.isfinite(self.sigma) and self.sigma > 0):
            raise CalibrationError(f"scores: got sigma {self.sigma}, expected a positive number")
        for name, kind in _KINDS.items():
            self._check_column(name, kind)
        if len(self.label) and not ((self.label >= 0) & (self.label < len(self.class_names))).all():
            raise CalibrationError(f"scores: labels must be 0 to {len(self.class_names) - 1}")
        self._check_values()

    def _check_column(self, name: str, kind: str) -> None:
        column = getattr(self, name)
        if column is None:
            return
        if np.shape(column) != (len(self.counts),):
            raise CalibrationError(
                f"scores: {name} has shape {np.shape(column)}, expected ({len(self.counts)},)"
            )
        if column.dtype.kind not in kind:
            raise CalibrationError(f"scores: {name} has dtype {column.dtype}, expected {_KIND_NAMES[kind]}")

    def _check_values(self) -> None:
        if not np.isfinite(self.probit).all():
            raise CalibrationError(
                f"scores: {int((~np.isfinite(self.probit)).sum())} probits are NaN or infinite; the execution is broken, "
                "do not calibrate it"
            )
        if self.difficulty is not None:
            with np.errstate(over="ignore"):
                size = self.difficulty.astype(np.float32)
            if not (np.isfinite(size) & (size > 0)).all():
                raise CalibrationError("scores: difficulty must be positive and finite, as float32")
        if (self.reference is None) != (self.beta is None):
            raise CalibrationError("scores: reference and beta belong together; give both or neither")
        if self.reference is not None and not (np.isfinite(self.reference) & (self.reference >= 0)).all():
            raise CalibrationError("scores: reference radii must be finite and >= 0")

    def __len__(self) -> int:
        return len(self.label)

    @property
    def frames_digest(self) -> str:
        """One digest of all frames, independent of their order."""
        return combined_digest(sorted(self.digest.tolist()))

    @property
    def content_digest(self) -> str:
        """One digest of every number that an offset depends on, independent of the order of the rows."""
        order = np.argsort(self.digest, kind="stable")
        total = hashlib.sha256()
        for name in ("digest", "clip", "label", "probit", "difficulty", "counts", "num_samples", "reference"):
            column = getattr(self, name)
            if column is not None:
                rows = np.ascontiguousarray(column[order])
                total.update(f"{name} {rows.dtype.str} {rows.shape}".encode() + rows.tobytes())
        return total.hexdigest()

    def label_counts(self) -> np.ndarray:
        """Counts of the surrogate's own label, int64 [n]."""
        return np.asarray(self.counts[np.arange(len(self)), self.label], np.int64)

    def computed_reference(self, beta: float) -> np.ndarray:
        """Reference radius of the label that the counts alone prove, were beta not split, float32 [n]; needs scipy."""
        return reference_radius(self.label_counts()[:, None], self.num_samples, self.sigma, beta)[:, 0]

    def shares_beta(self) -> bool:
        """Whether stored references are smaller than the counts prove at their beta: it was split over stages or looks."""
        if self.reference is None or self.beta is None:
            return False
        return bool((self.reference < self.computed_reference(self.beta)).any())

    def take(self, rows: np.ndarray) -> "Scores":
        """The table restricted to `rows` (indices or mask)."""
        columns: Dict[str, Any] = {name: getattr(self, name)[rows] for name in _REQUIRED}
        for name in _OPTIONAL:
            column = getattr(self, name)
            columns[name] = None if column is None else column[rows]
        return replace(self, **columns)

    def save(self, path: PathLike) -> None:
        """Write as `.npz` without pickle, atomically."""
        arrays = {name: getattr(self, name) for name in _REQUIRED}
        arrays.update({name: getattr(self, name) for name in _OPTIONAL if getattr(self, name) is not None})
        meta = {
            "table": "scores",
            "split": self.split,
            "sigma": self.sigma,
            "class_names": list(self.class_names),
            "base_digest": self.base_digest,
            "execution": self.execution.to_json(),
            "beta": self.beta,
        }
        write_arrays(path, arrays, meta)

    @classmethod
    def load(cls, path: PathLike, *, data: Optional[bytes] = None) -> "Scores":
        """Read a table; data: the file's bytes where they were read and checked before.

        Raises:
            CalibrationError: it is missing, damaged or not a scores table.
        """
        arrays, meta = read_arrays(path, "scores", _REQUIRED, table="scores", data=data)
        with reading(path, "scores"):
            return cls(
                **{name: arrays[name] for name in _REQUIRED},
                difficulty=arrays.get("difficulty"),
                reference=arrays.get("reference"),
                split=text_field(meta, "split"),
                sigma=float(meta["sigma"]),
                class_names=names_field(meta, "class_names"),
                base_digest=text_field(meta, "base_digest"),
                execution=Execution.from_json(meta["execution"]),
                beta=None if meta["beta"] is None else float(meta["beta"]),
            )


def check_counts(counts: np.ndarray, num_samples: np.ndarray, num_classes: int) -> None:
    """Refuse counts that cannot be class counts: wrong shape, negative, fractional, or not summing to num_samples."""
    counts, num_samples = np.asarray(counts), np.asarray(num_samples)
    if counts.ndim != 2 or counts.shape[1] != num_classes or num_samples.shape != counts.shape[:1]:
        raise CalibrationError(
            f"counts: got shape {counts.shape} with num_samples {num_samples.shape}, expected [n, {num_classes}] and [n]"
        )
    if counts.dtype.kind not in "iu" or num_samples.dtype.kind not in "iu":
        raise CalibrationError(
            f"counts: got dtypes {counts.dtype} and {num_samples.dtype}, expected integers"
        )
    if (counts < 0).any() or (num_samples < 1).any():
        raise CalibrationError("counts: expected counts >= 0 and num_samples >= 1 for every frame")
    # A single count beyond N could hide in a sum that overflows.
    beyond = (counts > num_samples[:, None]).any(axis=1)
    wrong = np.flatnonzero(beyond | (counts.sum(axis=1, dtype=np.int64) != num_samples))
    if len(wrong):
        raise CalibrationError(
            f"counts: frame {wrong[0]} has counts that sum to {counts[wrong[0]].sum()}, expected num_samples = "
            f"{num_samples[wrong[0]]} ({len(wrong)} such frames)"
        )
