"""All that is known of a data set but its pixels: digests, labels, clips, geometry. Later commands start from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.storage.digests import combined_digest, json_digest
from rrise.calibration.storage.files import read_arrays, write_arrays
from rrise.trainer.data.geometry import Geometry
from rrise.trainer.data.readers.source import DataSource

_ARRAYS = ("digests", "labels", "clips", "rows", "held_out")


@dataclass(frozen=True)
class Catalogue:
    """n frames of a source.

    digests S64 [n] of the camera frames; labels, clips int64 [n]; rows int64 [n], their numbers in the source (it may
    hold broken pictures, which are named in `skipped`); held_out bool [n] or None.
    key: what the frames were read from and how; another key means that they must be read again.
    """

    digests: np.ndarray
    labels: np.ndarray
    clips: np.ndarray
    rows: np.ndarray
    held_out: np.ndarray | None
    class_names: tuple[str, ...]
    geometry: Geometry
    key: str
    skipped: tuple[str, ...] = ()
    asked: dict[str, Any] = field(default_factory=dict)
    """The settings that it was read with; empty in catalogues from before they were kept."""

    def __len__(self) -> int:
        return len(self.digests)

    @staticmethod
    def of(
        source: DataSource,
        geometry: Geometry,
        key: str,
        rows: np.ndarray,
        digests: np.ndarray,
        skipped: tuple[str, ...] = (),
        asked: dict[str, Any] | None = None,
    ) -> Catalogue:
        """Those pictures of a source whose numbers are `rows`, with their digests."""
        return Catalogue(
            digests,
            source.labels[rows],
            source.clips[rows],
            rows,
            None if source.held_out is None else source.held_out[rows],
            source.class_names,
            geometry,
            key,
            skipped,
            asked or {},
        )

    @cached_property
    def content(self) -> str:
        """Digest of all that splits and calibration rest on: frames, labels and, where there are any, clips and parts."""
        parts = [*self.digests.tolist(), json_digest(self.labels.tolist())]
        if not np.array_equal(self.clips, np.arange(len(self))):
            parts.append(json_digest(self.clips.tolist()))
        if self.held_out is not None:
            parts.append(json_digest(self.held_out.tolist()))
        return combined_digest(parts)

    def save(self, path: Path) -> None:
        """Write it as .npz, atomically."""
        empty = np.zeros(0, bool)
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays["held_out"] = empty if self.held_out is None else self.held_out
        write_arrays(
            path,
            arrays,
            {
                "table": "catalogue",
                "class_names": list(self.class_names),
                "geometry": self.geometry.to_json(),
                "key": self.key,
                "skipped": list(self.skipped),
                "asked": self.asked,
            },
        )

    @staticmethod
    def load(path: Path) -> Catalogue | None:
        """Read what `save` wrote; None where there is none, or a damaged one: it can always be made again."""
        try:
            arrays, meta = read_arrays(path, "catalogue", _ARRAYS, table="catalogue")
            held_out = arrays.pop("held_out")
            return Catalogue(
                **{name: arrays[name] for name in _ARRAYS if name != "held_out"},
                held_out=held_out if len(held_out) else None,
                class_names=tuple(meta["class_names"]),
                geometry=Geometry(*meta["geometry"]),
                key=meta["key"],
                skipped=tuple(meta["skipped"]),
                asked=dict(meta.get("asked", {})),
            )
        except (CalibrationError, KeyError, TypeError, ValueError):
            return None
