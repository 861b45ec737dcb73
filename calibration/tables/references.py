"""A reference pack: raw frames with their Monte Carlo counts, to calibrate, verify and replay executions anywhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Dict, Optional, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.bounds import reference_radius, unproved
from rrise.calibration.storage.digests import PathLike, combined_digest, frame_digests
from rrise.calibration.storage.execution import Execution
from rrise.calibration.storage.files import names_field, read_arrays, reading, text_field, write_arrays
from rrise.calibration.tables.scores import Scores, check_counts

_ARRAYS = ("frames", "digest", "clip", "target", "counts", "num_samples", "radius")


@dataclass(frozen=True)
class References:
    """n camera frames with class counts. Raw images: decide whether they may leave the house.

    Attributes:
        frames: uint8 [n, H, W, C].
        digest: S64 [n], of each frame.
        clip: int64 [n].
        target: int64 [n], -1 where unknown.
        counts: uint32 [n, K]; num_samples: uint32 [n].
        radius: float32 [n, K], reference radius of every class at `beta`, rounded down.
        split, sigma, class_names, base_digest: as in `Scores`.
        beta: miss probability of each radius, over all draws of its frame.
        level: float64 [n], at most beta, where that is split over stages or looks: miss probability of the bound that each
            frame's radii are. None: beta, for all, as in packs from before levels were kept.
    """

    frames: np.ndarray
    digest: np.ndarray
    clip: np.ndarray
    target: np.ndarray
    counts: np.ndarray
    num_samples: np.ndarray
    radius: np.ndarray
    split: str
    sigma: float
    class_names: Tuple[str, ...]
    base_digest: str
    beta: float
    level: Optional[np.ndarray] = None

    def __post_init__(self) -> None:
        check_counts(self.counts, self.num_samples, len(self.class_names))
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or len(self.frames) != len(self.counts):
            raise CalibrationError(
                f"references: got frames {self.frames.dtype} {self.frames.shape}, expected uint8 [{len(self.counts)}, H, W, C]"
            )
        for name in ("digest", "clip", "target"):
            if np.shape(getattr(self, name)) != (len(self.counts),):
                raise CalibrationError(
                    f"references: {name} has shape {np.shape(getattr(self, name))}, expected ({len(self.counts)},)"
                )
        if not (np.isfinite(self.sigma) and self.sigma > 0 and 0 < self.beta < 1):
            raise CalibrationError(
                f"references: got sigma {self.sigma} and beta {self.beta}, expected sigma > 0 and beta in (0, 1)"
            )
        if (
            self.radius.shape != self.counts.shape
            or not (np.isfinite(self.radius) & (self.radius >= 0)).all()
        ):
            raise CalibrationError(
                f"references: radius must be finite, >= 0 and of shape {self.counts.shape}"
            )
        if self.level is not None and not (
            self.level.shape == self.num_samples.shape
            and self.level.dtype == np.float64
            and ((self.level > 0) & (self.level <= self.beta)).all()
        ):
            raise CalibrationError(
                f"references: level must be float64 of shape {self.num_samples.shape}, above 0 and at most beta {self.beta}"
            )

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def from_counts(
        cls,
        frames: np.ndarray,
        clip: np.ndarray,
        target: np.ndarray,
        counts: np.ndarray,
        num_samples: np.ndarray,
        *,
        split: str,
        sigma: float,
        class_names: Tuple[str, ...],
        base_digest: str,
        beta: float,
        level: Optional[np.ndarray] = None,
    ) -> "References":
        """Build a pack from counts: digests and reference radii are computed here (needs scipy).

        level: float64 [n], where beta was split over looks or stages: each frame's share.
        """
        return cls(
            frames,
            frame_digests(frames),
            clip,
            target,
            counts,
            num_samples,
            radius=reference_radius(counts, num_samples, sigma, beta if level is None else level),
            split=split,
            sigma=sigma,
            class_names=class_names,
            base_digest=base_digest,
            beta=beta,
            level=level,
        )

    def unproved(self, rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Which of the radii at (rows, classes), int [m] each, are larger than the counts prove, bool [m]; without scipy.

        Each is held against its frame's own level.
        """
        level = self.beta if self.level is None else self.level[rows]
        return unproved(
            self.counts[rows, classes], self.num_samples[rows], self.radius[rows, classes], self.sigma, level
        )

    @property
    def frames_digest(self) -> str:
        """One digest of all frames, independent of their order; equals `Scores.frames_digest` of the same frames."""
        return combined_digest(sorted(self.digest.tolist()))

    @property
    def content_digest(self) -> str:
        """One digest of everything that a calibration on this pack depends on, independent of the order of the frames."""
        order = np.argsort(self.digest, kind="stable")
        total = hashlib.sha256(f"{self.sigma!r} {self.beta!r} {self.base_digest}".encode())
        for name in ("digest", "clip", "counts", "num_samples", "radius", "level"):
            column = getattr(self, name)
            if column is not None:  # a pack without levels keeps the digest that it has
                rows = np.ascontiguousarray(column[order])
                total.update(f"{name} {rows.dtype.str} {rows.shape}".encode() + rows.tobytes())
        return total.hexdigest()

    def scores(
        self, label: np.ndarray, probit: np.ndarray, difficulty: Optional[np.ndarray], execution: Execution
    ) -> Scores:
        """The table of what an execution answered on these frames, in this order; see `Scores` for the columns.

        Raises:
            CalibrationError: shapes, types or values that no execution can have given.
        """
        return Scores(
            digest=self.digest,
            clip=self.clip,
            target=self.target,
            label=label,
            probit=probit,
            difficulty=difficulty,
            counts=self.counts,
            num_samples=self.num_samples,
            split=self.split,
            sigma=self.sigma,
            class_names=self.class_names,
            base_digest=self.base_digest,
            execution=execution,
            reference=self.radius[np.arange(len(self)), label],
            beta=self.beta,
        )

    def save(self, path: PathLike) -> None:
        """Write as `.npz` without pickle, atomically."""
        meta = {
            "table": "references",
            "split": self.split,
            "sigma": self.sigma,
            "class_names": list(self.class_names),
            "base_digest": self.base_digest,
            "beta": self.beta,
        }
        write_arrays(path, {**{name: getattr(self, name) for name in _ARRAYS}, **self.optional()}, meta)

    def optional(self) -> Dict[str, np.ndarray]:
        """The arrays that not every pack has, by name: what a file holds beside the others."""
        return {} if self.level is None else {"level": self.level}

    @classmethod
    def load(cls, path: PathLike) -> "References":
        """Read a pack and check every frame against its digest.

        Raises:
            CalibrationError: missing, damaged, not a reference pack, or a frame was changed.
        """
        arrays, meta = read_arrays(path, "reference pack", _ARRAYS, table="references")
        with reading(path, "reference pack"):
            pack = cls(
                **{name: arrays[name] for name in _ARRAYS},
                split=text_field(meta, "split"),
                sigma=float(meta["sigma"]),
                class_names=names_field(meta, "class_names"),
                base_digest=text_field(meta, "base_digest"),
                beta=float(meta["beta"]),
                level=arrays.get("level"),
            )
        changed = np.flatnonzero(frame_digests(pack.frames) != pack.digest)
        if len(changed):
            raise CalibrationError(
                f"{path}: {len(changed)} frames do not match their digest, first number {changed[0]}; get the pack again"
            )
        return pack
